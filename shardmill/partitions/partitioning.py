"""Where the objects of each partition are, and to which partition an object belongs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from typing_extensions import override

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConfigurationError, StorageError
from shardmill.partitions.keys import decode_segment, encode_segment, is_key, is_shortened
from shardmill.partitions.spec import BatchPartitions, PartitionsSpec, PrefixPartitions, TimePartitions
from shardmill.sources.excludes import Excludes
from shardmill.spec import did_you_mean
from shardmill.storage import Storage, absolute_uri, join_uri, relative_to

PLACEHOLDER = "{partition}"
_NAMED = 20
"""Keys that an error names."""
_DIGITS = {"Y": "[0-9]{4}", "m": "[0-9]{2}", "d": "[0-9]{2}", "H": "[0-9]{2}"}
_NEEDED = {"hour": "YmdH", "day": "Ymd", "month": "Ym"}


class NothingThereError(ConfigurationError):
    """The source holds no object of a partition, and without one its folder has no name: its key is a shortened one."""


class Partitioning(ABC):
    """A source's template, read both ways. In a listing by name the objects of a partition stand together."""

    base: str
    """URI of the folder below which every partition is."""

    excludes: Excludes
    """What is left out of every partition, by the names below its folder, and so makes none."""

    @property
    def seems_unmounted(self) -> bool:
        """Whether the source is a local folder that is gone or empty. A bucket that is gone says so itself."""
        folder = Path(self.base.removeprefix("file://"))
        return self.base.startswith("file://") and not (folder.is_dir() and any(folder.iterdir()))

    @abstractmethod
    def match(self, name: str) -> tuple[str, int] | None:
        """The partition of the object with this name below `base`, and where its name in the partition begins.

        None if it belongs to none.
        """

    @abstractmethod
    def check(self, key: str) -> None:
        """Refuse a key that no partition can have.

        Raises:
            ConfigurationError: No partition can have this key.
        """

    @abstractmethod
    def folder(self, key: str, storage: Storage) -> str:
        """URI of the folder of a partition's objects, or of its table.

        Raises:
            ConfigurationError: No partition can have this key.
        """

    @abstractmethod
    def keys(self, storage: Storage) -> list[str]:
        """The partitions, in order: those that are declared, or else those that the source holds objects of now."""

    def beside(self, storage: Storage, own: Sequence[str]) -> Iterator[str]:
        """URIs of the objects below `base` that are in no partition, in no promised order.

        Leaps over the partitions, and over what is below the folders `own`. Litter is not among them.
        """
        litter, start = self.excludes.litter, len(join_uri(self.base, ""))

        def folder_of(uri: str) -> str | None:
            found = self.match(uri[start:])
            if found is not None:
                return uri[: start + found[1]].rstrip("/")
            return next((folder for folder in own if uri.startswith(join_uri(folder, ""))), None)

        for info in storage.list(self.base, first_of=folder_of, passed_over=self._pass_over):
            if folder_of(info.uri) is None and litter.rule(info.uri[start:]) is None:
                yield info.uri

    def _pass_over(self, uri: str, why: str | StorageError) -> None:
        """A folder of litter need not be listed."""
        if isinstance(why, StorageError) and self.excludes.litter.needs(relative_to(self.base, uri)):
            raise why

    def _is_empty(self, name: str, start: int) -> bool:
        """Whether an object whose name in its partition begins at `start` makes no partition."""
        return self.excludes.rule(name[start:]) is not None


class StaticPartitioning(Partitioning):
    """Declared keys."""

    def __init__(self, keys: Sequence[str], template: str, excludes: Excludes) -> None:
        self.excludes = excludes
        self._keys = list(keys)
        self._known = frozenset(keys)
        self._template = absolute_uri(template)
        self.base, self._pattern = _compiled(template)

    @override
    def match(self, name: str) -> tuple[str, int] | None:
        if PLACEHOLDER not in self._template:
            return self._keys[0], 0
        found = self._pattern.match(name)
        return (found["partition"], found.end()) if found and found["partition"] in self._known else None

    @override
    def check(self, key: str) -> None:
        if key not in self._known:
            more = f" and {len(self._keys) - _NAMED:,} others" if len(self._keys) > _NAMED else ""
            raise ConfigurationError(f"there is no partition {key!r}; there are {', '.join(self._keys[:_NAMED])}{more}")

    @override
    def folder(self, key: str, storage: Storage) -> str:
        self.check(key)
        return self._template.replace(PLACEHOLDER, key)

    @override
    def keys(self, storage: Storage) -> list[str]:
        return self._keys


