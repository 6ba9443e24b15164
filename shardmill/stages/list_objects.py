"""List: a manifest → the one part of the `raw_images` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Suffix
from shardmill.shards.report import ShardReport
from shardmill.sources.manifest import Manifest
from shardmill.stages.stage import OutputFiles, Stage, Work


@dataclass(frozen=True)
class ListedObjects:
    """A manifest, as a stage's input."""

    manifest: Manifest
    warning: str | None = None
    """Of the names of the objects."""
    id = "000000"
    start = ""

    @property
    def samples(self) -> int:
        """Number of samples, before any reject."""
        return self.manifest.samples

    @property
    def size(self) -> int:
        """None of the objects is read."""
        return 0

    def identity(self) -> Any:
        """The manifest's digest."""
        return self.manifest.digest


@dataclass(frozen=True)
class ListStage(Stage[ListedObjects]):
    """Stores a manifest. Nothing is rejected here: what is wrong with an object shows when it is packed."""

    name: ClassVar[str] = "list"
    version: ClassVar[int] = 2
    suffix: ClassVar[Suffix] = "parquet"

    @override
    def __call__(self, shard: ListedObjects, work: Work) -> tuple[OutputFiles, ShardReport]:
        import pyarrow.parquet as pq

        manifest = shard.manifest
        file = work.scratch / "data.parquet"
        pq.write_table(manifest.table, file, compression="zstd")
        work.advance(manifest.samples)
        report = ShardReport(
            samples_in=manifest.samples,
            kept=manifest.samples,
            samples=manifest.samples,
            rows=manifest.objects,
            bytes_in=manifest.bytes,
            bytes=file.stat().st_size if manifest.samples else 0,
            sha256=file_sha256(file) if manifest.samples else "",
            summary={
                "objects": manifest.objects,
                "content": manifest.content,
                **({"names_with_dots": shard.warning} if shard.warning else {}),
            },
        )
        return OutputFiles(file if manifest.samples else None, IndexWriter()), report
