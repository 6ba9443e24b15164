"""JPEG: its segments are read here, its pixels by libjpeg-turbo, whose warnings are judged.

A warning that means lost pixels refuses the file; one about something else does not. The rule stands in docs/images.md.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.colour import convert_pixels
from shardmill.images.exif import read_exif
from shardmill.images.opened import Opened
from shardmill.images.primaries import ADOBE_RGB
from shardmill.memory import lacks_memory

MAX_SCANS = 100
"""Encoders write about ten. Each costs as much time as the whole image."""

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xCA}
_UNREAD = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB), "arithmetic-coded"),
}
_SOS, _EOI, _JFIF, _EXIF, _ICC, _ADOBE = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
_NO_MARKER = {0x00, 0xFF}
_STANDALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}
_MARKER = re.compile(rb"\xff[^\0\xff]", re.DOTALL)
_NEXT_SCAN = re.compile(rb"\xff\xda")
_PLAIN_JFIF = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
_LOST = re.compile("premature end|bad Huffman|bad arithmetic|found marker|Inconsistent progression", re.I)
"""What libjpeg warns of where pixels are lost. Other warnings may hide such a one: it tells the first only."""
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_FEW = 16
_MOST_SEGMENTS = 10_000
"""The longest profile has 255."""


class _Segment(NamedTuple):
    marker: int
    start: int
    """Of its content."""
    end: int


def open_jpeg(data: bytes) -> Opened:
    """Read the segments before the first scan.

    Raises:
        Rejected: There is no frame or no scan, or it is of a kind that is not read here.
    """
    frame, scan, exif, parts = b"", None, b"", dict[int, bytes]()
    kind = count = 0
    for segment in _segments(data):
        marker, start, end = segment
        if marker in _FRAMES and not frame:
            kind, frame = marker, data[start:end]
        elif marker == _EXIF and not exif and data.startswith(b"Exif\0", start, end):
            exif = data[start:end]
        elif marker == _ICC and data.startswith(b"ICC_PROFILE\0", start, end) and end > start + 14:
            parts[data[start + 12]] = data[start + 14 : end]
            count = data[start + 13]
        elif marker == _SOS:
            scan = segment
    if len(frame) < 6 or scan is None or scan.start == scan.end:
        raise Rejected(reasons.CORRUPT_IMAGE, f"a JPEG without {'a scan' if frame else 'a frame'}")
    components = frame[5]
    _check_frame(kind, frame, components)
    if kind in _PROGRESSIVE or data[scan.start] < components:
        _check_scans(data, scan.start - 4)
    seen = read_exif(exif)
    icc = _profile(parts, count) or (ADOBE_RGB if seen.is_adobe_rgb else None)
    return Opened(
        width=int.from_bytes(frame[3:5], "big"),
        height=int.from_bytes(frame[1:3], "big"),
        load=partial(_load, data, components),
        orientation=seen.orientation,
        profile=icc,
        load_pixels=partial(_pixels, data, icc, components == 1) if components < 4 else None,
        check=partial(_decode, data, "GRAY" if components < 4 else "CMYK", at_least=1),
    )


def _profile(parts: Mapping[int, bytes], count: int) -> bytes | None:
    """What a profile's numbered parts come to; None if one is missing."""
    numbers = range(1, count + 1)
    return b"".join(parts[number] for number in numbers) if all(number in parts for number in numbers) else None


def _check_frame(kind: int, frame: bytes, components: int) -> None:
    unread = _UNREAD.get(kind)
    if frame[0] != 8:
        unread = f"{frame[0]}-bit"
    elif components not in (1, 3, 4):
        unread = f"{components} bands:"
    elif frame[1:3] == b"\0\0":
        unread = "height after the first scan:"
    if unread:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"{unread} JPEG")


def _check_scans(data: bytes, start: int) -> None:
    """Two equal bytes cannot stand between a scan's data, so that counting them is enough."""
    scans = sum(1 for _, _ in zip(_NEXT_SCAN.finditer(data, start), range(MAX_SCANS + 1), strict=False))
    if scans > MAX_SCANS:
        raise Rejected(reasons.TOO_MANY_SCANS, f"more than {MAX_SCANS}")