class PrefixPartitioning(Partitioning):
    """A partition for each name in the placeholder's place."""

    def __init__(self, template: str, excludes: Excludes) -> None:
        self.excludes = excludes
        self._litter = excludes.litter
        self._template = absolute_uri(template)
        self.base, self._pattern = _compiled(template)

    @override
    def match(self, name: str) -> tuple[str, int] | None:
        found = self._match(name)
        return (encode_segment(found["partition"]), found.end()) if found else None

    def _match(self, name: str) -> re.Match[str] | None:
        """None for folders such as `__MACOSX/`, which are no partitions."""
        found = self._pattern.match(name)
        return found if found and self._litter.needs(found[0]) else None

    @override
    def check(self, key: str) -> None:
        if not is_key(key) or (key == encode_segment("") and _is_whole_name(self._template)):
            raise ConfigurationError(f"there is no partition {key!r}: no name below {self.base} has this key")

    @override
    def folder(self, key: str, storage: Storage) -> str:
        """Looks a shortened key up in the source.

        Raises:
            ConfigurationError: No partition can have this key.
            NothingThereError: The key is a shortened one, and the source holds no object of the partition.
        """
        self.check(key)
        if not is_shortened(key):
            return self._located(decode_segment(key))
        for name in self._names(storage, decode_segment(key)):
            if encode_segment(name) == key:
                return self._located(name)
        raise NothingThereError(f"there is no folder for the partition {key!r} below {self.base}")

    @override
    def keys(self, storage: Storage) -> list[str]:
        """At most one listing request a partition."""
        return sorted(encode_segment(name) for name in self._names(storage))

    def _located(self, name: str) -> str:
        return self._template.replace(PLACEHOLDER, name)

    def _names(self, storage: Storage, beginning: str = "") -> Iterator[str]:
        """Names in the placeholder's place, from the first with this beginning."""
        start = f"{self._template.partition(PLACEHOLDER)[0]}{beginning}"
        for info in storage.list(self.base, start, self._folder_of, self._pass_over):
            name = self._name_of(info.uri)
            if name is not None:
                yield name

    def _folder_of(self, uri: str) -> str | None:
        name = self._name_of(uri)
        return None if name is None else self._located(name)

    def _name_of(self, uri: str) -> str | None:
        """What stands in the placeholder's place in an object's URI; None if the object makes no partition."""
        name = relative_to(self.base, uri)
        found = self._match(name)
        return found["partition"] if found and not self._is_empty(name, found.end()) else None


class TimePartitioning(Partitioning):
    """A partition a window of time."""

    def __init__(self, spec: TimePartitions, template: str, excludes: Excludes) -> None:
        self.excludes = excludes
        self._spec = spec
        self._zone = ZoneInfo(spec.timezone)
        self._template = template
        self.base, self._pattern = _compiled(template, _DIRECTIVE)

    @override
    def match(self, name: str) -> tuple[str, int] | None:
        """None for what is before the start or in the future."""
        found = self._pattern.match(name)
        if not found:
            return None
        fields = found.groupdict()
        try:
            day = datetime(int(fields["Y"]), int(fields["m"]), int(fields.get("d") or 1), tzinfo=self._zone)
            window = day.replace(hour=int(fields.get("H") or 0))
        except ValueError:
            return None
        return (window.strftime(self._spec.key_format), found.end()) if self._exists(window) else None

    @override
    def check(self, key: str) -> None:
        self._parsed(key)

    @override
    def folder(self, key: str, storage: Storage) -> str:
        return absolute_uri(self._parsed(key).strftime(self._template))

    def _parsed(self, key: str) -> datetime:
        window: datetime | None
        try:
            window = datetime.strptime(key, self._spec.key_format).replace(tzinfo=self._zone)
        except ValueError:
            window = None
        if window is None or not self._exists(window) or window.strftime(self._spec.key_format) != key:
            first = self._start.strftime(self._spec.key_format)
            raise ConfigurationError(
                f"there is no partition {key!r}: they are a {self._spec.every} each, from {first} on"
            )
        return window

    @override
    def keys(self, storage: Storage) -> list[str]:
        """One listing request a window, many at once."""
        keys = self.between(self._start, datetime.now(UTC))
        held = bounded_map(lambda key: self._holds(key, storage), keys, REQUESTS_AT_ONCE)
        return [key for key, holds in zip(keys, held, strict=True) if holds]

    def recent(self, hours: float) -> list[str]:
        """Windows, oldest first, that were open at some time in the last `hours`."""
        now = datetime.now(UTC)
        return self.between(now - timedelta(hours=hours), now)

    def between(self, first: datetime, last: datetime) -> list[str]:
        """Windows, oldest first, from the one in which `first` lies to the one in which `last` does."""
        window = max(self._window(first.astimezone(self._zone)), self._start)
        keys = []
        while window <= last:
            keys.append(window.strftime(self._spec.key_format))
            window = self._next(window)
        return keys

    def _holds(self, key: str, storage: Storage) -> bool:
        folder = self.folder(key, storage)
        objects = storage.list(folder, passed_over=self._pass_over)
        return any(not self._is_empty(relative_to(folder, info.uri), 0) for info in objects)

    @property
    def _start(self) -> datetime:
        start = self._spec.start
        return datetime(start.year, start.month, start.day, tzinfo=self._zone)

    def _exists(self, window: datetime) -> bool:
        return self._start <= window <= datetime.now(UTC)

    def _window(self, moment: datetime) -> datetime:
        whole = moment.replace(minute=0, second=0, microsecond=0)
        if self._spec.every != "hour":
            whole = whole.replace(hour=0)
        return whole.replace(day=1) if self._spec.every == "month" else whole

    def _next(self, window: datetime) -> datetime:
        if self._spec.every == "hour":
            return (window.astimezone(UTC) + timedelta(hours=1)).astimezone(self._zone)
        days = 32 if self._spec.every == "month" else 1
        return self._window(window + timedelta(days=days))  # on the wall clock: a day may have 23 hours


