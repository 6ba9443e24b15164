"""The scans of a JPEG, by their headers: whether all coefficients came, and zeros that no encoder writes.

libjpeg warns of neither.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.segments import DHT, SOS, segments

MAX_SCANS = 100
"""Encoders write about ten. Each costs as much time as the whole image."""

_END_OF_DATA = re.compile(rb"\xff[^\0\xff\xd0-\xd7]", re.DOTALL)
_COEFFICIENTS = 64
_ZEROS = bytes(64)
_STRIDE = 16
"""Of so many zeros together, every 16th place of the data meets four."""
_MANY = 16
"""Coefficients of a block. Fewer can be alike over many blocks."""
_STANDARD = 0x01
"""What zeros stand for in the tables of the standard, which Motion JPEG leaves out: a coefficient of -1."""


class Scan(NamedTuple):
    """What its header says; of a sequential JPEG, what it has to say."""

    components: bytes
    first: int
    """Coefficient, of 0 to 63."""
    last: int
    low: int
    """The bit, 0 for the last."""
    zeros: Sequence[int]
    """What a code of zeros stands for among each component's AC coefficients."""
    start: int
    """Of the entropy-coded data."""
    end: int


def check_scans(data: bytes, components: bytes, progressive: bool) -> None:
    """Check that all coefficients of the frame's components came.

    Raises:
        Rejected: Some did not, or there are too many scans.
    """
    there = {component: [False] * _COEFFICIENTS for component in components}
    for number, scan in enumerate(_scans(data, progressive), start=1):
        if number > MAX_SCANS:
            raise Rejected(reasons.TOO_MANY_SCANS, f"more than {MAX_SCANS}")
        if scan.low == 0:
            for component in scan.components:
                coefficients = there.get(component, [])
                coefficients[scan.first : scan.last + 1] = [True] * (scan.last + 1 - scan.first)
    if not all(map(all, there.values())):
        raise Rejected(reasons.CORRUPT_IMAGE, "the last scans of the JPEG are missing")


def check_zeros(data: bytes, first_scan: int, progressive: bool) -> None:
    """Check that the data have no hole of zeros, where such can be told.

    Where a code of zeros means the end of a block, an encoder writes zeros for flat areas. Where it means a
    coefficient, it would write many for blocks of which all coefficients are the same, which no image has.

    Raises:
        Rejected: They have.
    """
    if data[first_scan::_STRIDE].find(bytes(len(_ZEROS) // _STRIDE)) < 0:  # a fraction of the time of a whole search
        return
    for scan in _scans(data, progressive):
        of_many = scan.first > 0 or not progressive
        if not of_many or scan.last - scan.first + 1 < _MANY or all(map(_ends_block, scan.zeros)):
            continue
        at = data.find(_ZEROS, scan.start, scan.end)
        if at >= 0:
            raise Rejected(reasons.CORRUPT_IMAGE, f"zeros in place of the JPEG's data, from byte {at}")


def has_zeros(data: bytes, count: int, progressive: bool) -> bool:
    """Whether so many zeros stand together in a scan's data, healthy or not."""
    return any(data.find(bytes(count), scan.start, scan.end) >= 0 for scan in _scans(data, progressive))


def _ends_block(symbol: int) -> bool:
    return symbol & 0x0F == 0 and symbol != 0xF0


def _scans(data: bytes, progressive: bool) -> Iterator[Scan]:
    tables: dict[int, int] = {}
    at: int | None = 2
    while at is not None:
        start, at = at, None
        for marker, begin, end in segments(data, start):
            content = data[begin:end]
            if marker == DHT:
                tables.update(_first_symbols(content))
            elif marker == SOS and content and len(content) == 2 * content[0] + 4:
                found = _END_OF_DATA.search(data, end)
                at = found.start() if found else len(data)
                first, last, bits = content[-3:] if progressive else (0, _COEFFICIENTS - 1, 0)
                zeros = [tables.get(0x10 | table & 0x0F, _STANDARD) for table in content[2:-3:2]]
                yield Scan(content[1:-3:2], first, min(last, 63), bits & 0x0F, zeros, end, at)


def _first_symbols(tables: bytes) -> Iterator[tuple[int, int]]:
    """Class and number of each Huffman table, and what its code of zeros stands for."""
    at = 0
    while at + 17 < len(tables):
        yield tables[at], tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
