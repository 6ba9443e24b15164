"""Transform: a tar shard → a tar shard of the samples that the dataset's transform makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shardmill.concurrency import bounded_map
from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import MAX_PIXELS
from shardmill.samples import EncodedSample, image_format
from shardmill.shards.index import IndexWriter, Source
from shardmill.shards.layout import Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.shards.ustar import TarWriter
from shardmill.sources.names import MAX_NAME, is_member_name
from shardmill.stages.stage import OutputFiles, Work
from shardmill.transforms import SampleTransform, TransformSpec, build_transform


@dataclass(frozen=True)
class TransformStage:
    """Applies a transform to every sample. An output component descends from the input component of the same name,
    else from the sample's image.
    """

    spec: TransformSpec
    max_pixels: int = MAX_PIXELS

    name = "transform"
    version = 1
    suffix: Suffix = "tar"
    exclusive = False
    gpu = None

    def parameters(self) -> dict[str, Any]:
        """See `Stage`."""
        return {**self.spec.fingerprint_parameters(), "max_pixels": self.max_pixels}

    @cached_property
    def _transform(self) -> SampleTransform:
        return build_transform(self.spec, max_pixels=self.max_pixels)

    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """See `Stage`. Holds `2 * work.threads` samples at a time. Raises CorruptionError, StorageError."""
        transform = self._transform

        def apply(
            read: tuple[EncodedSample, Rows],
        ) -> tuple[list[EncodedSample] | Reject, Rows, int]:
            sample, rows = read
            size = sum(len(data) for data in sample.components.values())
            try:
                return transform(sample), rows, size
            except Rejected as rejected:
                return Reject.of(sample.key, rejected, _Lineage(rows, self.spec.masks)("").uri), rows, size

        file = work.scratch / "data.tar"
        index = IndexWriter()
        rejects: list[Reject] = []
        keys: set[str] = set()
        kept = filtered = bytes_in = 0
        with file.open("wb") as stream:
            tar = TarWriter(stream)
            for children, rows, size in bounded_map(apply, shard.read(work.storage), work.threads):
                bytes_in += size
                if isinstance(children, Reject):
                    rejects.append(children)
                elif children:
                    kept += 1
                    for child in children:
                        _check_name(child, keys)
                        keys.add(child.key)
                        _append(tar, index, child, _Lineage(rows, self.spec.masks))
                else:
                    filtered += 1
                work.advance(1)
            sha256 = tar.close()
        report = ShardReport(
            samples_in=shard.samples,
            kept=kept,
            filtered=filtered,
            samples=len(keys),
            bytes_in=bytes_in,
            bytes=tar.size if keys else 0,
            sha256=sha256 if keys else "",
            rejects=rejects,
        )
        return OutputFiles(file if keys else None, index), report


def _check_name(sample: EncodedSample, taken: set[str]) -> None:
    """Custom callables name their children; raises ConfigurationError for what a shard cannot hold."""
    if sample.key in taken:
        raise ConfigurationError(f"the transform gives two samples the key {sample.key!r}; keys must differ")
    for component in sample.components:
        if not is_member_name(sample.key, component):
            raise ConfigurationError(
                f"the transform names a component {component!r} of {sample.key!r}; use at most {MAX_NAME} letters, "
                "digits and _-/ for both, no dot in the key, lower case in the component"
            )


def _append(tar: TarWriter, index: IndexWriter, sample: EncodedSample, source: _Lineage) -> None:
    for component in sorted(sample.components):
        data = sample.components[component]
        offset = tar.write(sample.key, component, data)
        digest = hashlib.sha256(data).hexdigest()
        index.add(sample.key, component, offset, len(data), digest, source(component), source.origin)


class _Lineage:
    """The raw object behind each component of an output sample.

    A component of the input's name comes from that; another one from the input's image of the same format, else from
    its first image. Label maps are taken for an image's origin only where there is nothing else.
    """

    def __init__(self, rows: Rows, masks: Collection[str]) -> None:
        self._rows = rows
        self.origin = next(iter(rows.values())).origin
        images = sorted(name for name in rows if image_format(name))
        self._candidates = [name for name in images if name not in masks] or images or [min(rows)]

    def __call__(self, component: str) -> Source:
        if component in self._rows:
            return self._rows[component].source
        alike = [name for name in self._candidates if image_format(name) == image_format(component)]
        return self._rows[(alike or self._candidates)[0]].source
