"""Where samples are: small sorted files that say where to look, and may be lost."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.shards import catalog as module
from shardmill.shards.catalog import Catalog, ShardPlace, sample_numbers, unused_catalogs
from shardmill.storage import Storage
from tests.servers.memory import SCHEME, MemoryStorage

HERE, THERE = ShardPlace("d/embeddings/p", "000000"), ShardPlace("d/embeddings/q", "800000")
COMPUTATION = "c" * 64
DAY = 86_400


def fingerprints(*numbers: int) -> list[str]:
    return [f"{number:016x}{'0' * 16}" for number in numbers]


def numbered(*numbers: int) -> np.ndarray:
    return sample_numbers(fingerprints(*numbers))


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def catalog(folder: str) -> Catalog:
    return Catalog(folder, COMPUTATION)


def files(catalog: Catalog, storage: Storage) -> list[str]:
    return [info.uri for info in storage.list(catalog.folder)]


def test_what_was_added_is_found_and_nothing_else(catalog: Catalog, storage: Storage) -> None:
    catalog.add(storage, {HERE: numbered(1, 2), THERE: numbered(3)})
    catalog.add(storage, {THERE: numbered(4)})
    assert catalog.opened(storage).find(storage, fingerprints(2)) == {HERE}
    assert catalog.opened(storage).find(storage, fingerprints(1, 3, 9)) == {HERE, THERE}
    assert catalog.opened(storage).find(storage, fingerprints(4)) == {THERE}
    assert catalog.opened(storage).find(storage, fingerprints(9)) == catalog.opened(storage).find(storage, []) == set()


def test_each_computation_has_its_own(catalog: Catalog, storage: Storage) -> None:
    catalog.add(storage, {HERE: numbered(1)})
    assert Catalog(catalog.root, "d" * 64).opened(storage).find(storage, fingerprints(1)) == set()


def test_nothing_is_written_of_nothing(catalog: Catalog, storage: Storage) -> None:
    catalog.add(storage, {HERE: numbered()})
    assert files(catalog, storage) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 60), min_size=1), min_size=1, max_size=30), st.sets(st.integers(0, 99)))
def test_merged_files_say_what_the_many_said(added: list[set[int]], wanted: set[int]) -> None:
    """The place where a sample was seen last is among those that are found."""
    storage = MemoryStorage()
    catalog = Catalog(f"{SCHEME}catalog-{os.urandom(8).hex()}", COMPUTATION)
    last = {}
    for number, numbers in enumerate(added):
        place = ShardPlace(f"d/a/{number}", "000000")
        catalog.add(storage, {place: numbered(*numbers)})
        last |= dict.fromkeys(numbers, place)
    found = catalog.opened(storage).find(storage, fingerprints(*wanted))
    assert {last[number] for number in wanted & last.keys()} <= found
    assert all(wanted & added[int(place.partition.rpartition("/")[2])] for place in found)
    assert len(files(catalog, storage)) < module._MERGED


def test_files_stay_few_and_rows_bounded(catalog: Catalog, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written longest ago goes."""
    monkeypatch.setattr(module, "_SMALLEST", 4)
    monkeypatch.setattr(module, "_LARGEST", 64)
    monkeypatch.setattr(module, "_MOST", 256)
    for first in range(0, 2000, 4):
        catalog.add(storage, {HERE: numbered(*range(first, first + 4))})
    rows = [int(uri.rpartition("/")[2].partition("-")[0]) for uri in files(catalog, storage)]
    assert 128 < sum(rows) <= 256
    assert len(rows) <= 3 * module._MERGED
    assert catalog.opened(storage).find(storage, fingerprints(1999)) == {HERE}
    assert catalog.opened(storage).find(storage, fingerprints(0)) == set()


def test_many_are_looked_up_only_where_some_are_found(
    catalog: Catalog, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAMPLED", 4)
    catalog.add(storage, {HERE: numbered(3), THERE: numbered(100)})
    assert catalog.opened(storage).find(storage, fingerprints(1, 2, 3, 4, 100)) == {HERE, THERE}
    assert catalog.opened(storage).find(storage, fingerprints(1, 2, 4, 5, 100)) == set()


def test_a_damaged_file_is_passed_over(catalog: Catalog, storage: Storage, folder: str) -> None:
    catalog.add(storage, {HERE: numbered(1)})
    (uri,) = files(catalog, storage)
    catalog.add(storage, {THERE: numbered(2)})
    file = Path(uri.removeprefix("file://"))
    file.write_bytes(file.read_bytes()[:-20])
    assert catalog.opened(storage).find(storage, fingerprints(1, 2)) == {THERE}
    for number in range(module._MERGED):
        catalog.add(storage, {THERE: numbered(10 + number)})
    assert catalog.opened(storage).find(storage, fingerprints(1, 2)) == {THERE}


def test_whatever_bits_are_flipped_nothing_is_raised(catalog: Catalog, storage: Storage) -> None:
    catalog.add(storage, {HERE: numbered(*range(100)), THERE: numbered(*range(100, 200))})
    (uri,) = files(catalog, storage)
    file, random = Path(uri.removeprefix("file://")), np.random.default_rng(0)
    whole = file.read_bytes()
    for _ in range(500):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            data[place] ^= 1 << int(random.integers(8))
        file.write_bytes(data)
        assert isinstance(catalog.opened(storage).find(storage, fingerprints(1, 150)), set)


def test_a_damaged_file_is_not_merged(catalog: Catalog, storage: Storage) -> None:
    """What it says would be digested anew, and taken for sound."""
    catalog.add(storage, {HERE: numbered(1, 2)})
    (uri,) = files(catalog, storage)
    file = Path(uri.removeprefix("file://"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for number in range(module._MERGED):
        catalog.add(storage, {THERE: numbered(10 + number)})
    assert uri not in files(catalog, storage)
    assert catalog.opened(storage).find(storage, fingerprints(1, 2)) == set()
    assert catalog.opened(storage).find(storage, fingerprints(10)) == {THERE}


def test_what_no_run_has_used_for_long_may_go(catalog: Catalog, storage: Storage) -> None:
    """One young file keeps a computation's old ones."""
    catalog.add(storage, {HERE: numbered(1)})
    catalog.add(storage, {HERE: numbered(2)})
    old = files(catalog, storage)
    now = max(info.modified for info in storage.list(catalog.folder))
    os.utime(old[0].removeprefix("file://"), (now - 100 * DAY, now - 100 * DAY))
    assert list(unused_catalogs(storage, catalog.root, now + 80 * DAY)) == []
    assert {info.uri for info in unused_catalogs(storage, catalog.root, now + 91 * DAY)} == set(old)