def partitioning_of(spec: PartitionsSpec, template: str, excludes: Excludes | None = None) -> Partitioning:
    """How a source is partitioned whose uri is `template`, and which leaves out what `excludes` says.

    Raises:
        ValueError: The template does not fit.
    """
    for name in re.findall(r"\{(\w+)\}", template):
        if name != "partition" and did_you_mean(name, ["partition"]):
            raise ValueError(f"the source {template!r} has {{{name}}}; did you mean {PLACEHOLDER}?")
    excludes = excludes or Excludes()
    if isinstance(spec, TimePartitions):
        found = re.findall(r"%(.)", template.replace("%%", ""))
        needed = _NEEDED[spec.every]
        if sorted(found) != sorted(needed):
            wanted = " ".join(f"%{letter}" for letter in needed)
            raise ValueError(f"the source {template!r} needs each of {wanted} once: one folder a {spec.every}")
        return TimePartitioning(spec, template, excludes)
    if isinstance(spec, PrefixPartitions):
        if template.count(PLACEHOLDER) != 1:
            raise ValueError(f"the source {template!r} needs {PLACEHOLDER} once: each name in its place is a partition")
        return PrefixPartitioning(template, excludes)
    if isinstance(spec, BatchPartitions):
        if PLACEHOLDER in template:
            raise ValueError(f"the source {template!r} has {PLACEHOLDER}, but a batch holds objects from all folders")
        return StaticPartitioning(["all"], template, excludes)
    if template.count(PLACEHOLDER) > 1:
        raise ValueError(f"the source {template!r} has {PLACEHOLDER} more than once")
    if len(spec) > 1 and PLACEHOLDER not in template:
        raise ValueError(f"the source {template!r} lacks {PLACEHOLDER}: every partition would hold the same samples")
    return StaticPartitioning(spec, template, excludes)


_PLACE = re.compile(r"\{partition\}")
_DIRECTIVE = re.compile(r"%(.)")


def _compiled(template: str, field: re.Pattern[str] = _PLACE) -> tuple[str, re.Pattern[str]]:
    """The folder that holds all partitions, and how the name of an object below it begins."""
    whole = absolute_uri(template)
    first = field.search(whole)
    if first is None:
        return whole, re.compile("")
    base = whole[: first.start()].rpartition("/")[0]
    if not base.partition("://")[2] and not base.startswith("file:"):
        raise ValueError(f"the source {template!r} has a placeholder in the bucket's name: partitions share one bucket")
    rest = whole[len(base) + 1 :]
    pattern, position = "", 0
    for found in field.finditer(rest):
        pattern += re.escape(rest[position : found.start()]) + _part(found, whole)
        position = found.end()
    return base, re.compile(f"{pattern}{re.escape(rest[position:])}/(?=.)", re.DOTALL)


def _part(field: re.Match[str], template: str) -> str:
    if field[0] == PLACEHOLDER:
        return "(?P<partition>[^/]+)" if _is_whole_name(template) else "(?P<partition>[^/]*)"
    return "%" if field[1] == "%" else f"(?P<{field[1]}>{_DIGITS[field[1]]})"


def _is_whole_name(template: str) -> bool:
    """Whether the placeholder is all of a folder's name: then it cannot be empty, a URI has no name for the folder."""
    return f"/{PLACEHOLDER}/" in f"{template}/"
