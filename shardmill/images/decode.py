"""From an image's bytes to an array of pixels, or to a reason for refusing it.

Every function is thread-safe and releases the GIL while it decodes. The outcome is a result or
`Rejected`, whatever the bytes are; another exception means a mistake of the caller or no memory.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import reasons
from shardmill.images.baseline import is_baseline
from shardmill.images.budget import MAX_PIXELS, in_work
from shardmill.images.colour import is_srgb, to_rgb
from shardmill.images.formats import check_format
from shardmill.images.gif import open_gif
from shardmill.images.jpeg import open_jpeg
from shardmill.images.opened import Opened, corrupt
from shardmill.images.others import open_other
from shardmill.images.png import open_png
from shardmill.images.scale import wide_values
from shardmill.images.tiff import open_tiff
from shardmill.images.webp import open_webp
from shardmill.samples import IMAGE_FORMATS, image_format

_T = TypeVar("_T", bound=np.generic)
Labels = npt.NDArray[np.unsignedinteger[Any]]

MAX_SIDE = 1 << 20
"""Width or height above which an image is refused: decoders count the bytes of a row in 31 bits."""

_TURNED, _BOTTOM_UP, _RIGHT_TO_LEFT = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
"""EXIF's orientations: rows are columns; then, the last row is the first; the last column is the first."""

# Pillow reports damaged metadata by warnings; the pixels decide here. Process-wide, because `catch_warnings`
# is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_OPEN = {"JPEG": open_jpeg, "PNG": open_png, "WEBP": open_webp, "GIF": open_gif, "TIFF": open_tiff}


