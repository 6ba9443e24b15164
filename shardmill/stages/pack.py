"""Pack: raw objects → a tar shard of their bytes, unchanged. Every image is decoded once, so that a shard holds none
that is broken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from threading import Lock
from typing import Any, ClassVar, NamedTuple

from typing_extensions import override

from shardmill.concurrency import REQUESTS_AT_ONCE, chunked_map
from shardmill.errors import Rejected, StorageError
from shardmill.images import MAX_PIXELS, verify_image
from shardmill.samples import image_format
from shardmill.shards.earlier import Earlier, EarlierReader, Former
from shardmill.shards.fingerprint import sample_fingerprint
from shardmill.shards.index import Source
from shardmill.shards.layout import Suffix
from shardmill.shards.parts import Bytes, Part, read_parts
from shardmill.shards.report import Reject, ShardReport
from shardmill.sources.dots import torn_apart
from shardmill.sources.manifest import RawObject
from shardmill.sources.names import Declared
from shardmill.sources.table import check_rows
from shardmill.stages.about import about
from shardmill.stages.counts import Counts
from shardmill.stages.outputs import TarOutput
from shardmill.stages.raw_objects import GONE, read_object
from shardmill.stages.raw_shards import RawShard
from shardmill.stages.stage import Foreseen, OutputFiles, Resources, Stage, Work, stage_identity
from shardmill.storage import Storage


def has_image(group: tuple[RawObject, ...]) -> bool:
    """Whether one of a sample's objects is an image."""
    return any(image_format(item.component) for item in group)


@dataclass(frozen=True)
class _Component:
    name: str
    data: bytes
    sha256: str
    source: Source


_FETCHED_BYTES = 128 << 20
"""Bytes of a shard that are fetched ahead at most, but for those of the last sample."""
_TOGETHER = 2048
"""Samples that are looked up together."""
_Group = tuple[RawObject, ...]


class _Plan(NamedTuple):
    """How a sample is had."""

    group: _Group
    fingerprint: str
    places: tuple[Part | None, ...]
    """Of each object, where its bytes stand already."""
    reject: Reject | None = None
    is_known: bool = False
    """Whether the same objects were packed, or refused, before."""

    @property
    def key(self) -> str:
        return self.group[0].key

    @property
    def size(self) -> int:
        """Of the objects, as they were listed."""
        return sum(item.size for item in self.group)

    @property
    def parts(self) -> list[Part]:
        return [place for place in self.places if place is not None]

    @property
    def is_copied(self) -> bool:
        """Whether nothing of it need be fetched."""
        return self.is_known or (self.reject is None and None not in self.places)


class _Fetched(NamedTuple):
    plan: _Plan
    data: list[bytes] | Reject
    """Of each object."""
    came: Collection[int]
    """The objects that were fetched."""

    def is_copied(self) -> bool:
        return self.plan.is_copied and not self.came

    def size(self, _: object) -> int:
        """Bytes that it holds: checking adds none."""
        return 0 if isinstance(self.data, Reject) else sum(map(len, self.data))


