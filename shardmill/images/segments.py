"""The segments of a JPEG, up to a scan's data."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from shardmill.errors import Rejected
from shardmill.images import reasons

SOS, EOI, DHT, DRI = 0xDA, 0xD9, 0xC4, 0xDD

_NO_MARKER = {0x00, 0xFF}
_STANDALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}
_MARKER = re.compile(rb"\xff[^\0\xff]", re.DOTALL)
_MOST_SEGMENTS = 10_000
"""The longest profile has 255."""


class Segment(NamedTuple):
    """A marker with a length, and its content."""

    marker: int
    start: int
    """Of its content."""
    end: int


def segments(data: bytes, at: int = 2) -> Iterator[Segment]:
    """Up to the next scan's. What stands between segments is passed over, as libjpeg does.

    Raises:
        Rejected: One reaches out of the file, or there are too many.
    """
    size, count = len(data), 0
    while at + 4 <= size:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _NO_MARKER:
            found = _MARKER.search(data, at)
            if found is None:
                return
            at = found.end() - 2
            marker = data[at + 1]
        if marker == EOI:
            return
        if marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        count += 1
        if count > _MOST_SEGMENTS:
            raise Rejected(reasons.CORRUPT_IMAGE, f"more than {_MOST_SEGMENTS} JPEG segments before a scan")
        if length < 2 or end > size:
            raise Rejected(reasons.CORRUPT_IMAGE, f"JPEG segment {marker:#x} at {at} has no end")
        yield Segment(marker, at + 4, end)
        if marker == SOS:
            return
        at = end
