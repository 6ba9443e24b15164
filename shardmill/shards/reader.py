"""The one public reader: a committed partition, its samples and its tables.

    shards = open_shards("s3://ours/pets/transformed_shards/2026-01")
    for sample in shards.samples():
        sample.key, sample.components["jpg"]

Everything that is handed over was compared with its digest before. A commit that supersedes this one does not end a
loop: a shard that has not been read yet is read in the state that stands then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConfigurationError, NothingCommittedError, SupersededError
from shardmill.samples import EncodedSample
from shardmill.shards.commit import Commit, parse_commit, read_commit
from shardmill.shards.index import rows_of
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.rejects import rejects_of
from shardmill.shards.report import Reject
from shardmill.shards.retention import kept_commit_name
from shardmill.shards.standing import list_files
from shardmill.shards.stored import Rows, StoredShard
from shardmill.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
_TRIES = 100
"""Commits that a reader follows without having read anything in between."""
_INDEXES = 16
"""Shards whose indexes are remembered."""


def open_shards(uri: str, storage: Storage | None = None, digest: str | None = None) -> ShardSet:
    """The committed partition whose data are in the folder `uri`, a URI or a path.

    With `digest`, or at least its first 16 digits, it is that state of the partition and no other: the one that stands,
    or one that `keep_superseded` keeps.

    Raises:
        NothingCommittedError: There is none. It is a FileNotFoundError.
        ConfigurationError: The folder can be no partition's, or the digest is none or too short.
    """
    storage, layout = storage or Storage(), Layout.at(uri)
    commit, _ = read_commit(storage, layout)
    if digest is not None and not re.fullmatch("[0-9a-f]{16,64}", digest):
        raise ConfigurationError(f"{digest!r} is no digest of a commit: give at least 16 hexadecimal digits of it")
    if digest is None:
        if commit is None:
            raise NothingCommittedError(
                f"nothing is committed in {layout.folder}: materialize it first. It has to be a partition's folder, "
                "<root>/<dataset>/<asset>/<partition>"
            )
        return ShardSet(storage, layout, commit)
    if commit is not None and commit.digest.startswith(digest):
        return ShardSet(storage, layout, commit, pinned=True)
    kept = layout.superseded(kept_commit_name(digest))
    try:
        return ShardSet(storage, layout, parse_commit(storage.read(kept), kept), pinned=True)
    except FileNotFoundError:
        raise NothingCommittedError(
            f"{layout.folder} is not at {digest}, and that state is not kept: see `keep_superseded`"
        ) from None


@dataclass(frozen=True)
class ShardSet:
    """A committed partition: shards of samples, or the parts of a table. Picklable."""

    storage: Storage
    layout: Layout
    commit: Commit
    made: int = 0
    """Shards that the write which returned this set had to make; the others stood already."""
    computed: int = 0
    """Samples that went into these and were computed, or rejected."""
    copied: int = 0
    """Samples that went into these and were copied from an earlier commit."""
    pinned: bool = False
    """Whether this state is read and no other."""

    @property
    def folder(self) -> str:
        """URI of the folder of the data."""
        return self.layout.folder

    @property
    def shards(self) -> list[StoredShard]:
        """The shards that hold samples, in order."""
        return [StoredShard(self.layout, entry) for entry in self.commit.shardlist]

    @property
    def urls(self) -> list[str]:
        """URIs of the data files, in order, for other tools."""
        if not self.pinned:
            return [self.layout.data(shard.file_name) for shard in self.shards]
        files = list_files(self.storage, self.layout)
        names = [shard.file_name for shard in self.shards]
        beside = {name: files.elsewhere(name) for name in names if name not in files.data}
        return [self.layout.beside(place) if (place := beside.get(n)) else self.layout.data(n) for n in names]

    @property
    def digest(self) -> str:
        """The digest of the state, which `open_shards(…, digest=)` takes."""
        return self.commit.digest

    def kept(self) -> list[str]:
        """The beginnings of the digests of superseded states that are kept, the last superseded first."""
        files = list_files(self.storage, self.layout).side
        names = [name for name in files if name.startswith("superseded/") and name.endswith(".json")]
        names.sort(key=lambda name: files[name].modified, reverse=True)
        return [name.removeprefix("superseded/").removesuffix(".json") for name in names]

    def __repr__(self) -> str:
        commit = self.commit
        return f"<ShardSet {commit.name}: {commit.total_samples} samples in {len(commit.shards)} shards, {self.folder}>"

    def newest(self) -> ShardSet:
        """The partition as it stands now.

        Raises:
            NothingCommittedError: There is none any more.
        """
        return open_shards(self.layout.folder, self.storage)

    def pinned_here(self) -> ShardSet:
        """The same set, read in this state and no other: what a stage makes is to be of its input."""
        return replace(self, pinned=True)

    def samples(self) -> Iterator[EncodedSample]:
        """Every sample of the tars, in order: component name → bytes.

        If other commits supersede this one meanwhile, the samples of a shard are all of one state of it; but if a
        bucket loses the shard while it is being read, the rest comes from its next state.

        Raises:
            CorruptionError: Bytes are not those that were committed.
            StorageError: A store cannot give them.
            SupersededError: Another commit stands, and this state was asked for, or samples are ordered otherwise now.
        """

        def read(commit: Commit, shard: StoredShard, done: str) -> Iterator[tuple[str, list[EncodedSample]]]:
            for origin, samples in _together(shard.read(self.storage)):
                place = commit.position(origin)
                if place >= done:
                    yield f"{place}\0", samples

        self._check_suffix("tar")
        for samples in self._follow(read):
            yield from samples

    def sample(self, key: str) -> EncodedSample:
        """The sample with this key, by one ranged read once its shard's index is known.

        Raises:
            KeyError: There is none.
        """
        return self.sample_with_lineage(key)[0]

    def sample_with_lineage(self, key: str) -> tuple[EncodedSample, Rows]:
        """Like `sample`, with the rows of the index by component: they say where each comes from."""
        self._check_suffix("tar")
        shards: ShardSet = self.__dict__.get("_latest", self)
        for _ in range(_TRIES):
            try:
                return shards._find(key)
            except SupersededError:
                shards = self.__dict__["_latest"] = shards._next()
        raise SupersededError(f"{self.layout.name} is committed faster than it can be read")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Every row of the table, in order, some thousand at a time; see `samples` for other commits meanwhile."""

        def read(commit: Commit, shard: StoredShard, done: str) -> Iterator[tuple[str, pa.RecordBatch]]:
            left = shard.batches(self.storage, columns)
            if shard.start < done:  # some of the rows were in a part that has been read
                left = _filtered(left, [commit.position(row.origin) >= done for row in shard.index(self.storage)])
            for batch in left:
                yield done, batch

        self._check_suffix("parquet")
        return self._follow(read)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table; without columns if it has no rows."""
        import pyarrow as pa

        batches = list(self.batches(columns))
        return pa.Table.from_batches(batches) if batches else pa.table({})

    def rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows from number `start` up to `stop`, in the table's order; only the parts that hold them are read.

        The numbers are those of this commit.

        Raises:
            SupersededError: This commit was superseded, and its files are gone.
        """
        import pyarrow as pa

        self._check_suffix("parquet")
        found, first = [], 0
        for shard in self.shards:
            last = first + shard.entry.rows
            if first < stop and start < last:
                part = pa.Table.from_batches(list(shard.batches(self.storage, columns)))
                low = max(0, start - first)
                found.append(part.slice(low, min(stop, last) - first - low))
            first = last
        return pa.concat_tables(found) if found else pa.table({})

    def rejects(self) -> Iterator[Reject]:
        """Every reject of the partition, from the shards' own reports; of the state that stands, if not pinned."""
        shards = self
        for _ in range(_TRIES):
            try:
                return iter(list(rejects_of(shards.storage, shards.layout, shards.commit.shards)))
            except SupersededError:
                shards = shards._next()
        raise SupersededError(f"{self.layout.name} is committed faster than it can be read")

    def _check_suffix(self, suffix: Suffix) -> None:
        if self.commit.suffix != suffix:
            held, how = ("a table", "table or rows") if suffix == "tar" else ("samples", "samples or sample")
            raise ConfigurationError(f"{self.folder} holds {held}: read it with {how}")

    # Following.

    def _follow(self, read: Callable[[Commit, StoredShard, str], Iterator[tuple[str, T]]]) -> Iterator[T]:
        """The items of every shard, each once.

        `read` gives the items of a shard whose positions are not below the one that it is told, and with each item the
        position up to which everything has been handed over then.
        """
        shards, done, tries = self, "", 0
        while True:
            try:
                for shard, end in shards._spans():
                    if end is not None and end <= done:
                        continue
                    for place, item in read(shards.commit, shard, done):
                        yield item
                        done, tries = place, 0
                    done = done if end is None else end
                return
            except SupersededError:
                tries += 1
                order, shards = shards.commit.order, shards._next()
                if tries > _TRIES or (done and order != shards.commit.order):
                    raise

    def _spans(self) -> Iterator[tuple[StoredShard, str | None]]:
        """Each shard with the start of the next one, those without samples included in the reckoning."""
        starts = sorted({entry.start for entry in self.commit.shards})
        ends: dict[str, str | None] = dict(pairwise([*starts, ""]))
        for shard in self.shards:
            yield shard, ends[shard.start] or None

    def _next(self) -> ShardSet:
        if self.pinned:
            raise SupersededError(f"{self.layout.name} was asked for at {self.commit.digest[:16]}, which is not kept")
        return self.newest()

    # Finding.

    def _find(self, key: str) -> tuple[EncodedSample, Rows]:
        """The place of a transform's child is that of the sample that it descends from."""
        origin = key
        while origin:
            likely = self._shard_at(self.commit.position(origin))
            if likely is not None and (rows := self._rows_of(likely, key)):
                return likely.sample(self.storage, rows), rows
            origin = origin.rpartition("~")[0]
        everywhere = bounded_map(lambda shard: self._rows_of(shard, key), self.shards, REQUESTS_AT_ONCE)
        for shard, rows in zip(self.shards, everywhere, strict=True):  # a callable may have named it as it liked
            if rows:
                return shard.sample(self.storage, rows), rows
        raise KeyError(key)

    def _shard_at(self, place: str) -> StoredShard | None:
        earlier = [shard for shard in self.shards if shard.start <= place]
        return max(earlier, key=lambda shard: shard.start, default=next(iter(self.shards), None))

    def _rows_of(self, shard: StoredShard, key: str) -> Rows:
        """The rows of a sample in the index of a shard; none if it is not there."""
        import pyarrow.compute as pc

        table = self._indexes.get(shard.id)
        if table is None:
            table = self._indexes[shard.id] = shard.index_table(self.storage)
            for earlier in list(self._indexes)[:-_INDEXES]:
                self._indexes.pop(earlier, None)
        return {row.component: row for row in rows_of(table.filter(pc.equal(table["key"], key)))}

    @cached_property
    def _indexes(self) -> dict[str, pa.Table]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only remembered."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_indexes", "_latest")}


def _together(read: Iterator[tuple[EncodedSample, Rows]]) -> Iterator[tuple[str, list[EncodedSample]]]:
    """Neighbours of one origin: all of them are handed over, or none."""
    for origin, group in groupby(read, lambda item: next(iter(item[1].values())).origin):
        yield origin, [sample for sample, _ in group]


def _filtered(batches: Iterator[pa.RecordBatch], mask: Sequence[bool]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    first = 0
    for batch in batches:
        yield batch.filter(pa.array(mask[first : first + batch.num_rows]))
        first += batch.num_rows
