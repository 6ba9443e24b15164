"""PNG: Pillow is given the chunks that concern pixels, and no other can do harm."""

import struct
import zlib
from functools import partial
from io import BytesIO

from PIL import Image, PngImagePlugin

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.exif import read_exif
from shardmill.images.opened import Opened, corrupt
from shardmill.images.primaries import ADOBE_RGB, PRIMARIES, measured_profile

MAX_PROFILE = 16 << 20
"""Bytes of a profile, decompressed, above which it is ignored."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DESCRIPTIVE = (b"eXIf", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP")
_GREY, _RGB, _PALETTE = 0, 2, 3
_GAMMAS = {1: 1 / 2.2, 4: 1 / 2.2, 8: 1.0, 13: 1 / 2.2}
"""By cICP's code of a transfer function: of BT.709, 2.2, linear, sRGB. Those of high dynamic range are not read."""
_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def open_png(data: bytes) -> Opened:
    """Read all chunks.

    Raises:
        Rejected: There is no header, or a critical chunk that is unknown.
    """
    if data[12:16] == b"CgBI":
        raise Rejected(reasons.UNSUPPORTED_PIXELS, "a PNG in Apple's own format, CgBI")
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Rejected(reasons.CORRUPT_IMAGE, "a PNG without its header")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if bits not in _BITS.get(colour, ()):
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"{bits} bits of colour type {colour} are no PNG")
    kept, said = _chunks(data, bits, colour)
    exif = read_exif(said.get(b"eXIf"))
    profile = _profile(said)
    if profile is None and exif.is_adobe_rgb and not said.keys() & {b"iCCP", b"sRGB", b"gAMA", b"cICP"}:
        profile = ADOBE_RGB
    return Opened(width, height, partial(_load, kept), exif.orientation, profile, bits)


def _load(data: bytes) -> Image.Image:
    with corrupt():
        image = PngImagePlugin.PngImageFile(BytesIO(data))
        image.load()
        return image


def _chunks(data: bytes, bits: int, colour: int) -> tuple[bytes, dict[bytes, bytes]]:
    """A PNG of the chunks that concern pixels; and what other chunks say of colour, undamaged, before the pixels."""
    kept, said, at, entries = [_SIGNATURE], dict[bytes, bytes](), 8, 0
    is_before = True
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind == b"IDAT":
            is_before = False
            kept.append(data[at:end])
        elif kind in (b"IHDR", b"IEND"):
            kept.append(data[at:end])
        elif kind == b"PLTE":
            if colour == _PALETTE and is_before:
                entries = length // 3
                kept.append(data[at:end])
        elif kind == b"tRNS":
            if is_before and _is_sound(data, at, end) and _fits(data[at + 8 : end - 4], bits, colour, entries):
                kept.append(data[at:end])
        elif kind in _DESCRIPTIVE:
            if (is_before or kind == b"eXIf") and kind not in said and _is_sound(data, at, end):
                said[kind] = data[at + 8 : end - 4]
        elif kind.isalpha() and not kind[0] & 0x20:
            raise Rejected(reasons.UNSUPPORTED_PIXELS, f"a PNG with the unknown critical chunk {kind.decode('ascii')}")
        elif not kind.isalpha():
            break
        at = end
        if kind == b"IEND":
            break
    return b"".join(kept), said


def _is_sound(data: bytes, at: int, end: int) -> bool:
    return end <= len(data) and zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _fits(content: bytes, bits: int, colour: int, entries: int) -> bool:
    """Whether a transparent colour is one of the image's. A palette's may be shorter than the palette."""
    if colour == _PALETTE:
        return 0 < len(content) <= entries
    if len(content) != {_GREY: 2, _RGB: 6}.get(colour):
        return False
    if colour == _RGB and bits == 16:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, "a PNG of 16-bit RGB with a transparent colour")
    return all(content[at] << 8 | content[at + 1] < 1 << bits for at in range(0, len(content), 2))


def _profile(said: dict[bytes, bytes]) -> bytes | None:
    """By the order of precedence of the specification."""
    coded = said.get(b"cICP", b"")
    if len(coded) == 4 and coded[0] in PRIMARIES and coded[1] in _GAMMAS and coded[2:] == b"\0\1":
        return measured_profile(_GAMMAS[coded[1]], PRIMARIES[coded[0]])
    if b"iCCP" in said:
        _, _, rest = said[b"iCCP"].partition(b"\0")
        inflate = zlib.decompressobj()
        try:
            profile = inflate.decompress(rest[1:], MAX_PROFILE)
        except zlib.error:
            return None
        return profile if inflate.eof else None
    if b"sRGB" in said or len(said.get(b"gAMA", b"")) != 4:
        return None
    gamma = int.from_bytes(said[b"gAMA"], "big") / 100_000
    points = said.get(b"cHRM", b"")
    return measured_profile(gamma, [v / 100_000 for v in struct.unpack(">8I", points)] if len(points) == 32 else None)
