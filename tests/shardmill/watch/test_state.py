"""What a watcher remembers between two looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.errors import CorruptionError
from shardmill.storage import Storage
from shardmill.watch.state import (
    Cursor,
    Seen,
    State,
    Tally,
    Waiting,
    Walk,
    load_state,
    next_number,
    save_state,
)

TEXT = st.text(max_size=8) | st.just("\udce9")
NUMBER = st.integers(0, 1 << 130)
TIME = st.floats(0, 4e9)
TALLY = st.builds(Tally, TEXT, NUMBER, NUMBER, NUMBER, TIME, st.none() | TIME)
WALK = st.none() | st.builds(Walk, st.none() | TEXT, st.none() | TALLY)
STATE = st.builds(
    State,
    TEXT,
    st.dictionaries(
        TEXT, st.builds(Seen, TEXT, NUMBER, NUMBER, TIME, TIME, st.none() | TIME, NUMBER, TEXT), max_size=3
    ),
    st.lists(TEXT, max_size=3),
    WALK,
    WALK,
    st.dictionaries(TEXT, st.none(), max_size=3),
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
    assert State.from_bytes(data) == state
    assert State.from_bytes(data).to_bytes() == data


@given(STATE, st.data())
def test_a_state_of_which_a_piece_is_missing_is_called_corrupt(state: State, data: st.DataObject) -> None:
    whole = state.to_bytes()
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptionError):
        State.from_bytes(whole[:end])


@given(st.binary(max_size=40))
def test_what_is_no_state_is_called_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        State.from_bytes(data)


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


def test_no_moment_that_is_still_to_come_is_remembered() -> None:
    """A clock was ahead; what is past stays as it is."""
    seen = {"a": Seen("x", 1, 1, 200.0, 300.0, None, 1), "b": Seen("x", 1, 1, 20.0, 30.0, None, 1)}
    waiting = {"a": Waiting(1, "v", 200.0, 300.0, 1), "b": Waiting(1, "v", 20.0, 30.0, 1)}
    state = State(seen=seen, waiting=waiting)
    state.forget_the_future(100.0)
    assert [(item.newest, item.since) for item in seen.values()] == [(100.0, 100.0), (20.0, 30.0)]
    assert [(item.modified, item.seen) for item in waiting.values()] == [(100.0, 100.0), (20.0, 30.0)]


def test_the_bytes_of_a_state_do_not_say_when_they_were_written() -> None:
    """Equal states are equal bytes: a look that changed nothing stores nothing."""
    assert State().to_bytes()[4:8] == bytes(4), "where gzip keeps the time"
