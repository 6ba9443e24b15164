"""Threads over a stream, in order and with bounded memory; and how many of them are worth while."""

import contextlib
import gc
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from shardmill.library_threads import limit_this_thread

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's limit on Linux: microseconds of CPU, or `max`, in a period of microseconds."""

REQUESTS_AT_ONCE = 16
"""Threads that wait for a store rather than compute: small requests take their time on the way."""

_CHUNK_BYTES = 1 << 20
_CHUNK_ITEMS = 8
"""A thread is handed no more at a time: beyond that there is nothing to gain."""

T = TypeVar("T")
R = TypeVar("R")


class _GarbageCollection(threading.local):
    """Whether it is under way in this thread.

    It comes at any moment, where a lock is held too, and closes the iterators that were left in a cycle, by an error
    that holds its frames say. What these would wait for may wait for the lock: that of `threading`, without which no
    thread begins or ends.
    """

    is_under_way = False

    def __call__(self, phase: str, _: Mapping[str, int]) -> None:
        self.is_under_way = phase == "start"


_garbage_collection = _GarbageCollection()
gc.callbacks.append(_garbage_collection)


def bounded_map(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    is_quick: Callable[[T], bool] | None = None,
    size: Callable[[T], int] = lambda _: 0,
    most: float = math.inf,
) -> Generator[R, None, None]:
    """`map` over threads: results in the order of `items`, at most `2 * threads` of them read ahead.

    The first exception ends it. Closing the iterator waits for the calls under way and starts no other; what is left
    to garbage collection waits for none. Items that are quick to do are done in the calling thread: another one would
    cost more than they do. No more is read ahead once the sizes of what has been come to `most`.
    """
    executor = ThreadPoolExecutor(threads, "shardmill", limit_this_thread)
    pending: deque[tuple[Future[R], int]] = deque()
    ahead = 0
    try:
        for item in items:
            if is_quick is not None and is_quick(item):
                if not pending:
                    yield function(item)
                    continue
                pending.append((_done(function, item), size(item)))
            else:
                pending.append((executor.submit(function, item), size(item)))
            ahead += pending[-1][1]
            while pending and (len(pending) >= 2 * threads or ahead >= most):
                future, taken = pending.popleft()
                ahead -= taken
                yield future.result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        executor.shutdown(wait=not _garbage_collection.is_under_way, cancel_futures=True)


def chunked_map(
    function: Callable[[T], R],
    items: Iterable[T],
    count: int,
    threads: int,
    is_quick: Callable[[T], bool],
    size: Callable[[T, R | None], int],
    most: float = math.inf,
) -> Generator[tuple[T, R], None, None]:
    """Each item and its result, in order; for calls so short that a thread is handed several items at a time.

    These come to no more than `_CHUNK_BYTES`: by the size of each item, or by the largest so far with its result. They
    are so few that of `count` items each thread has some twice. At most `2 * threads` times as much is read ahead, and
    an item, or no more once it comes to `most`. What is left of a chunk whose results turn out larger is done one by
    one, in the calling thread. Closing the iterator waits for no more than one call a thread.
    """
    largest, closed = _CHUNK_BYTES, False  # one at a time until a result has come
    together = max(1, min(_CHUNK_ITEMS, count // (2 * threads)))

    def chunks() -> Iterator[list[T]]:
        chunk: list[T] = []
        taken = 0
        for item in items:
            more = max(largest, size(item, None))
            if chunk and taken + more > _CHUNK_BYTES:  # a large one goes alone: small ones with it hold others ahead
                yield chunk
                chunk, taken = [], 0
            chunk.append(item)
            taken += more
            if taken >= _CHUNK_BYTES or len(chunk) >= together:
                yield chunk
                chunk, taken = [], 0
        yield chunk

    def call(chunk: list[T]) -> tuple[list[T], list[R]]:
        results: list[R] = []
        taken = 0
        for item in chunk:
            if closed or taken >= _CHUNK_BYTES:
                break
            results.append(function(item))
            taken += size(item, results[-1])
        return chunk, results

    def all_quick(chunk: list[T]) -> bool:
        return all(map(is_quick, chunk))

    def all_sizes(chunk: list[T]) -> int:
        return sum(size(item, None) for item in chunk)

    seen = 0
    results = bounded_map(call, chunks(), threads, all_quick, all_sizes, most)
    try:
        for chunk, done in results:
            for place, item in enumerate(chunk):
                result = done[place] if place < len(done) else function(item)
                seen = max(seen, size(item, result))
                yield item, result
            largest = seen
    finally:
        closed = True
        results.close()


def fan_out(items: Iterable[T], consumers: Sequence[Callable[[Iterator[T]], R]], ahead: int) -> list[R]:
    """What each consumer makes of all the items, each in a thread of its own.

    The items are iterated once, in the calling thread, which waits for the slowest: no consumer is more than `ahead`
    items before another, or behind. The first exception, of a consumer or of the items, ends it for all: those that
    go on see an end, and what they return is dropped.
    """
    end = object()
    queues: list[Queue[Any]] = [Queue(ahead) for _ in consumers]
    errors: list[BaseException] = []

    def consume(consumer: Callable[[Iterator[T]], R], queue: Queue[Any]) -> R | None:
        mine: Iterator[T] = iter(queue.get, end)
        try:
            return consumer(mine)
        except BaseException as error:
            errors.append(error)
            return None
        finally:
            for _ in mine:  # who fills the queue would wait for ever
                pass

    with ThreadPoolExecutor(len(consumers), "shardmill", limit_this_thread) as executor:
        futures = [executor.submit(consume, *each) for each in zip(consumers, queues, strict=True)]
        try:
            for item in items:
                if errors:
                    break
                for queue in queues:
                    queue.put(item)
        finally:
            for queue in queues:
                queue.put(end)
        results = [future.result() for future in futures]
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]  # None stands for an error alone


def _done(function: Callable[[T], R], item: T) -> Future[R]:
    future: Future[R] = Future()
    future.set_result(function(item))
    return future


def usable_cores() -> int:
    """Cores that this process may use: those it may run on, less where its container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_QUOTA.read_text().split()
        if quota != "max":
            return max(1, min(cores, math.ceil(int(quota) / int(period))))
    return cores
