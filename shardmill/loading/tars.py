"""Tars of others: which they are, and what is in them, by webdataset's rules and their headers alone.

The key of a member is its name up to the first dot behind the last slash; the rest, in lower case, is the component.
Members without one, and those that are called `__so__`, belong to no sample.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from braceexpand import braceexpand

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ChangedError, ConfigurationError, CorruptionError
from shardmill.loading.indexes import Indexes
from shardmill.samples import EncodedSample
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.foreign import foreign_members, key_and_component
from shardmill.shards.places import COLUMNS, Places, read_places
from shardmill.storage import ObjectInfo, Storage, absolute_uri

_TAR = re.compile(r".*\.(tar|tar\.\w+|tgz|tbz2|txz)", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")
_LOCAL_WINDOW, _WINDOW = 4 << 10, 1 << 20
"""Bytes that are read at a header: from a bucket as many as take no longer than the request does."""


def is_of_tars(what: str) -> bool:
    """Whether this names tars, or is a pattern of their names: with `*`, `?`, `[a-z]`, `**` or `{000..099}`."""
    return _TAR.fullmatch(what) is not None or _WILD.search(what) is not None or "{" in what


def find_tars(what: Sequence[str], storage: Storage) -> list[ObjectInfo]:
    """The tars that URIs or paths name, and those that fit patterns, these in the order of their names.

    Raises:
        ConfigurationError: One is not there, or none fits a pattern.
    """
    uris = [uri for each in what for uri in _expanded(absolute_uri(each), storage)]
    return [info for found in bounded_map(lambda uri: _fitting(uri, storage), uris, REQUESTS_AT_ONCE) for info in found]


def _expanded(uri: str, storage: Storage) -> Iterable[str]:
    """Braces are a part of the name where there is such an object."""
    return [uri] if "{" not in uri or storage.stat(uri) else braceexpand(uri, escape=False)


def _fitting(uri: str, storage: Storage) -> list[ObjectInfo]:
    wild, info = _WILD.search(uri), storage.stat(uri)
    if info is not None:
        return [info]
    if wild is None:
        raise ConfigurationError(f"there is no {uri}")
    folder = uri[: wild.start()].rpartition("/")[0]
    pattern = _pattern(uri)
    found = sorted(info for info in storage.list(folder) if pattern.fullmatch(info.uri))
    if not found:
        raise ConfigurationError(f"no object fits {uri}")
    return found


def _pattern(glob: str) -> re.Pattern[str]:
    """`*` and `?` stand for anything but a slash, `**/` for any folders."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    found = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", glob)
    return re.compile(
        "".join(parts.get(part) or (_class(part) if part[:1] == "[" else re.escape(part)) for part in found)
    )


def _class(part: str) -> str:
    if len(part) < 3:
        return re.escape(part)
    return f"[^{part[2:]}" if part[1] == "!" else part


@dataclass(frozen=True)
class ForeignTar:
    """A tar whose bytes no digest vouches for, read as it was when it was opened. Picklable."""

    storage: Storage
    info: ObjectInfo
    samples: int
    indexes: Indexes = field(repr=False)
    components: Sequence[str] | None = None

    @property
    def url(self) -> str:
        """Of the tar."""
        return self.info.uri

    @property
    def size(self) -> int:
        """Bytes of the tar."""
        return self.info.size

    def read(self, numbers: Sequence[range]) -> Iterator[tuple[int, EncodedSample]]:
        """As `Shard.read`.

        Raises:
            ChangedError: It has been written to since it was opened.
            StorageError: A store cannot give it.
        """
        self._check_that_it_has_not_changed()
        places = self.places().at(numbers, self.components)
        read = read_places(lambda start, length: self.storage.read_range(self.url, start, length), self.url, places)
        for place, sample in read:
            yield place.number, sample

    def places(self) -> Places:
        """Where its samples stand."""
        return self.indexes.places(_name(self.info), lambda: places_in(self.info, self.storage))

    def _check_that_it_has_not_changed(self) -> None:
        now = self.storage.stat(self.url)
        if now is None or (now.version, now.size) != (self.info.version, self.info.size):
            raise ChangedError(f"{self.url} {'is gone' if now is None else 'has changed'} since it was opened")


