"""What a dataset of many partitions costs, by counts of requests: a simulated bucket has thousands at once."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from benchmarks.scale import dataset_table, partition_table
from benchmarks.simulation.dataset import Committed, made, simulated, stand, store_of
from benchmarks.simulation.steps import measured
from shardmill import Dataset, DatasetSpec
from shardmill.errors import ConfigurationError
from shardmill.graph import Planner, states, why_stale
from shardmill.graph.orphans import remove_orphans
from shardmill.stages import embedding_basis
from shardmill.watch import Found, look
from shardmill.watch.known import KnownObjects

FEW, MANY = 10, 300
FILES = 4 + 3 + 3 + 2
"""Of a partition with one shard: the least of raw images, shards, table and map, beside the data."""


def standing(count: int, **fields: Any) -> tuple[Dataset, list[str], Committed]:
    """A dataset of so many partitions that are made, but for the last one."""
    keys = [f"p{number:05}" for number in range(count)]
    dataset = simulated(keys, 20, **fields)
    committed = stand(dataset, keys, made(dataset, keys[0]), 1, count - 2)
    store_of(dataset).requests.clear()
    return dataset, keys, committed


def requests(dataset: Dataset, act: Callable[[], object]) -> Counter[str]:
    """What `act` asks of the bucket."""
    found = store_of(dataset).requests
    found.clear()
    act()
    return Counter(found)


def changed_model(dataset: Dataset) -> Dataset:
    """The same dataset with another embedding."""
    plain = dataset.spec.model_dump(exclude_unset=True)
    return Dataset(DatasetSpec.model_validate({**plain, "embedder": {"normalize": True}}), dataset.storage)


def test_what_stands_is_up_to_date_as_it_is_simulated() -> None:
    dataset, keys, _ = standing(FEW)
    assert [list(why_stale(dataset, key)) for key in keys[:-1]] == [[]] * (FEW - 1)
    assert [state.state for state in states(dataset, keys[0])] == ["up to date"] * 5


def test_what_one_partition_lacks_is_no_reason_for_another() -> None:
    dataset, keys, _ = standing(FEW)
    planner = Planner(dataset)
    assert ("embedding_basis", "embeddings is not up to date") in list(why_stale(planner, keys[-1]))
    assert list(why_stale(planner, keys[0])) == []


def test_each_table_is_looked_at_once_where_the_model_was_changed() -> None:
    dataset, keys, _ = standing(MANY)
    planner = Planner(changed_model(dataset))
    used = requests(dataset, lambda: [list(why_stale(planner, key)) for key in keys[:-1]])
    assert used["read"] <= 6 * MANY  # five commits of each partition, and once each table
    assert used["list"] <= 2 * MANY * FILES / 1000 + 10


@pytest.mark.parametrize("made_already", [True, False])
def test_a_partition_is_planned_with_as_many_requests_among_many_as_among_few(made_already: bool) -> None:
    found = []
    for number in (FEW, MANY):
        dataset, keys, _ = standing(number)
        key = keys[0] if made_already else keys[-1]
        found.append(requests(dataset, lambda d=dataset, k=key: list(states(d, k))))  # type: ignore[misc]
    assert found[0] == found[1]


def test_a_basis_is_fitted_on_the_first_tables_that_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_basis, "FIT_ROWS", 50)
    dataset, keys, _ = standing(MANY)
    every = (dataset.stored("embeddings", key) for key in keys[:-1])
    used = requests(dataset, lambda: embedding_basis.tables_to_fit(shards for shards in every if shards is not None))
    assert used == {"read": 3}


def test_gc_reads_the_commits_and_one_listing_where_all_is_in_order() -> None:
    dataset, _, _ = standing(MANY)
    used = requests(dataset, lambda: list(remove_orphans(dataset, 3600, dry_run=True)))
    commits = 4 * (MANY - 1) + 1
    assert used["read"] == commits
    assert used["list"] <= MANY * (FILES + 4) / 1000 + 3


def test_gc_finds_what_is_in_no_commit_among_partitions_that_are_in_order() -> None:
    dataset, keys, _ = standing(FEW)
    folder = dataset.folder("webdataset_shards", keys[3])
    orphan = f"{folder}/0a0000-{'0' * 12}-{'0' * 8}.tar"
    dataset.storage.replace(orphan, b"left", None)
    found = list(remove_orphans(dataset, -1, dry_run=True))
    assert orphan in {getattr(info, "uri", "") for info in found}


def test_the_sensor_reads_no_commit_of_partitions_that_are_being_run() -> None:
    dataset, keys, _ = standing(MANY)
    used = requests(dataset, lambda: look(dataset, None, lambda: keys, most=5))
    assert used["read"] == 0


def test_the_sensor_finds_what_a_run_made_when_it_has_ended() -> None:
    dataset, keys, committed = standing(FEW)
    committed.contents = {}
    busy = look(dataset, None, lambda: keys, most=FEW)
    assert (busy.pending, busy.due) == (FEW, [])
    ended = look(dataset, busy.cursor, most=FEW)
    assert {item.partition for item in ended.due} == {*keys[1:]}  # the first is right
    committed.contents = {item.partition: item.reason.split()[1] for item in ended.due}
    after = look(dataset, ended.cursor, most=FEW)
    assert (after.pending, after.due) == (0, [])


def caught_up(dataset: Dataset, committed: Committed, most: int) -> list[Found]:
    """Looks until all is listed and made; what is asked for is made at once."""
    committed.contents = {}
    looks: list[Found] = []
    while not looks or looks[-1].listing or looks[-1].due or looks[-1].pending:
        looks.append(look(dataset, looks[-1].cursor if looks else None, most=most))
        committed.contents |= {item.partition: item.reason.split()[1] for item in looks[-1].due}
    return looks


def written_sizes(dataset: Dataset) -> list[int]:
    """Of all that is put into the bucket by `replace` from now on."""
    store, sizes = store_of(dataset), list[int]()
    put = store.replace

    def replace(uri: str, data: bytes, expected: str | None) -> str:
        sizes.append(len(data))
        version: str = put(uri, data, expected)
        return version

    store.replace = replace
    return sizes


def test_what_it_takes_the_sensor_to_catch_up_is_in_proportion_to_the_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shardmill.watch.seen.PART", 20)
    asked, written = [], []
    for number in (MANY // 2, MANY):
        dataset, _, committed = standing(number)
        sizes = written_sizes(dataset)
        looks = caught_up(dataset, committed, 10)
        assert sum(len(each.due) for each in looks) == number - 1
        assert sum(each.scanned for each in looks) <= 3 * 20 * number
        asked.append(sum(store_of(dataset).requests.values()))
        written.append(sum(sizes))
    assert asked[1] <= 2.2 * asked[0]
    assert written[1] <= 2.5 * written[0]


def test_the_sensor_asks_one_request_of_a_partition_that_is_new() -> None:
    dataset, _, committed = standing(MANY)
    committed.contents = {}
    used = requests(dataset, lambda: look(dataset, None, most=MANY))
    assert used["stat"] == 0
    assert used["read"] == MANY


def test_the_sensor_compares_all_that_is_right_in_one_look_however_little_it_may_ask_for() -> None:
    dataset, keys, committed = standing(MANY)
    caught_up(dataset, committed, MANY)
    found = look(dataset, None, most=2)
    assert (found.listing, found.pending, found.known) == (None, 0, MANY)
    assert [item.partition for item in found.due] == keys[-1:]  # it was never made


def test_of_a_batch_no_more_than_the_digests_of_its_names_stays_in_memory() -> None:
    class Uris(list[str]):
        pass

    alive: list[weakref.ref[Uris]] = []
    known = KnownObjects()

    def batches() -> Any:
        for number in range(1, 6):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1
            uris = Uris(f"s3://b/{number}/{each}" for each in range(10))
            alive.append(weakref.ref(uris))
            yield f"batch-{number:06}", uris

    known.extend(batches())
    assert known.numbers(["s3://b/3/7", "s3://b/6/0"]) == [3, 0]


def test_an_error_names_the_first_of_many_keys() -> None:
    keys = [f"p{number:05}" for number in range(1000)]
    dataset = simulated(keys, 1, keys)
    with pytest.raises(ConfigurationError, match=r"there are p00000, p00001, .*p00019 and 980 others$"):
        dataset.check("elsewhere")


def test_the_steps_are_measured_and_shown() -> None:
    numbers = count()
    found = {"sizes": [{"objects": 20 + next(numbers), "steps": list(measured("partition", objects=20))}]}
    assert "| staleness |" in partition_table(found)


@pytest.mark.slow
def test_the_steps_of_a_dataset_are_measured_and_shown() -> None:
    steps = list(measured("dataset", partitions=5, objects=20, watched=2))
    assert "| health |" in dataset_table({"runs": [{"partitions": 5, "steps": steps}]})
