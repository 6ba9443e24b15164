"""List: a manifest → the one part of the `raw_images` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Suffix
from shardmill.shards.report import ShardReport
from shardmill.sources.manifest import Manifest
from shardmill.stages.stage import OutputFiles, Work


@dataclass(frozen=True)
class ListedObjects:
    """A manifest, as a stage's input."""

    manifest: Manifest
    id = "000000"
    start = ""

    @property
    def samples(self) -> int:
        """Number of samples, before any reject."""
        return self.manifest.samples

    def identity(self) -> Any:
        """The manifest's digest."""
        return self.manifest.digest


@dataclass(frozen=True)
class ListStage:
    """Stores a manifest. Nothing is rejected here: what is wrong with an object shows when it is packed."""

    name = "list"
    version = 1
    suffix: Suffix = "parquet"
    exclusive = True
    gpu = None

    def parameters(self) -> dict[str, Any]:
        """See `Stage`."""
        return {}

    def __call__(self, shard: ListedObjects, work: Work) -> tuple[OutputFiles, ShardReport]:
        """See `Stage`."""
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
            summary={"objects": manifest.objects, "content": manifest.content},
        )
        return OutputFiles(file if manifest.samples else None, IndexWriter()), report
