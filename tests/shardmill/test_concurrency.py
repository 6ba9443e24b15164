"""Threads over a stream: results in order, and no more ahead than was asked for."""

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any, TypeVar

import pytest

from shardmill.concurrency import bounded_map, chunked_map, fan_out

T = TypeVar("T")


@pytest.mark.parametrize(("most", "ahead"), [(float("inf"), 8), (30, 3), (1, 1)])
@pytest.mark.parametrize("quick", [None, 3])
def test_no_more_is_ahead_than_so_many_or_so_much(most: float, ahead: int, quick: int | None) -> None:
    """Each item is of size ten; every third may be done in this thread."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    is_quick = None if quick is None else lambda number: number % quick == 0
    for number, result in enumerate(bounded_map(str, items(), 4, is_quick, lambda _: 10, most)):
        assert result == str(number)
        assert taken - number <= ahead
    assert taken == 40


MAPS: dict[str, Callable[[Callable[[int], int]], Iterator[Any]]] = {
    "bounded": lambda call: bounded_map(call, count(), 2),
    "chunked": lambda call: chunked_map(call, count(), 100, 2, lambda _: False, lambda *_: 10),
    "closed by its user": lambda call: (item for it in [bounded_map(call, count(), 2)] for item in closed_after(it)),
}


def closed_after(items: Generator[T, None, None]) -> Iterator[T]:
    with closing(items):
        yield from items


@pytest.mark.parametrize("kind", MAPS)
def test_garbage_collection_waits_for_no_call(kind: str) -> None:
    """It may come in a thread that holds what the call under way needs to end: the locks of `threading`, say."""
    held, under_way, ended = threading.Event(), threading.Event(), threading.Event()

    def call(item: int) -> int:
        if item:
            under_way.set()
            held.wait()
        return item

    def leave_in_a_cycle() -> None:
        results = MAPS[kind](call)
        cycle = [results]
        cycle.append(cycle)  # type: ignore[arg-type]
        next(results)
        assert under_way.wait(60)

    def collect() -> None:
        gc.collect()
        ended.set()

    gc.disable()  # here and now it is not to come
    try:
        leave_in_a_cycle()
        threading.Thread(target=collect, daemon=True).start()
        assert ended.wait(60)
    finally:
        held.set()
        gc.enable()


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("size", "made", "chunk"), [(10, 10, 8), (10, 300_000, 3), (300_000, 10, 3), (1 << 21, 1, 1)])
def test_a_thread_is_handed_as_many_items_as_come_to_a_megabyte(size: int, made: int, chunk: int, quick: bool) -> None:
    """Large items or results are as few in memory as if each were handed over alone."""
    threads, taken = 2, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    def size_of(_: int, result: str | None) -> int:
        return size if result is None else size + made

    ahead = 0
    for number, pair in enumerate(chunked_map(str, items(), 200, threads, lambda _: quick, size_of)):
        assert pair == (number, str(number))
        ahead = max(ahead, taken - number)
    assert taken == 200
    assert ahead <= (chunk if quick else 2 * threads * chunk) + 1
    assert chunk == 1 or quick or ahead > 2 * threads, "nothing is handed over together"


def test_small_items_are_not_handed_over_with_a_large_one() -> None:
    """Else as many large ones would be in memory as there are chunks, however many small ones are among them."""
    ahead, taken = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(400):
            taken += number % 4 == 3
            yield number

    def size_of(number: int, _: object) -> int:
        return 2 << 20 if number % 4 == 3 else 1

    def large_before(number: int) -> int:
        return (number + 1) // 4

    for number, _ in chunked_map(
        str, items(), 400, 4, lambda _: False, lambda n, made: 1 if made else size_of(n, made)
    ):
        ahead = max(ahead, taken - large_before(number))
    assert ahead <= 4 + 1, "every other chunk has a large one, and one is read"


@pytest.mark.parametrize(("count", "chunk"), [(10, 1), (64, 2), (10_000, 8)])
def test_a_few_items_keep_all_threads_busy(count: int, chunk: int) -> None:
    """Sixteen threads that wait for a store have requests of their own each, twice."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(count):
            taken += 1
            yield number

    ahead = 0
    for number, _ in enumerate(chunked_map(str, items(), count, 16, lambda _: False, lambda *_: 1)):
        ahead = max(ahead, taken - number)
    assert taken == count
    assert ahead <= 2 * 16 * chunk


def test_until_a_result_has_come_items_are_handed_over_one_at_a_time() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    next(chunked_map(str, items(), 100, 3, lambda _: False, lambda _, result: 0 if result is None else 1 << 30))
    assert taken <= 2 * 3


def test_a_thread_makes_no_more_of_what_it_was_handed_than_comes_to_a_megabyte() -> None:
    """Small results had items handed over eight at a time: the first that turns out large is the last of its chunk."""
    here: list[int] = []

    def call(number: int) -> int:
        if threading.current_thread() is threading.main_thread():
            here.append(number)
        return number

    def size_of(_: int, result: int | None) -> int:
        return 1 << 30 if result is not None and result >= 40 else 10

    assert list(chunked_map(call, range(100), 10_000, 1, lambda _: False, size_of)) == [(n, n) for n in range(100)]
    assert here == [41, *range(43, 50)], "those after them are handed over alone"


def test_closing_waits_for_the_calls_under_way_and_starts_no_other_of_what_a_thread_was_handed() -> None:
    started: list[int] = []
    entered, closing = threading.Event(), threading.Event()

    def call(number: int) -> int:
        started.append(number)
        if number == 5:
            entered.set()
            closing.wait(30)
            while not results.gi_running:
                time.sleep(0.01)
        return number

    results = chunked_map(call, range(1000), 1000, 1, lambda _: False, lambda *_: 0)
    assert [next(results)[0] for _ in range(2)] == [0, 1]
    assert entered.wait(30)
    closing.set()
    results.close()
    assert started == [0, 1, 2, 3, 4, 5]


def test_consumers_of_a_stream_get_all_of_it_and_none_is_far_ahead() -> None:
    taken, most = [0, 0], 0

    def consume(number: int, items: Iterator[int]) -> int:
        nonlocal most
        for item in items:
            taken[number] += 1
            most = max(most, abs(taken[0] - taken[1]))
            if number and item % 10 == 0:
                time.sleep(0.001)
        return taken[number]

    assert fan_out(range(100), [partial(consume, 0), partial(consume, 1)], 3) == [100, 100]
    assert most <= 3 + 2  # those in the queue, the one in hand, the one that is being handed over


def test_a_consumer_that_stops_early_holds_no_other_up() -> None:
    assert fan_out(range(50), [next, lambda items: sum(1 for _ in items)], 2) == [0, 50]


@pytest.mark.parametrize("who", ["a consumer", "the source"])
def test_the_first_error_ends_it_for_all_consumers(who: str) -> None:
    seen = 0

    def items() -> Iterator[int]:
        for number in range(1000):
            if who == "the source" and number == 5:
                raise KeyError(number)
            yield number

    def fails(items: Iterator[int]) -> int:
        for item in items:
            if who == "a consumer" and item == 5:
                raise KeyError(item)
        return 0

    def counts(items: Iterator[int]) -> int:
        nonlocal seen
        for _ in items:
            seen += 1
        return seen

    with pytest.raises(KeyError, match="5"):
        fan_out(items(), [counts, fails, counts], 2)
    assert seen < 100
