"""What commits hold of the samples that are to be made: found by fingerprint, copied and not made again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import CorruptionError, ShardmillError, SupersededError
from shardmill.shards.catalog import Catalog, ShardPlace, sample_numbers
from shardmill.shards.commit import Commit, ShardEntry, read_commit
from shardmill.shards.index import IndexRow, rows_of
from shardmill.shards.layout import Layout
from shardmill.shards.parts import OUT_OF_REACH, Part
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.slicing import Order
from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage, join_uri

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_REMEMBERED_BYTES = 64 << 20
"""Of indexes that are held at a time, unless one is larger."""
_SCATTERED = 128
"""New shards among which the samples of each earlier one may be."""
_UNKNOWN = 128
"""Samples that are looked for elsewhere; if none of these is there, none of the others is."""
_MOST_CONTENTS = 100_000
"""Contents that are held, unless one shard has more."""


@dataclass(frozen=True)
class Former:
    """What was made of a sample that had the same fingerprint."""

    shard: StoredShard
    rows: tuple[IndexRow, ...] = ()
    """None if the sample was refused or left out."""
    reject: Reject | None = None


@dataclass(frozen=True)
class Earlier:
    """Shards of an earlier commit that may hold what is to be made. Picklable."""

    shards: tuple[StoredShard, ...] = ()
    catalog: Catalog | None = None
    """Knows of shards of other partitions."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found."""
        return not self.shards and not (self.catalog and self.catalog.files)


NOTHING = Earlier()
"""No shards."""


def earlier_shards(
    layout: Layout, commit: Commit | None, catalog: Catalog, order: Order, spans: Sequence[tuple[str, str]]
) -> list[Earlier]:
    """For each new shard, whose positions go from a start up to an end (empty: no end), what it may copy from.

    These are the shards of `commit` that share positions with it, and all if the commit is ordered otherwise; none if
    it was made by another computation than `catalog` is of. Where samples of each of them would be in more than
    `_SCATTERED` new ones, reading all of them so often would cost more than the samples do, and nothing is copied.
    """
    if commit is None or commit.computation != catalog.computation:
        return [Earlier(catalog=catalog)] * len(spans)
    if commit.order != order:
        every = Earlier(tuple(StoredShard(layout, entry) for entry in commit.shards), catalog)
        return [every if len(spans) <= _SCATTERED else NOTHING] * len(spans)
    entries = sorted(commit.shards, key=lambda entry: entry.start)
    starts = [entry.start for entry in entries]
    found = []
    for start, end in spans:
        first = bisect_right(starts, start)
        first = bisect_left(starts, starts[first - 1]) if first else 0
        last = bisect_left(starts, end) if end else len(starts)
        found.append(Earlier(tuple(StoredShard(layout, entry) for entry in entries[first:last]), catalog))
    return found


