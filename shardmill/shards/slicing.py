"""Which samples go into which shard: pure functions of the set of samples, so that a change touches few shards.

The keys of the samples are given in ascending order, each once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

TRIE_DEPTH = 24
"""Bits of the hash that can tell leaves apart; the shard's six hexadecimal digits."""
_HASH_BITS = 64
_TOGETHER = 10_000
"""Keys that are handled together."""
_CUTS_PER_LIMIT = 4
"""How many content-defined cuts to expect in a full shard: a shard is then filled to a quarter on average, and about
one in fifty (e⁻⁴) is cut by its limit instead of its content."""


Order = Literal["hash", "key"]


def position(key: str, order: Order) -> str:
    """Where a key stands among all keys of a partition: as text, positions sort as the samples do."""
    return f"{_hash(key):016x}{key}" if order == "hash" else key


@dataclass(frozen=True)
class Slice:
    """The samples of one shard."""

    id: str
    """Six hexadecimal digits, stable as long as the shard's bounds are."""
    start: str
    """The shard holds the samples whose positions come from here up to the start of the next."""
    members: NDArray[np.int64]
    """Positions in the sequence of samples, in the order in which they stand in the shard."""


def slice_by_hash(keys: pa.StringArray, sizes: NDArray[np.int64], max_samples: int, max_bytes: int) -> list[Slice]:
    """Cut samples into the leaves of the binary trie over a hash of the key.

    A leaf is split while it holds more than `max_samples` or `max_bytes`, unless it is one sample or `TRIE_DEPTH` deep.
    Adding or removing a sample changes one leaf, two where it splits or merges; more where its size is a large part of
    `max_bytes`, for such a one splits leaves until it has room. Within a shard, samples are in the order of the hash,
    which is a shuffle. The id is the beginning of the leaf's range of hashes.
    """
    hashes = _hashes(keys)
    order = np.argsort(hashes, kind="stable")  # samples of one hash stand in the order of their keys
    hashes, before = hashes[order], _before(sizes[order])
    slices: list[Slice] = []

    def split(low: int, high: int, depth: int, start: int) -> None:
        if low == high:
            return
        fits = high - low <= max_samples and before[high] - before[low] <= max_bytes
        if fits or high - low == 1 or depth == TRIE_DEPTH:
            number = f"{start >> (_HASH_BITS - TRIE_DEPTH):06x}"
            slices.append(Slice(number, number, order[low:high]))
            return
        middle_hash = start + (1 << (_HASH_BITS - 1 - depth))
        middle = low + int(np.searchsorted(hashes[low:high], np.uint64(middle_hash)))
        split(low, middle, depth + 1, start)
        split(middle, high, depth + 1, middle_hash)

    split(0, len(order), 0, 0)
    return slices


def slice_by_key(keys: pa.StringArray, sizes: NDArray[np.int64], max_samples: int, max_bytes: int) -> list[Slice]:
    """Cut the keys where their own hashes say so (content-defined chunking), or where a limit does.

    Adding or removing a sample changes the shard that it is in, and those after it up to the next cut by content.
    The id comes from the shard's first key, and is the next free one if another shard has it; the order of the shards
    is that of the list, not that of the ids.
    """
    before = _before(sizes)
    weights = np.maximum(1 / max_samples, np.diff(before) / max_bytes)
    cuts = [*np.flatnonzero(_is_below(_hashes(keys), _CUTS_PER_LIMIT * weights)).tolist(), len(keys)]
    slices: list[Slice] = []
    taken: set[int] = set()
    low = 0
    for cut in cuts:
        while low < cut:
            full = int(np.searchsorted(before, before[low] + max_bytes, "right")) - 1
            high = min(cut, low + max_samples, max(full, low + 1))
            first = keys[low].as_py()
            # Not the hash that cuts: it is small for every key that begins a shard, and ids would be few.
            number = _hash(f"shard {first}") >> (_HASH_BITS - TRIE_DEPTH)
            while number in taken:
                number = (number + 1) % 2**TRIE_DEPTH
            taken.add(number)
            slices.append(Slice(f"{number:06x}", first, np.arange(low, high)))
            low = high
    return slices


def _before(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each sample the bytes of those before it; and of them all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _is_below(hashes: NDArray[np.uint64], shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each hash is in this share of the lowest: compared as whole numbers, which floats do not tell apart."""
    limits = np.ceil(np.minimum(shares, 1) * 2.0**_HASH_BITS)
    everything = limits >= 2.0**_HASH_BITS
    return everything | (hashes < np.where(everything, 0, limits).astype(np.uint64))


def _hashes(keys: pa.StringArray) -> NDArray[np.uint64]:
    """Of all keys, few of which are Python's strings at a time."""
    some = (keys[start : start + _TOGETHER].to_pylist() for start in range(0, len(keys), _TOGETHER))
    return np.fromiter(map(_hash, chain.from_iterable(some)), np.uint64, len(keys))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
