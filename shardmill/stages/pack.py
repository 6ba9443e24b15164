"""Pack: raw objects → a tar shard of their bytes, unchanged. Every image is decoded once, so that a shard holds none
that is broken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ArchivedError, ChangedError, Rejected, StorageError
from shardmill.images import MAX_PIXELS, verify_image
from shardmill.samples import image_format
from shardmill.shards.index import IndexWriter, Source
from shardmill.shards.layout import Suffix
from shardmill.shards.reader import ShardSet
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.slicing import slice_by_hash, slice_by_key
from shardmill.shards.spec import ShardSpec
from shardmill.shards.ustar import MAX_MEMBER, TarWriter, stored_size
from shardmill.sources.manifest import MISSING, Manifest, RawObject
from shardmill.stages.lazy_shard_set import LazyShardSet
from shardmill.stages.stage import OutputFiles, Work
from shardmill.storage import Storage


@dataclass(frozen=True)
class RawShard:
    """The raw objects of one shard's samples."""

    id: str
    start: str
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


_VANISHED = "object vanished"
_FETCHED_BYTES = 256 << 20
"""At most so much of a shard is fetched ahead, or two samples."""
_Fetched = list[tuple[RawObject, bytes]]


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
    gpu = None

    def parameters(self) -> dict[str, Any]:
        """See `Stage`."""
        return {"required": list(self.required), "max_pixels": self.max_pixels}

    def __call__(self, shard: RawShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """See `Stage`. Holds some samples for each thread at a time. Raises StorageError."""
        file = work.scratch / "data.tar"
        index = IndexWriter()
        rejects: list[Reject] = []
        kept = 0
        bytes_in = 0

        def fetch(group: tuple[RawObject, ...]) -> _Fetched | Reject:
            return self._fetch(group, work.storage)

        largest = max((sum(item.size for item in group) for group in shard.groups), default=0)
        requests = min(REQUESTS_AT_ONCE, max(1, _FETCHED_BYTES // (2 * max(1, largest))))
        fetched = bounded_map(fetch, shard.groups, requests)
        samples = bounded_map(self._check, fetched, work.threads)

        with file.open("wb") as stream:
            tar = TarWriter(stream)
            for sample, group in zip(samples, shard.groups, strict=True):
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
        _check_that_the_source_is_there(shard, rejects)
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

    def _fetch(self, group: tuple[RawObject, ...], storage: Storage) -> _Fetched | Reject:
        """The bytes of each object of a sample."""
        item = group[0]
        try:
            self._check_names(group)
            fetched = []
            for item in group:
                fetched.append((item, _read_object(item, storage)))
        except Rejected as rejected:
            return _reject(item, rejected)
        return fetched

    def _check(self, fetched: _Fetched | Reject) -> list[_Component] | Reject:
        """The components of a sample, hashed, its images decoded once to see that they can be."""
        if isinstance(fetched, Reject):
            return fetched
        item = fetched[0][0]
        metadata = item.metadata
        try:
            components = []
            for item, data in fetched:
                if image_format(item.component):
                    verify_image(data, item.component, self.max_pixels)
                digest = hashlib.sha256(data).hexdigest()
                source = Source(item.uri, item.version, digest)
                components.append(_Component(item.component, data, digest, source))
            if metadata is not None:
                row = metadata.encode()
                components.append(_Component("json", row, hashlib.sha256(row).hexdigest(), components[0].source))
            return sorted(components, key=lambda part: part.name)
        except Rejected as rejected:
            return _reject(item, rejected)

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


def pack(
    manifest: Manifest, spec: ShardSpec, stage: PackStage, made_from: str = "", raw: ShardSet | None = None
) -> LazyShardSet:
    """The samples of a manifest, packed into shards. `made_from` is for the commit; the manifest stands in `raw`."""
    groups = [tuple(group) for _, group in manifest.by_key()]
    keys = [group[0].key for group in groups]
    sizes = [sum(stored_size(item.size) for item in group) for group in groups]
    slice_up = slice_by_hash if spec.order == "hash" else slice_by_key
    slices = slice_up(keys, sizes, spec.max_samples, spec.max_bytes)
    shards = [RawShard(piece.id, piece.start, tuple(groups[i] for i in piece.members)) for piece in slices]
    return LazyShardSet(stage, shards, made_from, spec.order, raw)


def _reject(item: RawObject, why: Rejected) -> Reject:
    return Reject.of(item.key, why, item.uri)


def _check_that_the_source_is_there(shard: RawShard, rejects: list[Reject]) -> None:
    """Raises StorageError where everything is gone that was listed a moment ago: no sample is at fault then."""
    gone = [reject for reject in rejects if reject.reason == _VANISHED]
    if len(gone) == shard.samples > 1:
        raise StorageError(
            f"all {shard.samples} samples of shard {shard.id} are gone since they were listed, {gone[0].source_uri} "
            "among them. Is the source mounted? Nothing was taken for deleted; run again"
        )


def _read_object(item: RawObject, storage: Storage) -> bytes:
    if item.version == MISSING:
        raise Rejected("missing object", "the source's table names it, and it does not exist")
    if item.size > MAX_MEMBER:
        raise Rejected("object too large", f"{item.size} bytes; a tar member holds at most {MAX_MEMBER}")
    try:
        data, info = storage.read_version(item.uri)
    except FileNotFoundError:
        raise Rejected(_VANISHED, "it was deleted after it was listed; run again", may_pass=True) from None
    except ChangedError as error:
        raise Rejected("object changed", f"{error}; run again", may_pass=True) from None
    except ArchivedError as error:
        raise Rejected("object archived", f"{error}; restore it and run again", may_pass=True) from None
    if info.version != item.version:
        raise Rejected("object changed", "it was replaced after it was listed; run again", may_pass=True)
    return data
