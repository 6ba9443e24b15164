"""One look at a source: what is due to be run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from shardmill.dataset import RAW, Dataset
from shardmill.dataset.source import unmounted
from shardmill.dataset.upkeep import SensorSpec
from shardmill.errors import StorageError
from shardmill.partitions import BatchPartitions, NothingThereError, TimePartitioning
from shardmill.shards.fingerprint import fingerprint
from shardmill.sources import content_digest
from shardmill.watch.batching import Batching
from shardmill.watch.deciding import Decisions, committed
from shardmill.watch.found import Found
from shardmill.watch.notifications import Notifications
from shardmill.watch.seen import LostStateError, Seen
from shardmill.watch.state import NOTHING, Cursor, State, Tally, Walk, load_state, next_number, save_state
from shardmill.watch.walks import Budget, Lister

SECONDS = 30.0
"""Of listing, in one look: Dagster gives a sensor 60 s, and what is found has to be compared and kept as well."""
OBJECTS = 1_000_000
_HOT_SHARE = 0.7
"""Of the budget, for partitions that are listed first, while a listing of everything is under way."""


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
    budget, moment, declared = budget or Budget(SECONDS, OBJECTS), now(), _declared(dataset)
    why = "the first look"
    if cursor:
        try:
            before, state = _remembered(dataset, cursor, declared)
            return _Watcher(dataset, before, state, moment, notifications).watch(running, most, budget)
        except LostStateError as error:  # maybe of a part, in the midst of it
            why = str(error)
    return _Watcher(dataset, None, State(declared), moment, notifications, why).watch(running, most, budget)


class _Watcher:
    def __init__(
        self,
        dataset: Dataset,
        before: Cursor | None,
        state: State,
        now: float,
        notifications: Notifications | None,
        why: str | None = None,
    ) -> None:
        """`why`: everything is to be compared with what is committed."""
        self._dataset = dataset
        self._now = now
        self._notifications = notifications
        self._spec = dataset.spec.sensor or SensorSpec()
        self._before, self._state = before, state
        self._found = Found("", reconciled=why)
        self._reconciled = self._before.reconciled if self._before else 0.0
        self._number = self._before.number + 1 if self._before else next_number(dataset.storage, dataset.home)
        self._bytes = self._state.to_bytes()
        self._state.forget_the_future(now)
        self._full: dict[str, None] = {}
        """Partitions in which objects were listed."""
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
        decisions = Decisions(self._dataset, state.seen, found, running, most, self._now)
        first = budget.share(_HOT_SHARE) if state.walk else budget
        for tally in self._hot(first):
            self._observe(tally)  # it may have appeared behind the listing of everything
            decisions.consider(tally.key)
        budget.scanned = max(budget.scanned, first.scanned)
        if state.walk and not budget.spent:
            for tally in self._everything(state.walk, budget):
                self._observe(tally)
                self._reconcile(tally.key, decisions)
                if not decisions.consider(tally.key):
                    budget.stop()
            if state.walk.ended:
                self._end(decisions)
        if self._batching:
            for tally in self._batching.seal(state.walk.after if state.walk else None):
                self._observe(tally)
        for key in state.seen.unsettled_keys():
            if not decisions.consider(key):
                break
        decisions.compare()
        found.pending = state.seen.unsettled
        found.known = state.seen.full
        found.partitions = list(self._full)
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
        if not self._state.seen.full or not self._dataset.partitioning.seems_unmounted:
            return
        full = (key for key, seen in self._state.seen.items() if seen.objects)
        if any(committed(self._dataset, key)[0] not in (None, NOTHING) for key in full):
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
            self._state.walk = Walk()
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
        seen = self._state.seen
        content = content_digest(tally.content)
        earlier = seen.get(tally.key)
        if earlier is None and not tally.objects and not gone:
            return
        if earlier is None or earlier.content != content:
            seen[tally.key] = self._new(tally, content, earlier, gone)
        elif earlier.marked != tally.marked:
            seen[tally.key] = replace(earlier, marked=tally.marked)
        if tally.objects:
            self._full[tally.key] = None
            if self._state.walk:
                seen.come_by(tally.key)

    def _new(self, tally: Tally, content: str, earlier: Seen | None, gone: bool) -> Seen:
        if earlier is None:
            self._found.new += bool(tally.objects)
        else:
            self._found.changed += bool(tally.objects)
            self._found.deleted += not tally.objects
        # What comes for the first time may be half of what is coming, and its dates may be older than its coming.
        came_long_ago = earlier is None and not gone and (not self._reconciled or self._batching)
        since = 0.0 if came_long_ago else self._now
        newest = min(tally.newest, self._now)  # a date that is still to come is a mistake
        settled = earlier.settled if earlier else ""
        return Seen(content, tally.objects, tally.bytes, newest, since, tally.marked, self._number, settled)

    def _reconcile(self, key: str, decisions: Decisions) -> None:
        if self._state.reconciling:
            # What was asked for since the last time, and was not made, is asked for once more: in other words.
            decisions.reconcile(key, self._number if self._reconciled else None)

    def _end(self, decisions: Decisions) -> None:
        """Everything was listed: what was not come by is gone."""
        state = self._state
        gone = state.seen.end_listing()
        if state.reconciling:
            gone |= set(self._dataset.stored_partitions(RAW)) - state.seen.keys()
        if self._batching:
            gone &= set(self._batching.listed)
        state.walk = None
        for key in sorted(gone):
            self._observe(Tally(key), gone=True)
            self._reconcile(key, decisions)
        if state.reconciling:
            state.reconciling, self._reconciled = False, self._now

    def _keep(self) -> str:
        before, state, dataset = self._before, self._state, self._dataset
        if before is not None and not state.seen.has_changed and state.to_bytes() == self._bytes:
            return str(Cursor(before.state, self._reconciled))
        name = save_state(dataset.storage, dataset.home, state, self._number, before)
        return str(Cursor(name, self._reconciled))


def _remembered(dataset: Dataset, cursor: str, declared: str) -> tuple[Cursor, State]:
    """The cursor, and its state.

    Raises:
        LostStateError: There is none for the dataset as it is declared.
    """
    parsed = Cursor.parse(cursor)
    state = load_state(dataset.storage, dataset.home, parsed)
    if state.declared != declared:
        raise LostStateError("the dataset's source or partitions are declared anew")
    return parsed, state


def _declared(dataset: Dataset) -> str:
    spec = dataset.spec
    partitions = spec.partitions if isinstance(spec.partitions, list) else spec.partitions.model_dump(mode="json")
    return fingerprint(source=spec.source.model_dump(mode="json"), partitions=partitions)
