"""Threads over a stream, in order and with bounded memory; and how many of them are worth while."""

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's limit on Linux: microseconds of CPU, or `max`, in a period of microseconds."""

REQUESTS_AT_ONCE = 16
"""Threads that wait for a store rather than compute: small requests take their time on the way."""

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    is_quick: Callable[[T], bool] | None = None,
    size: Callable[[T], int] = lambda _: 0,
    most: float = math.inf,
) -> Iterator[R]:
    """`map` over threads: results in the order of `items`, at most `2 * threads` of them read ahead.

    The first exception ends it. Closing the iterator waits for the calls under way and starts no other. Items that are
    quick to do are done in the calling thread: another one would cost more than they do. No more is read ahead once the
    sizes of what has been come to `most`.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="shardmill")
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
        executor.shutdown(wait=True, cancel_futures=True)


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
