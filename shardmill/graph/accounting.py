"""Whether every listed object is accounted for: in a sample, in a reject, or left out by a named rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from shardmill.dataset import RAW, Dataset
from shardmill.dataset.source import read_manifest
from shardmill.graph.build import PACKED
from shardmill.left_out import LeftOutWriter, described, is_utf8, printable
from shardmill.partitions import BatchPartitions
from shardmill.shards.catalog import catalogs_below
from shardmill.shards.commit import Commit
from shardmill.shards.stored import StoredShard
from shardmill.sources import SampleNames
from shardmill.storage import absolute_uri, join_uri, relative_to

NOT_UTF8 = "name is not UTF-8"
"""The rule for objects that no batch can record."""
_MOST_BESIDE = 10_000
_MOST_LISTED = 100_000
"""Objects of a source of batches that are looked at: their partitions are no folders that could be leapt over."""
_NAMED = 3


@dataclass(frozen=True)
class Accounts:
    """What became of the objects that were listed of a partition."""

    listed: int
    in_samples: int
    in_rejects: int
    left_out: Mapping[str, int]
    """By rule."""

    @property
    def add_up(self) -> bool:
        """Whether nothing is missing, and nothing counted twice."""
        return self.listed == self.in_samples + self.in_rejects + sum(self.left_out.values())

    def __str__(self) -> str:
        found = f"{self.in_samples:,} in samples, {self.in_rejects:,} in rejects, {described(self.left_out)}"
        return f"{self.listed:,} objects: {found}"


def accounts_of(raw: Commit, packed: Commit) -> Accounts:
    """The accounts of a partition, as the commit of its listing and that of its samples say."""
    in_samples, in_rejects = (
        sum(each) for each in zip((0, 0), *((e.objects, e.rejected_objects) for e in packed.shards), strict=True)
    )
    return Accounts(raw.listed, in_samples, in_rejects, raw.left_out)


@dataclass(frozen=True)
class Beside:
    """Objects below a source's folder that are in no partition."""

    base: str
    objects: int
    """At most `_MOST_BESIDE`: nobody counts further."""
    names: tuple[str, ...]
    """Of the first few, below `base`."""
    by_rule: Mapping[str, int] = field(default_factory=dict)
    """Of a source of batches: of its first `_MOST_LISTED` objects, those in no batch, by what leaves them out."""

    def __str__(self) -> str:
        if self.by_rule:
            rules = ", ".join(f"{count:,} {rule}" for rule, count in self.by_rule.items())
            return f"{self.objects:,} objects below {self.base} are left out of every batch: {rules}"
        more = " or more" if self.objects == _MOST_BESIDE else ""
        etc = ", …" if self.objects > len(self.names) else ""
        return f"{self.objects:,}{more} objects below {self.base} are in no partition: {', '.join(self.names)}{etc}"


def beside_partitions(dataset: Dataset) -> Beside | None:
    """What lies beside the partitions of a source that is listed; None if there is nothing.

    Asks for one page of a listing for each partition, and for what lies beside them; of batches for the source's first
    `_MOST_LISTED` objects.
    """
    partitioning = dataset.partitioning
    if dataset.spec.source.table is not None:
        return None
    if isinstance(dataset.spec.partitions, BatchPartitions):
        return _beside_batches(dataset)
    root = absolute_uri(dataset.spec.root)
    own = [root] if root.startswith(join_uri(partitioning.base, "")) else [dataset.home, catalogs_below(root)]
    names, count = list[str](), 0
    for uri in islice(partitioning.beside(dataset.storage, own), _MOST_BESIDE):
        count += 1
        if count <= _NAMED:
            names.append(printable(relative_to(partitioning.base, uri)))
    return Beside(partitioning.base, count, tuple(names)) if count else None


def _beside_batches(dataset: Dataset) -> Beside | None:
    """What no batch will ever hold. New objects that wait for theirs are not among it."""
    base, names, left_out = dataset.partitioning.base, SampleNames(dataset.spec.source), LeftOutWriter()
    listing = dataset.storage.list(base, passed_over=names.passed_over(base, left_out))
    for info in islice(listing, _MOST_LISTED):
        rule = names.place(relative_to(base, info.uri)) if is_utf8(info.uri) else NOT_UTF8
        if isinstance(rule, str):
            left_out.add(info.uri, info.size, rule)
    found = left_out.done()
    uris = found.table["uri"].slice(0, _NAMED).to_pylist()
    named = tuple(relative_to(base, uri) for uri in uris)
    return Beside(base, found.objects, named, found.by_rule) if found.objects else None


def unaccounted(dataset: Dataset, partition: str) -> Iterator[str]:
    """Objects that the stored samples and rejects lack, or hold twice, a sentence each; reads every index.

    Says nothing of samples that were made of another listing: these are stale.
    """
    raw, packed = dataset.stored(RAW, partition), dataset.stored(PACKED, partition)
    if raw is None or packed is None or packed.commit.made_of.get(RAW) != raw.commit.digest:
        return
    accounts = accounts_of(raw.commit, packed.commit)
    if not accounts.add_up:
        yield f"the objects do not add up, {accounts}. Run the partition again"
    rejected = {reject.key for reject in packed.rejects()}
    stored: Counter[tuple[str, str]] = Counter()
    for entry in packed.commit.shards:
        for row in StoredShard(packed.layout, entry).index(packed.storage):
            stored[row.key, row.source_uri] += 1
    lost = [
        uri
        for key, uri in read_manifest(raw).rows("key", "uri")
        if (key in rejected) == ((key, uri) in stored)  # in neither, or in both
    ]
    if lost:
        yield f"{len(lost)} objects are in no sample and no reject, or in both, {lost[0]} among them"
