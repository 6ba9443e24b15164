"""Pack: raw objects → a tar shard of their bytes, unchanged. Every image is decoded once, so that a shard holds none
that is broken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from shardmill.concurrency import bounded_map
from shardmill.errors import Rejected
from shardmill.images import MAX_PIXELS, verify_image
from shardmill.samples import image_format
from shardmill.shards.index import IndexWriter, Source
from shardmill.shards.layout import Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.ustar import MAX_MEMBER, TarWriter
from shardmill.sources.manifest import MISSING, RawObject
from shardmill.stages.stage import OutputFiles, Work
from shardmill.storage import Storage


@dataclass(frozen=True)
class RawShard:
    """The raw objects of one shard's samples."""

    id: str
    groups: tuple[tuple[RawObject, ...], ...]
    """One a sample."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.groups)

    def identity(self) -> Any:
        """What every object is, but for its time."""
        return [
            (item.key, item.component, item.uri, item.size, item.version, item.metadata)
            for group in self.groups
            for item in group
        ]


@dataclass(frozen=True)
class _Component:
    name: str
    data: bytes
    sha256: str
    source: Source


@dataclass(frozen=True)
class PackStage:
    """Packs raw objects. Rejects a sample if any of its components is missing, doubled, unreadable or broken."""

    required: tuple[str, ...] = ()
    """Components that every sample must have."""
    max_pixels: int = MAX_PIXELS

    name = "pack"
    version = 1
    suffix: Suffix = "tar"
    exclusive = False

    def parameters(self) -> dict[str, Any]:
        """See `Stage`."""
        return {"required": list(self.required), "max_pixels": self.max_pixels}

    def __call__(self, shard: RawShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """See `Stage`. Holds `2 * work.threads` samples at a time. Raises StorageError."""
        file = work.scratch / "data.tar"
        index = IndexWriter()
        rejects: list[Reject] = []
        kept = 0
        bytes_in = 0

        def read(group: tuple[RawObject, ...]) -> list[_Component] | Reject:
            return self._read(group, work.storage)

        with file.open("wb") as stream:
            tar = TarWriter(stream)
            for sample, group in zip(bounded_map(read, shard.groups, work.threads), shard.groups, strict=True):
                if isinstance(sample, Reject):
                    rejects.append(sample)
                else:
                    kept += 1
                    for part in sample:
                        offset = tar.write(group[0].key, part.name, part.data)
                        index.add(group[0].key, part.name, offset, len(part.data), part.sha256, part.source)
                        bytes_in += len(part.data)
                work.advance(1)
            sha256 = tar.close()
        report = ShardReport(
            samples_in=shard.samples,
            kept=kept,
            samples=kept,
            bytes_in=bytes_in,
            bytes=tar.size if kept else 0,
            sha256=sha256 if kept else "",
            rejects=rejects,
        )
        return OutputFiles(file if kept else None, index), report

    def _read(self, group: tuple[RawObject, ...], storage: Storage) -> list[_Component] | Reject:
        item = group[0]
        try:
            self._check_names(group)
            components = []
            for item in group:
                data = _read_object(item, storage)
                if image_format(item.component):
                    verify_image(data, item.component, self.max_pixels)
                digest = hashlib.sha256(data).hexdigest()
                source = Source(item.uri, item.version, digest)
                components.append(_Component(item.component, data, digest, source))
            if group[0].metadata is not None:
                row = group[0].metadata.encode()
                components.append(_Component("json", row, hashlib.sha256(row).hexdigest(), components[0].source))
            return sorted(components, key=lambda part: part.name)
        except Rejected as rejected:
            return Reject(key=item.key, reason=rejected.reason, detail=rejected.detail, source_uri=item.uri)

    def _check_names(self, group: tuple[RawObject, ...]) -> None:
        names = [item.component for item in group]
        if "" in names:
            raise Rejected("no extension", "the name has no suffix that says what it is")
        for name in names:
            if names.count(name) > 1:
                uris = [item.uri for item in group if item.component == name]
                raise Rejected("duplicate component", f"{name} is claimed by {uris[0]} and {uris[1]}")
        if group[0].metadata is not None and "json" in names:
            raise Rejected("duplicate component", "json is claimed by an object and by the table's columns")
        for name in self.required:
            if name not in names:
                raise Rejected("missing component", f"there is no {name}")
        if not any(image_format(name) for name in names):
            raise Rejected("no image", f"none of the components is an image: {', '.join(names)}")


def _read_object(item: RawObject, storage: Storage) -> bytes:
    if item.version == MISSING:
        raise Rejected("missing object", "the source's table names it, and it does not exist")
    if item.size > MAX_MEMBER:
        raise Rejected("object too large", f"{item.size} bytes; a tar member holds at most {MAX_MEMBER}")
    try:
        data, info = storage.read_version(item.uri)
    except FileNotFoundError:
        raise Rejected("object vanished", "it was deleted after it was listed; list the partition again") from None
    if info.version != item.version:
        raise Rejected("object changed", "it was replaced after it was listed; list the partition again")
    return data
