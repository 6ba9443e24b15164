"""Shards of commits, read as they were when reading began."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import CorruptionError, SupersededError
from shardmill.loading.indexes import Indexes
from shardmill.samples import EncodedSample
from shardmill.shards.places import Place, Places
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage

Read: TypeAlias = "tuple[int, EncodedSample | CorruptionError]"
"""A sample and its number in the shard; in the place of one that is damaged its error."""

_TRIES = 20
"""Commits that are followed before reading has begun, or to find samples in."""
_TOGETHER = 64
"""Samples that are looked for together in later commits."""


@dataclass(frozen=True)
class CommittedShard:
    """A shard of a commit, read as it was when reading began.

    Where its file is gone, which is so without `keep_superseded` once another commit has superseded it, samples that a
    later commit has with the same bytes are read from there.
    """

    storage: Storage
    shard: StoredShard
    indexes: Indexes
    components: Sequence[str] | None = None

    @property
    def url(self) -> str:
        """Of the tar."""
        return self.shard.layout.data(self.shard.file_name)

    @property
    def samples(self) -> int:
        """How many there are, before any filter."""
        return self.shard.samples

    @property
    def size(self) -> int:
        """Bytes of the tar."""
        return self.shard.size

    def places(self) -> Places:
        """Where its samples stand.

        Raises:
            CorruptionError: The index is not what was committed.
            SupersededError: It is gone.
        """
        name = self.shard.entry.index_sha256
        return self.indexes.places(name, lambda: self.shard.places(self.shard.index_data(self.storage)))

    def read(self, numbers: Sequence[range]) -> Iterator[Read]:
        """As `Shard.read`.

        Raises:
            CorruptionError: The index is damaged.
            SupersededError: What was there when reading began is gone, and stands nowhere else.
            StorageError: A store cannot give it.
        """
        places, done = self.places(), -1
        try:
            for place, sample in self.shard.read_some(self.storage, places.at(numbers, self.components)):
                yield place.number, sample
                done = place.number
        except SupersededError:
            left = (range(max(some.start, done + 1), some.stop) for some in numbers if some.stop > done + 1)
            yield from self._from_later(places.at(left, self.components))

    def _from_later(self, places: Iterator[Place]) -> Iterator[Read]:
        """The samples from the commit that stands now, or then."""
        later, tries = _Later(open_shards(self.shard.layout.folder, self.storage), self.url), 0
        while some := list(islice(places, _TOGETHER)):
            found = None
            while found is None:
                try:
                    found = later.read(some)
                except _GoneError:
                    raise
                except SupersededError:
                    tries += 1
                    if tries > _TRIES:
                        raise
                    later = _Later(later.shards.newest(), self.url)
            for place in some:
                yield place.number, found[place.number]


class _GoneError(SupersededError):
    """Samples are in no later commit."""


@dataclass(frozen=True)
class _Later:
    """A commit that superseded the one that is read."""

    shards: ShardSet
    url: str
    """Of the tar that is gone."""
    _known: dict[str, tuple[Places, Mapping[str, int]]] = field(default_factory=dict)
    """Shard → where its samples stand, and the number of each key."""

    def read(self, wanted: Sequence[Place]) -> Mapping[int, EncodedSample | CorruptionError]:
        """Samples by their numbers in the tar that is gone."""
        shards = {shard.id: shard for shard in self.shards.shards}
        by_shard: dict[str, list[Place]] = {}
        for place in wanted:
            by_shard.setdefault(self._shard_of(place), []).append(place)
        return {
            number: sample for shard, some in by_shard.items() for number, sample in self._read(shards[shard], some)
        }

    def _read(self, shard: StoredShard, wanted: Sequence[Place]) -> Iterator[Read]:
        places, numbers = self._places(shard)
        sought = {}
        for each in wanted:
            number = numbers.get(each.key)
            if number is None:
                raise self._gone(each)
            [place] = places.at([range(number, number + 1)], each.content)
            if place.content != each.content:
                raise self._gone(each)
            sought[number] = each, place
        found = [place for _, (_, place) in sorted(sought.items())]
        for place, sample in shard.read_some(self.shards.storage, found):
            yield sought[place.number][0].number, sample

    def _places(self, shard: StoredShard) -> tuple[Places, Mapping[str, int]]:
        if shard.id not in self._known:
            places = shard.places(shard.index_data(self.shards.storage))
            self._known[shard.id] = places, {key: number for number, key in enumerate(places.keys.to_pylist())}
        return self._known[shard.id]

    def _shard_of(self, place: Place) -> str:
        position = self.shards.commit.position(place.origin)
        before = [shard for shard in self.shards.shards if shard.start <= position]
        if not before:
            raise self._gone(place)
        return max(before, key=lambda shard: shard.start).id

    def _gone(self, place: Place) -> SupersededError:
        return _GoneError(
            f"{place.key} of {self.url} is gone: another run has committed {self.shards.layout.name} since it was "
            "opened, without the sample as it was. `keep_superseded` in the dataset file keeps such files for a time; "
            "or open it again"
        )


def pinned(shards: ShardSet, indexes: Indexes) -> ShardSet:
    """The set, or the one that stands by now, once its indexes are kept.

    Raises:
        SupersededError: It is committed faster than it can be read; or this very state was asked for, and is gone.
    """

    def keep(shard: StoredShard) -> None:
        indexes.keep(shard.entry.index_sha256, shard.places(shard.index_data(shards.storage)))

    for _ in range(_TRIES):
        try:
            deque(bounded_map(keep, shards.shards, REQUESTS_AT_ONCE), 0)
            return shards
        except SupersededError:
            if shards.pinned:
                raise
            shards = shards.newest()
    raise SupersededError(f"{shards.layout.name} is committed faster than it can be read")
