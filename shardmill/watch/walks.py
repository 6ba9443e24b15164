"""Listing a source within a budget, and going on where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from shardmill.dataset import Dataset
from shardmill.sources import Excludes, SampleNames, content_of
from shardmill.storage import ObjectInfo
from shardmill.watch.state import Tally, Walk

_CLOCK_EVERY = 256
"""Objects between two looks at the clock."""
_NAMED = 3


@dataclass
class Budget:
    """What one look may cost."""

    seconds: float
    objects: int
    scanned: int = 0
    _end: float = field(init=False)
    _stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def spent(self) -> bool:
        """Whether the look has to end."""
        return self._stopped or self.scanned >= self.objects or time.monotonic() >= self._end

    def share(self, part: float) -> Budget:
        """One of so much of what is left."""
        seconds = max(0.0, self._end - time.monotonic())
        return Budget(seconds * part, self.scanned + math.ceil((self.objects - self.scanned) * part), self.scanned)

    def stop(self) -> None:
        """Let it be spent: what else could be listed has to wait anyway."""
        self._stopped = True

    def take(self) -> bool:
        """Count one listed object. Returns whether there may be another."""
        self.scanned += 1
        if self.scanned % _CLOCK_EVERY and self.scanned < self.objects and not self._stopped:
            return True
        return not self.spent


@dataclass
class Outside:
    """Objects that belong to no partition."""

    litter: Excludes = field(default_factory=Excludes)
    """What counts for nothing."""
    objects: int = 0
    names: list[str] = field(default_factory=list)
    """Below the source's folder, of the first few."""

    def take(self, name: str) -> None:
        """Count one that is no litter."""
        if self.litter.rule(name) is not None:
            return
        self.objects += 1
        if len(self.names) < _NAMED:
            self.names.append(name.encode("utf-8", "backslashreplace").decode())


class Lister:
    """Counts the objects of a dataset's source by partition."""

    def __init__(self, dataset: Dataset) -> None:
        self._storage = dataset.storage
        self._partitioning = dataset.partitioning
        self._names = SampleNames(dataset.spec.source)
        self._marker = dataset.spec.source.marker
        self.outside = Outside(dataset.partitioning.excludes.litter)

    def partition(self, key: str, walk: Walk, budget: Budget) -> Tally | None:
        """Go on with the listing of one partition. Returns its tally, or None if the budget was spent first."""
        folder = self._partitioning.folder(key, self._storage)
        tally = walk.tally = walk.tally or Tally(key)
        for info in self._storage.list(folder, walk.after, passed_over=self._names.passed_over(folder)):
            self._count(tally, info, len(folder) + 1)
            walk.after = info.uri
            if not budget.take():
                return None
        return tally

    def everything(self, walk: Walk, budget: Budget) -> Iterator[Tally]:
        """Go on with the listing of the whole source: the tally of each partition that it has left behind.

        Ends with the source (`walk.ended` then) or with the budget.
        """
        base = self._partitioning.base
        beginning, start = "", 0
        """Of the URIs of the partition at hand, and where the names in it begin."""
        for info in self._storage.list(base, walk.after, passed_over=self._names.passed_over(base)):
            if not beginning or not info.uri.startswith(beginning):
                match = self._partitioning.match(info.uri[len(base) + 1 :])
                if walk.tally is not None and (match is None or match[0] != walk.tally.key):
                    yield walk.tally
                    walk.tally = None
                if match is not None and walk.tally is None:
                    walk.tally = Tally(match[0])
                start = len(base) + 1 + match[1] if match else 0
                beginning = info.uri[:start]
            if walk.tally is None:
                self.outside.take(info.uri[len(base) + 1 :])
            else:
                self._count(walk.tally, info, start)
            walk.after = info.uri
            if not budget.take():
                return
        if walk.tally is not None:
            yield walk.tally
        walk.ended = True

    def _count(self, tally: Tally, info: ObjectInfo, start: int) -> None:
        name = info.uri[start:]
        if name == self._marker:
            tally.marked = info.modified
        elif self._names.takes(name):
            tally.content += content_of(info.uri, info.version)
            tally.objects += 1
            tally.bytes += info.size
            tally.newest = max(tally.newest, info.modified)
