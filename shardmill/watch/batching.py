"""Batches as a watcher sees them: which sealed objects changed, and which new ones are to be sealed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset
from shardmill.left_out import is_utf8
from shardmill.partitions import Batch, BatchPartitions, read_batch, seal_batch, sealed_batches
from shardmill.partitions.batches import batch_key, batch_number
from shardmill.sources import SampleNames, content_of
from shardmill.storage import ObjectInfo
from shardmill.watch.known import known_objects
from shardmill.watch.state import State, Tally, Waiting, Walk
from shardmill.watch.walks import Budget, Outside

_PAGE = 1000


class Batching:
    """The objects of a dataset that is partitioned in batches."""

    def __init__(self, dataset: Dataset, state: State, now: float) -> None:
        spec = dataset.spec
        assert isinstance(spec.partitions, BatchPartitions)
        self._dataset = dataset
        self._spec = spec.partitions
        self._quiet = spec.sensor.quiet_seconds if spec.sensor else 0.0
        self._names = SampleNames(spec.source)
        self._base = dataset.partitioning.base
        self._state = state
        self._now = now
        self.keys = sealed_batches(dataset.storage, dataset.home)
        self._known = known_objects(dataset.storage, dataset.home, self.keys)
        self.outside = Outside(dataset.partitioning.excludes.litter)
        # A look that died may have sealed them.
        numbers = self._known.numbers(list(state.waiting))
        sealed = [uri for uri, number in zip(state.waiting, numbers, strict=True) if number]
        for uri in sealed:
            del state.waiting[uri]

    def missed(self) -> list[str]:
        """Batches that neither a look nor the listing of everything has seen: a look that died sealed them."""
        walk = self._state.walk
        if walk and walk.after is None:
            return []
        return [key for key in self.keys[self._state.batches :] if key not in self._state.seen]

    def partition(self, key: str, walk: Walk, budget: Budget) -> Tally | None:
        """Go on looking at the objects of a batch, as they are now. None if the budget was spent first."""
        storage = self._dataset.storage
        tally = walk.tally = walk.tally or Tally(key)
        uris = [uri for uri in read_batch(storage, self._dataset.home, key).uris if uri > (walk.after or "")]
        for start in range(0, len(uris), _PAGE):
            if start and budget.spent:
                return None
            page = uris[start : start + _PAGE]
            for info in Batch(key, page).objects(storage):
                if self._takes(info.uri):
                    _count(tally, info)
            walk.after = page[-1]
            budget.scanned += len(page)
        return tally

    def everything(self, walk: Walk, budget: Budget) -> Iterator[Tally]:
        """Go on with the listing of the whole source. At its end come the tallies of all batches.

        New objects are taken in: those of full batches are sealed on the way.
        """
        state = self._state
        if walk.after is None:
            state.tallies, state.batches = {}, len(self.keys)
            state.round += 1
        passed_over = self._names.passed_over(self._base)
        listing = self._dataset.storage.list(self._base, walk.after, passed_over=passed_over)
        most = min(_PAGE, self._spec.max_objects)
        while page := list(islice(listing, max(1, min(most, budget.objects - budget.scanned)))):
            self._take(page, walk.after)
            walk.after = page[-1].uri
            budget.scanned += len(page)
            if len(state.waiting) >= self._spec.max_objects:
                yield from self.seal(walk.after)
            if budget.spent:
                return
        state.waiting = {uri: item for uri, item in state.waiting.items() if item.round == state.round}
        for key in self.listed:
            yield state.tallies.get(key) or Tally(key)
        state.tallies = {}
        walk.ended = True

    @property
    def listed(self) -> list[str]:
        """The batches that the listing of everything looks at: those that there were when it began."""
        return self.keys[: self._state.batches]

    def look_at(self, uris: Sequence[str]) -> list[str]:
        """Take in objects that are said to have changed. Returns the batches in which they are."""
        below = [uri for uri in uris if uri.startswith(f"{self._base}/")]
        numbers = self._known.numbers(below)
        fresh = [uri for uri, number in zip(below, numbers, strict=True) if not number and self._takes(uri)]
        infos = bounded_map(self._dataset.storage.stat, fresh, REQUESTS_AT_ONCE)
        for uri, info in zip(fresh, infos, strict=True):
            if info is not None:
                self._wait(info)
            else:
                self._state.waiting.pop(uri, None)
        return sorted({batch_key(number) for number in numbers if number})

    def seal(self, after: str | None = None) -> Iterator[Tally]:
        """Seal what is full or has waited for long enough: the tally of each new batch.

        The components of a sample go into one batch: more may come of that at which a listing has stopped, `after`.
        """
        waiting = self._state.waiting
        growing = self._sample(after) if after else None
        while True:
            samples = self._quiet_samples(growing)
            objects = sum(map(len, samples))
            oldest = min((waiting[uri].seen for uris in samples for uri in uris), default=self._now)
            is_due = objects >= self._spec.max_objects or self._now - oldest >= self._spec.max_age_minutes * 60
            if not samples or not is_due:
                return
            chosen: list[str] = []
            for uris in samples:
                chosen += uris
                if len(chosen) >= self._spec.max_objects:
                    break
            yield self._seal(chosen)

    def _quiet_samples(self, growing: str | None) -> list[list[str]]:
        """The URIs of each sample of which nothing has changed for long enough, in the order of the names."""
        samples: dict[str, list[str]] = {}
        for uri in sorted(self._state.waiting):
            samples.setdefault(self._sample(uri), []).append(uri)
        modified = {uri: item.modified for uri, item in self._state.waiting.items()}
        return [
            uris
            for sample, uris in samples.items()
            if sample != growing and self._now - max(modified[uri] for uri in uris) >= self._quiet
        ]

    def _seal(self, uris: Sequence[str]) -> Tally:
        objects = [
            ObjectInfo(uri, item.size, item.version, item.modified)
            for uri in uris
            for item in (self._state.waiting.pop(uri),)
        ]
        number = batch_number(self.keys[-1]) + 1 if self.keys else 1
        batch = seal_batch(self._dataset.storage, self._dataset.home, number, objects)
        self.keys.append(batch.key)
        self._known.add(batch.key, batch.uris)
        tally = Tally(batch.key)
        for info in objects:
            _count(tally, info)
        return tally

    def _sample(self, uri: str) -> str:
        """The key of the sample to which an object belongs."""
        split = self._names.split(uri[len(self._base) + 1 :])
        return split[0] if split else uri

    def _take(self, page: Sequence[ObjectInfo], after: str | None) -> None:
        """Take the objects in that the listing has come to; `after`: the one before them."""
        tallies, waiting = self._state.tallies, self._state.waiting
        new = after is not None and not self._known.numbers([after])[0]
        last, room = (self._sample(after), after in waiting) if after and new else (None, True)
        for info, number in zip(page, self._known.numbers([info.uri for info in page]), strict=True):
            if not self._takes(info.uri):
                self.outside.take(info.uri[len(self._base) + 1 :])
            elif number:
                key = batch_key(number)
                _count(tallies.setdefault(key, Tally(key)), info)
            else:
                sample = self._sample(info.uri)
                if sample != last:
                    last, room = sample, len(waiting) < 2 * self._spec.max_objects
                if room or info.uri in waiting:
                    self._wait(info)
                # Else those at hand are still being written, and the next listing finds the whole sample again.

    def _takes(self, uri: str) -> bool:
        """Whether the object belongs to a sample. No manifest could hold a name that is no UTF-8."""
        return is_utf8(uri) and self._names.takes(uri[len(self._base) + 1 :])

    def _wait(self, info: ObjectInfo) -> None:
        earlier = self._state.waiting.get(info.uri)
        modified = min(info.modified, self._now)  # a date that is still to come is a mistake
        if earlier and earlier.version == info.version:
            modified = earlier.modified
        self._state.waiting[info.uri] = Waiting(
            info.size, info.version, modified, earlier.seen if earlier else self._now, self._state.round
        )


def _count(tally: Tally, info: ObjectInfo) -> None:
    tally.content += content_of(info.uri, info.version)
    tally.objects += 1
    tally.bytes += info.size
    tally.newest = max(tally.newest, info.modified)
