"""JPEG: its segments are read here, its pixels by libjpeg-turbo, whose warnings are judged.

A warning that means lost pixels refuses the file; one about something else does not. The rule stands in docs/images.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.colour import convert_pixels
from shardmill.images.exif import read_exif
from shardmill.images.opened import Opened, corrupt
from shardmill.images.primaries import ADOBE_RGB
from shardmill.images.rows import first_rows
from shardmill.images.scans import check_scans, check_zeros, has_zeros
from shardmill.images.segments import DRI, SOS, segments
from shardmill.memory import lacks_memory

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xCA}
_UNREAD = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB), "arithmetic-coded"),
}
_JFIF, _EXIF, _ICC, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_PLAIN_JFIF = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
_LOST = re.compile("premature end|bad Huffman|bad arithmetic|found marker|Inconsistent progression", re.I)
"""What libjpeg warns of where pixels are lost. Other warnings may hide such a one: it tells the first only."""
_SAMPLING = re.compile("determine subsampling", re.I)
_END = b"\xff\xd9"
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_FEW = 16


def open_jpeg(data: bytes) -> Opened:
    """Read the segments before the first scan.

    Raises:
        Rejected: There is no frame or no scan, or it is of a kind that is not read here.
    """
    frame, scan, exif, parts = b"", None, b"", dict[int, bytes]()
    kind = count = height_at = 0
    has_restarts = False
    for segment in segments(data):
        marker, start, end = segment
        if marker in _FRAMES and not frame:
            kind, frame, height_at = marker, data[start:end], start + 1
        elif marker == _EXIF and not exif and data.startswith(b"Exif\0", start, end):
            exif = data[start:end]
        elif marker == _ICC and data.startswith(b"ICC_PROFILE\0", start, end) and end > start + 14:
            parts[data[start + 12]] = data[start + 14 : end]
            count = data[start + 13]
        elif marker == DRI:
            has_restarts = True
        elif marker == SOS:
            scan = segment
    if len(frame) < 6 or scan is None or scan.start == scan.end:
        raise Rejected(reasons.CORRUPT_IMAGE, f"a JPEG without {'a scan' if frame else 'a frame'}")
    components = frame[5]
    _check_frame(kind, frame, components)
    progressive = kind in _PROGRESSIVE
    in_one_scan = not progressive and data[scan.start] >= components
    if not in_one_scan:
        check_scans(data, frame[6::3][:components], progressive)
    check_zeros(data, scan.end, progressive)
    can_stop = in_one_scan and not has_restarts
    seen = read_exif(exif)
    icc = _profile(parts, count) or (ADOBE_RGB if seen.is_adobe_rgb else None)
    return Opened(
        width=int.from_bytes(frame[3:5], "big"),
        height=int.from_bytes(frame[1:3], "big"),
        load=partial(_load, data, components),
        orientation=seen.orientation,
        profile=icc,
        load_pixels=partial(_decode, data, "RGB") if components < 4 else None,
        load_rows=partial(_load_rows, data, height_at) if components < 4 and can_stop else None,
        convert=partial(convert_pixels, profile=icc, grey=components == 1) if icc and components < 4 else None,
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


def _load(data: bytes, components: int) -> Image.Image:
    if components < 4:
        return Image.fromarray(_decode(data, "GRAY")[:, :, 0] if components == 1 else _decode(data, "RGB"))
    inks = _decode(data, "CMYK")
    return Image.fromarray(np.invert(inks, out=inks), "CMYK")  # Adobe's way, which all writers follow


def _load_rows(data: bytes, height_at: int, rows: int) -> npt.NDArray[np.uint8]:
    top = first_rows(data, height_at, rows)
    return _decode(data, "RGB") if top is None else top


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
        if _SAMPLING.search(str(error)):
            return _decode_rare(_without_metadata(data), colours)
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


def _decode_rare(data: bytes, colours: str) -> npt.NDArray[np.uint8]:
    """Decode sampling factors that TurboJPEG knows no name for, with Pillow, which passes over warnings."""
    if data.find(_END) < 0:
        raise Rejected(reasons.CORRUPT_IMAGE, "a JPEG without its end")
    with corrupt():
        image = JpegImagePlugin.JpegImageFile(BytesIO(data))
        image.load()
        pixels: npt.NDArray[np.uint8] = np.array(image.convert(_MODES[colours]))
    if colours == "CMYK":
        return np.invert(pixels, out=pixels)
    return pixels.reshape(*pixels.shape[:2], -1)


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
    return not has_zeros(data, _FEW, progressive=False)


def _without_metadata(data: bytes) -> bytes:
    """The same pixels with no segment that libjpeg could warn of and that concerns none of them."""
    kept, after, sequential = [b"\xff\xd8"], len(data), True
    for segment in segments(data):
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
        if marker == SOS and sequential:
            content = content[:-3] + b"\0\x3f\0"  # the only parameters that there are, whatever is said
        if is_adobe and content[11] > 2:  # libjpeg takes an unknown transform for YCbCr or YCCK
            content = content[:11] + bytes([1])
        kept.append(bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content)
    return b"".join([*kept, data[after:]])
