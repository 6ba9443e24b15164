"""The local engine: all cores of this machine.

Stages that need CUDA run in workers that live no longer than the lease of their devices: a process that has asked CUDA
for one device can neither change to another nor let go of it before it ends.

A process keeps some threads busy: decoding, resizing and hashing release Python's lock, and the code that holds it
would not feed more. Machines with more cores get several such processes, each on a shard of its own; those that feed
one device share it, and its lease.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle, islice
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any, Self

from shardmill.concurrency import usable_cores
from shardmill.devices import VISIBLE, Device, GPUSpec, Lease, fitting_devices, lease
from shardmill.engines.making import (
    CancelledError,
    MakeShard,
    PlannedShard,
    check_that_it_travels,
    check_this_machine,
    make_one,
)
from shardmill.errors import ConfigurationError, EngineError
from shardmill.importing import end_process
from shardmill.interrupts import interrupts_held_back
from shardmill.memory import available_bytes
from shardmill.shards.commit import ShardEntry
from shardmill.stages.stage import Resources, Stage
from shardmill.storage import Storage

logger = logging.getLogger(__name__)

_FEEDING_THREADS = 2
"""Of a process that feeds a device. More of them wait for Python's lock: docs/gpus.md has the figures."""
_FEEDING_MEMORY = 8 << 10
"""MiB of a device for each process that feeds it: enough for a model, its batches and what CUDA takes."""
_FEEDING_BYTES = 3 << 30
"""Of the machine's memory for each of several processes that feed a device: torch, CUDA and the batches."""


class LocalEngine:
    """Runs stages on this machine. While it is open, its processes, their devices and their models stay."""

    def __init__(self, workers: int | None = None, say: Callable[[str], None] = logger.warning) -> None:
        """`workers` threads in all, by default one a core that this process may use.

        `say` is told what it waits for: devices that others hold.
        """
        self.workers = workers or usable_cores()
        self._say = say
        self._pools: dict[GPUSpec | None, _Workers] = {}
        self._opened = 0

    def __enter__(self) -> Self:
        self._opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._opened -= 1
        if not self._opened:
            while self._pools:
                self._pools.popitem()[1].close()

    def check(self, stage: Stage[Any], task: str) -> None:
        """Refuse a stage that needs what this machine does not have."""
        check_this_machine(stage, task)

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Generator[ShardEntry]:
        """Run as every `Engine` does. Memory grows with `workers`, not with the number or size of the shards."""
        if not shards:
            return
        make.stage.check_machine()
        with self:
            resources = make.stage.resources
            processes = _processes(resources, self.workers, len(shards))
            if processes == 1 and resources.gpus is None:
                for shard in shards:
                    yield make_one(make, shard, storage, self.workers, advance)
                return
            check_that_it_travels(make)
            whole = False
            try:
                pool = self._pool(resources.gpus, processes, f"{make.stage.name} in {make.layout.folder}")
                processes = min(processes, pool.processes)
                threads = math.ceil(self.workers / processes)
                yield from pool.run(make, shards, storage, processes, threads, advance)
                whole = True
            finally:
                if not whole and resources.gpus in self._pools:
                    self._pools.pop(resources.gpus).close()

    def _pool(self, gpus: GPUSpec | None, processes: int, task: str) -> _Workers:
        """The workers that are there; others where they are too few."""
        present = self._pools.get(gpus)
        if present is not None and present.wanted >= processes:
            return present
        # Workers on devices for another stage would keep what this one waits for.
        for other in [key for key in self._pools if key == gpus or None not in (key, gpus)]:
            self._pools.pop(other).close()
        self._pools[gpus] = pool = _Workers(processes, gpus, task, self._say)
        return pool


def engine_at(address: str, workers: int | None, say: Callable[[str], None]) -> LocalEngine:
    """The engine that the word `local` asks for."""
    if address:
        raise ConfigurationError(f"the local engine has no address: local, not local://{address}")
    return LocalEngine(workers, say)


