"""What a stage is: a picklable callable that makes one shard from one shard, on any machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shardmill.shards.commit import ShardEntry, entry_of
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.report import ShardReport
from shardmill.storage import Storage, join_uri


class InputShard(Protocol):
    """What a stage reads: raw objects, or a stored shard."""

    @property
    def id(self) -> str:
        """Six hexadecimal digits; the output has the same."""

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

    def parameters(self) -> dict[str, Any]:
        """Plain JSON of everything else that determines the output."""

    def __call__(self, shard: InputT, work: Work, /) -> tuple[OutputFiles, ShardReport]:
        """Make the shard's files below `work.scratch`."""


def shard_fingerprint(stage: Stage[InputT], shard: InputT) -> str:
    """Digest of all that determines the bytes which `stage` makes of `shard`."""
    return fingerprint(stage=stage.name, version=stage.version, parameters=stage.parameters(), input=shard.identity())


@dataclass(frozen=True)
class MakeShard:
    """Runs a stage on one shard and publishes the result into `folder`; what an engine maps over shards."""

    stage: Stage[Any]
    folder: str

    def __call__(self, shard: InputShard, work: Work) -> ShardEntry:
        """The entry of the published shard. The index is published last: where it stands, the shard is whole."""
        layout = Layout(self.stage.suffix)
        digest = shard_fingerprint(self.stage, shard)
        started = time.perf_counter()
        files, report = self.stage(shard, work)
        report = report.checked(shard.id).model_copy(update={"seconds": time.perf_counter() - started})
        index = work.scratch / "index.parquet"
        files.index.write(index, report)
        index_sha256 = hashlib.sha256(index.read_bytes()).hexdigest()
        if files.data is not None:
            work.storage.publish(files.data, join_uri(self.folder, layout.data(shard.id, digest)))
        if files.picture is not None:
            work.storage.publish(files.picture, join_uri(self.folder, layout.picture(shard.id, digest)))
        work.storage.publish(index, join_uri(self.folder, layout.index(shard.id, digest)))
        return entry_of(report, shard.id, digest, layout, index_sha256)
