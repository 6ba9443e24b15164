"""Reading the shards of a committed partition, for the stages that follow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from shardmill.errors import CorruptionError
from shardmill.samples import EncodedSample
from shardmill.shards.commit import ShardEntry
from shardmill.shards.index import IndexRow, read_index
from shardmill.shards.layout import Layout
from shardmill.shards.ustar import read_samples
from shardmill.storage import Storage, join_uri


@dataclass(frozen=True)
class StoredShard:
    """A committed tar shard."""

    folder: str
    """URI of the partition's folder."""
    entry: ShardEntry

    @property
    def id(self) -> str:
        """Six hexadecimal digits."""
        return self.entry.id

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.entry.nsamples

    @property
    def file_name(self) -> str:
        """Of the data file."""
        return Layout("tar").data(self.entry.id, self.entry.fingerprint)

    def identity(self) -> Any:
        """The name, which tables of embeddings record, and the digests of the bytes and of their lineage."""
        return [self.file_name, self.entry.sha256, self.entry.index_sha256]

    def read(self, storage: Storage) -> Iterator[tuple[EncodedSample, dict[str, IndexRow]]]:
        """Each sample with its rows of the index by component, streaming.

        Raises CorruptionError if the bytes are not those that were committed, or are gone; the tar's digest is known
        at the end.
        """
        uri = join_uri(self.folder, self.file_name)
        rows = _by_key(self._index(storage))
        with _open(uri, storage) as stream:
            hashing = _HashingStream(stream)
            for sample in read_samples(cast(BinaryIO, hashing), uri):
                key, components = next(rows, ("", {}))
                if key != sample.key or components.keys() != sample.components.keys():
                    raise CorruptionError(f"{uri} and its index disagree at {sample.key}")
                yield sample, components
            hashing.drain()
        if hashing.digest.hexdigest() != self.entry.sha256:
            raise _damaged(uri)

    def _index(self, storage: Storage) -> Iterator[IndexRow]:
        uri = join_uri(self.folder, Layout("tar").index(self.entry.id, self.entry.fingerprint))
        try:
            data = storage.read(uri)
        except FileNotFoundError:
            raise _gone(uri) from None
        if hashlib.sha256(data).hexdigest() != self.entry.index_sha256:
            raise _damaged(uri)
        return read_index(data, uri)


def _open(uri: str, storage: Storage) -> BinaryIO:
    try:
        return storage.open(uri)[0]
    except FileNotFoundError:
        raise _gone(uri) from None


def _gone(uri: str) -> CorruptionError:
    return CorruptionError(f"{uri} is gone, and index.json names it. Materialize its partition again")


def _damaged(uri: str) -> CorruptionError:
    return CorruptionError(
        f"{uri} is not what index.json says: its SHA-256 differs. Delete it and materialize its partition again"
    )


def _by_key(rows: Iterator[IndexRow]) -> Iterator[tuple[str, dict[str, IndexRow]]]:
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


class _HashingStream:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.digest.update(data)
        return data

    def drain(self) -> None:
        while self.read(1 << 20):
            pass
