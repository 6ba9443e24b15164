"""The partitions that a watcher has seen, in parts: a look reads those it comes by, and writes those that changed."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any, TypeVar

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import CorruptionError

FORMAT = 3
PART = 500
"""Partitions in a part, at most: a look reads and writes a few times so many, however many there are."""

T = TypeVar("T")


class LostStateError(CorruptionError):
    """What a watcher remembered is gone, damaged or of another declaration."""


@dataclass(frozen=True)
class Seen:
    """A partition as it was last listed."""

    content: str
    objects: int
    bytes: int
    newest: float
    """The latest modification, in seconds since the epoch."""
    since: float
    """When it was first seen to be another than before; 0 for one that was there when the watcher began."""
    marked: float | None
    """When its marker was written; None where there is none."""
    look: int
    """Number of the look that first saw this content: one more than that of the state before."""
    settled: str = ""
    """The content that is committed or asked for. Nothing is to be done while it is what was listed."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be done."""
        return self.settled == self.content


@dataclass
class _Content:
    """Of one part."""

    seen: dict[str, Seen] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    """Those that the listing of everything, which is under way, has come by."""

    def copy(self) -> _Content:
        return _Content(dict(self.seen), set(self.listed))

    def to_bytes(self) -> bytes:
        seen = {key: list(vars(item).values()) for key, item in self.seen.items()}
        return packed({"seen": seen, "listed": sorted(self.listed)})

    @classmethod
    def from_bytes(cls, data: bytes) -> _Content:
        return unpacked(
            data, lambda plain: cls({key: Seen(*fields) for key, fields in plain["seen"].items()}, set(plain["listed"]))
        )


@dataclass
class Part:
    """Partitions whose keys follow each other."""

    first: str = ""
    """Its lowest key."""
    name: str = ""
    """Of its file."""
    partitions: int = 0
    full: int = 0
    """Of them with objects."""
    unsettled: int = 0
    """Of them not settled."""
    content: _Content | None = field(default=None, compare=False)
    """None while it is not read."""
    stored: _Content | None = field(default=None, compare=False)
    """As it was read."""

    @classmethod
    def of(cls, content: _Content) -> Part:
        """A part that is not stored yet."""
        return cls(min(content.seen, default=""), content=content).counted()

    def counted(self) -> Part:
        """With the numbers of its partitions as they are now."""
        if self.content is not None:
            seen = self.content.seen.values()
            self.partitions = len(seen)
            self.full = sum(item.objects > 0 for item in seen)
            self.unsettled = sum(not item.is_settled for item in seen)
        return self

    @property
    def row(self) -> tuple[str, str, int, int, int]:
        """All but its content."""
        return self.first, self.name, self.partitions, self.full, self.unsettled

    @property
    def has_changed(self) -> bool:
        """Whether it is another than the stored one."""
        return self.content != self.stored


