"""What a stage is: a picklable callable that makes one shard from one shard, on any machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shardmill.devices import GPUSpec
from shardmill.errors import ConflictError, CorruptionError
from shardmill.shards.commit import ShardEntry, entry_of, file_names, file_sizes
from shardmill.shards.fingerprint import file_sha256, fingerprint
from shardmill.shards.index import IndexWriter, read_report
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
    """Runs a stage on one shard and publishes the result into `folder`; what an engine maps over shards."""

    stage: Stage[Any]
    folder: str

    def __call__(self, shard: PlannedShard, work: Work) -> ShardEntry:
        """The entry of the published shard. The index is published last: where it stands, the shard is whole.

        If another run has published the same shard meanwhile, its files stand and its entry is returned.
        """
        layout, digest = Layout(self.stage.suffix), shard.fingerprint
        started = time.perf_counter()
        files, report = self.stage(shard.input, work)
        report = report.checked(shard.id).model_copy(update={"seconds": time.perf_counter() - started})
        index = work.scratch / "index.parquet"
        files.index.write(index, report)
        index_sha256 = file_sha256(index)
        entry = entry_of(report, shard.id, digest, layout, index_sha256, index.stat().st_size)
        uri = join_uri(self.folder, layout.index(shard.id, digest))
        with work.storage.exclusive(self.folder):
            present = work.storage.stat(uri)
            theirs = left_behind(work.storage, self.folder, shard.id, digest, layout) if present else None
            if theirs and _stands(work.storage, self.folder, theirs, layout):
                return theirs
            for file, name in (
                (files.data, layout.data(shard.id, digest)),
                (files.picture, layout.picture(shard.id, digest)),
            ):
                if file is not None:
                    work.storage.publish(file, join_uri(self.folder, name))
            try:
                work.storage.replace(uri, index.read_bytes(), present.version if present else None)
            except ConflictError:  # another run was first, as a rule with the same bytes
                theirs = left_behind(work.storage, self.folder, shard.id, digest, layout)
                if theirs is None or theirs.index_sha256 == entry.index_sha256:
                    return theirs or entry
                # Theirs is the index, and ours may be the data: nobody may take the two for a shard.
                work.storage.delete(uri)
                raise ConflictError(
                    f"another run made shard {shard.id} of {self.folder} at the same moment, and other bytes of it; do "
                    "both run the same versions of software? Run again"
                ) from None
        return entry


def left_behind(storage: Storage, folder: str, shard: str, digest: str, layout: Layout) -> ShardEntry | None:
    """The entry of a shard that some run published, from its own index; None if there is none that can be read."""
    uri = join_uri(folder, layout.index(shard, digest))
    try:
        data = storage.read(uri)
        report = read_report(data, uri)
    except (FileNotFoundError, CorruptionError):
        return None
    return entry_of(report, shard, digest, layout, hashlib.sha256(data).hexdigest(), len(data))


def _stands(storage: Storage, folder: str, entry: ShardEntry, layout: Layout) -> bool:
    sizes = file_sizes(entry, layout)
    for name in file_names(entry, layout):
        info = storage.stat(join_uri(folder, name))
        if info is None or info.size != sizes.get(name, info.size):
            return False
    return True
