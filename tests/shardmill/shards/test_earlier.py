"""Looking samples up in earlier shards."""

import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from shardmill.shards import earlier as module
from shardmill.shards.catalog import Catalog, ShardPlace
from shardmill.shards.earlier import Earlier, EarlierReader, Former, earlier_shards
from shardmill.shards.layout import Layout
from shardmill.storage import Storage


class Shard:
    """One of a sample `number`, and how often its index was read."""

    def __init__(self, number: int) -> None:
        self.layout = SimpleNamespace(beside=str)
        self.entry = SimpleNamespace(index=number, index_sha256=uuid.uuid4().hex)
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


def test_an_index_is_read_once_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by another reader: that of the next shard."""
    shards = [Shard(number) for number in range(12)]
    for _ in range(3):
        reader(shards).contents()
    assert [shard.reads for shard in shards] == [1] * 12
    monkeypatch.setattr(module, "_REMEMBERED_BYTES", 0)
    for _ in range(3):
        reader(shards[:2]).contents()
    assert [shard.reads for shard in shards[:2]] == [3, 4]  # the last one that was read is held


# Which shards.

CATALOG = Catalog("file:///root", "c" * 64)
STARTS = st.lists(st.integers(0, 40).map(lambda number: f"{number:06x}"), unique=True, max_size=12)


def commit(starts: list[str], order: str = "hash", computation: str = CATALOG.computation) -> Any:
    entries = [SimpleNamespace(start=start, id=start) for start in starts]
    return SimpleNamespace(shards=entries, order=order, computation=computation)


def chosen(old: Any, spans: list[tuple[str, str]]) -> list[set[str]]:
    found = earlier_shards(Layout("file:///root/d/a/p"), old, CATALOG, "hash", spans)
    return [{shard.entry.id for shard in each.shards} for each in found]


@given(STARTS, STARTS)
def test_they_are_those_that_may_hold_a_position_of_the_new_one(before: list[str], after: list[str]) -> None:
    """By trying every position."""
    spans = list(pairwise([*sorted(after), ""]))
    found = chosen(commit(before), spans)
    for (start, end), names in zip(spans, found, strict=True):
        positions = [p for p in (f"{n:06x}5" for n in range(42)) if p >= start and (not end or p < end)]
        holders = {max((old for old in before if old <= position), default=None) for position in positions}
        assert holders - {None} <= names
        assert names <= holders | {start}


def test_another_computation_holds_nothing_and_another_order_anything() -> None:
    starts, spans = ["000000", "800000"], [("000000", "400000"), ("400000", "")]
    assert chosen(commit(starts, computation="other"), spans) == [set(), set()]
    assert chosen(None, spans) == [set(), set()]
    assert chosen(commit(starts, order="key"), spans) == [set(starts)] * 2


def test_what_is_scattered_among_too_many_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCATTERED", 2)
    spans = [("000000", "400000"), ("400000", "800000"), ("800000", "")]
    assert chosen(commit(["000000"], order="key"), spans) == [set()] * 3
    assert chosen(commit(["000000"]), spans) == [{"000000"}] * 3


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


@pytest.mark.parametrize("partition", ["", "d", "/", "d/a/\x00", "../../d/a/p", "d/_shardmill/a/p", "\ud800/a/p"])
def test_a_catalog_may_lead_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: str) -> None:
    monkeypatch.setattr(Catalog, "find", lambda *_: {ShardPlace(partition, "000000")})
    catalog = Catalog(f"file://{tmp_path}", "c" * 64, ("file",))
    assert EarlierReader(Earlier(catalog=catalog), Storage()).find(["f" * 32]) == {}


def test_where_many_are_new_nobody_looks_for_the_rest() -> None:
    earlier = Elsewhere(Earlier(catalog=Catalog("file:///root", "c" * 64, ("file",))), Storage())
    assert earlier.look_for(*(f"new{number}" for number in range(128))) == set()
    assert earlier.look_for("there1") == earlier.asked == set()
