"""Which objects are in a batch already: 20 bytes of memory an object."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.partitions import batch_number, read_batch
from shardmill.storage import Storage

_MOST_RECENT = 100_000


_Digested = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int32]]
"""Of some objects the two halves of their digests, and their batches' numbers."""


class KnownObjects:
    """The batch of each sealed object, by a digest of 128 bits of its URI."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self._lock = threading.RLock()  # somebody may try the sensor out while it is at work
        self._recent: dict[str, int] = {}
        """Objects that are not in the sorted arrays yet: to sort these for every batch would take its time."""
        self._high = np.zeros(0, np.uint64)
        self._low = np.zeros(0, np.uint64)
        self._numbers = np.zeros(0, np.int32)

    def add(self, batch: str, uris: Sequence[str]) -> None:
        """Take the objects of a new batch in."""
        with self._lock:
            self.batches.append(batch)
            self._recent.update(dict.fromkeys(uris, batch_number(batch)))
            if len(self._recent) >= _MOST_RECENT:
                recent, self._recent = self._recent, {}
                numbers = np.fromiter(recent.values(), np.int32, len(recent))
                self._sort_in([(*_digests(list(recent)), numbers)])

    def extend(self, batches: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Take the objects of many batches in. Of each batch no more than the digests stays in memory."""
        keys: list[str] = []
        parts: list[_Digested] = []
        for key, uris in batches:
            keys.append(key)
            parts.append((*_digests(uris), np.full(len(uris), batch_number(key), np.int32)))
        with self._lock:
            self.batches += keys
            self._sort_in(parts)

    def _sort_in(self, parts: Sequence[_Digested]) -> None:
        high, low, numbers = zip((self._high, self._low, self._numbers), *parts, strict=True)
        self._high, self._low, self._numbers = (np.concatenate(each) for each in (high, low, numbers))
        order = np.lexsort((self._low, self._high))
        for name in ("_high", "_low", "_numbers"):  # one column at a time is in memory twice
            setattr(self, name, getattr(self, name)[order])

    def numbers(self, uris: Sequence[str]) -> list[int]:
        """The number of each object's batch, 0 if it is in none."""
        high, low = _digests(uris)
        with self._lock:
            first = np.searchsorted(self._high, high)
            rows = zip(uris, first.tolist(), high.tolist(), low.tolist(), strict=True)
            return [self._recent.get(uri, 0) or self._number(*row) for uri, *row in rows]

    def _number(self, position: int, high: int, low: int) -> int:
        while position < len(self._high) and self._high[position] == high:
            if self._low[position] == low:
                return int(self._numbers[position])
            position += 1
        return 0


def _digests(uris: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    raw = b"".join(hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=16).digest() for uri in uris)
    pairs = np.frombuffer(raw, np.uint64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


_kept: dict[str, KnownObjects] = {}
_lock = threading.Lock()


def known_objects(storage: Storage, home: str, batches: Sequence[str]) -> KnownObjects:
    """Of the dataset whose sealed batches these are. Kept by the process: only batches that are new are read."""
    with _lock:
        kept = _kept.setdefault(home, KnownObjects())
        if not set(kept.batches) <= set(batches):  # the dataset was removed and begun anew
            kept = _kept[home] = KnownObjects()
        have = set(kept.batches)
        fresh = [key for key in batches if key not in have]
        if fresh:
            read = bounded_map(lambda key: (key, read_batch(storage, home, key).uris), fresh, REQUESTS_AT_ONCE)
            kept.extend(read)
        return kept