def _segments(data: bytes) -> Iterator[_Segment]:
    """Up to the first scan's. What stands between segments is passed over, as libjpeg does."""
    at, size, segments = 2, len(data), 0
    while at + 4 <= size:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _NO_MARKER:
            found = _MARKER.search(data, at)
            if found is None:
                return
            at = found.end() - 2
            marker = data[at + 1]
        if marker == _EOI:
            return
        if marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise Rejected(reasons.CORRUPT_IMAGE, f"more than {_MOST_SEGMENTS} JPEG segments before the first scan")
        if length < 2 or end > size:
            raise Rejected(reasons.CORRUPT_IMAGE, f"JPEG segment {marker:#x} at {at} has no end")
        yield _Segment(marker, at + 4, end)
        if marker == _SOS:
            return
        at = end


def _pixels(data: bytes, profile: bytes | None, grey: bool) -> npt.NDArray[np.uint8]:
    pixels = _decode(data, "RGB")
    convert_pixels(pixels, profile, grey)
    return pixels


def _load(data: bytes, components: int) -> Image.Image:
    if components < 4:
        return Image.fromarray(_decode(data, "GRAY")[:, :, 0] if components == 1 else _decode(data, "RGB"))
    inks = _decode(data, "CMYK")
    return Image.fromarray(np.invert(inks, out=inks), "CMYK")  # Adobe's way, which all writers follow


def _decode(data: bytes, colours: str, at_least: int = 0) -> npt.NDArray[np.uint8]:
    """Decode with libjpeg-turbo, to uint8 [height, width, channels]; `at_least` 1 for an eighth of the size."""
    import simplejpeg

    def decode(file: bytes, strict: bool) -> npt.NDArray[np.uint8]:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            file, colours, min_height=at_least, min_width=at_least, strict=strict
        )
        return pixels

    try:
        return decode(data, True)
    except ValueError as error:
        _pass_on(error)
        if _LOST.search(str(error)):
            raise Rejected(reasons.CORRUPT_IMAGE, str(error)) from error
    lean = _without_metadata(data)
    try:
        return decode(lean, True)
    except ValueError as error:
        _pass_on(error)
        if not _is_harmless(str(error), lean):
            raise Rejected(reasons.CORRUPT_IMAGE, str(error)) from error
    try:
        return decode(lean, False)
    except ValueError as error:
        _pass_on(error)
        raise Rejected(reasons.CORRUPT_IMAGE, str(error)) from error


def _pass_on(error: ValueError) -> None:
    if lacks_memory(error):
        raise MemoryError(str(error)) from error


def _is_harmless(warning: str, data: bytes) -> bool:
    """Whether the first warning is of a few bytes left over before the end, which some cameras write.

    libjpeg tells the first warning only, and this one is the last that there can be. Zeros before the end are what
    a download has that was never finished.
    """
    left_over = _LEFT_OVER.search(warning)
    if left_over is None or int(left_over[1]) > _FEW:
        return False
    end = data.rfind(b"\xff\xd9")
    return bool(data[max(0, end - 2 * _FEW) : end].strip(b"\0")) and bytes(_FEW) not in data[end - 2 * _FEW : end]


def _without_metadata(data: bytes) -> bytes:
    """The same pixels with no segment that libjpeg could warn of and that concerns none of them."""
    kept, after, sequential = [b"\xff\xd8"], len(data), True
    for segment in _segments(data):
        marker, after = segment.marker, segment.end
        content = data[segment.start : segment.end]
        if marker == _JFIF and content.startswith(b"JFIF\0"):
            kept.append(_PLAIN_JFIF)
            continue
        is_adobe = marker == _ADOBE and content.startswith(b"Adobe") and len(content) >= 12
        if (0xE0 <= marker <= 0xEF and not is_adobe) or marker == 0xFE:
            continue
        if marker in _FRAMES:
            sequential = marker not in _PROGRESSIVE
        if marker == _SOS and sequential:
            content = content[:-3] + b"\0\x3f\0"  # the only parameters that there are, whatever is said
        if is_adobe and content[11] > 2:  # libjpeg takes an unknown transform for YCbCr or YCCK
            content = content[:11] + bytes([1])
        kept.append(bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content)
    return b"".join([*kept, data[after:]])
