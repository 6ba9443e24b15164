"""List: a manifest → the one part of the `raw_images` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from shardmill.samples import image_format
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
            summary={"objects": manifest.objects, "content": manifest.content, **_components(manifest)},
        )
        return OutputFiles(file if manifest.samples else None, IndexWriter()), report


def _components(manifest: Manifest) -> dict[str, str]:
    """How many samples have which component of an image that others have with another suffix, the most first."""
    if not manifest.objects:
        return {}
    counts = {each["values"]: each["counts"] for each in manifest.table["component"].value_counts().to_pylist()}
    names = sorted(filter(image_format, counts), key=lambda name: (-counts[name], name))
    alike = [[name for name in names if _stem(name) == stem] for stem in dict.fromkeys(map(_stem, names))]
    differing = [name for group in alike if len(group) > 1 and counts[group[0]] < manifest.samples for name in group]
    return {"differing_components": ", ".join(f"{counts[name]} {name}" for name in differing)} if differing else {}


def _stem(component: str) -> str:
    return component.rpartition(".")[0]
