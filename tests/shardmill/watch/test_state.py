"""What a watcher remembers between two looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.storage import Storage
from shardmill.watch.seen import LostStateError, SeenPartitions
from shardmill.watch.state import Cursor, State, Tally, Waiting, Walk, load_state, next_number, save_state
from tests.shardmill.watch.conftest import seen

TEXT = st.text(max_size=8) | st.just("\udce9")
NUMBER = st.integers(0, 1 << 130)
TIME = st.floats(0, 4e9)
TALLY = st.builds(Tally, TEXT, NUMBER, NUMBER, NUMBER, TIME, st.none() | TIME)
WALK = st.none() | st.builds(Walk, st.none() | TEXT, st.none() | TALLY)
STATE = st.builds(
    State,
    TEXT,
    st.builds(SeenPartitions),
    st.lists(TEXT, max_size=3),
    WALK,
    WALK,
    st.booleans(),
    NUMBER,
    st.dictionaries(TEXT, TALLY, max_size=3),
    NUMBER,
    st.dictionaries(TEXT, st.builds(Waiting, NUMBER, TEXT, TIME, TIME, NUMBER), max_size=3),
    st.lists(TEXT, max_size=3),
)


@given(STATE)
def test_a_state_comes_back_as_it_was(state: State) -> None:
    data = state.to_bytes()
    assert State.from_bytes(data, str.encode) == state
    assert State.from_bytes(data, str.encode).to_bytes() == data


@given(STATE, st.data())
def test_a_state_of_which_a_piece_is_missing_is_called_corrupt(state: State, data: st.DataObject) -> None:
    whole = state.to_bytes()
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(LostStateError):
        State.from_bytes(whole[:end], str.encode)


@given(st.binary(max_size=40))
def test_what_is_no_state_is_called_corrupt(data: bytes) -> None:
    with pytest.raises(LostStateError):
        State.from_bytes(data, str.encode)


@given(st.integers(1, 10**12), TIME)
def test_a_cursor_comes_back_as_it_was_and_is_short(number: int, reconciled: float) -> None:
    cursor = Cursor(f"{number:08}-0123abcd.json.gz", reconciled)
    assert Cursor.parse(str(cursor)) == cursor
    assert cursor.number == number
    assert len(str(cursor)) < 200


def test_the_states_before_the_last_go_and_those_after_it_stay(storage: Storage, folder: str) -> None:
    """A look that took too long, or somebody who tries the sensor out, may work from a cursor that is not the last."""

    def saved(number: int, before: Cursor | None) -> Cursor:
        return Cursor(save_state(storage, folder, State(), number, before), 0.0)

    assert next_number(storage, folder) == 1
    first = saved(1, None)
    second, _ = saved(2, first), saved(2, first)
    later = saved(3, second)
    assert next_number(storage, folder) == 4
    third = saved(3, second)
    there = {info.uri.rpartition("/")[2] for info in storage.list(folder)}
    assert there == {second.state, later.state, third.state}
    for cursor in (second, later, third):
        load_state(storage, folder, cursor)


def test_no_moment_that_is_still_to_come_is_remembered(storage: Storage, folder: str) -> None:
    """A clock was ahead; what is past stays as it is. Also of partitions that are read later."""
    state = State(waiting={"a": Waiting(1, "v", 200.0, 300.0, 1), "b": Waiting(1, "v", 20.0, 30.0, 1)})
    state.seen.update({"a": seen(newest=200.0, since=300.0), "b": seen(newest=20.0, since=30.0)})
    cursor = Cursor(save_state(storage, folder, state, 1, None), 0.0)
    for each in (state, load_state(storage, folder, cursor)):
        each.forget_the_future(100.0)
        assert [(item.newest, item.since) for item in each.seen.values()] == [(100.0, 100.0), (20.0, 30.0)]
        assert [(item.modified, item.seen) for item in each.waiting.values()] == [(100.0, 100.0), (20.0, 30.0)]


def test_the_bytes_of_a_state_do_not_say_when_they_were_written() -> None:
    """Equal states are equal bytes: a look that changed nothing stores nothing."""
    assert State().to_bytes()[4:8] == bytes(4), "where gzip keeps the time"


def test_the_parts_of_a_state_stay_while_a_state_names_them(
    storage: Storage, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a later state's, from which another look went on while this one took too long."""
    monkeypatch.setattr("shardmill.watch.seen.PART", 1)

    def after(before: Cursor | None, key: str) -> Cursor:
        state = load_state(storage, folder, before) if before else State()
        state.seen[key] = seen()
        return Cursor(save_state(storage, folder, state, before.number + 1 if before else 1, before), 0.0)

    first = after(None, "a")
    second, other = after(first, "b"), after(first, "c")
    slow = load_state(storage, folder, second)
    slow.seen["e"] = seen()
    later = after(other, "d")
    save_state(storage, folder, slow, 3, second)
    assert sorted(load_state(storage, folder, later).seen) == ["a", "c", "d"]
    before = after(later, "f")
    last = after(before, "g")
    states = [load_state(storage, folder, cursor) for cursor in (before, last)]
    assert [sorted(state.seen) for state in states] == [["a", "c", "d", "f"], ["a", "c", "d", "f", "g"]]
    there = {info.uri.rpartition("/")[2] for info in storage.list(folder)}
    assert there == {before.state, last.state, *(part.name for state in states for part in state.seen.parts)}