class _Indexes:
    """The indexes that this process read last, as far as there is room: one shard after the other asks for the same."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], pa.Table] = {}
        self._size = 0
        self._lock = Lock()

    def table(self, shard: StoredShard, storage: Storage) -> pa.Table:
        """The index of a shard, as `StoredShard.index_table` gives it."""
        name = (shard.layout.beside(shard.entry.index), shard.entry.index_sha256)
        with self._lock:
            table = self._tables.pop(name, None)
            if table is None:
                table = shard.index_table(storage)
                self._size += table.nbytes
            self._tables[name] = table
            while self._size > _REMEMBERED_BYTES and len(self._tables) > 1:
                self._size -= self._tables.pop(next(iter(self._tables))).nbytes
            return table


_INDEXES = _Indexes()


class _Held(NamedTuple):
    layout: Layout
    commit: Commit


@dataclass
class EarlierReader:
    """Looks samples up in earlier shards. What is damaged or gone there is not found."""

    earlier: Earlier
    storage: Storage
    _partitions: dict[str, _Held | None] = field(default_factory=dict)
    """Others, by their folders."""
    _reports: dict[str, ShardReport | None] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    """Indexes that cannot be read."""
    _unknown: set[str] = field(default_factory=set)
    """What was looked for elsewhere where nothing was found."""

    def find(self, fingerprints: Collection[str]) -> Mapping[str, Former]:
        """What was made of the samples with these fingerprints, by fingerprint."""
        if self.earlier.is_empty:
            return {}
        wanted = set(fingerprints) - {""}
        found = self._find(self.earlier.shards, wanted)
        missed = wanted - found.keys() - self._unknown
        if self.earlier.catalog is not None and missed and len(self._unknown) < _UNKNOWN:
            elsewhere = self._elsewhere(self.earlier.catalog, missed)
            found |= elsewhere
            if not elsewhere:
                self._unknown |= missed
        return found

    def _find(self, shards: Iterable[StoredShard], wanted: set[str]) -> dict[str, Former]:
        import pyarrow as pa
        import pyarrow.compute as pc

        values = pa.array(sorted(wanted), pa.string())
        found: dict[str, Former] = {}
        for shard, index in self._each(shards):
            rows: dict[str, list[IndexRow]] = {}
            for row in rows_of(index.filter(pc.is_in(index["fingerprint"], values))):
                if row.fingerprint not in found:
                    rows.setdefault(row.fingerprint, []).append(row)
            found |= {digest: Former(shard, tuple(group)) for digest, group in rows.items()}
            if shard.entry.rejects or shard.entry.filtered:
                found |= self._without_output(shard, wanted - found.keys())
            if len(found) == len(wanted):
                break
        return found

    def _elsewhere(self, catalog: Catalog, wanted: set[str]) -> Mapping[str, Former]:
        """What other partitions hold."""
        by_partition: dict[str, set[str]] = {}
        for partition, shard in catalog.find(self.storage, wanted):
            by_partition.setdefault(partition, set()).add(shard)
        found: dict[str, Former] = {}
        for partition, ids in sorted(by_partition.items()):
            held = self._held(join_uri(catalog.root, partition))
            if held is not None and held.commit.computation == catalog.computation:
                shards = (StoredShard(held.layout, entry) for entry in held.commit.shards if entry.id in ids)
                found |= self._find(shards, wanted - found.keys())
        return found

    def objects(self, uris: Collection[str]) -> Mapping[tuple[str, str], Part]:
        """Where the bytes of raw objects with these URIs stand as they are, by URI and version."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = pa.array(sorted(set(uris)), pa.string())
        found = {}
        for shard, index in self._each(self.earlier.shards):
            whole = pc.equal(index["sha256"], index["source_sha256"])
            for row in rows_of(index.filter(pc.and_(whole, pc.is_in(index["source_uri"], values)))):
                found[row.source_uri, row.source_version] = Part(shard, row)
        return found

    def contents(self) -> set[tuple[str, str]]:
        """(component, SHA-256) of what the shards hold: of all, unless they are large or many."""
        found: set[tuple[str, str]] = set()
        for _, index in self._each(self.earlier.shards):
            found.update(zip(index["component"].to_pylist(), index["sha256"].to_pylist(), strict=True))
            if len(found) > _MOST_CONTENTS:
                break
        return found

    def _each(self, shards: Iterable[StoredShard]) -> Iterator[tuple[StoredShard, pa.Table]]:
        for shard in shards:
            index = self._index(shard)
            if index is not None:
                yield shard, index

    def _index(self, shard: StoredShard) -> pa.Table | None:
        name = shard.layout.beside(shard.entry.index)
        if name in self._gone:
            return None
        try:
            return _INDEXES.table(shard, self.storage)
        except OUT_OF_REACH:
            self._gone.add(name)
            return None

    def _held(self, folder: str) -> _Held | None:
        """What stands of another partition. A damaged catalog may name any folder."""
        if folder not in self._partitions:
            self._partitions[folder] = None
            with suppress(ShardmillError, ValueError):
                layout = Layout.at(folder)
                commit, _ = read_commit(self.storage, layout)
                self._partitions[folder] = _Held(layout, commit) if commit else None
        return self._partitions[folder]

    def _without_output(self, shard: StoredShard, wanted: Collection[str]) -> Mapping[str, Former]:
        name = shard.layout.beside(shard.entry.index)
        if name not in self._reports:
            self._reports[name] = None
            with suppress(*OUT_OF_REACH):
                self._reports[name] = shard.report(self.storage)
        report = self._reports[name]
        if report is None:
            return {}
        filtered = {digest: Former(shard) for digest in report.filtered_fingerprints if digest in wanted}
        rejects = {each.fingerprint: Former(shard, (), each) for each in report.rejects if each.fingerprint in wanted}
        return filtered | rejects


def new_places(
    storage: Storage, layout: Layout, commit: Commit, before: Commit | None
) -> dict[ShardPlace, np.ndarray[Any, Any]]:
    """The samples that the shards of a commit hold and those of the one before did not: for `Catalog.add`."""
    import numpy as np

    partition = f"{layout.home.rpartition('/')[2]}/{layout.name}"
    earlier = {entry.id: entry for entry in before.shards} if before else {}
    stood = {entry.fingerprint for entry in earlier.values()}
    made = [entry for entry in commit.shards if entry.fingerprint not in stood]

    def new_in(entry: ShardEntry) -> np.ndarray[Any, Any]:
        held = _numbers_of(storage, layout, entry)
        before = earlier.get(entry.id)
        return held if before is None else np.setdiff1d(held, _numbers_of(storage, layout, before))

    new = bounded_map(new_in, made, REQUESTS_AT_ONCE)
    return {ShardPlace(partition, entry.id): held for entry, held in zip(made, new, strict=True)}


def _numbers_of(storage: Storage, layout: Layout, entry: ShardEntry) -> np.ndarray[Any, Any]:
    """Of the samples that a shard holds; none if its index is damaged or gone."""
    try:
        index = StoredShard(layout, entry).index_table(storage, ["fingerprint"])
    except (CorruptionError, SupersededError):
        return sample_numbers(())
    return sample_numbers({*index["fingerprint"].unique().to_pylist()} - {""})
