"""Making one shard, as every engine does it: run the stage, publish what it made, and say on which shard it failed.

A planned shard may have others beside it, which are made of the same input in the same pass. An engine need not know:
it hands over one shard, and gets one entry, which brings those of the others along.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardmill.devices import fitting_devices
from shardmill.errors import ConfigurationError, ConflictError, EngineError, ShardmillError
from shardmill.library_threads import one_thread_each
from shardmill.shards.commit import ShardEntry
from shardmill.shards.earlier import NOTHING, Earlier
from shardmill.shards.layout import Layout
from shardmill.shards.publish import MadeShard, publish_shard, published_entry
from shardmill.shards.report import ShardReport
from shardmill.stages.stage import InputShard, OutputFiles, Stage, Work
from shardmill.storage import Storage


@dataclass(frozen=True)
class PlannedShard:
    """An input and the fingerprint of what will be made of it: what an engine maps over."""

    input: InputShard
    fingerprint: str
    earlier: Earlier = NOTHING
    """What stands of the same computation, and may hold some of its samples."""
    beside: tuple[tuple[MakeShard, PlannedShard], ...] = ()
    """What else is made of an equal input in the same pass, each by a stage of the same kind."""

    @property
    def id(self) -> str:
        """Six hexadecimal digits."""
        return self.input.id

    @property
    def samples(self) -> int:
        """How many `advance` is told of in all: those of the input, for each that is made of it."""
        return self.input.samples * (1 + len(self.beside))


class EntryOfSeveral(ShardEntry):
    """The entry of a shard that was made with others."""

    each: tuple[ShardEntry, ...]
    """Its own, and then theirs, in the order of `PlannedShard.beside`."""


@dataclass(frozen=True)
class MakeShard:
    """Runs a stage on one shard and publishes the result for a commit to come."""

    stage: Stage[Any]
    layout: Layout

    def __call__(self, shard: PlannedShard, work: Work) -> ShardEntry:
        """The entry of the published shard; another run's, if that run published it meanwhile.

        Of a shard with others beside it an `EntryOfSeveral`.
        """
        started = time.perf_counter()
        if not shard.beside:
            made = self.stage(shard.input, work)
            return self._publish(shard, work, made, time.perf_counter() - started)
        several = [(self, shard), *shard.beside]
        works = [
            replace(work, scratch=_subfolder(work.scratch, str(number)), earlier=planned.earlier)
            for number, (_, planned) in enumerate(several)
        ]
        tables = self.stage.together([make.stage for make, _ in several], shard.input, works)
        seconds = (time.perf_counter() - started) / len(several)
        each = tuple(
            make._publish(planned, its, made, seconds)
            for (make, planned), its, made in zip(several, works, tables, strict=True)
        )
        return EntryOfSeveral(**dict(each[0]), each=each)

    def _publish(
        self, shard: PlannedShard, work: Work, made: tuple[OutputFiles, ShardReport], seconds: float
    ) -> ShardEntry:
        files, report = made
        finished = MadeShard(
            id=shard.id,
            start=shard.input.start,
            fingerprint=shard.fingerprint,
            suffix=self.stage.suffix,
            report=report.checked(shard.id).model_copy(update={"seconds": seconds}),
            index=files.index,
            data=files.data,
            picture=files.picture,
        )
        return publish_shard(work.storage, self.layout, finished, work.scratch)


def check_this_machine(stage: Stage[Any], task: str) -> None:
    """Refuse, before anything is done, a stage that is to run here and cannot.

    Raises:
        ConfigurationError: This machine does not have what it needs.
    """
    stage.check_machine()
    if (gpus := stage.resources.gpus) is not None:
        fitting_devices(gpus, task)


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def check_that_it_travels(make: MakeShard) -> None:
    """Refuse a stage that cannot be handed to another process.

    Raises:
        ConfigurationError: Pickling it fails, or what comes of that.
    """
    try:
        pickle.loads(pickle.dumps(make))
    except Exception as error:
        raise ConfigurationError(
            f"the stage {make.stage.name} of {make.layout.folder} cannot be handed to a worker, because it cannot be "
            f"pickled ({type(error).__name__}: {error}): keep locks, open files and clients out of its fields"
        ) from error


def made_already(make: MakeShard, shard: PlannedShard, storage: Storage) -> ShardEntry | None:
    """The entry of a shard that stands, as `MakeShard` gives it; None if it, or one beside it, is still to be made."""
    each = []
    for one, planned in ((make, shard), *shard.beside):
        entry = published_entry(storage, one.layout, planned.id, planned.fingerprint)
        if entry is None:
            return None
        each.append(entry)
    return EntryOfSeveral(**dict(each[0]), each=tuple(each)) if shard.beside else each[0]


class CancelledError(Exception):
    """The run is over; nobody waits for this shard."""


def make_one(
    make: MakeShard,
    shard: PlannedShard,
    storage: Storage,
    threads: int,
    advance: Callable[[int], None],
    again: bool = False,
) -> ShardEntry:
    """Make one shard in a scratch directory. An exception of `advance` cancels it, and passes as it is.

    If it was begun before (`again`), it may have been published since it was planned: then it is not made again.

    Raises:
        EngineError: Anything else failed; it names the shard.
        ConflictError: Another run was first; it says itself what it is about.
    """

    def count(samples: int) -> None:
        try:
            advance(samples)
        except Exception as error:
            raise CancelledError from error

    try:
        if again and (entry := made_already(make, shard, storage)) is not None:
            count(shard.samples)
            return entry
        with one_thread_each(), storage.scratch(make.layout.side_of_all) as scratch:
            return make(shard, Work(storage, scratch, threads, count, shard.earlier))
    except CancelledError as cancelled:
        raise cancelled.__cause__ or cancelled from None
    except ConflictError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(make, shard.id, error) from error


def failed(make: MakeShard, shard: str, error: BaseException) -> EngineError:
    """What an engine raises where something failed on a shard."""
    # Ours speak for themselves; what a library raised is better named.
    said = error if isinstance(error, ShardmillError) else f"{type(error).__name__}: {error}"
    final = isinstance(error, ShardmillError) and error.final
    return EngineError(f"{make.stage.name} failed on shard {shard} of {make.layout.folder}: {said}", final)
