"""Which samples go into which shard: pure functions of the set of samples, so that a change touches few shards."""

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

TRIE_DEPTH = 24
"""Bits of the hash that can tell leaves apart; the shard's six hexadecimal digits."""
_HASH_BITS = 64
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
    members: list[int]
    """Positions in the sequence of samples, in the order in which they stand in the shard."""


def slice_by_hash(keys: Sequence[str], sizes: Sequence[int], max_samples: int, max_bytes: int) -> list[Slice]:
    """Cut samples into the leaves of the binary trie over a hash of the key.

    A leaf is split while it holds more than `max_samples` or `max_bytes`, unless it is one sample or `TRIE_DEPTH` deep.
    Adding or removing a sample changes one leaf, two where it splits or merges; more where its size is a large part of
    `max_bytes`, for such a one splits leaves until it has room. Within a shard, samples are in the order of the hash,
    which is a shuffle. The id is the beginning of the leaf's range of hashes.
    """
    places = sorted(zip(map(_hash, keys), keys, range(len(keys)), strict=True))
    hashes = [place for place, _, _ in places]
    order = [index for _, _, index in places]
    bytes_before = [0, *accumulate(sizes[index] for index in order)]
    slices: list[Slice] = []

    def split(low: int, high: int, depth: int, start: int) -> None:
        if low == high:
            return
        fits = high - low <= max_samples and bytes_before[high] - bytes_before[low] <= max_bytes
        if fits or high - low == 1 or depth == TRIE_DEPTH:
            number = f"{start >> (_HASH_BITS - TRIE_DEPTH):06x}"
            slices.append(Slice(number, number, order[low:high]))
            return
        middle_hash = start + (1 << (_HASH_BITS - 1 - depth))
        middle = bisect.bisect_left(hashes, middle_hash, low, high)
        split(low, middle, depth + 1, start)
        split(middle, high, depth + 1, middle_hash)

    split(0, len(order), 0, 0)
    return slices


def slice_by_key(keys: Sequence[str], sizes: Sequence[int], max_samples: int, max_bytes: int) -> list[Slice]:
    """Cut the sorted keys where their own hashes say so (content-defined chunking), or where a limit does.

    Adding or removing a sample changes the shard that it is in, and those after it up to the next cut by content.
    The id comes from the shard's first key, and is the next free one if another shard has it; the order of the shards
    is that of the list, not that of the ids.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    slices: list[Slice] = []
    members: list[int] = []
    size = 0
    taken: set[int] = set()

    def close() -> None:
        if members:
            # Not the hash that cuts: it is small for every key that begins a shard, and ids would be few.
            number = _hash(f"shard {keys[members[0]]}") >> (_HASH_BITS - TRIE_DEPTH)
            while number in taken:
                number = (number + 1) % 2**TRIE_DEPTH
            taken.add(number)
            slices.append(Slice(f"{number:06x}", keys[members[0]], members.copy()))

    for index in order:
        weight = max(1 / max_samples, sizes[index] / max_bytes)
        cut_by_content = _hash(keys[index]) < _CUTS_PER_LIMIT * weight * 2**_HASH_BITS
        cut_by_limit = len(members) == max_samples or size + sizes[index] > max_bytes
        if cut_by_content or cut_by_limit:
            close()
            members, size = [], 0
        members.append(index)
        size += sizes[index]
    close()
    return slices


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
