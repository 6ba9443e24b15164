"""GIF: Pillow is given the first frame and what concerns its pixels."""

from functools import partial
from io import BytesIO

from PIL import GifImagePlugin, Image

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.opened import Opened, corrupt

_HEADER = 13
_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9


def open_gif(data: bytes) -> Opened:
    """Read the blocks up to the first frame.

    Raises:
        Rejected: There is none.
    """
    kept = _first_frame(data)
    with corrupt():
        image = GifImagePlugin.GifImageFile(BytesIO(kept))
    return Opened(*image.size, partial(_load, image))


def _load(image: Image.Image) -> Image.Image:
    with corrupt():
        image.load()
        return image


def _first_frame(data: bytes) -> bytes:
    """A GIF of the first frame and its transparency: comments and other extensions are left out."""
    try:
        at = _HEADER + _table(data[10])
        head, control = data[:at], b""
        while data[at] == _EXTENSION:
            end = _after_blocks(data, at + 2)
            if data[at + 1] == _CONTROL:
                control = data[at:end]
            at = end
        if data[at] != _IMAGE:
            raise Rejected(reasons.CORRUPT_IMAGE, "a GIF without a frame")
        pixels = at + 10 + _table(data[at + 9]) + 1
    except IndexError as error:
        raise Rejected(reasons.CORRUPT_IMAGE, "a GIF that breaks off") from error
    try:
        frame = data[at : _after_blocks(data, pixels)] + bytes([_END])
    except IndexError:
        frame = data[at:]  # all pixels may be there even so
    return b"".join([head, control, frame])


def _table(flags: int) -> int:
    """Bytes of the colours that follow."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while length := data[at]:
        at += 1 + length
    return at + 1
