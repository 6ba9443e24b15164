"""One look at a source: what is due to be run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import RAW, Dataset
from shardmill.dataset.source import check_that_all_was_deleted, unmounted
from shardmill.dataset.upkeep import SensorSpec
from shardmill.errors import ConfigurationError, CorruptionError, StorageError
from shardmill.partitions import BatchPartitions, NothingThereError, PartitionsSpec, TimePartitioning
from shardmill.shards.commit import read_commit
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.layout import Layout
from shardmill.sources import content_digest
from shardmill.watch.batching import Batching
from shardmill.watch.found import NAMED, Due, Found
from shardmill.watch.notifications import Notifications
from shardmill.watch.state import NOTHING, Cursor, Seen, State, Tally, Walk, load_state, next_number, save_state
from shardmill.watch.walks import Budget, Lister

SECONDS = 30.0
"""Of listing, in one look: Dagster gives a sensor 60 s, and what is found has to be compared and kept as well."""
OBJECTS = 1_000_000
_COMPARING_SECONDS = 8.0
"""Of reading what is committed, in one look."""
_HOT_SHARE = 0.7
"""Of the budget, for partitions that are listed first, while a listing of everything is under way."""
_COMMITS_AT_ONCE = 64


def look(
    dataset: Dataset,
    cursor: str | None,
    running: Callable[[], Collection[str]] = frozenset,
    *,
    most: int,
    notifications: Notifications | None = None,
    budget: Budget | None = None,
    now: Callable[[], float] = time.time,
) -> Found:
    """List a part of the source, and say which partitions are due, at most `most` of them.

    `running` gives the partitions that a run is under way for; it is called if one may be due. The cursor of the result
    counts as soon as the caller has kept it: until then the same look can be taken again, and finds the same. A cursor
    that leads nowhere is no error: everything is compared with what is committed.
    """
    return _Watcher(dataset, cursor, now(), notifications).watch(running, most, budget or Budget(SECONDS, OBJECTS))


class _Watcher:
    def __init__(self, dataset: Dataset, cursor: str | None, now: float, notifications: Notifications | None) -> None:
        self._dataset = dataset
        self._now = now
        self._notifications = notifications
        self._spec = dataset.spec.sensor or SensorSpec()
        self._before, self._state, why = _remembered(dataset, cursor)
        self._found = Found("", reconciled=why)
        self._reconciled = self._before.reconciled if self._before else 0.0
        self._number = self._before.number + 1 if self._before else next_number(dataset.storage, dataset.home)
        self._bytes = self._state.to_bytes()
        self._state.forget_the_future(now)
        self._lister: Lister | None = None
        self._batching: Batching | None = None
        if isinstance(dataset.spec.partitions, BatchPartitions):
            self._batching = Batching(dataset, self._state, now)
        else:
            self._lister = Lister(dataset)

    def watch(self, running: Callable[[], Collection[str]], most: int, budget: Budget) -> Found:
        started = time.monotonic()
        state, found = self._state, self._found
        self._check_that_it_is_mounted()
        self._hear()
        self._begin()
        first = budget
        if state.walk:
            first = Budget(budget.seconds * _HOT_SHARE, math.ceil(budget.objects * _HOT_SHARE))
        for tally in self._hot(first):
            self._observe(tally)
            if state.walk and tally.objects:
                state.listed[tally.key] = None  # it may have appeared behind the listing of everything
        budget.scanned = max(budget.scanned, first.scanned)
        if state.walk and not budget.spent:
            for tally in self._everything(state.walk, budget):
                self._observe(tally)
                if tally.objects:
                    state.listed[tally.key] = None
            if state.walk.ended:
                self._end()
        if self._batching:
            for tally in self._batching.seal(state.walk.after if state.walk else None):
                self._observe(tally)
        self._decide(running, most)
        found.partitions = [key for key, seen in state.seen.items() if seen.objects]
        found.scanned = budget.scanned
        found.outside = (self._lister or self._batching or found).outside
        found.waiting = len(state.waiting)
        found.listing = state.walk.after if state.walk else None
        found.cursor = self._keep()
        found.seconds = time.monotonic() - started
        return found

    def _check_that_it_is_mounted(self) -> None:
        """Refuse to take for deleted what is only not mounted.

        Raises:
            StorageError: A local source is gone, or empty though objects of it are committed.
        """
        full = [key for key, seen in self._state.seen.items() if seen.objects]
        if not full or not self._dataset.partitioning.seems_unmounted:
            return
        if any(self._committed(key)[0] not in (None, NOTHING) for key in full):
            raise StorageError(unmounted(self._dataset))

    def _hear(self) -> None:
        """Take notifications in. Those of the look before are forgotten by their queue now: its cursor was kept."""
        state, queue = self._state, self._notifications
        if queue is None:
            return
        try:
            queue.acknowledge(state.receipts)
        except StorageError as error:  # they were another queue's, or are too old: nothing is lost by going on
            self._found.refused = str(error)
        announced = queue.receive()
        uris, state.receipts = announced.uris, announced.receipts
        self._found.announced, self._found.unread = len(uris), announced.unread
        if self._batching:
            self._heat(self._batching.look_at(uris))
            return
        base = f"{self._dataset.partitioning.base}/"
        matches = (self._dataset.partitioning.match(uri[len(base) :]) for uri in uris if uri.startswith(base))
        self._heat([match[0] for match in matches if match])

    def _begin(self) -> None:
        """Decide what is to be listed."""
        partitioning = self._dataset.partitioning
        recent = isinstance(partitioning, TimePartitioning)
        if isinstance(partitioning, TimePartitioning) and self._notifications is None:
            self._heat(partitioning.recent(self._spec.late_hours))
        # A time that is still to come was that of a wrong clock.
        due = not 0 <= self._now - self._reconciled < self._spec.reconcile_hours * 3600
        if self._state.walk is None and (due or not (recent or self._notifications)):
            self._state.walk, self._state.listed = Walk(), {}
            self._state.reconciling = due
        if self._batching:
            self._heat(self._batching.missed())
        if self._state.reconciling:
            self._found.reconciled = self._found.reconciled or "as every so often"

    def _heat(self, keys: list[str]) -> None:
        hot = self._state.hot
        known = set(hot[1:] if self._state.hot_walk else hot)  # the first may be listed beyond what changed now
        self._state.hot += [key for key in dict.fromkeys(keys) if key not in known]

    def _hot(self, budget: Budget) -> Iterator[Tally]:
        state = self._state
        while state.hot and not budget.spent:
            state.hot_walk = state.hot_walk or Walk()
            lister = self._lister or self._batching
            assert lister
            try:
                tally = lister.partition(state.hot[0], state.hot_walk, budget)
            except NothingThereError:
                tally = Tally(state.hot[0])
            if tally is None:
                return
            yield tally
            state.hot_walk = None
            del state.hot[0]

    def _everything(self, walk: Walk, budget: Budget) -> Iterator[Tally]:
        lister = self._lister or self._batching
        assert lister
        return lister.everything(walk, budget)

    def _observe(self, tally: Tally, gone: bool = False) -> None:
        """Compare a partition with what it was. `gone`: it is known to have been made once."""
        content = content_digest(tally.content)
        earlier = self._state.seen.get(tally.key)
        if earlier is None:
            if not tally.objects and not gone:
                return
            self._found.new += bool(tally.objects)
        elif earlier.content != content:
            self._found.changed += bool(tally.objects)
            self._found.deleted += not tally.objects
        else:
            earlier.marked = tally.marked
            return
        # What comes for the first time may be half of what is coming, and its dates may be older than its coming.
        came_long_ago = earlier is None and not gone and (not self._reconciled or self._batching)
        since = 0.0 if came_long_ago else self._now
        newest = min(tally.newest, self._now)  # a date that is still to come is a mistake
        settled = earlier.settled if earlier else ""
        self._state.seen[tally.key] = Seen(
            content, tally.objects, tally.bytes, newest, since, tally.marked, self._number, settled
        )

    def _end(self) -> None:
        """Everything was listed: what was not come by is gone."""
        state = self._state
        known = set(state.seen)
        if state.reconciling:
            known |= set(self._dataset.stored_partitions(RAW))
            for seen in state.seen.values():
                seen.settled = ""
                if self._reconciled:  # what was asked for since the last time, and was not made, is asked for once more
                    seen.look = self._number
            self._reconciled = self._now
        if self._batching:
            known &= set(self._batching.listed)
        for key in sorted(known - state.listed.keys()):
            self._observe(Tally(key), gone=True)
        state.walk, state.listed, state.reconciling = None, {}, False

    def _decide(self, running: Callable[[], Collection[str]], most: int) -> None:
        """Of the partitions that are not settled: which are due, and which have to wait."""
        state, found = self._state, self._found
        ready = []
        for key, seen in state.seen.items():
            if seen.settled == seen.content:
                continue
            if why := self._waits_for(seen):
                self._wait(key, why)
            else:
                ready.append(key)
        # Asked before the commits are read: a run that ends in between is seen by one or the other.
        busy = frozenset(running()) if ready else frozenset()
        for key in ready:
            if key in busy:  # its commit is read when the run has ended
                self._wait(key, "for a run over it that is under way")
        ready = [key for key in ready if key not in busy]
        end = time.monotonic() + _COMPARING_SECONDS
        for position in range(0, len(ready), _COMMITS_AT_ONCE):
            if len(found.due) >= most or (position and time.monotonic() >= end):
                for key in ready[position:]:
                    self._wait(key, "for the next look")
                return
            keys = ready[position : position + _COMMITS_AT_ONCE]
            compared = bounded_map(self._compare, keys, REQUESTS_AT_ONCE)
            for key, (is_right, version) in zip(keys, compared, strict=True):
                seen = state.seen[key]
                if is_right:
                    self._settle(key, seen)
                elif len(found.due) >= most:
                    self._wait(key, "for the next look")
                else:
                    seen.settled = seen.content
                    found.due.append(Due(key, f"{key} {seen.content} {version or 'new'} {seen.look}"))

    def _compare(self, partition: str) -> tuple[bool, str | None]:
        """Whether nothing is to be done about a partition, and the version of its commit."""
        seen = self._state.seen[partition]
        committed, version = self._committed(partition)
        if committed == seen.content or (committed is None and not seen.objects):
            return True, version
        if not seen.objects:
            try:
                check_that_all_was_deleted(self._dataset, partition)
            except ConfigurationError as error:  # its run would say so, again and again
                self._found.kept.append(str(error))
                return True, version
            except CorruptionError:
                pass  # its run says so
        return False, version

    def _settle(self, partition: str, seen: Seen) -> None:
        seen.settled = seen.content
        if not seen.objects:
            del self._state.seen[partition]

    def _waits_for(self, seen: Seen) -> str | None:
        marker = self._dataset.spec.source.marker
        if marker and seen.objects:
            if seen.marked is None:
                return f"for {marker}"
            if seen.marked >= seen.newest:  # it was written last
                return None
        if self._now - max(seen.newest, seen.since) < self._spec.quiet_seconds:
            return "to be quiet"
        return None

    def _wait(self, partition: str, why: str) -> None:
        self._found.pending += 1
        if len(self._found.waits) < NAMED:
            self._found.waits.append(f"{partition} {why}")

    def _committed(self, partition: str) -> tuple[str | None, str | None]:
        """The content of which the partition was last made, and the version of that commit."""
        folder = self._dataset.folder(RAW, partition)
        try:
            commit, version = read_commit(self._dataset.storage, Layout.at(folder))
        except CorruptionError:
            return "", "damaged"  # its run says so; the other partitions have nothing to do with it
        if commit is None:
            return None, version
        return str(commit.shards[0].summary.get("content", "")) if commit.shards else NOTHING, version

    def _keep(self) -> str:
        before, state, dataset = self._before, self._state, self._dataset
        if before is not None and state.to_bytes() == self._bytes:
            return str(Cursor(before.state, self._reconciled))
        name = save_state(dataset.storage, dataset.home, state, self._number, before)
        return str(Cursor(name, self._reconciled))


def _remembered(dataset: Dataset, cursor: str | None) -> tuple[Cursor | None, State, str | None]:
    """The cursor, its state, and why there is none if there should be one."""
    spec = dataset.spec
    declared = fingerprint(source=spec.source.model_dump(mode="json"), partitions=_plain(spec.partitions))
    if not cursor:
        return None, State(declared), "the first look"
    try:
        parsed = Cursor.parse(cursor)
        state = load_state(dataset.storage, dataset.home, parsed)
    except CorruptionError as error:
        return None, State(declared), str(error)
    if state.declared != declared:
        return None, State(declared), "the dataset's source or partitions are declared anew"
    return parsed, state, None


def _plain(partitions: PartitionsSpec) -> Any:
    return partitions if isinstance(partitions, list) else partitions.model_dump(mode="json")
