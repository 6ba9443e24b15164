"""Where the samples of a tar stand, by their number in it: what it takes to read some and not the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardmill.concurrency import bounded_map
from shardmill.samples import EncodedSample
from shardmill.tables import true_rows

if TYPE_CHECKING:
    import pyarrow as pa

READ_BYTES = 4 << 20
"""Of one request, unless a sample is larger."""
_GAP = 1 << 20
"""Bytes that are read for nothing sooner than that there is another request."""
_READS_AT_ONCE = 4
COLUMNS = ("key", "component", "offset", "size", "sha256", "origin")
"""Of an index, those that say where samples stand."""


class Member(NamedTuple):
    """A component in a tar."""

    component: str
    offset: int
    size: int
    """Bytes."""
    sha256: str


class Place(NamedTuple):
    """A sample in a tar."""

    number: int
    key: str
    origin: str
    """Key of the packed sample that it descends from."""
    members: Sequence[Member]

    @property
    def start(self) -> int:
        """Offset of its first byte."""
        return min(member.offset for member in self.members)

    @property
    def stop(self) -> int:
        """Offset behind its last byte."""
        return max(member.offset + member.size for member in self.members)

    @property
    def content(self) -> dict[str, str]:
        """Component → SHA-256."""
        return {member.component: member.sha256 for member in self.members}

    def sample(self, data: memoryview, start: int) -> EncodedSample:
        """The sample in these bytes of the tar, which begin at offset `start`; nothing is compared."""
        spans = ((each.component, each.offset - start, each.size) for each in self.members)
        components = {name: bytes(data[first : first + size]) for name, first, size in spans}
        return EncodedSample(self.key, components, is_checked=all(member.sha256 for member in self.members))


class Places:
    """The samples of a shard, of an index with `COLUMNS`."""

    def __init__(self, index: pa.Table) -> None:
        """`index` has a row a component, those of a sample one after the other."""
        self.index = index.combine_chunks()
        """What it was made of."""
        import pyarrow.compute as pc

        keys, rows = self.index["key"], self.index.num_rows
        self._first = np.zeros(1, np.int64)
        if rows:
            changes = true_rows(pc.not_equal(keys.slice(1), keys.slice(0, rows - 1)))
            # Arrow's own way to numpy imports pandas, which takes a worker longer than all that it reads.
            self._first = np.concatenate([[0], np.from_dlpack(changes).astype(np.int64) + 1, [rows]])

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def keys(self) -> pa.StringArray:
        """Of the samples, in order."""
        return self._of_samples("key")

    @property
    def origins(self) -> pa.StringArray:
        """Of the samples, in order: the keys of the packed samples that they descend from."""
        return self._of_samples("origin")

    def _of_samples(self, column: str) -> pa.StringArray:
        import pyarrow as pa

        taken = self.index[column].take(pa.array(self._first[:-1].tolist(), pa.int64()))
        return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken

    def at(self, numbers: Iterable[range], components: Collection[str] | None = None) -> Iterator[Place]:
        """The samples with these numbers, which ascend, with all components or these."""
        for some in numbers:
            low, high = int(self._first[some.start]), int(self._first[some.stop])
            part = self.index.slice(low, high - low)
            keys, names, *rest, origins = (part[name].to_pylist() for name in COLUMNS)
            members = [Member(*each) for each in zip(names, *rest, strict=True)]
            for number in some:
                first, stop = (int(self._first[each]) - low for each in (number, number + 1))
                chosen = [each for each in members[first:stop] if components is None or each.component in components]
                yield Place(number, keys[first], origins[first], chosen)


def read_places(
    read_range: Callable[[int, int], bytes], uri: str, places: Iterable[Place]
) -> Iterator[tuple[Place, EncodedSample]]:
    """Some samples of a tar, in the order of their places, streaming, by few ranged reads; nothing is compared.

    Args:
        read_range: Gives as many bytes as its second argument says from the offset that its first is.
        uri: Of the tar. From a bucket the next reads are made ahead.
        places: Of the samples.
    """

    def read(group: list[Place]) -> list[tuple[Place, EncodedSample]]:
        there = [place for place in group if place.members]
        start = min((place.start for place in there), default=0)
        length = max((place.stop for place in there), default=0) - start
        data = memoryview(read_range(start, length) if length else b"")
        return [(place, place.sample(data, start)) for place in group]

    groups = _together(places)
    for samples in map(read, groups) if uri.startswith("file://") else bounded_map(read, groups, _READS_AT_ONCE):
        yield from samples


def _together(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Samples that one request reads: near each other, and no more than `READ_BYTES`."""
    group: list[Place] = []
    start = stop = 0
    for place in places:
        if not place.members:  # nothing of it is read
            group.append(place)
            continue
        if group and (place.start > stop + _GAP or place.stop - start > READ_BYTES) and stop:
            yield group
            group, stop = [], 0
        if not stop:
            start = place.start
        group.append(place)
        stop = max(stop, place.stop)
    if group:
        yield group