def _processes(resources: Resources, workers: int, shards: int) -> int:
    """How many processes share the work: as many as there are devices, or as cores and memory allow."""
    if resources.gpus is not None:
        wanted = workers // _FEEDING_THREADS
        if (available := available_bytes()) is not None:
            wanted = min(wanted, available // _FEEDING_BYTES)
        return min(resources.gpus.count * max(1, wanted // resources.gpus.count), shards)
    if resources.model:
        return 1
    available = available_bytes() if resources.memory else None
    room = available // resources.memory if available is not None else shards
    return max(1, min(math.ceil(workers / resources.threads), shards, room))


def _most_feeding(device: Device, gpus: GPUSpec) -> int:
    """How many processes may feed a device."""
    return int(1 / gpus.fraction + 1e-6) if gpus.fraction else max(1, (device.memory or 0) // _FEEDING_MEMORY)


class _Workers:
    """Worker processes; if devices are asked for, each with one of them, in turn."""

    def __init__(self, processes: int, gpus: GPUSpec | None, task: str, say: Callable[[str], None]) -> None:
        # Never forked from this process: storage clients and thread pools do not survive that.
        context = multiprocessing.get_context("forkserver")
        self.wanted = processes
        self._lease = ExitStack()
        leased = None
        if gpus is not None:
            fitting = fitting_devices(gpus, task)
            leased = self._lease.enter_context(lease(fitting, min(gpus.count, processes), task, say))
            fed = [_most_feeding(each, gpus) for each in fitting if each.name in leased.devices]
            processes = min(processes, len(fed) * min(fed))
        self.processes = processes
        self._counts = context.SimpleQueue()
        self._cancelled = context.RawValue("b")  # without a lock, which a worker that dies could hold for ever
        each = context.SimpleQueue()
        for device in islice(cycle(leased.devices), processes) if leased else ():
            each.put(device)
        arguments = (self._counts, self._cancelled, dict(os.environ), leased, each)
        self._pool = ProcessPoolExecutor(processes, context, _start_worker, arguments)

    def run(
        self,
        make: MakeShard,
        shards: Sequence[PlannedShard],
        storage: Storage,
        processes: int,
        threads: int,
        advance: Callable[[int], None],
    ) -> Generator[ShardEntry]:
        """Entries as they are done, `processes` shards at a time. Where it does not come to its end, close the workers.

        Raises:
            EngineError: A worker died.
        """
        waiting = iter(shards)

        def submit(count: int) -> set[Future[ShardEntry]]:
            some = islice(waiting, count)
            return {self._pool.submit(_make_in_worker, make, shard, storage, threads) for shard in some}

        try:
            with interrupts_held_back():
                _start_fork_server()
                pending = submit(processes)
            while pending:
                done = wait_for_futures(pending, timeout=0.2, return_when=FIRST_COMPLETED).done
                while not self._counts.empty():
                    advance(self._counts.get())
                for future in done:
                    pending.remove(future)
                    entry = future.result()
                    pending |= submit(1)
                    yield entry
        except BrokenProcessPool as error:
            raise EngineError(
                f"a worker process died while {make.stage.name} ran on {make.layout.folder}; if the machine ran "
                "out of memory, give the engine fewer workers. Finished shards are kept: run again to go on"
            ) from error

    def close(self) -> None:
        """Cancel what is under way, and wait for the processes to end; then the devices are free."""
        self._cancelled.value = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._lease.close()


def _start_fork_server() -> None:
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise EngineError(f"cannot start worker processes: {error}; TMPDIR is {tempfile.gettempdir()}") from error


_advance_in_worker: Callable[[int], None]
_leased: Lease | None


def _start_worker(counts: Any, cancelled: Any, environment: dict[str, str], leased: Lease | None, devices: Any) -> None:
    """Set up a worker: the parent alone answers Ctrl-C, and a worker never outlives its parent.

    The fork server's environment is that of its start; the parent's may have changed since, secrets included.
    """
    global _advance_in_worker, _leased
    os.environ.update(environment)
    with suppress(OSError):  # a service may have closed it
        os.dup2(2, 1)  # where the caller prints results, nothing of a stage gets between them
    _leased = leased  # kept, so that the devices stay leased until this process ends
    if leased:
        os.environ[VISIBLE] = devices.get()  # before anything asks CUDA, which reads it once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _advance_in_worker = partial(_count, counts, cancelled)


def _count(counts: Any, cancelled: Any, samples: int) -> None:
    if cancelled.value:
        raise CancelledError
    counts.put(samples)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_process(1)


def _make_in_worker(make: MakeShard, shard: PlannedShard, storage: Storage, threads: int) -> ShardEntry:
    return make_one(make, shard, storage, threads, _advance_in_worker)
