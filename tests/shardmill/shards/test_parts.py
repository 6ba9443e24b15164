"""Parts of stored tars: by few reads, and never much more of them in memory than is handed over."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shardmill.shards import parts as module
from shardmill.shards.index import IndexRow
from shardmill.shards.parts import Part, read_parts
from shardmill.storage import Storage

KB, MB = 1 << 10, 1 << 20


class Shard:
    """Any byte of it is its offset, modulo 256; notes what is read."""

    def __init__(self) -> None:
        self.file_name = "a.tar"
        self.reads: list[tuple[int, int]] = []

    def read_range(self, storage: Storage, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return (bytes(range(256)) * (length // 256 + 2))[start % 256 :][:length]

    def check(self, row: IndexRow, data: bytes) -> None:
        assert len(data) == row.size
        assert data[:1] == bytes([row.offset % 256])[: row.size]


def part(shard: Any, offset: int, size: int) -> Part:
    row: Any = SimpleNamespace(offset=offset, size=size)
    return Part(shard, row)


def read(items: Iterator[tuple[int, list[Part]]]) -> Iterator[int]:
    """The numbers of the items, as they come."""
    return (number for number, _ in read_parts(Storage(), items))


def test_small_parts_that_are_near_each_other_take_reads_of_a_bounded_size() -> None:
    """A class of two bytes after each image of 60 KB: what lies between them is read, and not all at once."""
    shard = Shard()
    items = ((number, [part(shard, number * 60 * KB, 2)]) for number in range(1000))
    assert list(read(items)) == list(range(1000))
    assert sum(length for _, length in shard.reads) <= 1000 * 60 * KB
    assert max(length for _, length in shard.reads) <= 4 * MB
    assert len(shard.reads) < 20


@pytest.mark.parametrize(("gap", "most"), [(64 * KB, 100), (module.WIDE_GAP, 10)])
def test_parts_that_are_farther_apart_than_the_gap_take_a_read_each(gap: int, most: int) -> None:
    shard = Shard()
    items = [(number, [part(shard, number * 200 * KB, 100)]) for number in range(100)]
    assert [number for number, _ in read_parts(Storage(), items, gap)] == list(range(100))
    assert most / 2 <= len(shard.reads) <= most


def test_empty_parts_and_parts_that_are_asked_for_twice() -> None:
    shard = Shard()
    items = [("empty", [part(shard, 900 * KB, 0)]), ("two", [part(shard, 512, 3), part(shard, 512, 3)]), ("none", [])]
    found = dict(read_parts(Storage(), items))
    assert found == {"empty": [b""], "two": [bytes([0, 1, 2])] * 2, "none": []}


@pytest.mark.parametrize(("size", "most"), [(20 * MB, 5), (100 * KB, 700)])
def test_what_is_read_ahead_is_bounded_in_bytes(size: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not only in samples: sixteen large ones would be too many."""
    monkeypatch.setattr(Shard, "read_range", lambda _self, _storage, _start, length: bytes(length))
    monkeypatch.setattr(Shard, "check", lambda *_: None)
    shard, taken = Shard(), 0

    def items() -> Iterator[tuple[int, list[Part]]]:
        nonlocal taken
        for number in range(20 * most):
            taken += 1
            yield number, [part(shard, number * size, size)]
            if taken > 2 * most:
                return

    for number in read(items()):
        assert (taken - number) * size <= module._AHEAD_BYTES + 2 * max(size, module._READ_BYTES)
