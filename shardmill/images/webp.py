"""WebP: Pillow is given the chunks that concern pixels."""

from functools import partial
from io import BytesIO

from PIL import Image, WebPImagePlugin

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.exif import read_exif
from shardmill.images.opened import Opened, corrupt
from shardmill.images.primaries import ADOBE_RGB

_OF_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_DESCRIBED = 0x20 | 0x08 | 0x04
"""The flags of ICC profile, EXIF and XMP in `VP8X`."""


def open_webp(data: bytes) -> Opened:
    """Read all chunks.

    Raises:
        Rejected: No image is in them.
    """
    kept, said = _chunks(data)
    with corrupt():
        image = WebPImagePlugin.WebPImageFile(BytesIO(kept))
    exif = read_exif(said.get(b"EXIF"))
    profile = said.get(b"ICCP") or (ADOBE_RGB if exif.is_adobe_rgb else None)
    return Opened(*image.size, partial(_load, image), exif.orientation, profile)


def _load(image: Image.Image) -> Image.Image:
    with corrupt():
        image.load()
        return image


def _chunks(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    kept, said, at = list[bytes](), dict[bytes, bytes](), 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        content = data[at + 8 : end]
        if kind in _OF_PIXELS:
            if kind == b"VP8X" and content:
                content = bytes([content[0] & ~_DESCRIBED]) + content[1:]
            kept.append(kind + length.to_bytes(4, "little") + content + bytes(length % 2 if end <= len(data) else 0))
        elif end <= len(data):
            said.setdefault(kind, content)
        at = end + length % 2
    if not kept:
        raise Rejected(reasons.CORRUPT_IMAGE, "a WebP without an image")
    body = b"".join(kept)
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body, said
