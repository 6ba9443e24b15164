"""Pack: raw objects → a tar shard of their bytes, unchanged. Every image is decoded once, so that a shard holds none
that is broken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ArchivedError, ChangedError, Rejected, StorageError
from shardmill.images import MAX_PIXELS, verify_image
from shardmill.samples import image_format
from shardmill.shards.index import Source
from shardmill.shards.layout import Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.slicing import slice_by_hash, slice_by_key
from shardmill.shards.spec import ShardSpec
from shardmill.shards.ustar import MAX_MEMBER, stored_size
from shardmill.sources.manifest import MISSING, Manifest, RawObject
from shardmill.stages.samples import Counts, TarOutput
from shardmill.stages.stage import OutputFiles, Resources, Stage, Work
from shardmill.storage import Storage


@dataclass(frozen=True)
class RawShard:
    """The raw objects of one shard's samples."""

    id: str
    start: str
    groups: tuple[tuple[RawObject, ...], ...]
    """One a sample."""
    images: bool = False
    """Whether a sample without an image is rejected: something that is made of the shards reads one."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.groups)

    @property
    def size(self) -> int:
        """Size of the objects."""
        return sum(item.size for group in self.groups for item in group)

    def identity(self) -> Any:
        """What every object is, but for its time. Whether images are needed counts where a sample has none."""
        objects = [
            (item.key, item.component, item.uri, item.size, item.version, item.metadata)
            for group in self.groups
            for item in group
        ]
        return [*objects, "images"] if self.images and not all(map(has_image, self.groups)) else objects


def has_image(group: tuple[RawObject, ...]) -> bool:
    """Whether one of a sample's objects is an image."""
    return any(image_format(item.component) for item in group)


@dataclass(frozen=True)
class _Component:
    name: str
    data: bytes
    sha256: str
    source: Source


_VANISHED = "object vanished"
_FETCHED_BYTES = 256 << 20
"""Most bytes of a shard that are fetched ahead, unless two samples have more."""
_Group = tuple[RawObject, ...]
_Fetched = tuple[_Group, list[bytes] | Reject]


@dataclass(frozen=True)
class PackStage(Stage[RawShard]):
    """Packs raw objects. Rejects a sample if any of its components is missing, doubled, unreadable or broken."""

    required: tuple[str, ...] = ()
    """Components that every sample must have."""
    max_pixels: int = MAX_PIXELS

    name: ClassVar[str] = "pack"
    suffix: ClassVar[Suffix] = "tar"
    resources = Resources(memory=2 * _FETCHED_BYTES)

    @override
    def parameters(self) -> dict[str, Any]:
        return {"required": list(self.required), "max_pixels": self.max_pixels}

    @override
    def __call__(self, shard: RawShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Hold some samples for each thread at a time.

        Raises:
            StorageError: A store cannot give an object, or all objects are gone since they were listed.
        """
        counts = Counts(shard, work)

        def fetch(group: _Group) -> _Fetched:
            return group, self._fetch(group, shard.images, work.storage)

        largest = max((sum(item.size for item in group) for group in shard.groups), default=0)
        requests = min(REQUESTS_AT_ONCE, max(1, _FETCHED_BYTES // (2 * max(1, largest))))
        fetched = bounded_map(fetch, shard.groups, requests)
        with TarOutput(work) as output:
            for (group, _), sample in counts.each(self._check, fetched):
                for part in sample:
                    output.add(group[0].key, part.name, part.data, part.sha256, part.source)
                    counts.bytes_in += len(part.data)
                output.samples += 1
                counts.done()
        _check_that_the_source_is_there(shard, counts.rejects)
        return output.result(counts)

    def _fetch(self, group: _Group, images: bool, storage: Storage) -> list[bytes] | Reject:
        """The bytes of each object of a sample."""
        item = group[0]
        try:
            self._check_names(group, images)
            fetched = []
            for item in group:
                fetched.append(_read_object(item, storage))
        except Rejected as rejected:
            return _reject(item, rejected)
        return fetched

    def _check(self, fetched: _Fetched) -> list[_Component] | Reject:
        """The components of a sample, hashed, its images decoded once to see that they can be."""
        group, read = fetched
        if isinstance(read, Reject):
            return read
        item = group[0]
        try:
            components = []
            for item, data in zip(group, read, strict=True):
                if image_format(item.component):
                    verify_image(data, item.component, self.max_pixels)
                digest = hashlib.sha256(data).hexdigest()
                source = Source(item.uri, item.version, digest)
                components.append(_Component(item.component, data, digest, source))
            if item.metadata is not None:
                row = item.metadata.encode()
                components.append(_Component("json", row, hashlib.sha256(row).hexdigest(), components[0].source))
            return sorted(components, key=lambda part: part.name)
        except Rejected as rejected:
            return _reject(item, rejected)

    def _check_names(self, group: _Group, images: bool) -> None:
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
        if images and not has_image(group):
            raise Rejected("no image", f"none of the components is an image: {', '.join(names)}")


def pack(manifest: Manifest, spec: ShardSpec, images: bool = False) -> list[RawShard]:
    """The samples of a manifest, cut into shards; `images` is that of each `RawShard`."""
    groups = [tuple(group) for _, group in manifest.by_key()]
    keys = [group[0].key for group in groups]
    sizes = [sum(stored_size(item.size) for item in group) for group in groups]
    slice_up = slice_by_hash if spec.order == "hash" else slice_by_key
    slices = slice_up(keys, sizes, spec.max_samples, spec.max_bytes)
    return [RawShard(piece.id, piece.start, tuple(groups[i] for i in piece.members), images) for piece in slices]


def _reject(item: RawObject, why: Rejected) -> Reject:
    return Reject.of(item.key, why, item.uri)


def _check_that_the_source_is_there(shard: RawShard, rejects: list[Reject]) -> None:
    """Refuse to reject samples where all that was listed a moment ago is gone: none of them is at fault.

    Raises:
        StorageError: All samples of the shard are gone.
    """
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
