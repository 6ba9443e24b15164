"""Partitions that a watcher has seen: they come back as they were, and what is read and written of them is little."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.watch.seen import PART, LostStateError, Part, Seen, SeenPartitions
from tests.shardmill.watch.conftest import seen

TEXT = st.text(max_size=8) | st.just("\udce9")
NUMBER = st.integers(0, 1 << 130)
TIME = st.floats(0, 4e9)
SEEN = st.builds(Seen, TEXT, NUMBER, NUMBER, TIME, TIME, st.none() | TIME, NUMBER, TEXT)
MANY = [f"p{number:05}" for number in range(10 * PART)]


class Files:
    """What is stored, and what was asked of it since the last time it was stored."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.used: Counter[str] = Counter()

    def read(self, name: str) -> bytes:
        self.used["read"] += 1
        return self.stored[name]

    def again(self, partitions: SeenPartitions) -> SeenPartitions:
        """The next look's, after this one's were stored."""
        self.used.clear()
        for part, data in partitions.cut():
            part.name = str(len(self.stored))
            self.stored[part.name] = data
            self.used["write"] += 1
        return SeenPartitions([Part(*part.row) for part in partitions.parts], self.read)


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def many(files: Files) -> SeenPartitions:
    partitions = SeenPartitions()
    partitions.update(dict.fromkeys(MANY, seen(settled="x")))
    return files.again(partitions)


@given(st.lists(st.dictionaries(TEXT, SEEN | st.none(), max_size=4), max_size=6))
def test_partitions_come_back_as_they_were_after_whatever_changes(changes: list[dict[str, Seen | None]]) -> None:
    files, expected, partitions = Files(), dict[str, Seen](), SeenPartitions()
    for change in changes:
        for key, item in change.items():
            if item is not None:
                partitions[key] = expected[key] = item
            elif key in expected:
                del partitions[key], expected[key]
        numbers = (len(partitions), partitions.full, partitions.unsettled)
        partitions = files.again(partitions)
        assert (len(partitions), partitions.full, partitions.unsettled) == numbers
        assert numbers[0] == len(expected)
        assert files.used["read"] == 0
        assert sorted(partitions.unsettled_keys()) == sorted(key for key in expected if not expected[key].is_settled)
        assert dict(partitions) == expected


def test_a_part_alone_is_read_and_written_for_what_is_in_it(many: SeenPartitions, files: Files) -> None:
    neighbours = MANY[700 : 700 + PART // 10]
    for key in neighbours:
        assert many[key] == seen(settled="x")
    assert files.used["read"] <= 2
    assert not many.has_changed
    for key in neighbours:
        many[key] = replace(many[key], content="y")
    assert many.unsettled == len(neighbours)
    assert list(many.unsettled_keys()) == neighbours
    again = files.again(many)
    assert 1 <= files.used["write"] <= 2
    assert list(again.unsettled_keys()) == neighbours
    assert len(again) == len(MANY)
    assert files.used["read"] <= 2


def test_what_is_not_settled_is_found_without_reading_the_rest(many: SeenPartitions, files: Files) -> None:
    files.used.clear()
    assert (list(many.unsettled_keys()), many.unsettled, many.full) == ([], 0, len(MANY))
    assert files.used["read"] == 0


def test_parts_stay_small_and_few_while_partitions_come_and_go(files: Files) -> None:
    partitions = SeenPartitions()
    for start in range(0, len(MANY), 70):
        partitions.update(dict.fromkeys(MANY[start : start + 70], seen()))
        partitions = files.again(partitions)
    sizes = [part.partitions for part in partitions.parts]
    assert max(sizes) <= PART
    assert len(sizes) <= 2 * len(MANY) / PART + 1
    for key in MANY[:-5]:
        del partitions[key]
    partitions = files.again(partitions)
    assert [part.partitions for part in partitions.parts] == [5]
    assert sorted(partitions) == MANY[-5:]


def test_parts_that_lose_most_of_theirs_one_after_the_other_are_joined(many: SeenPartitions, files: Files) -> None:
    left = MANY[::PART]
    for start in range(0, len(MANY), PART):
        for key in MANY[start : start + PART]:
            if key not in left:
                del many[key]
        many = files.again(many)
    assert len(many.parts) <= 2
    assert sorted(many) == left


def test_what_a_listing_has_not_come_by_is_known_over_many_looks(many: SeenPartitions, files: Files) -> None:
    missed = {MANY[3], MANY[-1]}
    for start in range(0, len(MANY), 1000):
        for key in MANY[start : start + 1000]:
            if key not in missed:
                many.come_by(key)
        many = files.again(many)
    assert many.end_listing() == missed
    many = files.again(many)
    assert many.end_listing() == set(MANY)


def test_a_listing_that_came_by_all_and_found_nothing_new_changes_nothing(many: SeenPartitions) -> None:
    for key in MANY:
        many[key] = replace(many[key])
        many.come_by(key)
    assert many.end_listing() == set()
    assert not many.has_changed


@pytest.mark.parametrize("damage", [b"", b"part", None])
def test_a_part_that_is_not_whole_is_lost(many: SeenPartitions, files: Files, damage: bytes | None) -> None:
    [*_, last] = files.stored
    files.stored[last] = files.stored[last][:100] if damage is None else damage
    assert many[MANY[0]]
    with pytest.raises(LostStateError):
        many[MANY[-1]]
