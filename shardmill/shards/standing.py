"""What stands of a partition: its files as listings give them, and the shards that need not be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.shards.commit import Commit, ShardEntry
from shardmill.shards.layout import Layout, index_name
from shardmill.shards.publish import read_entry
from shardmill.storage import ObjectInfo, Storage, relative_to


@dataclass(frozen=True)
class Listing:
    """The files of a partition."""

    data: Mapping[str, ObjectInfo]
    """By name."""
    side: Mapping[str, ObjectInfo]
    """By name: an index is `000000-….index.parquet`, data that wait are `staged/000000-….tar`."""

    def elsewhere(self, name: str) -> str | None:
        """The name in `side` of a data file that waits, or that is kept."""
        return next((place for place in (f"staged/{name}", f"superseded/{name}") if place in self.side), None)

    def has(self, entry: ShardEntry, doomed: frozenset[str] = frozenset()) -> bool:
        """Whether every file of a shard stands, with the right size; what is `doomed` counts as gone."""
        if _size(self.side, entry.index) != entry.index_bytes or entry.index in doomed:
            return False
        if entry.picture is not None and (entry.picture not in self.side or entry.picture in doomed):
            return False
        return entry.data is None or entry.filesize in (
            None if entry.data in doomed else _size(self.data, entry.data),
            _size(self.side, f"staged/{entry.data}"),
            _size(self.side, f"superseded/{entry.data}"),
        )


def list_files(storage: Storage, layout: Layout) -> Listing:
    """What there is now, in two listings."""
    data, side = (
        {relative_to(folder, info.uri): info for info in storage.list(folder)}
        for folder in (layout.folder, layout.side)
    )
    return Listing(data, side)


def standing(
    storage: Storage, layout: Layout, planned: Sequence[tuple[str, str]], committed: Commit | None
) -> dict[str, ShardEntry]:
    """The entries of those planned shards (id, fingerprint) that stand, by fingerprint.

    Some are named by the commit, others were left by a run that was killed: those say themselves what they are.
    """
    listing = list_files(storage, layout)
    known = {entry.fingerprint: entry for entry in committed.shards} if committed else {}
    # Where nobody can be kept out, the run that made the commit may be removing these at this moment.
    doomed = frozenset(committed.superseded if committed and not storage.excludes(layout.side) else ())
    indexed = [(shard, digest) for shard, digest in planned if index_name(shard, digest) in listing.side]

    def find(shard: tuple[str, str]) -> ShardEntry | None:
        if shard[1] in known:
            return known[shard[1]]
        try:
            return read_entry(storage, layout, *shard)[0]
        except FileNotFoundError:
            return None

    found = zip(indexed, bounded_map(find, indexed, REQUESTS_AT_ONCE), strict=True)
    return {digest: entry for (_, digest), entry in found if entry is not None and listing.has(entry, doomed)}


def _size(files: Mapping[str, ObjectInfo], name: str) -> int | None:
    return files[name].size if name in files else None
