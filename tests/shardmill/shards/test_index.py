import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.errors import CorruptionError
from shardmill.shards.index import IndexRow, IndexWriter, Owner, Source, read_index, read_owner, read_report
from shardmill.shards.report import Reject, ShardReport

TEXT = st.text(st.characters(codec="utf-8"))
ROWS = st.lists(st.builds(IndexRow, TEXT, TEXT, st.integers(0, 2**62), st.integers(0, 2**62), *[TEXT] * 6))
REPORT = ShardReport(
    samples_in=3,
    kept=1,
    filtered=1,
    samples=2,
    bytes_in=10,
    bytes=5,
    sha256="ab",
    seconds=1.5,
    rejects=[Reject(key="a", reason="empty file", detail="0 bytes\n'", source_uri="file:///é")],
    summary={"objects": 3},
)

OWNER = Owner(shard="00ff00", start="00ff00", fingerprint="f" * 64, data="00ff00-ffffffffffff-01234567.tar")


def written(rows: list[IndexRow], report: ShardReport, folder: Path) -> bytes:
    writer = IndexWriter()
    for row in rows:
        writer.add(row.key, row.component, row.offset, row.size, row.sha256, row.source, row.origin, row.fingerprint)
    writer.write(folder / "index.parquet", report, OWNER)
    return (folder / "index.parquet").read_bytes()


def some_rows(count: int) -> list[IndexRow]:
    return [
        IndexRow(f"k{i}", "jpg", 512 * i, i, f"{i:064x}", f"file:///{i}", "v", f"{i:064d}", f"k{i // 2}")
        for i in range(count)
    ]


@given(rows=ROWS)
def test_an_index_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[IndexRow]) -> None:
    data = written(rows, REPORT, tmp_path_factory.mktemp("index", numbered=True))
    assert list(read_index(data, "here")) == rows
    assert read_report(data, "here") == REPORT.model_copy(update={"seconds": 0.0})
    assert read_owner(data, "here") == OWNER


def test_many_rows_keep_their_order(tmp_path: Path) -> None:
    rows = some_rows(10_000)
    assert list(read_index(written(rows, REPORT, tmp_path), "here")) == rows


def test_equal_rows_give_equal_bytes_however_long_it_took_and_whatever_computed_them(tmp_path: Path) -> None:
    slower = REPORT.model_copy(update={"seconds": 99.0, "runtime": "torch"})
    assert written(some_rows(50), REPORT, tmp_path) == written(some_rows(50), slower, tmp_path)


def test_a_row_knows_its_source() -> None:
    assert some_rows(1)[0].source == Source("file:///0", "v", "0" * 64)


def test_figures_that_are_no_numbers_survive(tmp_path: Path) -> None:
    report = REPORT.model_copy(update={"summary": {"ratio": float("nan"), "runtime": "torch"}})
    assert read_report(written([], report, tmp_path), "here").summary["runtime"] == "torch"


def test_a_truncated_index_is_corrupt_at_every_cut(tmp_path: Path) -> None:
    data = written(some_rows(20), REPORT, tmp_path)
    for cut in range(0, len(data), 7):
        with pytest.raises(CorruptionError, match="here"):
            list(read_index(data[:cut], "here"))
        with pytest.raises(CorruptionError, match="here"):
            read_report(data[:cut], "here")


def test_an_altered_index_is_read_or_corrupt_and_never_another_error(tmp_path: Path) -> None:
    data = written(some_rows(20), REPORT, tmp_path)
    generator = random.Random(0)
    refused = 0
    for _ in range(500):
        altered = bytearray(data)
        for _ in range(generator.choice((1, 1, 4))):
            altered[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        for read in (lambda data, where: list(read_index(data, where)), read_report, read_owner):
            try:
                read(bytes(altered), "here")
            except CorruptionError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"key": ["a"]}),
        pa.table({**{name: ["a"] for name in IndexRow._fields}}),
        pa.table({"embedding": [[1.0]]}),
    ],
    ids=["a column", "offsets as text", "another table"],
)
def test_another_table_is_no_index(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "other.parquet")
    data = (tmp_path / "other.parquet").read_bytes()
    with pytest.raises(CorruptionError, match="here"):
        list(read_index(data, "here"))
    with pytest.raises(CorruptionError, match="here does not say of which shard it is"):
        read_report(data, "here")


@pytest.mark.parametrize("kept", [1, 3])
def test_a_report_that_loses_a_sample_is_refused(kept: int) -> None:
    with pytest.raises(AssertionError, match="shard 00ff00"):
        ShardReport(samples_in=3, kept=kept, filtered=1, samples=kept).checked("00ff00")


def test_a_report_that_counts_every_sample_is_itself() -> None:
    assert REPORT.checked("00ff00") is REPORT
