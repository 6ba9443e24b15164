"""Which sample is handed out when, and to whom: pure functions over numpy arrays.

The shards in their order make one line of samples. The line is cut over ranks, a rank's run over its workers; what one
worker reads is a lane. Within a lane a buffer mixes. What is left of an epoch after an interruption is a line again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise, repeat
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pieces: TypeAlias = NDArray[np.int64]
"""[n, 4], a row a run of samples of one shard: which shard, the first of the samples that it gives and the one behind
the last, and how many results of the first have been handed out already."""
Seeds: TypeAlias = tuple[int, ...]

_SHARD, _FIRST, _STOP, _GIVEN = range(4)
_BLOCK = 4096
"""Positions of a lane that are mixed together, at least."""
_FRACTION = 16
"""Bits behind the point in the numbers that a buffer sorts by."""


@dataclass(frozen=True)
class Topology:
    """Among whom the samples are divided."""

    ranks: int
    lanes: int
    """Of each rank: one a worker process, or one where there are none."""
    batch_size: int
    equal: bool
    """Whether all ranks get equally many, some samples twice for it."""


@dataclass(frozen=True)
class Lane:
    """What one worker of one rank reads of one stream."""

    pieces: Pieces
    buffer: int
    """Samples that are mixed; 1: none."""
    seeds: Seeds
    inputs: int = 0
    """Samples that have been handed out."""
    given: int = 0
    """Results that have been handed out of the sample after them."""
    repeats: int = 0
    """Samples at its end that some rank gets a second time."""

    def __len__(self) -> int:
        """Samples, those that have been handed out included."""
        return length(self.pieces)

    def order(self) -> Iterator[int]:
        """The positions that are left, as they are handed out."""
        for block in mixed(len(self), self.buffer, self.seeds, self.inputs):
            yield from block.tolist()

    def left(self) -> tuple[Pieces, Iterator[int]]:
        """What is to be read still, as it lies in the shards, and the positions in the lane of these samples."""
        some, rest = left(len(self), self.buffer, self.seeds, self.inputs)
        some.sort()
        pieces = np.concatenate([_take(self.pieces, some), cut(self.pieces, rest, len(self))])

        def positions() -> Iterator[int]:
            yield from some.tolist()
            yield from range(rest, len(self))

        return joined(pieces), positions()

    def unread(self) -> Pieces:
        """What has not been handed out, repeats aside, in the order of the line."""
        kept = len(self) - self.repeats
        some, rest = left(len(self), self.buffer, self.seeds, self.inputs)
        following = some[:1].copy()
        some = np.sort(some[some < kept])
        pieces = _take(self.pieces, some)
        if self.given:
            pieces[some == following, _GIVEN] += self.given
        return np.concatenate([pieces, cut(self.pieces, rest, kept)])


def line_of(samples: Sequence[int], shuffle: bool, seed: int, epoch: int) -> Pieces:
    """All samples of an epoch: the shards, of which each gives so many, in their order, or in a random one."""
    counts = np.asarray(samples, np.int64).reshape(-1)
    shards = np.arange(len(counts))
    if shuffle:
        shards = np.argsort(_random((seed, epoch, 0), len(counts)), kind="stable")
    whole = np.zeros((len(counts), 4), np.int64)
    whole[:, _SHARD], whole[:, _STOP] = shards, counts[shards]
    return whole[whole[:, _STOP] > 0]


def length(pieces: Pieces) -> int:
    """Number of samples."""
    return int((pieces[:, _STOP] - pieces[:, _FIRST]).sum())


def cut(pieces: Pieces, start: int, stop: int) -> Pieces:
    """The samples at the positions from `start` up to `stop`."""
    stops = np.cumsum(pieces[:, _STOP] - pieces[:, _FIRST])
    if start >= stop or not len(stops) or start >= stops[-1]:
        return pieces[:0]
    low, high = int(np.searchsorted(stops, start, "right")), int(np.searchsorted(stops, stop, "left"))
    part = pieces[low : high + 1].copy()
    part[-1, _STOP] -= max(0, stops[min(high, len(stops) - 1)] - stop)
    before = start - (stops[low - 1] if low else 0)
    if before:
        part[0, _FIRST] += before
        part[0, _GIVEN] = 0
    return part


def joined(pieces: Pieces) -> Pieces:
    """The same samples in fewer pieces: those that follow each other in a shard become one."""
    apart = (
        (pieces[1:, _SHARD] != pieces[:-1, _SHARD])
        | (pieces[1:, _FIRST] != pieces[:-1, _STOP])
        | (pieces[1:, _GIVEN] > 0)
    )
    first = np.concatenate([[0], np.flatnonzero(apart) + 1]).astype(np.int64)[: len(pieces)]
    whole = pieces[first]
    whole[:, _STOP] = pieces[np.concatenate([first[1:], [len(pieces)]]).astype(np.int64)[: len(first)] - 1, _STOP]
    return whole


def rank_run(total: int, rank: int, topology: Topology) -> tuple[int, int]:
    """The positions of a rank on a line of `total` samples; beyond its end they mean those of its beginning again."""
    if topology.equal:
        each = -(-total // topology.ranks)
        return rank * each, (rank + 1) * each
    return rank * total // topology.ranks, (rank + 1) * total // topology.ranks


def batches_of(samples: int, topology: Topology) -> NDArray[np.int64]:
    """How many batches each lane of a rank gives, of a run of so many samples: they take turns."""
    batches = -(-samples // topology.batch_size)
    return batches // topology.lanes + (np.arange(topology.lanes) < batches % topology.lanes)


def lane_bounds(samples: int, topology: Topology) -> NDArray[np.int64]:
    """[lanes + 1]: where the lanes of a rank begin in its run. Only its last batch is short."""
    batches = batches_of(samples, topology)
    sizes = batches * topology.batch_size
    sizes[(int(batches.sum()) - 1) % topology.lanes] -= int(sizes.sum()) - samples
    return np.concatenate([[0], np.cumsum(sizes)])


def lanes_of(line: Pieces, rank: int, topology: Topology, buffer: int, seeds: Seeds) -> list[Lane]:
    """The lanes of a rank, none of them begun."""
    total = length(line)
    start, stop = rank_run(total, rank, topology)
    bounds = start + lane_bounds(stop - start, topology)
    return [
        Lane(
            _around(line, low, high, total),
            buffer,
            (*seeds, rank, number),
            repeats=high - max(low, min(high, total)),
        )
        for number, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]


def _around(line: Pieces, low: int, high: int, total: int) -> Pieces:
    """From `low` to `high` on the line, which begins anew at its end."""
    parts = [line[:0]]
    while low < high:
        first = low % total
        last = min(total, first + high - low)
        parts.append(cut(line, first, last))
        low += last - first
    return np.concatenate(parts)


def _take(pieces: Pieces, positions: NDArray[np.int64]) -> Pieces:
    """The samples at these positions, a piece each."""
    sizes = pieces[:, _STOP] - pieces[:, _FIRST]
    stops = np.cumsum(sizes)
    which = np.searchsorted(stops, positions, "right")
    taken = pieces[which]
    offsets = positions - (stops - sizes)[which]
    taken[:, _FIRST] += offsets
    taken[:, _STOP] = taken[:, _FIRST] + 1
    taken[offsets > 0, _GIVEN] = 0
    return taken


# A buffer: the sample at position p comes out at the place that p + a random number below `buffer` has when sorted.
# Whoever reads on in order never holds more than `buffer` samples.


def mixed(samples: int, buffer: int, seeds: Seeds, start: int = 0) -> Iterator[NDArray[np.int64]]:
    """The positions of a lane in the order in which they are handed out, from place `start` on; some at a time."""
    size = _block_size(buffer)
    block = start // size
    held, keys = _held(samples, buffer, seeds, block)
    place = block * size - len(held)
    while place < samples:
        more, more_keys = _keys(samples, buffer, seeds, block)
        held, keys = np.concatenate([held, more]), np.concatenate([keys, more_keys])
        block += 1
        ready = keys < (block * size) << _FRACTION if block * size < samples else np.ones(len(keys), np.bool_)
        some = held[ready][np.argsort(keys[ready], kind="stable")]
        held, keys = held[~ready], keys[~ready]
        if place + len(some) > start:
            yield some[max(0, start - place) :]
        place += len(some)


def left(samples: int, buffer: int, seeds: Seeds, done: int) -> tuple[NDArray[np.int64], int]:
    """What is left when `done` have been handed out: some positions, the next first, and all from another one on."""
    size = _block_size(buffer)
    block = done // size
    parts = [_held(samples, buffer, seeds, block), *(_keys(samples, buffer, seeds, block + more) for more in range(2))]
    positions, keys = (np.concatenate(each) for each in zip(*parts, strict=True))
    taken = done - (min(block * size, samples) - len(parts[0][0]))
    return positions[np.argsort(keys, kind="stable")][taken:], min((block + 2) * size, samples)


# A mixture: of which stream the next sample is.


def draws(weights: Sequence[float] | None, lanes: Sequence[Lane]) -> Iterator[int]:
    """Of which lane each sample that is left is: at random by weight, or by what is left, of those that have any."""
    left = [len(lane) - lane.inputs for lane in lanes]
    numbers = _fractions(tuple(seed for lane in lanes for seed in lane.seeds), sum(lane.inputs for lane in lanes))
    while any(left):
        alive = [number for number, count in enumerate(left) if count]
        if len(alive) == 1:
            yield from repeat(alive[0], left[alive[0]])
            return
        while all(left[number] for number in alive):
            bounds = list(accumulate((weights or left)[number] for number in alive))
            which = alive[min(bisect_right(bounds, next(numbers) * bounds[-1]), len(alive) - 1)]
            left[which] -= 1
            yield which


def _fractions(seeds: Seeds, start: int) -> Iterator[float]:
    """Random numbers from 0 to 1, from number `start` on."""
    for block in count(start // _BLOCK):
        numbers = _random((*seeds, block), _BLOCK) >> np.uint64(11)
        yield from (numbers[max(0, start - block * _BLOCK) :] * 2.0**-53).tolist()


def _block_size(buffer: int) -> int:
    return max(buffer, _BLOCK)


def _held(samples: int, buffer: int, seeds: Seeds, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the blocks before this one, what comes out in it or later: positions, and what they are sorted by."""
    if block == 0 or buffer <= 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    positions, keys = _keys(samples, buffer, seeds, block - 1)
    late = keys >= (block * _block_size(buffer)) << _FRACTION
    return positions[late], keys[late]


def _keys(samples: int, buffer: int, seeds: Seeds, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of a block, the positions and what they are sorted by."""
    size = _block_size(buffer)
    positions = np.arange(min(block * size, samples), min((block + 1) * size, samples))
    keys = positions << _FRACTION
    if buffer > 1:
        drawn = _random((*seeds, block), len(positions)) % np.uint64(buffer << _FRACTION)
        keys = keys + drawn.astype(np.int64)
    return positions, keys


def _random(seeds: Seeds, size: int) -> NDArray[np.uint64]:
    """Random numbers that are the same with every version of numpy."""
    return np.random.Philox(np.random.SeedSequence(seeds)).random_raw(size)