def decode_image(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image for the eye: sRGB, upright.

    Colours are converted from the embedded ICC profile, CMYK and palettes too; 16-bit values are scaled to 8
    bits, transparency is laid over white, EXIF's orientation is applied. Of an animation, the first frame.

    Args:
        data: The file's bytes.
        component: Its name in the sample (`jpg`, `image.png`); the suffix must be that of the bytes' format.
        max_pixels: Refuse more, by the header, before a pixel is decoded.

    Returns:
        uint8 [height, width, 3], contiguous, writable.

    Raises:
        Rejected: With one of `shardmill.images.reasons`.
        ConfigurationError: The component is not an image.
    """
    with in_work:
        image = open_image(data, component, max_pixels)
        pixels, convert = image.decode(0, 0, *image.size)
        if convert is not None:
            convert(pixels)
        return pixels


def open_image(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> "StoredImage":
    """Read an image, its header alone where that is enough.

    Raises:
        Rejected: As `decode_image`, as far as was read.
        ConfigurationError: The component is not an image.
    """
    return StoredImage(_read_header(data, component, max_pixels))


class StoredImage:
    """An image, decoded already if no part of it costs less than the whole.

    Attributes:
        size: Height and width, upright.
    """

    def __init__(self, image: Opened) -> None:
        self._image = image
        self._decoded = None if image.load_rows else _decoded(image)
        height, width = (image.height, image.width) if self._decoded is None else self._decoded.shape[:2]
        self.size = (width, height) if image.orientation in _TURNED else (height, width)

    def decode(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.uint8], Callable[[npt.NDArray[np.uint8]], None] | None]:
        """Decode a part that lies within it, as `decode_image` does, but for a conversion of colours.

        Returns:
            uint8 [height, width, 3], writable; rows may have gaps between them. And what converts them, or any part
            of them, to sRGB in place; None where they are.

        Raises:
            Rejected: As `decode_image`; for damage elsewhere in the image not always.
        """
        top, left, height, width = self._as_stored(top, left, height, width)
        with in_work:
            pixels = self._rows(top + height)[top : top + height, left : left + width]
            return _upright(pixels, self._image.orientation), self._image.convert

    def _rows(self, rows: int) -> npt.NDArray[np.uint8]:
        if self._decoded is not None:
            return self._decoded
        if self._image.load_rows is None or rows == self._image.height:
            return _decoded(self._image)
        in_work.take(self._image.width * self._image.height)
        return self._image.load_rows(rows)

    def _as_stored(self, top: int, left: int, height: int, width: int) -> tuple[int, int, int, int]:
        if self._image.orientation in _RIGHT_TO_LEFT:
            left = self.size[1] - left - width
        if self._image.orientation in _BOTTOM_UP:
            top = self.size[0] - top - height
        return (left, top, width, height) if self._image.orientation in _TURNED else (top, left, height, width)


def decode_mask(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> Labels:
    """Decode a label map: the values as they are stored, upright. Profiles change none.

    A palette gives its indices, 1-bit gives 0 and 1, 2- and 4-bit grey their small numbers, 16-bit all 16
    bits. A mask stored as RGB passes when its three channels are equal.

    Returns:
        uint8 or uint16 [height, width], contiguous, writable.

    Raises:
        Rejected: As `decode_image`; "unsupported pixel format" also for colours and transparency.
        ConfigurationError: The component is not an image.
    """
    with in_work:
        image = _open(data, component, max_pixels)
        return _upright(_labels(image.load(), image.bits), image.orientation)


def verify_image(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> None:
    """Check that `decode_image` decodes it, at the least cost.

    All of the compressed data are read. A JPEG is reconstructed at an eighth of its size, in grey.

    Raises:
        Rejected: As `decode_image`.
        ConfigurationError: The component is not an image.
    """
    with in_work:
        image = _open(data, component, max_pixels)
        if image.check is not None:
            image.check()
        else:
            image.load()


def shows_as_stored(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether any viewer shows the file as `decode_image` does: upright, in sRGB, in grey or RGB. By its header.

    Raises:
        Rejected: As `decode_image`, as far as the header tells.
    """
    with in_work:
        image = _open(data, component, max_pixels)
        is_cmyk = _wanted(component) == "JPEG" and image.load_pixels is None
        return image.orientation == 1 and not is_cmyk and is_srgb(image.profile)


def plain_jpeg_size(
    data: bytes, component: str, max_pixels: int = MAX_PIXELS, is_sound: bool = False
) -> tuple[int, int] | None:
    """Height and width of a JPEG of which any decoder makes what `decode_image` does, but for rounding.

    None for everything else: other formats, rare kinds of JPEG, what is to be turned or is in other colours. All of
    the compressed data are read, unless `verify_image` has done so (`is_sound`): a decoder that passes over damage is
    not asked about it.

    Raises:
        Rejected: As `decode_image`.
    """
    with in_work:
        image = _open(data, component, max_pixels)
        is_plain = _wanted(component) == "JPEG" and image.orientation == 1 and is_srgb(image.profile)
        if not is_plain or image.check is None or not is_baseline(data):
            return None
        if not is_sound:
            image.check()
        return image.height, image.width


def verify_head(head: bytes, component: str) -> None:
    """Check by the first bytes of a file that it is of the format that its name says.

    Raises:
        Rejected: As `decode_image`.
    """
    check_format(head, component, _wanted(component))


def _wanted(component: str) -> str:
    wanted = image_format(component)
    if wanted is None:
        known = ", ".join(IMAGE_FORMATS)
        raise ConfigurationError(f"component {component!r} is not an image: its suffix must be one of {known}")
    return wanted


def _open(data: bytes, component: str, max_pixels: int) -> Opened:
    """Read the header; check format and size; wait until there is room for the pixels."""
    image = _read_header(data, component, max_pixels)
    in_work.take(image.width * image.height)
    return image


def _read_header(data: bytes, component: str, max_pixels: int) -> Opened:
    """Check format and size, too."""
    wanted = _wanted(component)
    check_format(data, component, wanted)
    image = _OPEN[wanted](data) if wanted in _OPEN else open_other(data, wanted)
    width, height = image.width, image.height
    if width * height > max_pixels:
        raise Rejected(reasons.TOO_MANY_PIXELS, f"{width} x {height}, the limit is {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise Rejected(reasons.TOO_MANY_PIXELS, f"{width} x {height}, a side has {MAX_SIDE} at most")
    if width == 0 or height == 0:
        raise Rejected(reasons.CORRUPT_IMAGE, f"{width} x {height} pixels")
    return image


def _upright(pixels: npt.NDArray[_T], orientation: int) -> npt.NDArray[_T]:
    """Apply EXIF's orientation to [height, width, ...]; unknown values change nothing."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _BOTTOM_UP:
        pixels = pixels[::-1]
    if orientation in _RIGHT_TO_LEFT:
        pixels = pixels[:, ::-1]
    if orientation == 1:
        return pixels
    if min(pixels.strides) < 0:  # torch takes none of these, though a side of one pixel counts as contiguous
        return pixels.copy()
    return np.ascontiguousarray(pixels)


def _decoded(image: Opened) -> npt.NDArray[np.uint8]:
    """All pixels as stored; in sRGB, if the image has not kept its conversion for later."""
    with in_work:
        in_work.take(image.width * image.height)
        return image.load_pixels() if image.load_pixels else to_rgb(image.load(), image.profile, image.bits)


def _labels(image: Image.Image, bits: int) -> Labels:
    """A loaded image → [height, width], writable."""
    with corrupt():
        if image.mode in ("1", "P"):
            return np.array(image).astype(np.uint8)
        if image.mode == "L":
            grey = np.array(image)
            return grey if bits >= 8 else grey // np.uint8(255 // ((1 << bits) - 1))
        if image.mode.startswith("I"):
            return wide_values(image)
        if image.mode in ("RGB", "RGBA", "LA"):
            channels = np.array(image.convert("RGBA"))
            grey = channels[:, :, 0]
            if (channels[:, :, 1:3] == grey[:, :, None]).all() and (channels[:, :, 3] == 255).all():
                return grey.copy()
            detail = f"a mask holds labels, not colours or transparency ({image.mode})"
            raise Rejected(reasons.UNSUPPORTED_PIXELS, detail)
    raise Rejected(reasons.UNSUPPORTED_PIXELS, f"a mask cannot be {image.mode}")
