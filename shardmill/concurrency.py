"""Threads over a stream, in order and with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`map` over threads: results in the order of `items`, at most `2 * threads` of them read ahead.

    The first exception ends it. Closing the iterator waits for the calls under way and starts no other.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="shardmill")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