@dataclass(frozen=True)
class PackStage(Stage[RawShard]):
    """Packs raw objects. Rejects a sample if any of its components is missing, doubled, unreadable or broken."""

    required: tuple[Declared, ...] = ()
    """Components that every sample must have."""
    cuts_names: bool = False
    """Whether keys end at the first dot of names, whatever comes behind it."""
    max_pixels: int = MAX_PIXELS
    of_table: bool = False
    """Whether a table names the objects, for what is advised."""

    name: ClassVar[str] = "pack"
    against_rejects: ClassVar[str] = "Mend or remove these objects, or what a table says of them"
    version: ClassVar[int] = 2
    goes_by_sample: ClassVar[bool] = True
    suffix: ClassVar[Suffix] = "tar"
    resources = Resources(memory=4 * _FETCHED_BYTES)

    @override
    def parameters(self) -> dict[str, Any]:
        required = [list(each.names) for each in self.required]
        return {"required": required, "cuts_names": self.cuts_names, "max_pixels": self.max_pixels}

    @override
    def computation(self) -> str:
        """Which components a sample must have changes no sample that has them."""
        return stage_identity(self.name, self.version, {"max_pixels": self.max_pixels})

    @override
    def foresee(self, shard: RawShard, storage: Storage, earlier: Earlier) -> Foreseen:
        computed = changed = 0
        for plan in self._plans(shard, EarlierReader(earlier, storage)):
            computed += not plan.is_copied
            changed += plan.reject is None and not plan.is_known
        return Foreseen(computed, changed)

    @override
    def __call__(self, shard: RawShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Hold some samples for each thread at a time.

        Raises:
            StorageError: A store cannot give an object, or all objects are gone since they were listed.
        """
        counts, earlier = Counts(shard, work), EarlierReader(work.earlier, work.storage)
        seen, objects = _Seen(earlier), 0
        plans = ((plan, plan.parts) for plan in self._plans(shard, earlier))
        fetched = chunked_map(
            lambda read: _fetch(*read, work.storage),
            read_parts(work.storage, plans),
            shard.samples,
            REQUESTS_AT_ONCE,
            _is_at_hand,
            lambda read, _: read[0].size,
            _FETCHED_BYTES,
        )
        with TarOutput(work) as output:
            for each, sample in counts.each(
                lambda each: self._check(each, seen), (each for _, each in fetched), _Fetched.is_copied, _Fetched.size
            ):
                for part in sample:
                    output.add(
                        each.plan.key, part.name, part.data, part.sha256, part.source, None, each.plan.fingerprint
                    )
                    counts.bytes_in += len(part.data)
                output.samples += 1
                objects += len(each.plan.group)
                counts.done()
        _check_that_the_source_is_there(shard, counts.rejects)
        files, report = output.result(counts)
        rejected = {reject.key for reject in counts.rejects}
        lost = sum(len(group) for group in shard.groups if group[0].key in rejected) if rejected else 0
        return files, report.model_copy(update={"objects": objects, "rejected_objects": lost})

    def _plans(self, shard: RawShard, earlier: EarlierReader) -> Iterator[_Plan]:
        """How each sample is had, in order: of stored bytes, as far as its objects are those that they were."""
        computation, groups = self.computation(), iter(shard.groups)
        while some := list(islice(groups, _TOGETHER)):
            digests = [_fingerprint(computation, group) for group in some]
            formers = earlier.find(digests)
            unknown = [group for group, digest in zip(some, digests, strict=True) if digest not in formers]
            places = earlier.objects({item.uri for group in unknown for item in group}) if unknown else {}
            for group, digest in zip(some, digests, strict=True):
                yield self._plan(group, shard.images, digest, formers.get(digest), places)

    def _plan(
        self,
        group: _Group,
        images: bool,
        digest: str,
        former: Former | None,
        places: Mapping[tuple[str, str], Part],
    ) -> _Plan:
        try:
            self._check_names(group, images)
        except Rejected as refused:
            return _Plan(group, "", (), _reject(group[0], refused, ""))
        if former is not None and former.reject is not None:
            return _Plan(group, digest, (), former.reject.model_copy(update={"key": group[0].key}), is_known=True)
        if former is not None:
            rows = {row.component: row for row in former.rows if row.key == former.rows[0].key}
            stored = tuple(Part(former.shard, rows[item.component]) for item in group)
            return _Plan(group, digest, stored, is_known=True)
        return _Plan(group, digest, tuple(_place_of(item, places) for item in group))

    def _check(self, fetched: _Fetched, seen: _Seen) -> list[_Component] | Reject:
        """The components of a sample, hashed, the images that have come decoded once to see that they can be."""
        plan = fetched.plan
        if isinstance(fetched.data, Reject):
            return fetched.data
        item = plan.group[0]
        try:
            components = []
            for number, (item, data) in enumerate(zip(plan.group, fetched.data, strict=True)):
                place = plan.places[number]
                if place is not None and number not in fetched.came:
                    digest = place.row.sha256
                else:
                    digest = hashlib.sha256(data).hexdigest()
                    if image_format(item.component) and not seen.has(item.component, digest):
                        with about(item.key, item.uri):
                            verify_image(data, item.component, self.max_pixels)
                source = Source(item.uri, item.version, digest)
                components.append(_Component(item.component, data, digest, source))
            if item.metadata is not None:
                row = item.metadata.encode()
                components.append(_Component("json", row, hashlib.sha256(row).hexdigest(), components[0].source))
            return sorted(components, key=lambda part: part.name)
        except Rejected as rejected:
            return _reject(item, rejected, plan.fingerprint)

    def _check_names(self, group: _Group, images: bool) -> None:
        names = [item.component for item in group]
        if "" in names:
            raise Rejected("no extension", "the name has no suffix that says what it is")
        for name in names:
            if names.count(name) > 1:
                uris = [item.uri for item in group if item.component == name]
                if uris[0] == uris[1]:
                    check_rows(group)
                raise Rejected("duplicate component", f"{name} is claimed by {uris[0]} and {uris[1]}")
        check_rows(group)
        if group[0].metadata is not None and "json" in names:
            raise Rejected("duplicate component", "json is claimed by an object and by the table's columns")
        for component, called in self.required:
            uris = [item.uri for item in group if item.component in called]
            if not uris:
                raise Rejected("missing component", f"there is no {component}")
            if len(uris) > 1:
                raise Rejected("duplicate component", f"{component} is claimed by {uris[0]} and {uris[1]}")
        if self.cuts_names and (torn := torn_apart(group, self.of_table)):
            raise Rejected("dots in the name", torn)
        if images and not has_image(group):
            raise Rejected("no image", f"none of the components is an image: {', '.join(names)}")


def _fingerprint(computation: str, group: _Group) -> str:
    """What the objects hold is not known before they are fetched: their places and versions stand for it."""
    objects = (part for item in group for part in (item.component, item.uri, item.version))
    return sample_fingerprint(computation, *objects)


def _place_of(item: RawObject, places: Mapping[tuple[str, str], Part]) -> Part | None:
    """Where an object's bytes stand. An image has to stand there as one of its format, else nobody has decoded it."""
    place = places.get((item.uri, item.version))
    kind = image_format(item.component)
    return place if place and kind in (None, image_format(place.row.component)) else None


def _is_at_hand(read: tuple[_Plan, list[Bytes]]) -> bool:
    """Whether nothing has to be fetched."""
    plan, found = read
    return plan.reject is not None or (plan.is_copied and not any(isinstance(data, Exception) for data in found))


def _fetch(plan: _Plan, found: list[Bytes], storage: Storage) -> _Fetched:
    """The bytes of each object of a sample: those that were found, and the others from the source."""
    if plan.reject is not None:
        return _Fetched(plan, plan.reject, ())
    item = plan.group[0]
    stored, data, came = iter(found), [], []
    try:
        for number, (item, place) in enumerate(zip(plan.group, plan.places, strict=True)):
            known = next(stored) if place is not None else None
            if isinstance(known, bytes):
                data.append(known)
            else:
                came.append(number)
                with about(item.key, item.uri):
                    data.append(read_object(item, storage))
    except Rejected as rejected:
        return _Fetched(plan, _reject(item, rejected, plan.fingerprint), came)
    return _Fetched(plan, data, came)


class _Seen:
    """Contents that were found to be sound when an earlier shard was made."""

    def __init__(self, earlier: EarlierReader) -> None:
        self._earlier = earlier
        self._lock = Lock()

    def has(self, component: str, sha256: str) -> bool:
        with self._lock:
            return (component, sha256) in self._contents

    @cached_property
    def _contents(self) -> Collection[tuple[str, str]]:
        return self._earlier.contents()


def _reject(item: RawObject, why: Rejected, fingerprint: str) -> Reject:
    return Reject.of(item.key, why, item.uri, fingerprint)


def _check_that_the_source_is_there(shard: RawShard, rejects: list[Reject]) -> None:
    """Refuse to reject samples where all that was listed a moment ago is gone: none of them is at fault.

    Raises:
        StorageError: All samples of the shard are gone.
    """
    gone = [reject for reject in rejects if reject.reason in GONE]
    if len(gone) == shard.samples > 1:
        raise StorageError(
            f"all {shard.samples} samples of shard {shard.id} are gone since they were listed, {gone[0].source_uri} "
            "among them. Is the source mounted? Nothing was taken for deleted; run again"
        )
