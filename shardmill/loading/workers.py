"""Batches, made where the samples are: in worker processes, or in the loader's own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch  # noqa: TID253
from torch.utils.data import IterableDataset, get_worker_info  # noqa: TID253
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: TID253
from typing_extensions import override

from shardmill.errors import ConfigurationError, EngineError
from shardmill.importing import end_process
from shardmill.interrupts import interrupts_held_back
from shardmill.loading.collate import pinned
from shardmill.loading.feed import Feed
from shardmill.loading.state import Position

Collate = Callable[[list[dict[str, Any]]], Any]

_AHEAD = 2
"""Batches that each worker process makes ahead."""
_PATIENCE = 10.0
"""Seconds to wait for the end of a worker that was told to end, or seems to."""


@dataclass
class Batch:
    """What a worker gives at a time."""

    data: Any
    """Of the samples; None where there are none any more and `positions` is news."""
    lane: int
    positions: list[Position]
    """Of each stream in the lane, when this has been handed out."""
    skipped: dict[str, int]
    """Samples since the batch before, by reason."""
    repeated: int
    """Samples of the batch that stand in the place of a skipped one."""

    def pin_memory(self) -> Batch:
        """The batch, its tensors where CUDA copies from faster: torch asks for it."""
        return replace(self, data=pinned(self.data))


class Failure(NamedTuple):
    """A worker's exception; it is raised where the batch would have been handed out."""

    error: BaseException


@dataclass
class Batches(IterableDataset[Batch | Failure]):
    """The batches of one rank: in each worker process those of one lane."""

    feeds: Sequence[Feed]
    """By lane."""
    first: int
    """The lane whose turn it is: that of the first worker."""
    batch_size: int
    collate: Collate

    @override
    def __iter__(self) -> Iterator[Batch | Failure]:
        info = get_worker_info()
        if info is None:
            yield from self.of_lane(0)
            return
        lane = (info.id + self.first) % len(self.feeds)
        try:
            yield from self.of_lane(lane)
        except Exception as error:
            yield Failure(_portable(error, info.id))

    def of_lane(self, lane: int) -> Iterator[Batch]:
        """Those that are left of a lane."""
        feed = self.feeds[lane]
        positions: list[Position] = [(each.inputs, each.given) for each in feed.lanes]
        begun = list(positions)
        samples: list[dict[str, Any]] = []
        skipped: Counter[str] = Counter()
        repeated = 0

        def batch() -> Batch:
            nonlocal samples, skipped, repeated
            with _one_thread():
                made = Batch(self.collate(samples), lane, list(positions), dict(skipped), repeated)
            samples, skipped, repeated = [], Counter(), 0
            return made

        with closing(feed.equal_results() if feed.equal else feed.results()) as results:
            for result in results:
                positions[result.stream] = result.position
                repeated += result.is_repeat
                if result.skipped is not None:
                    skipped[result.skipped] += 1
                if result.data is not None:
                    samples.append(result.data)
                    if len(samples) == self.batch_size:
                        yield batch()
                        begun = list(positions)
        if samples:
            yield batch()
        elif positions != begun:
            yield Batch(None, lane, list(positions), dict(skipped), repeated)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes in this thread alone: a copy in several waits for those that prepare samples."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_batches(batches: Batches, workers: int, pin_memory: bool) -> Generator[Batch, None, None]:
    """What the workers make, in turn. Closing it ends them.

    torchdata's loader runs the processes. Of its states nothing is used: they are of its own workers alone.

    Raises:
        Exception: One of a worker's own, as it was raised there.
        EngineError: A worker died.
        ConfigurationError: No worker can begin.
    """
    processes: dict[str, Any] = {}
    if workers:
        _check_that_workers_can_begin()
        context = multiprocessing.get_context("forkserver")  # what is open in this process does not survive a fork
        context.set_forkserver_preload(["shardmill.loading.preloaded"])
        with interrupts_held_back():
            forkserver.ensure_running()
        processes = {"multiprocessing_context": context, "worker_init_fn": SetUp(), "prefetch_factor": _AHEAD}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata's own call
        loader = StatefulDataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            collate_fn=as_it_is,
            pin_memory=pin_memory and torch.accelerator.is_available(),  # torch warns at each epoch elsewhere
            snapshot_every_n_steps=None,
            **processes,
        )
    try:
        iterator = iter(loader)  # waits for the first word of the workers
    except RuntimeError as error:
        if not _is_of_a_death(error, None):
            raise
        raise EngineError(
            f"a worker process of the loader died as it began: {error}. Why, it says above. Workers import the script "
            "anew, and collate_fn and the like with it: these have to stand in a file"
        ) from error
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # also where it dies while it hands something over
                if not _is_of_a_death(error, iterator):
                    raise
                raise EngineError(
                    f"a worker process of the loader died: {error}. If the machine ran out of memory, take fewer "
                    "workers, a smaller buffer or smaller batches"
                ) from error
            if isinstance(batch, Failure):
                raise batch.error
            yield batch
    finally:
        _end(iterator)
        loader._iterator = None


def _check_that_workers_can_begin() -> None:
    """A worker imports the script that it is started from; Python's own errors on that come late, one a worker.

    Raises:
        EngineError: This is a worker, which imports a script that begins to read.
        ConfigurationError: The script is no file.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise EngineError(
            "a worker process of the loader imports the script, and the script begins to read again: put what it does "
            'under `if __name__ == "__main__":`'
        )
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and not Path(script).exists():
        raise ConfigurationError(
            f"worker processes import the script, and {script} is no file: save it as one, or take workers=0"
        )


def _is_of_a_death(error: Exception, iterator: Any) -> bool:
    """Whether the error came because a worker died: torch says so, or a connection broke and it is found dead."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    processes = getattr(iterator, "_workers", ())
    wait([process.sentinel for process in processes if process.is_alive()], timeout=_PATIENCE)
    return any(process.exitcode not in (None, 0) for process in processes)


def _end(iterator: Any) -> None:
    """End the worker processes now, not when nothing refers to them any more."""
    for process in getattr(iterator, "_workers", ()):
        if not iterator._shutdown:
            iterator._shutdown_workers()
        process.join(_PATIENCE)


def as_it_is(batch: Batch) -> Batch:
    """Collate nothing: it is a batch already."""
    return batch


class SetUp:
    """Sets a worker process up: its environment, and whom it obeys. Picklable."""

    def __init__(self) -> None:
        # A fork server's environment is that of its start, and may be older.
        self._environment = dict(os.environ)

    def __call__(self, _: int) -> None:
        """The parent alone answers Ctrl-C, and a worker never outlives it."""
        os.environ.update(self._environment)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.excepthook = _tell
        threading.Thread(target=_die_with_parent, daemon=True).start()


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing where the loop is interrupted while a batch is handed over: the process that takes it is gone.

    The thread of multiprocessing's that hands over file descriptors prints what it meets, and goes on.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_process(1)


def _portable(error: Exception, worker: int) -> Exception:
    """The exception, with the worker's traceback as a note; it is raised again in another process."""
    said = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        raise error from None  # torch tells it by its text
    if type(copy) is not type(error):
        raise error
    error.add_note(f"In worker {worker} of the loader:\n{said}")
    error.__traceback__ = None
    return error
