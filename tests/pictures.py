"""What tests make images of: files in every format, PNGs chunk by chunk, and ICC profiles made by hand."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP", "avif": "AVIF"}


def save(image: Image.Image, name: str, **options: Any) -> bytes:
    """A file in Pillow's format of this name."""
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def smooth(height: int = 32, width: int = 48) -> Pixels:
    """Pixels that lossy formats keep."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)], axis=2).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: npt.NDArray[Any], bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of values [height, width, channels] of so many bits, with these chunks before the pixels."""
    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = [np.packbits(row.reshape(-1, 1) >> np.arange(bits)[::-1] & 1).tobytes() for row in values]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def with_chunks(file: bytes, *chunks: bytes) -> bytes:
    """A PNG with these chunks after its header."""
    return file[:33] + b"".join(chunks) + file[33:]


def with_segment(file: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with this segment before all others."""
    return file[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + file[2:]


_COLOURS = (b"r", b"g", b"b")


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of these tags."""
    tags = {b"cprt": b"text\0\0\0\0none\0", b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249), **tags}
    body, table, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"test", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(columns: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """A display whose red, green and blue are these XYZ under D50, with one exponent."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    xyz = {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(*column) for name, column in zip(_COLOURS, columns, strict=True)}
    return profile(b"RGB ", xyz | {name + b"TRC": curve for name in _COLOURS})


def grey_profile(gamma: float) -> bytes:
    """Greys with this exponent."""
    return profile(b"GRAY", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)})


def press_profile() -> bytes:
    """Four inks, by a table of 16 corners."""
    corners = {
        (0, 0, 0): (95, 0, -2), (1, 0, 0): (55, -37, -50), (0, 1, 0): (48, 74, -3), (0, 0, 1): (89, -5, 93),
        (0, 1, 1): (47, 68, 48), (1, 0, 1): (50, -68, 25), (1, 1, 0): (24, 22, -46), (1, 1, 1): (23, 0, 0),
    }  # fmt: skip
    lab = [corners[c, m, y] if not k else (12, 0, 0) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = bytes(round(value) for light, a, b in lab for value in (light * 2.55, a + 128, b + 128))
    matrix, ramp = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1), bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + table + ramp * 3
    return profile(b"CMYK", {b"A2B0": lut}, b"prtr", b"Lab ")


ADOBE_RGB = rgb_profile(
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 563 / 256
)


def to_srgb(linear: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Light of 0 to 1 as sRGB's numbers, 0 to 255."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
