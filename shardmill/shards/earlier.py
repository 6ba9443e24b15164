"""What earlier commits hold of the samples that are to be made: found by fingerprint, copied and not made again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from shardmill.errors import CorruptionError, SupersededError
from shardmill.shards.commit import Commit, ShardEntry
from shardmill.shards.index import IndexRow, rows_of
from shardmill.shards.layout import Layout
from shardmill.shards.report import Reject
from shardmill.shards.slicing import Order
from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

_REMEMBERED = 4
"""Indexes that are held at a time: a shard that is made seldom has samples of more."""


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

    @classmethod
    def of(cls, layout: Layout, commit: Commit | None, computation: str, order: Order, start: str, end: str) -> Earlier:
        """Those of `commit` that share positions with a shard from `start` up to `end`; empty stands for no end.

        None if the commit was made by another computation, and all if it is ordered otherwise.
        """
        if commit is None or commit.computation != computation:
            return cls()
        spans = _spans(commit.shards) if commit.order == order else ((entry, "", "") for entry in commit.shards)
        return cls(
            tuple(
                StoredShard(layout, entry)
                for entry, low, high in spans
                if (not end or low < end) and (not high or high > start)
            )
        )


NOTHING = Earlier()
"""No shards."""


def _spans(entries: Sequence[ShardEntry]) -> Iterator[tuple[ShardEntry, str, str]]:
    """Each shard with the start of its range of positions and the start of the next."""
    starts = sorted({entry.start for entry in entries})
    ends = dict(pairwise([*starts, ""]))
    return ((entry, entry.start, ends[entry.start]) for entry in entries)


@dataclass
class EarlierReader:
    """Looks samples up in earlier shards. What is damaged or gone there is not found."""

    earlier: Earlier
    storage: Storage
    _indexes: dict[str, pa.Table | None] = field(default_factory=dict)

    def find(self, fingerprints: Collection[str]) -> Mapping[str, Former]:
        """What was made of the samples with these fingerprints, by fingerprint."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = set(fingerprints) - {""}
        values = pa.array(sorted(wanted), pa.string())
        found: dict[str, Former] = {}
        for shard, index in self._each():
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

    def objects(self, uris: Collection[str]) -> Mapping[tuple[str, str], tuple[StoredShard, IndexRow]]:
        """Where the bytes of raw objects with these URIs stand as they are, by URI and version."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = pa.array(sorted(set(uris)), pa.string())
        found = {}
        for shard, index in self._each():
            whole = pc.equal(index["sha256"], index["source_sha256"])
            for row in rows_of(index.filter(pc.and_(whole, pc.is_in(index["source_uri"], values)))):
                found[row.source_uri, row.source_version] = shard, row
        return found

    def contents(self) -> set[tuple[str, str]]:
        """(component, SHA-256) of all that the shards hold."""
        return {
            pair
            for _, index in self._each()
            for pair in zip(index["component"].to_pylist(), index["sha256"].to_pylist(), strict=True)
        }

    def _each(self) -> Iterator[tuple[StoredShard, pa.Table]]:
        for shard in self.earlier.shards:
            index = self._index(shard)
            if index is not None:
                yield shard, index

    def _index(self, shard: StoredShard) -> pa.Table | None:
        name = shard.entry.index
        if name not in self._indexes:
            for earlier in list(self._indexes)[: 1 - _REMEMBERED]:
                del self._indexes[earlier]
            try:
                self._indexes[name] = shard.index_table(self.storage)
            except (CorruptionError, SupersededError):
                self._indexes[name] = None
        return self._indexes[name]

    def _without_output(self, shard: StoredShard, wanted: Collection[str]) -> Mapping[str, Former]:
        try:
            report = shard.report(self.storage)
        except (CorruptionError, SupersededError):
            return {}
        filtered = {digest: Former(shard) for digest in report.filtered_fingerprints if digest in wanted}
        rejects = {each.fingerprint: Former(shard, (), each) for each in report.rejects if each.fingerprint in wanted}
        return filtered | rejects
