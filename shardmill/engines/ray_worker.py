"""The actor: one process on a node of Ray's that makes a shard at a time, and tells how far it is.

It is handed one short call after the other, and answers each within a second. So nothing of Ray is needed but calls,
which its client knows as well, and a cancellation waits for no shard.
"""

from __future__ import annotations

import platform
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from shardmill.devices import GPUSpec, fitting_devices
from shardmill.engines.making import CancelledError, MakeShard, PlannedShard, make_one
from shardmill.engines.packages import check_same_packages
from shardmill.errors import ShardmillError
from shardmill.shards.commit import ShardEntry
from shardmill.storage import Storage

_ANSWER_SECONDS = 1.0
"""The longest that a call takes."""
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Arrival:
    """Where an actor has started, or why it is of no use."""

    node: str
    """Its id."""
    name: str
    """For people."""
    error: ShardmillError | None = None


@dataclass(frozen=True)
class ShardProgress:
    """How far a shard is."""

    samples: int
    """That are done, of all attempts in this process the last."""
    entry: ShardEntry | None = None
    error: ShardmillError | None = None


class RayWorker:
    """Made an actor by the engine. One caller, one call at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._thread = ThreadPoolExecutor(1)  # one and the same: what libraries keep by thread lasts
        self._lock = threading.Lock()
        self._cancelled = False
        self._samples = 0
        self._made: Future[ShardEntry] | None = None

    def arrive(self, versions: dict[str, str], gpus: GPUSpec | None, task: str) -> Arrival:
        """Say where it is, and find out whether what it makes there would be the same as elsewhere."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        name = f"{platform.node()} ({ray.util.get_node_ip_address()}, Ray's node {node[:8]})"
        try:
            check_same_packages(versions)
            if gpus is not None:  # Ray has set CUDA_VISIBLE_DEVICES to what it reserved for this process
                fitting_devices(gpus.model_copy(update={"count": 1}), task)
        except ShardmillError as error:
            return Arrival(node, name, type(error)(f"{error}. On the node {name}"))
        return Arrival(node, name)

    def make(self, make: MakeShard, shard: PlannedShard, storage: Storage, again: bool) -> ShardProgress:
        """Begin with a shard. If it was begun elsewhere before (`again`), it may stand already."""
        self._samples = 0
        self._made = self._thread.submit(make_one, make, shard, storage, self._threads, self._count, again)
        return self.follow()

    def follow(self) -> ShardProgress:
        """How far it is, as soon as it is done, and else in a second."""
        assert self._made is not None
        wait([self._made], _ANSWER_SECONDS)
        if not self._made.done():
            return ShardProgress(self._samples)
        try:
            return ShardProgress(self._samples, self._made.result())
        except ShardmillError as error:
            return ShardProgress(self._samples, error=error)

    def cancel(self) -> None:
        """Give the shard up, and leave nothing of it behind."""
        self._cancelled = True
        if self._made is not None:
            wait([self._made], _STOP_SECONDS)

    def _count(self, samples: int) -> None:
        if self._cancelled:
            raise CancelledError
        with self._lock:
            self._samples += samples
