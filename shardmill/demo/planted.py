"""The planted samples: images that must be rejected, each with its reason, and odd ones that must not."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

JPEG_QUALITY = 98
"""High, because small photographs enlarged are soft: it brings the files to the size of a camera's."""

_ORIENTATION = 0x0112  # the EXIF tag
_ACCESS_DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>\n"
)


@dataclass(frozen=True)
class Planted:
    """One planted sample. Only its image is at fault: its label and mask are those of a sound view."""

    photograph: str
    fault: str
    component: str
    """The image's: `jpg` or `png`."""
    reason: str | None
    """Why the image must be rejected; None if it must come out right."""
    encode: Callable[[Image.Image], bytes]
    """A view → the bytes of the file."""

    @property
    def key(self) -> str:
        """The sample's key."""
        return f"{self.photograph}_{self.fault}"


def encode_jpeg(image: Image.Image) -> bytes:
    """The view as an ordinary JPEG, as all samples but the planted ones are."""
    return _encode(image, "JPEG", quality=JPEG_QUALITY)


def _encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _truncated(image: Image.Image) -> bytes:
    """An upload that broke off."""
    whole = encode_jpeg(image)
    return whole[: len(whole) * 3 // 5]


def _empty(_: Image.Image) -> bytes:
    return b""


def _png_named_jpg(image: Image.Image) -> bytes:
    return _encode(image, "PNG")


def _text_named_jpg(_: Image.Image) -> bytes:
    """A store's refusal, saved by a downloader that did not look at the status."""
    return _ACCESS_DENIED


def _bomb(image: Image.Image) -> bytes:
    """A JPEG of a few kilobytes whose header claims 65000 x 65000 pixels: 12.7 GB once decoded."""
    small = _encode(image.convert("RGB").resize((64, 64)), "JPEG")
    marker = small.index(b"\xff\xc0")  # baseline frame header: length (2 bytes), precision (1), height, width
    return small[: marker + 5] + struct.pack(">HH", 65000, 65000) + small[marker + 9 :]


def _cmyk(image: Image.Image) -> bytes:
    """As sent to print."""
    return encode_jpeg(image.convert("RGB").convert("CMYK"))


def _exif_rotated(image: Image.Image) -> bytes:
    """As a phone held upright writes it: the pixels lie on their side, and orientation 6 says so."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    sideways = image.transpose(Image.Transpose.ROTATE_90)
    return _encode(sideways, "JPEG", quality=JPEG_QUALITY, exif=exif)


def _grey16(image: Image.Image) -> bytes:
    """Grey in 16 bits, as instruments write it; the high byte of a pixel is its 8-bit value."""
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return _encode(Image.fromarray(grey), "PNG")


PLANTED: Sequence[Planted] = (
    Planted("pagoda", "truncated", "jpg", "truncated or corrupt image", _truncated),
    Planted("coins", "png_named_jpg", "jpg", "wrong extension", _png_named_jpg),
    Planted("galaxies", "bomb", "jpg", "too many pixels", _bomb),
    Planted("cat", "empty", "jpg", "empty file", _empty),
    Planted("rocket", "text_named_jpg", "jpg", "not an image", _text_named_jpg),
    Planted("dahlia", "cmyk", "jpg", None, _cmyk),
    Planted("photographer", "exif_rotated", "jpg", None, _exif_rotated),
    Planted("moon", "grey16", "png", None, _grey16),
)
"""The planted samples; those of one demo lie spread over its partitions in turn."""
