"""Making one shard, as every engine does it: run the stage, publish what it made, and say on which shard it failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shardmill.errors import ConflictError, EngineError, ShardmillError
from shardmill.shards.commit import ShardEntry
from shardmill.shards.earlier import NOTHING, Earlier
from shardmill.shards.layout import Layout
from shardmill.shards.publish import MadeShard, publish_shard
from shardmill.stages.stage import InputShard, Stage, Work
from shardmill.storage import Storage


@dataclass(frozen=True)
class PlannedShard:
    """An input and the fingerprint of what will be made of it: what an engine maps over."""

    input: InputShard
    fingerprint: str
    earlier: Earlier = NOTHING
    """What stands of the same computation, and may hold some of its samples."""

    @property
    def id(self) -> str:
        """Six hexadecimal digits."""
        return self.input.id


@dataclass(frozen=True)
class MakeShard:
    """Runs a stage on one shard and publishes the result for a commit to come."""

    stage: Stage[Any]
    layout: Layout

    def __call__(self, shard: PlannedShard, work: Work) -> ShardEntry:
        """The entry of the published shard; another run's, if that run published it meanwhile."""
        started = time.perf_counter()
        files, report = self.stage(shard.input, work)
        made = MadeShard(
            id=shard.id,
            start=shard.input.start,
            fingerprint=shard.fingerprint,
            suffix=self.stage.suffix,
            report=report.checked(shard.id).model_copy(update={"seconds": time.perf_counter() - started}),
            index=files.index,
            data=files.data,
            picture=files.picture,
        )
        return publish_shard(work.storage, self.layout, made, work.scratch)


class CancelledError(Exception):
    """The run is over; nobody waits for this shard."""


def make_one(
    make: MakeShard, shard: PlannedShard, storage: Storage, threads: int, advance: Callable[[int], None]
) -> ShardEntry:
    """Make one shard in a scratch directory. An exception of `advance` cancels it, and passes as it is.

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
        with storage.scratch(make.layout.side_of_all) as scratch:
            return make(shard, Work(storage, scratch, threads, count, shard.earlier))
    except CancelledError as cancelled:
        raise cancelled.__cause__ or cancelled from None
    except ConflictError:
        raise
    except (Exception, SystemExit) as error:
        # Ours speak for themselves; what a library raised is better named.
        said = error if isinstance(error, ShardmillError) else f"{type(error).__name__}: {error}"
        raise EngineError(
            f"{make.stage.name} failed on shard {shard.id} of {make.layout.folder}: {said}",
            final=isinstance(error, ShardmillError) and error.final,
        ) from error
