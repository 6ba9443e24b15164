"""What Beam's workers run: a `DoFn` over planned shards. Imported where Beam is used, and nowhere else."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
import zlib
from collections.abc import Iterable
from contextlib import ExitStack

import apache_beam as beam
from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.devices import VISIBLE, GPUSpec, fitting_devices, lease
from shardmill.engines.answers import Answer, Answers
from shardmill.engines.making import MakeShard, PlannedShard, failed, make_one
from shardmill.engines.packages import check_same_packages, compared_versions
from shardmill.errors import ConfigurationError, ConflictError, EngineError, StorageError
from shardmill.shards.commit import ShardEntry

PickledShard = tuple[str, bytes]
"""The id of a `PlannedShard`, and it itself, pickled and compressed."""

NOT_IN_THE_CALLER = (
    "it needs CUDA, and this runner makes shards in the caller's process, which could not let go of a device: use the "
    "local engine, or beam://DirectRunner?direct_running_mode=multi_processing"
)

_LOOK_EVERY = 5.0
"""Seconds between two looks whether the run is wanted still."""

_one_at_a_time = threading.Lock()
"""A process makes one shard at a time, with threads of its own: a stage declares its memory for a process."""
_device: str | None = None
"""The device of this process, until it ends: it cannot let go of one that it has asked CUDA for."""
_leases = ExitStack()


class _OverError(Exception):
    """Nobody waits for the run any more."""


def pickled(shard: PlannedShard) -> PickledShard:
    """As it travels to a worker."""
    return shard.id, zlib.compress(pickle.dumps(shard))


class MakeShards(beam.DoFn):
    """Makes the shards that are its elements, publishes them, and leaves an answer. It has no output.

    Beam may run an element several times, at once or after it was done: a shard that stands is not made again.
    """

    def __init__(self, make: MakeShard, answers: Answers, threads: int | None, raises: bool) -> None:
        """`threads` of each process, by default as many as the stage can use there. `raises`: what may pass is raised,
        so that the runner tries again.
        """
        self._make = make
        self._answers = answers
        self._threads = threads
        self._raises = raises
        self._caller = _this_process()
        self._versions = compared_versions()
        self._next_look = 0.0

    @override
    def process(self, element: PickledShard) -> Iterable[object]:
        shard, planned = element
        with _one_at_a_time:
            self._next_look = 0.0
            try:
                self._stop_if_over()
                entry = self._entry(shard, planned)
            except _OverError:
                pass
            except (EngineError, ConflictError) as error:
                self._leave_error(shard, error)
                if self._raises and isinstance(error, EngineError) and not error.final:
                    raise
            else:
                self._answers.leave(Answer(shard=shard, entry=entry))
        return ()

    def _leave_error(self, shard: str, error: EngineError | ConflictError) -> None:
        try:
            self._answers.leave(Answer.of_error(shard, error))
        except StorageError:
            raise error from None  # what filled the disk, say: the runner tells it

    def _entry(self, shard: str, planned: bytes) -> ShardEntry:
        resources, cores = self._make.stage.resources, usable_cores()
        try:
            check_same_packages(self._versions)
            found = _unpickled(planned)
            if resources.gpus is not None:
                if self._caller == _this_process():
                    raise ConfigurationError(NOT_IN_THE_CALLER)
                _take_device(resources.gpus, f"{self._make.stage.name} in {self._make.layout.folder}")
        except Exception as error:
            raise failed(self._make, shard, error) from error
        threads = self._threads or (cores if resources.model else min(resources.threads, cores))
        return make_one(self._make, found, self._answers.storage, threads, self._advance, again=True)

    def _advance(self, _: int) -> None:
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_EVERY
        if not self._answers.is_open:
            raise _OverError


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _unpickled(planned: bytes) -> PlannedShard:
    try:
        found: PlannedShard = pickle.loads(zlib.decompress(planned))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{error}: install the same Shardmill, and the code that the dataset file names, where Beam's workers run"
        ) from error
    return found


def _take_device(gpus: GPUSpec, task: str) -> None:
    """Lease a device for this process, before anything in it asks CUDA.

    Raises:
        ConfigurationError: This machine has none, or other processes hold them all.
    """
    global _device
    if _device is not None:
        return
    told: list[str] = []

    def refuse(text: str) -> None:
        told.append(text)
        if len(told) > 1:  # at first those of an earlier pipeline may be about to end
            raise ConfigurationError(f"{text}. Have Beam start no more processes on a machine than it has devices")

    devices = fitting_devices(gpus, task)
    [_device] = _leases.enter_context(lease(devices, 1, task, refuse)).devices
    os.environ[VISIBLE] = _device
