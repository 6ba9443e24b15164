"""Which of the partitions that are not settled are due, and which have to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import RAW, Dataset
from shardmill.dataset.source import check_that_all_was_deleted
from shardmill.dataset.upkeep import SensorSpec
from shardmill.errors import ConfigurationError, CorruptionError
from shardmill.shards.commit import read_commit
from shardmill.shards.layout import Layout
from shardmill.watch.found import NAMED, Due, Found
from shardmill.watch.seen import Seen, SeenPartitions
from shardmill.watch.state import NOTHING

_COMPARING_SECONDS = 8.0
"""Of reading what is committed, in one look."""
_COMMITS_AT_ONCE = 64


class Decisions:
    """Those of one look, about each partition once."""

    def __init__(
        self,
        dataset: Dataset,
        seen: SeenPartitions,
        found: Found,
        running: Callable[[], Collection[str]],
        most: int,
        now: float,
    ) -> None:
        self._dataset = dataset
        self._seen = seen
        self._found = found
        self._running = running
        self._most = most
        self._now = now
        self._quiet = (dataset.spec.sensor or SensorSpec()).quiet_seconds
        self._considered: set[str] = set()
        self._ready: list[str] = []
        """Those to compare with what is committed."""
        self._some_are_right = False
        self._busy: frozenset[str] | None = None
        self._comparing = 0.0

    def reconcile(self, key: str, look: int | None) -> None:
        """Have a partition compared though it is settled. It is asked for in other words, those of this `look`."""
        seen = self._seen.get(key)
        if seen and key not in self._considered:
            self._seen[key] = replace(seen, settled="", look=seen.look if look is None else look)

    def consider(self, key: str) -> bool:
        """Decide about a partition, now or with the next ones. Returns False if others have to wait for the next look.

        One that is settled is none to decide about, and says nothing of others.
        """
        seen = self._seen.get(key)
        if seen is None or seen.is_settled or key in self._considered:
            return True
        self._considered.add(key)
        if why := self._waits_for(seen):
            self._wait(key, why)
            return True
        if self._are_full:
            self._wait(key, "for the next look")
            return False
        self._ready.append(key)
        # While none was right all of them are likely to be due: no more are compared than may be.
        room = min(_COMMITS_AT_ONCE, self._most - len(self._found.due))
        if len(self._ready) >= (max(room, REQUESTS_AT_ONCE) if self._some_are_right else room):
            self.compare()
        return not self._are_full

    @property
    def _are_full(self) -> bool:
        return len(self._found.due) >= self._most or self._comparing >= _COMPARING_SECONDS

    def compare(self) -> None:
        """Compare those that are ready with what is committed."""
        ready, self._ready = self._ready, []
        if not ready:
            return
        if self._busy is None:  # asked before commits are read: a run that ends in between is seen by one or the other
            self._busy = frozenset(self._running())
        for key in ready:
            if key in self._busy:  # its commit is read when the run has ended
                self._wait(key, "for a run over it that is under way")
        ready = [key for key in ready if key not in self._busy]
        started = time.monotonic()
        compared = bounded_map(self._compare, [(key, self._seen[key]) for key in ready], REQUESTS_AT_ONCE)
        for key, (is_right, version) in zip(ready, compared, strict=True):
            seen = self._seen[key]
            if is_right:
                self._some_are_right = True
                self._settle(key, seen)
            elif len(self._found.due) >= self._most:
                self._wait(key, "for the next look")
            else:
                self._seen[key] = replace(seen, settled=seen.content)
                self._found.due.append(Due(key, f"{key} {seen.content} {version or 'new'} {seen.look}"))
        self._comparing += time.monotonic() - started

    def _compare(self, partition: tuple[str, Seen]) -> tuple[bool, str | None]:
        """Whether nothing is to be done about a partition, and the version of its commit."""
        key, seen = partition
        content, version = committed(self._dataset, key)
        if content == seen.content or (content is None and not seen.objects):
            return True, version
        if not seen.objects:
            try:
                check_that_all_was_deleted(self._dataset, key)
            except ConfigurationError as error:  # its run would say so, again and again
                self._found.kept.append(str(error))
                return True, version
            except CorruptionError:
                pass  # its run says so
        return False, version

    def _settle(self, key: str, seen: Seen) -> None:
        if seen.objects:
            self._seen[key] = replace(seen, settled=seen.content)
        else:
            del self._seen[key]

    def _waits_for(self, seen: Seen) -> str | None:
        marker = self._dataset.spec.source.marker
        if marker and seen.objects:
            if seen.marked is None:
                return f"for {marker}"
            if seen.marked >= seen.newest:  # it was written last
                return None
        if self._now - max(seen.newest, seen.since) < self._quiet:
            return "to be quiet"
        return None

    def _wait(self, key: str, why: str) -> None:
        if len(self._found.waits) < NAMED:
            self._found.waits.append(f"{key} {why}")


def committed(dataset: Dataset, partition: str) -> tuple[str | None, str | None]:
    """The content of which a partition was last made, and the version of that commit."""
    try:
        commit, version = read_commit(dataset.storage, Layout.at(dataset.folder(RAW, partition)))
    except CorruptionError:
        return "", "damaged"  # its run says so; the other partitions have nothing to do with it
    if commit is None:
        return None, version
    return str(commit.shards[0].summary.get("content", "")) if commit.shards else NOTHING, version
