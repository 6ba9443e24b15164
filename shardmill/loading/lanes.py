"""Reading a lane: the samples that are left of it, by few reads, ahead of whoever takes them and in bounded memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardmill.concurrency import bounded_map
from shardmill.errors import CorruptionError
from shardmill.loading.order import Lane, Pieces
from shardmill.loading.sources import Source
from shardmill.samples import EncodedSample

_CHUNK_BYTES = 4 << 20
_CHUNK_SAMPLES = 256
"""Read at a time; as much again is read ahead."""


class Read(NamedTuple):
    """A sample as it was read."""

    sample: EncodedSample | CorruptionError
    """Or why it is not to be had."""
    cells: Mapping[str, Any]
    """What stands beside its components."""
    url: str
    """Of its shard."""
    number: int
    """In its shard."""
    given: int
    """Results of it that were handed out before this part of the epoch."""


def read_lane(source: Source, lane: Lane) -> Generator[Read, None, None]:
    """What is left of a lane, in the order in which it is handed out. Holds as many samples as its buffer, at most.

    Close it, so that its thread ends.
    """
    pieces, positions = lane.left()
    held: dict[int, Read] = {}
    with closing(_read_ahead(source, pieces)) as read:
        for position in lane.order():
            while position not in held:
                held[next(positions)] = next(read)
            yield held.pop(position)


class _Sought(NamedTuple):
    shard: int
    number: int
    sample: EncodedSample | CorruptionError
    given: int


def _read_ahead(source: Source, pieces: Pieces) -> Generator[Read, None, None]:
    """The samples in the order of the pieces. A thread reads while others compute.

    Each of its tasks ends by itself, so that a process that ends need not wait for somebody to take what was read.
    """
    with (
        closing(_in_order(source, pieces)) as sought,
        closing(bounded_map(lambda _: _chunk(source, sought), repeat(None), 1)) as chunks,
    ):
        for chunk in chunks:
            if not chunk:
                return
            yield from chunk


def _chunk(source: Source, sought: Iterator[_Sought]) -> list[Read]:
    """The next samples, and what stands beside them."""
    found: list[_Sought] = []
    size = 0
    for each in sought:
        found.append(each)
        size += 0 if isinstance(each.sample, CorruptionError) else sum(map(len, each.sample.components.values()))
        if size >= _CHUNK_BYTES or len(found) >= _CHUNK_SAMPLES:
            break
    chunk: list[Read] = []
    for shard, group in groupby(found, lambda each: each.shard):
        some = list(group)
        cells = source.cells(shard, [each.number for each in some])
        url = source.shards[shard].url
        chunk += [Read(each.sample, row, url, each.number, each.given) for each, row in zip(some, cells, strict=True)]
    return chunk


def _in_order(source: Source, pieces: Pieces) -> Generator[_Sought, None, None]:
    for some in _by_shard(pieces):
        which = int(some[0, 0])
        shard = source.shards[which]
        numbers = _numbers(None if source.selected is None else source.selected[which], some)
        given = np.zeros(len(numbers), np.int64)
        given[np.cumsum(some[:, 2] - some[:, 1]) - (some[:, 2] - some[:, 1])] = some[:, 3]
        read = shard.read(_ranges(numbers))
        for number, so_far in zip(numbers.tolist(), given.tolist(), strict=True):
            found, sample = next(read, (None, None))
            if found != number or sample is None:
                raise CorruptionError(f"{shard.url} has no sample {number}, and {shard.samples} were found before")
            yield _Sought(which, number, sample, so_far)


def _by_shard(pieces: Pieces) -> Sequence[Pieces]:
    """Pieces that are read together: neighbours in one shard that ascend."""
    ends = (pieces[1:, 0] != pieces[:-1, 0]) | (pieces[1:, 1] < pieces[:-1, 2])
    return [some for some in np.split(pieces, np.flatnonzero(ends) + 1) if len(some)]


def _numbers(selected: NDArray[np.int64] | None, pieces: Pieces) -> NDArray[np.int64]:
    """The numbers in their shard of the samples in these pieces."""
    places = np.concatenate([np.arange(first, stop) for first, stop in pieces[:, 1:3].tolist()])
    return places if selected is None else selected[places]


def _ranges(numbers: NDArray[np.int64]) -> list[range]:
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [range(int(some[0]), int(some[-1]) + 1) for some in np.split(numbers, cuts)]
