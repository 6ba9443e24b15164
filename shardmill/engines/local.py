"""The local engine: all cores of this machine.

What runs on CUDA does so in workers that live no longer than the lease of their devices: a process that has asked CUDA
for one device can neither change to another nor let go of it before it ends.

A process keeps up to `THREADS` threads busy: decoding, resizing and hashing release Python's lock, and what holds it
would not feed more. Machines with more cores get several such processes, each on a shard of its own.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from shardmill.concurrency import usable_cores
from shardmill.devices import VISIBLE, Lease, fitting_devices, lease
from shardmill.errors import (
    ConflictError,
    EngineError,
    ShardmillError,
)
from shardmill.shards.commit import ShardEntry
from shardmill.stages.stage import MakeShard, PlannedShard, Work
from shardmill.storage import Storage

logger = logging.getLogger(__name__)

THREADS = 4
"""Most threads a process can keep busy with samples."""


@dataclass(frozen=True)
class LocalEngine:
    """Runs stages on this machine, with `workers` threads in all (default: one a core that this process may use)."""

    workers: int | None = None
    say: Callable[[str], None] = field(default=logger.warning, compare=False)
    """Told what it waits for: devices that others hold."""

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Iterator[ShardEntry]:
        """See `Engine`. Memory grows with `workers`, not with the number or size of the shards.

        Raises ConfigurationError if the stage needs CUDA devices that this machine has not.
        """
        if not shards:
            return
        workers = self.workers or usable_cores()
        gpu = make.stage.gpu
        if gpu is not None:
            task, count = f"{make.stage.name} in {make.layout.folder}", min(gpu.count, len(shards))
            with lease(fitting_devices(gpu, task), count, task, self.say) as leased:
                yield from _run_in_processes(make, shards, storage, advance, count, math.ceil(workers / count), leased)
            return
        processes = 1 if make.stage.exclusive else min(math.ceil(workers / THREADS), len(shards))
        if processes <= 1:
            for shard in shards:
                yield _make(make, shard, storage, workers, advance)
        else:
            yield from _run_in_processes(make, shards, storage, advance, processes, math.ceil(workers / processes))


def _make(
    make: MakeShard, shard: PlannedShard, storage: Storage, threads: int, advance: Callable[[int], None]
) -> ShardEntry:
    """Make one shard; what fails says on which. What `advance` raises cancels, and passes as it is."""

    def count(samples: int) -> None:
        try:
            advance(samples)
        except Exception as error:
            raise _Cancelled from error

    try:
        with storage.scratch(make.layout.side_of_all) as scratch:
            return make(shard, Work(storage, scratch, threads, count))
    except _Cancelled as cancelled:
        raise cancelled.__cause__ or cancelled from None
    except ConflictError:  # no failure of the stage, and it says itself what it is about
        raise
    except Exception as error:
        # Ours speak for themselves; what a library raised is better named.
        said = error if isinstance(error, ShardmillError) else f"{type(error).__name__}: {error}"
        raise EngineError(
            f"{make.stage.name} failed on shard {shard.id} of {make.layout.folder}: {said}",
            final=isinstance(error, ShardmillError) and error.final,
        ) from error


def _run_in_processes(
    make: MakeShard,
    shards: Sequence[PlannedShard],
    storage: Storage,
    advance: Callable[[int], None],
    processes: int,
    threads: int,
    leased: Lease | None = None,
) -> Iterator[ShardEntry]:
    """With a lease, each process gets one of its devices."""
    # Never forked from this process: storage clients and thread pools do not survive that.
    context = multiprocessing.get_context("forkserver")
    counts = context.SimpleQueue()
    cancelled = context.RawValue("b")  # without a lock, which a worker that dies could hold for ever
    devices = context.SimpleQueue()
    for device in leased.devices if leased else ():
        devices.put(device)
    arguments = (counts, cancelled, dict(os.environ), leased, devices)
    pool = ProcessPoolExecutor(processes, context, _start_worker, arguments)
    try:
        with _interrupts_held_back():
            _start_fork_server()
            futures = [pool.submit(_make_in_worker, make, shard, storage, threads) for shard in shards]
        for future in _as_completed_counting(futures, counts, advance):
            try:
                yield future.result()
            except BrokenProcessPool as error:
                raise EngineError(
                    f"a worker process died while {make.stage.name} ran on {make.layout.folder}; if the machine ran "
                    "out of memory, give the engine fewer workers. Finished shards are kept: run again to go on"
                ) from error
    finally:
        cancelled.value = True
        pool.shutdown(wait=True, cancel_futures=True)


def _start_fork_server() -> None:
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise EngineError(f"cannot start worker processes: {error}; TMPDIR is {tempfile.gettempdir()}") from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A Ctrl-C counts when the block is over, and processes that start in it never see one.

    In the midst of starting, it would leave a process that nobody waits for, or end one with a traceback.
    """
    came: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _as_completed_counting(futures: list[Any], counts: Any, advance: Callable[[int], None]) -> Iterator[Any]:
    """`as_completed`, passing on what the workers count meanwhile, in the calling thread."""
    pending = set(futures)
    while pending:
        try:
            done = list(as_completed(pending, timeout=0.2))
        except TimeoutError:
            done = [future for future in pending if future.done()]
        while not counts.empty():
            advance(counts.get())
        for future in done:
            pending.remove(future)
            yield future


class _Cancelled(Exception):
    """The run is over; nobody waits for this shard."""


_advance_in_worker: Callable[[int], None]
_leased: Lease | None


def _start_worker(counts: Any, cancelled: Any, environment: dict[str, str], leased: Lease | None, devices: Any) -> None:
    """Set up a worker: the parent alone answers Ctrl-C, and a worker never outlives its parent.

    The fork server's environment is that of its start; the parent's may have changed since, secrets among it.
    """
    global _advance_in_worker, _leased
    os.environ.update(environment)
    _leased = leased  # kept, so that the devices stay leased until this process ends
    if leased:
        os.environ[VISIBLE] = devices.get()  # before anything asks CUDA, which reads it once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _advance_in_worker = partial(_count, counts, cancelled)


def _count(counts: Any, cancelled: Any, samples: int) -> None:
    if cancelled.value:
        raise _Cancelled
    counts.put(samples)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _make_in_worker(make: MakeShard, shard: PlannedShard, storage: Storage, threads: int) -> ShardEntry:
    return _make(make, shard, storage, threads, _advance_in_worker)
