"""What a stage is: a picklable callable that makes one shard from one shard, on any machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shardmill.devices import GPUSpec
from shardmill.shards.commit import ShardEntry
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.publish import MadeShard, publish_shard
from shardmill.shards.report import ShardReport
from shardmill.storage import Storage


class InputShard(Protocol):
    """What a stage reads: raw objects, or a stored shard."""

    @property
    def id(self) -> str:
        """Six hexadecimal digits; the output has the same."""

    @property
    def start(self) -> str:
        """Where its samples begin, see `Commit.position`; the output begins there too."""

    @property
    def samples(self) -> int:
        """Number of samples."""

    def identity(self) -> Any:
        """Plain JSON that changes whenever the input or its lineage does; part of the fingerprint."""


@dataclass(frozen=True)
class Work:
    """What an engine lends to a stage while it makes one shard."""

    storage: Storage
    scratch: Path
    """A directory for the output files."""
    threads: int
    """How many threads the stage may keep busy."""
    advance: Callable[[int], None]
    """Called with the number of input samples that are done. Raises what cancels the run."""


@dataclass(frozen=True)
class OutputFiles:
    """Files of a finished shard, in the scratch directory."""

    data: Path | None
    """None if no sample was left."""
    index: IndexWriter
    picture: Path | None = None
    """A PNG, where the stage draws one."""


InputT = TypeVar("InputT", bound=InputShard, contravariant=True)


class Stage(Protocol[InputT]):
    """`(InputShard) -> (OutputFiles, ShardReport)`, a pure function of the input and of `parameters()`."""

    @property
    def name(self) -> str:
        """What it does, in a word."""

    @property
    def version(self) -> int:
        """Raised by hand whenever the same input and parameters give other bytes."""

    @property
    def suffix(self) -> Suffix:
        """Of its data files."""

    @property
    def exclusive(self) -> bool:
        """Whether one process should run it with all threads (it holds a model), instead of several processes."""

    @property
    def gpu(self) -> GPUSpec | None:
        """The CUDA devices that an engine has to reserve for it; None if it uses none."""

    def parameters(self) -> dict[str, Any]:
        """Plain JSON of everything else that determines the output."""

    def __call__(self, shard: InputT, work: Work, /) -> tuple[OutputFiles, ShardReport]:
        """Make the shard's files below `work.scratch`."""


def shard_fingerprint(stage: Stage[InputT], shard: InputT) -> str:
    """Digest of all that determines the bytes which `stage` makes of `shard`."""
    return fingerprint(stage=stage.name, version=stage.version, parameters=stage.parameters(), input=shard.identity())


@dataclass(frozen=True)
class PlannedShard:
    """An input and the fingerprint of what will be made of it: what an engine maps over."""

    input: InputShard
    fingerprint: str

    @property
    def id(self) -> str:
        """Six hexadecimal digits."""
        return self.input.id


@dataclass(frozen=True)
class MakeShard:
    """Runs a stage on one shard and publishes the result for a commit to come; what an engine maps over shards."""

    stage: Stage[Any]
    layout: Layout

    def __call__(self, shard: PlannedShard, work: Work) -> ShardEntry:
        """The entry of the published shard; another run's, if that published it meanwhile. See `publish_shard`."""
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
