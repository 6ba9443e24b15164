"""Reading one shard of a commit. Nothing is handed over before its digest was compared with the index's."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from shardmill.errors import ConfigurationError, CorruptionError, SupersededError
from shardmill.samples import EncodedSample
from shardmill.shards.commit import ShardEntry, read_commit
from shardmill.shards.index import IndexRow, index_schema, read_index, read_index_batches, read_owner, read_report
from shardmill.shards.layout import Layout
from shardmill.shards.places import COLUMNS, Place, Places, read_places
from shardmill.shards.report import ShardReport
from shardmill.shards.ustar import read_samples
from shardmill.storage import Storage
from shardmill.tables import iterate_parquet

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Mapping[str, IndexRow]
"""Of one sample, by component."""

T = TypeVar("T")

_LOOKS = 3
_IN_MEMORY_BYTES = 64 << 20
"""A part of a table that is larger waits on the disk while its digest is computed."""


@dataclass(frozen=True)
class StoredShard:
    """A shard of a commit. Picklable; storage is given to what reads.

    Raises:
        CorruptionError: In every method that reads: the bytes are not those that were committed.
        SupersededError: In every method that reads: they are gone because another commit stands by now.
    """

    layout: Layout
    entry: ShardEntry

    @property
    def id(self) -> str:
        """Six hexadecimal digits."""
        return self.entry.id

    @property
    def start(self) -> str:
        """Where its range of positions begins; `Commit.position` says what they are."""
        return self.entry.start

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.entry.nsamples

    @property
    def size(self) -> int:
        """Size of the data file."""
        return self.entry.filesize

    @property
    def file_name(self) -> str:
        """Of the data file."""
        assert self.entry.data is not None
        return self.entry.data

    def identity(self) -> Any:
        """The name, which tables of embeddings record, and the digests of the bytes and of their lineage."""
        return [self.file_name, self.entry.sha256, self.entry.index_sha256]

    def read(self, storage: Storage) -> Iterator[tuple[EncodedSample, Rows]]:
        """Each sample of a tar with its rows of the index, in order, streaming."""
        rows = self.rows(storage)
        with self.open(storage) as stream:
            uri = self.layout.data(self.file_name)
            for sample in self._reading(read_samples(stream, uri)):
                key, components = next(rows, ("", {}))
                if key != sample.key or components.keys() != sample.components.keys():
                    raise CorruptionError(f"{uri} and its index disagree at {sample.key}. {_REMEDY}")
                for name, row in components.items():
                    self.check(row, sample.components[name])
                yield sample, components
            if next(rows, None) is not None:
                raise CorruptionError(f"{uri} lacks samples that its index names. {_REMEDY}")

    def report(self, storage: Storage) -> ShardReport:
        """Counts and rejects of the shard."""
        uri = self.layout.beside(self.entry.index)
        return read_report(self.index_data(storage), uri)

    def sample(self, storage: Storage, rows: Rows) -> EncodedSample:
        """The sample of a tar whose rows of the index these are, by one ranged read."""
        start = min(row.offset for row in rows.values())
        data = self.read_range(storage, start, max(row.offset + row.size for row in rows.values()) - start)
        components = {name: data[row.offset - start :][: row.size] for name, row in rows.items()}
        for name, row in rows.items():
            self.check(row, components[name])
        return EncodedSample(next(iter(rows.values())).key, components)

    def places(self, index: bytes) -> Places:
        """Where its samples stand, of its index that has been read."""
        import pyarrow as pa

        uri, schema = self.layout.beside(self.entry.index), index_schema()
        batches = list(read_index_batches(index, uri, COLUMNS))
        return Places(pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in COLUMNS])))

    def read_some(
        self, storage: Storage, places: Iterable[Place]
    ) -> Iterator[tuple[Place, EncodedSample | CorruptionError]]:
        """Some samples of a tar, in the order of their places, streaming, by few ranged reads.

        One that is damaged is given as its error, for the others are sound.
        """

        def read(start: int, length: int) -> bytes:
            return self.read_range(storage, start, length)

        for place, sample in read_places(read, self.layout.folder, places):
            yield place, self._checked(place, sample)

    def _checked(self, place: Place, sample: EncodedSample) -> EncodedSample | CorruptionError:
        for name, digest in place.content.items():
            if hashlib.sha256(sample.components[name]).hexdigest() != digest:
                return self._not_indexed(place.key, name)
        return sample

    def batches(self, storage: Storage, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a part of a table, in order, some thousand at a time."""
        import pyarrow as pa

        uri = self.layout.data(self.file_name)
        with self.open(storage) as stream, tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as part:
            digest = hashlib.sha256()
            for chunk in self._reading(iter(lambda: stream.read(1 << 20), b"")):
                digest.update(chunk)
                part.write(chunk)
            if digest.hexdigest() != self.entry.sha256:
                raise _damaged(uri)
            part.seek(0)
            _check_columns(cast(BinaryIO, part), columns, uri)
            try:
                yield from iterate_parquet(cast(BinaryIO, part), columns)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise CorruptionError(f"{uri} is not a table: {error}") from error

    def index(self, storage: Storage) -> Iterator[IndexRow]:
        """The rows of the shard's index: of a tar one a component, of embeddings one a vector."""
        return read_index(self.index_data(storage), self.layout.beside(self.entry.index))

    def rows(self, storage: Storage) -> Iterator[tuple[str, Rows]]:
        """The key of each sample and its rows of the index, in order."""
        return self.rows_in(self.index_data(storage))

    def rows_in(self, index: bytes) -> Iterator[tuple[str, Rows]]:
        """Like `rows`, of an index that has been read."""
        return _by_key(read_index(index, self.layout.beside(self.entry.index)))

    def index_table(self, storage: Storage, columns: Sequence[str] = IndexRow._fields) -> pa.Table:
        """All rows of the shard's index, with these columns of `IndexRow`."""
        import pyarrow as pa

        data, schema = self.index_data(storage), index_schema()
        batches = list(read_index_batches(data, self.layout.beside(self.entry.index), columns))
        return pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in columns]))

    def index_data(self, storage: Storage) -> bytes:
        """The index as a Parquet file, compared with the commit."""
        uri = self.layout.beside(self.entry.index)
        data = self._found(storage, [uri], storage.read)
        if hashlib.sha256(data).hexdigest() != self.entry.index_sha256:
            raise _damaged(uri) if self._is_named(storage) else self._superseded(uri)
        owner = read_owner(data, uri)
        if (owner.shard, owner.fingerprint, owner.data) != (self.id, self.entry.fingerprint, self.entry.data):
            raise CorruptionError(f"{uri} is the index of shard {owner.shard}, not of {self.id}. {_REMEDY}")
        return data

    @contextmanager
    def open(self, storage: Storage) -> Iterator[BinaryIO]:
        """The data file as it is stored, nothing compared: among the data, or kept beside them."""
        stream, _ = self._found(storage, self._places(), storage.open)
        with stream:
            yield stream

    def read_range(self, storage: Storage, offset: int, length: int) -> bytes:
        """`length` bytes of the data file from `offset`, nothing compared; fewer where it ends."""
        return self._found(storage, self._places(), lambda uri: storage.read_range(uri, offset, length))

    def _found(self, storage: Storage, places: Sequence[str], read: Callable[[str], T]) -> T:
        """What `read` gives at the first of the places where the file is.

        It may be moved from one to the other at this moment, so one look at all of them is not enough.
        """
        for look in range(_LOOKS):
            for uri in places:
                with contextlib.suppress(FileNotFoundError):
                    return read(uri)
            if look and not self._is_named(storage):
                raise self._superseded(places[0])
        raise CorruptionError(
            f"{places[0]} is gone, and index.json names it: run the partition again to have it made anew"
        )

    def _places(self) -> list[str]:
        layout, name = self.layout, self.file_name
        return [layout.data(name), layout.superseded(name), layout.staged(name)]

    def _reading(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items of a file that may go while it is read."""
        try:
            yield from items
        except FileNotFoundError:
            raise self._superseded(self.layout.data(self.file_name)) from None

    def check(self, row: IndexRow, data: bytes) -> None:
        """Refuse bytes that are not those of the component."""
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise self._not_indexed(row.key, row.component)

    def _not_indexed(self, key: str, component: str) -> CorruptionError:
        uri = self.layout.data(self.file_name)
        return CorruptionError(f"{key}.{component} in {uri} is not what the index says. {_REMEDY}")

    def _is_named(self, storage: Storage) -> bool:
        """Whether the commit that stands now names this very shard."""
        now, _ = read_commit(storage, self.layout)
        return now is not None and self.entry.index_sha256 in {entry.index_sha256 for entry in now.shards}

    def _superseded(self, uri: str) -> SupersededError:
        return SupersededError(
            f"{uri} is gone: another run has committed {self.layout.name} since. Read the commit again; "
            "`keep_superseded` in the dataset file keeps such files for a time"
        )


def _check_columns(part: BinaryIO, columns: Sequence[str] | None, uri: str) -> None:
    """Refuse a column that is not there; Arrow would pass over it.

    Raises:
        ConfigurationError: The table has no such column.
    """
    import pyarrow.parquet as pq

    if columns is not None:
        there = pq.read_schema(part).names
        part.seek(0)
        unknown = [name for name in columns if name not in there]
        if unknown:
            raise ConfigurationError(f"{uri} has no column {unknown[0]!r}; its columns are {', '.join(there)}")


_REMEDY = "Delete the data file and run the partition again to have it made anew"


def _damaged(uri: str) -> CorruptionError:
    return CorruptionError(
        f"{uri} is not what index.json says: its SHA-256 differs. Delete it and run the partition again"
    )


def _by_key(rows: Iterator[IndexRow]) -> Iterator[tuple[str, Rows]]:
    key: str | None = None
    components: dict[str, IndexRow] = {}
    for row in rows:
        if row.key != key:
            if key is not None:
                yield key, components
            key, components = row.key, {}
        components[row.component] = row
    if key is not None:
        yield key, components
