"""The samples of a shard while it is made: in order over threads, each of them counted once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from shardmill.concurrency import chunked_map
from shardmill.shards.report import Reject, ShardReport
from shardmill.stages.stage import InputShard, Work

T = TypeVar("T")
R = TypeVar("R")


def unknown(*_: object) -> int:
    """Then a thread is handed one item at a time."""
    return sys.maxsize


class Counts:
    """How many samples were kept, filtered and rejected, and how many of them were copied."""

    def __init__(self, shard: InputShard, work: Work) -> None:
        self._shard = shard
        self._work = work
        self.rejects: list[Reject] = []
        self.filtered_fingerprints: list[str] = []
        self.kept = self.filtered = self.copied = self.bytes_in = 0

    def each(
        self,
        prepare: Callable[[T], R | Reject],
        items: Iterable[T],
        is_copied: Callable[[T], bool],
        size: Callable[[T, R | Reject | None], int] = unknown,
    ) -> Iterator[tuple[T, R]]:
        """Each item with what `prepare` makes of it, in order, computed in `work.threads` threads.

        Rejects are counted and left out; what is copied is counted. `size` gives the bytes of an item with what was
        made of it, if it has been made. For each thread two items are held, or some that come to two MiB.
        """
        for item, made in chunked_map(prepare, items, self._shard.samples, self._work.threads, is_copied, size):
            self.copied += is_copied(item)
            if isinstance(made, Reject):
                self.reject(made)
            else:
                yield item, made

    def reject(self, reject: Reject) -> None:
        """Count an item as rejected."""
        self.rejects.append(reject)
        self._work.advance(1)

    def done(self, filtered: str | None = None) -> None:
        """Count an item of `each` as kept, or as filtered, with its fingerprint."""
        if filtered is None:
            self.kept += 1
        else:
            self.filtered += 1
            self.filtered_fingerprints.append(filtered)
        self._work.advance(1)

    def report(self, samples: int, file: Path | None, sha256: str, **figures: Any) -> ShardReport:
        """The report of the shard, `samples` of which stand in `file`."""
        return ShardReport(
            samples_in=self._shard.samples,
            kept=self.kept,
            filtered=self.filtered,
            copied=self.copied,
            samples=samples,
            bytes_in=self.bytes_in,
            bytes=file.stat().st_size if file else 0,
            sha256=sha256 if file else "",
            rejects=self.rejects,
            filtered_fingerprints=self.filtered_fingerprints,
            **figures,
        )
