"""docs/performance.md says what was measured, and what follows from it."""

from benchmarks.estimate import READS_A_SECOND, SHOWN_PARTITIONS, SIZES, need
from benchmarks.performance_page import PAGE, tables, with_tables


def test_the_page_has_the_tables_of_the_last_results() -> None:
    page = PAGE.read_text()
    assert with_tables(page, tables()) == page


def test_partitions_stay_few_enough_to_be_shown_at_every_size() -> None:
    for images in SIZES:
        found = need(images, {"pack": 1.0})
        assert found.partitions * found.partition >= images
        assert found.partitions <= SHOWN_PARTITIONS
        assert found.shards >= found.partitions


def test_the_first_bottleneck_is_what_takes_longest() -> None:
    slow, fast = need(10**9, {"embed": 900.0}), need(10**9, {"embed": 1.0})
    assert (slow.bottleneck, fast.bottleneck) == ("CPU", "reads of one bucket")
    assert fast.hours["reads of one bucket"] * 3600 == 10**9 / READS_A_SECOND