class SeenPartitions(MutableMapping[str, Seen]):
    """Key → partition. A part is read when one of its partitions is asked for.

    Raises:
        LostStateError: By all methods: a part is not there or not whole.
    """

    def __init__(self, parts: Iterable[Part] = (), read: Callable[[str], bytes] = str.encode) -> None:
        self._parts = list(parts) or [Part(content=_Content(), stored=_Content())]
        self._firsts = [part.first for part in self._parts]
        self._read = read
        self._now = math.inf

    def forget_the_future(self, now: float) -> None:
        """Take moments that are still to come for `now`."""
        self._now = now
        for part in self._parts:
            if part.content:
                self._be_past(part.content)

    def __getitem__(self, key: str) -> Seen:
        return self._content(key).seen[key]

    def __setitem__(self, key: str, seen: Seen) -> None:
        self._content(key).seen[key] = seen

    def __delitem__(self, key: str) -> None:
        content = self._content(key)
        del content.seen[key]
        content.listed.discard(key)

    def __iter__(self) -> Iterator[str]:
        return (key for part in self._all() for key in list(part.seen))

    def __len__(self) -> int:
        return sum(part.counted().partitions for part in self._parts)

    @property
    def full(self) -> int:
        """How many hold objects."""
        return sum(part.counted().full for part in self._parts)

    @property
    def unsettled(self) -> int:
        """How many are not settled."""
        return sum(part.counted().unsettled for part in self._parts)

    def unsettled_keys(self) -> Iterator[str]:
        """Those that are not settled, in the order of their keys."""
        for part in self._parts:
            if part.counted().unsettled:
                seen = self._of(part).seen
                yield from [key for key, item in sorted(seen.items()) if not item.is_settled]

    def come_by(self, key: str) -> None:
        """Note that the listing of everything has come by a partition that was seen."""
        self._content(key).listed.add(key)

    def end_listing(self) -> set[str]:
        """Forget what the listing of everything has come by. Returns the partitions that it has not."""
        missed = set()
        for content in self._all():
            missed |= content.seen.keys() - content.listed
            content.listed.clear()
        return missed

    @property
    def has_changed(self) -> bool:
        """Whether there is anything to store."""
        return any(part.has_changed for part in self._parts)

    @property
    def parts(self) -> list[Part]:
        """Those that are stored."""
        return [part for part in self._parts if part.name]

    def cut(self) -> list[tuple[Part, bytes]]:
        """Cut what has changed into parts anew, and small parts beside it. Returns what is to be stored."""
        changed = [False, *(part.has_changed for part in self._parts), False]

        def is_cut(numbered: tuple[int, Part]) -> bool:
            number, part = numbered
            return changed[number] or (part.partitions < PART // 4 and (changed[number - 1] or changed[number + 1]))

        parts: list[Part] = []
        for anew, group in groupby(enumerate(self._parts, start=1), key=is_cut):
            if anew:
                parts += _cut(self._of(part) for _, part in group)
            else:
                parts += [part for _, part in group if part.name]
        self._parts = parts or [Part(content=_Content(), stored=_Content())]
        self._firsts = [part.first for part in self._parts]
        return [(part, part.content.to_bytes()) for part in parts if part.content and not part.name]

    def _all(self) -> Iterator[_Content]:
        missing = [part for part in self._parts if part.content is None]
        read = bounded_map(lambda part: self._read(part.name), missing, REQUESTS_AT_ONCE)
        for part, data in zip(missing, read, strict=True):
            self._take(part, data)
        return (self._of(part) for part in self._parts)

    def _content(self, key: str) -> _Content:
        """Of the part in which a partition is, or would be."""
        return self._of(self._parts[max(0, bisect_right(self._firsts, key) - 1)])

    def _of(self, part: Part) -> _Content:
        return part.content or self._take(part, self._read(part.name))

    def _take(self, part: Part, data: bytes) -> _Content:
        part.stored = _Content.from_bytes(data)
        part.content = part.stored.copy()
        self._be_past(part.content)
        return part.content

    def _be_past(self, content: _Content) -> None:
        for key, seen in content.seen.items():
            if max(seen.newest, seen.since) > self._now:
                content.seen[key] = replace(seen, newest=min(seen.newest, self._now), since=min(seen.since, self._now))


def _cut(contents: Iterable[_Content]) -> Iterator[Part]:
    """Parts of equal sizes, none of them too large."""
    whole = _Content()
    for content in contents:
        whole.seen |= content.seen
        whole.listed |= content.listed
    keys = sorted(whole.seen)
    pieces = math.ceil(len(keys) / PART)
    bounds = [len(keys) * number // pieces for number in range(pieces + 1)] if pieces else []
    for start, end in pairwise(bounds):
        seen = {key: whole.seen[key] for key in keys[start:end]}
        yield Part.of(_Content(seen, whole.listed & seen.keys()))


def packed(plain: Mapping[str, Any]) -> bytes:
    """Compressed JSON."""
    return gzip.compress(json.dumps({"format": FORMAT, **plain}, separators=(",", ":")).encode(), 1, mtime=0)


def unpacked(data: bytes, made: Callable[[dict[str, Any]], T]) -> T:
    """What `made` makes of the JSON.

    Raises:
        LostStateError: The bytes are anything else.
    """
    try:
        plain: dict[str, Any] = json.loads(gzip.decompress(data))
        if plain.pop("format") != FORMAT:
            raise LostStateError("the sensor's state is of another version")
        return made(plain)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, zlib.error) as error:
        raise LostStateError(f"the sensor's state cannot be read: {type(error).__name__}") from error
