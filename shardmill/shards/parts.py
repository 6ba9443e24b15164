"""Reading many parts of stored tars: by few, large reads, each part compared with its digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from shardmill.concurrency import bounded_map
from shardmill.errors import AccessDeniedError, CorruptionError, SupersededError
from shardmill.shards.index import IndexRow
from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage

T = TypeVar("T")

_READ_BYTES = 4 << 20
"""Of one read, and of the parts that are handed over together; the last of them may go beyond."""
_READS_AT_ONCE = 4
_AHEAD_BYTES = 2 * _READS_AT_ONCE * _READ_BYTES
_GAP = 64 << 10
"""Bytes that are read for nothing sooner than that there is another read, where few parts are read."""
WIDE_GAP = 1 << 20
"""The same, where a part of every sample is read: there would be as many reads as samples, each a request's way."""
_TOGETHER = 1024
"""Most items that are handed over together."""


class Part(NamedTuple):
    """A component in a stored tar."""

    shard: StoredShard
    row: IndexRow


OUT_OF_REACH = (CorruptionError, SupersededError, AccessDeniedError)
"""Errors after which what was to be copied is made anew: it is damaged, gone, or not for us to read."""

Bytes = bytes | CorruptionError | SupersededError | AccessDeniedError
"""Of a part, or why they are not to be had: damaged, gone, or not for us to read."""


def read_parts(
    storage: Storage, items: Iterable[tuple[T, Sequence[Part]]], gap: int = _GAP
) -> Iterator[tuple[T, list[Bytes]]]:
    """Each item with the bytes of its parts, in order; some are read ahead, until they come to `_AHEAD_BYTES`.

    Parts that are no more than `gap` bytes apart are read together.

    Raises:
        StorageError: A store cannot give them.
    """
    chunks = _chunks(items)
    for read in bounded_map(
        lambda chunk: chunk.read(storage, gap),
        chunks,
        _READS_AT_ONCE,
        _Chunk.is_empty,
        lambda chunk: chunk.size,
        _AHEAD_BYTES,
    ):
        yield from read


@dataclass
class _Chunk(Generic[T]):
    """Items whose parts are read together."""

    items: list[tuple[T, Sequence[Part]]] = field(default_factory=list)
    size: int = 0

    def is_empty(self) -> bool:
        return not self.size

    def read(self, storage: Storage, gap: int) -> list[tuple[T, list[Bytes]]]:
        parts = [part for _, parts in self.items for part in parts]
        found = dict(_read(storage, parts, gap))
        return [(item, [found[part.shard.file_name, part.row.offset] for part in parts]) for item, parts in self.items]


def _chunks(items: Iterable[tuple[T, Sequence[Part]]]) -> Iterator[_Chunk[T]]:
    """Neighbours, until their parts come to `_READ_BYTES` or they are `_TOGETHER`."""
    chunk: _Chunk[T] = _Chunk()
    for item, parts in items:
        chunk.items.append((item, parts))
        chunk.size += sum(part.row.size for part in parts)
        if chunk.size >= _READ_BYTES or len(chunk.items) >= _TOGETHER:
            yield chunk
            chunk = _Chunk()
    if chunk.items:
        yield chunk


def _read(storage: Storage, parts: Sequence[Part], gap: int) -> Iterator[tuple[tuple[str, int], Bytes]]:
    """The bytes of parts, by the name of the file and their offset in it."""
    ordered = sorted(parts, key=lambda part: (part.shard.file_name, part.row.offset))
    group: list[Part] = []
    stop = 0
    for part in ordered:
        if group and not _is_near(part, group[0], stop + gap):
            yield from _read_range(storage, group, stop)
            group, stop = [], 0
        group.append(part)
        stop = max(stop, part.row.offset + part.row.size)
    if group:
        yield from _read_range(storage, group, stop)


def _is_near(part: Part, first: Part, limit: int) -> bool:
    """Whether a part is read together with those from the first one on, if it begins no later than `limit`."""
    near = part.shard.file_name == first.shard.file_name and part.row.offset <= limit
    return near and part.row.offset < first.row.offset + _READ_BYTES


def _read_range(storage: Storage, parts: Sequence[Part], stop: int) -> Iterator[tuple[tuple[str, int], Bytes]]:
    shard, start = parts[0].shard, parts[0].row.offset
    try:
        data = memoryview(shard.read_range(storage, start, stop - start))
    except OUT_OF_REACH as error:
        yield from (((part.shard.file_name, part.row.offset), error) for part in parts)
        return
    for part in parts:
        offset = part.row.offset - start
        yield (shard.file_name, part.row.offset), _checked(part, bytes(data[offset : offset + part.row.size]))


def _checked(part: Part, data: bytes) -> Bytes:
    try:
        part.shard.check(part.row, data)
    except CorruptionError as error:
        return error
    return data
