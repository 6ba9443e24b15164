"""Looking samples up in earlier shards."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import override

from shardmill.shards import earlier as module
from shardmill.shards.catalog import Catalog
from shardmill.shards.earlier import Earlier, EarlierReader, Former
from shardmill.storage import Storage


class Shard:
    """One of a sample `number`, and how often its index was read."""

    def __init__(self, number: int) -> None:
        self.layout = SimpleNamespace(beside=str)
        self.entry = SimpleNamespace(index=number)
        self.number = number
        self.reads = 0

    def index_table(self, storage: Storage) -> Any:
        import pyarrow as pa

        self.reads += 1
        return pa.table({"component": ["jpg"], "sha256": [str(self.number)]})


def reader(shards: list[Shard]) -> EarlierReader:
    given: Any = shards
    return EarlierReader(Earlier(tuple(given)), Storage())


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hurried")
def test_threads_may_ask_at_once_however_many_shards_there_are() -> None:
    shards = [Shard(number) for number in range(12)]
    earlier = reader(shards)
    expected = {("jpg", str(number)) for number in range(12)}
    with ThreadPoolExecutor(8) as threads:
        assert all(found == expected for found in threads.map(lambda _: earlier.contents(), range(300)))


def test_of_many_contents_not_all_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """They only spare decoding."""
    monkeypatch.setattr(module, "_MOST_CONTENTS", 3)
    shards = [Shard(number) for number in range(12)]
    assert len(reader(shards).contents()) == 4
    assert sum(shard.reads for shard in shards) == 4


class Elsewhere(EarlierReader):
    """Other partitions hold what begins with `there`; notes what is looked for in them."""

    def look_for(self, *fingerprints: str) -> set[str]:
        """What is found."""
        self.asked: set[str] = set()
        return set(self.find(fingerprints))

    @override
    def _elsewhere(self, catalog: Catalog, wanted: set[str]) -> dict[str, Former]:
        self.asked = wanted
        former: Any = None
        return {each: former for each in wanted if each.startswith("there")}


def test_a_few_that_are_new_do_not_hide_others_that_are_elsewhere() -> None:
    """And nobody looks for them again."""
    earlier = Elsewhere(Earlier(catalog=Catalog("file:///root", "c" * 64, ("file",))), Storage())
    assert earlier.look_for("new") == set()
    assert earlier.look_for("new", "there1") == {"there1"}
    assert earlier.asked == {"there1"}
    assert earlier.look_for("new") == earlier.asked == set()


def test_where_many_are_new_nobody_looks_for_the_rest() -> None:
    earlier = Elsewhere(Earlier(catalog=Catalog("file:///root", "c" * 64, ("file",))), Storage())
    assert earlier.look_for(*(f"new{number}" for number in range(128))) == set()
    assert earlier.look_for("there1") == earlier.asked == set()
