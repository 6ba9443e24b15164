"""A directory of a TIFF's: numbered tags and their values. EXIF is one too."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


class Tag(NamedTuple):
    """An entry of a directory."""

    type: int
    length: int
    """Number of values."""
    value: bytes
    """As it stands in the entry: the values, or where they are."""


@dataclass(frozen=True)
class Directory:
    """What a directory says, and the data that it points into."""

    data: bytes
    order: str
    """`<` or `>`, as struct writes it."""
    big: bool
    tags: Mapping[int, Tag] = field(default_factory=dict)
    place: int = 0
    """Where it stands in the data."""
    is_whole: bool = False
    """Whether all of its entries are in the data."""

    def values(self, tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """The integers of a tag; the default where it is missing or damaged."""
        raw, found = self.raw(tag), self.tags.get(tag)
        if raw is None or found is None or not self.has_integers(tag):
            return tuple(default)
        return struct.unpack(f"{self.order}{found.length}{_CODES[found.type]}", raw)

    def value(self, tag: int, default: int) -> int:
        """The first of `values`."""
        return self.values(tag, (default,))[0]

    def has_integers(self, tag: int) -> bool:
        """Whether `values` finds some."""
        found = self.tags.get(tag)
        return bool(found and found.type in _CODES and found.length and self.raw(tag) is not None)

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a tag's values; None where it is missing or damaged."""
        found = self.tags.get(tag)
        if found is None or found.type not in _SIZES:
            return None
        size = found.length * _SIZES[found.type]
        if size <= len(found.value):
            return found.value[:size]
        at = int.from_bytes(found.value, "little" if self.order == "<" else "big")
        return self.data[at : at + size] if at + size <= len(self.data) else None

    def at(self, place: int) -> "Directory":
        """The directory that stands at this place of the data.

        Raises:
            ValueError: None does.
        """
        count_code, entry, wide = ("Q", "HHQ8s", 20) if self.big else ("H", "HHI4s", 12)
        try:
            (count,) = struct.unpack_from(self.order + count_code, self.data, place)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"no directory at {place}") from error
        start = place + struct.calcsize("<" + count_code)
        end = start + wide * min(count, (len(self.data) - start) // wide)
        tags: dict[int, Tag] = {}
        for tag, *rest in struct.iter_unpack(self.order + entry, self.data[start:end]):
            tags.setdefault(tag, Tag(*rest))
        return Directory(self.data, self.order, self.big, tags, place, end == start + wide * count)


def read_directory(data: bytes) -> Directory:
    """The first directory of a TIFF.

    Raises:
        ValueError: There is none.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("no TIFF")
    file = Directory(data, order, data[2:4] in (b"+\0", b"\0+"))
    try:
        (place,) = struct.unpack_from(*((order + "Q", data, 8) if file.big else (order + "I", data, 4)))
    except struct.error as error:
        raise ValueError("no place of a directory") from error
    return file.at(place)