def open_tars(
    infos: Sequence[ObjectInfo], storage: Storage, indexes: Indexes, components: Sequence[str] | None
) -> list[ForeignTar]:
    """Look through the headers of tars, several at a time.

    Raises:
        CorruptionError: One is damaged, compressed, no tar, or has a sample in pieces.
        StorageError: A store cannot give one.
    """

    def look(info: ObjectInfo) -> ForeignTar:
        places = places_in(info, storage)
        indexes.keep(_name(info), places)
        return ForeignTar(storage, info, len(places), indexes, components)

    return list(bounded_map(look, infos, REQUESTS_AT_ONCE))


def places_in(info: ObjectInfo, storage: Storage) -> Places:
    """Where the samples of a tar stand; their digests are empty.

    Headers are read, and what stands between them is leapt over where that is worth a request.

    Raises:
        CorruptionError: It is damaged, compressed, no tar, or has a sample in pieces.
        StorageError: A store cannot give it.
    """
    import pyarrow as pa

    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    here: set[str] = set()
    seen: set[str] = set()
    key = ""
    for member in _members(info, storage):
        found = key_and_component(member.name)
        if found is None:
            continue
        component = found[1].lower()
        if found[0] != key:
            key, here = found[0], set()
            if key in seen:
                raise CorruptionError(
                    f"{info.uri}: {member.name} at byte {member.offset:,} is of a sample that stands before others: "
                    "the components of a sample have to stand one after the other"
                )
            seen.add(key)
        if component in here:
            raise CorruptionError(f"{info.uri} has {key}.{component} twice: the second at byte {member.offset:,}")
        here.add(component)
        for name, value in zip(COLUMNS, (key, component, member.offset_data, member.size, "", key), strict=True):
            rows[name].append(value)
    types = {"offset": pa.int64(), "size": pa.int64()}
    return Places(pa.table(rows, schema=pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])))


def _members(info: ObjectInfo, storage: Storage) -> Iterator[tarfile.TarInfo]:
    """The files in a tar."""
    window = _LOCAL_WINDOW if info.uri.startswith("file://") else _WINDOW
    stream = _Leaping(storage, info, window)
    try:
        for member in foreign_members(stream, info.uri):
            _check(member, info)
            yield member
    except CorruptionError as error:
        raise CorruptionError(f"{error}{_compressed(stream)}") from error
    end, block = stream.tell(), stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise CorruptionError(f"{info.uri} is damaged at byte {end:,}: there is no header, and no end")
    if len(block) < tarfile.BLOCKSIZE:
        raise CorruptionError(f"{info.uri} has no end marker: it is truncated")


def _check(member: tarfile.TarInfo, info: ObjectInfo) -> None:
    try:
        member.name.encode()
    except UnicodeEncodeError:
        raise CorruptionError(
            f"{info.uri} has a name at byte {member.offset:,} that is no UTF-8: {member.name!r}"
        ) from None
    if member.offset_data + member.size > info.size:
        raise CorruptionError(f"{info.uri} ends within {member.name}: it is truncated")


def _compressed(stream: _Leaping) -> str:
    stream.seek(0)
    known = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
    packed = stream.read(8).startswith(known)
    return ". It is compressed, and samples of such a file cannot be read by themselves: unpack it" if packed else ""


def _name(info: ObjectInfo) -> str:
    return fingerprint(tar=[info.uri, info.version])


class _Leaping:
    """A file of which only the parts around what is asked for are read."""

    def __init__(self, storage: Storage, info: ObjectInfo, window: int) -> None:
        self._storage, self._info, self._length = storage, info, window
        self._position = self._start = 0
        self._data = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, size: int) -> bytes:
        first = self._position - self._start
        if not (first >= 0 and first + size <= len(self._data)):
            self._start, first = self._position, 0
            length = max(0, min(max(size, self._length), self._info.size - self._start))
            self._data = self._storage.read_range(self._info.uri, self._start, length) if length else b""
        data = self._data[first : first + size]
        self._position += len(data)
        return data
