"""From an image's bytes to an array of pixels, or to a reason for refusing it.

Every function is thread-safe and releases the GIL while it decodes. The outcome is a result or
`Rejected`, whatever the bytes are; another exception means a mistake of the caller or no memory.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import reasons
from shardmill.memory import lacks_memory
from shardmill.samples import IMAGE_FORMATS, image_format

_T = TypeVar("_T", bound=np.generic)
Labels = npt.NDArray[np.unsignedinteger[Any]]

MAX_PIXELS = 178_956_970
"""Width times height above which an image is refused: where Pillow too stops, half a gigabyte as RGB."""

# Pillow reports damaged metadata by warnings; the pixels decide here. Process-wide, because `catch_warnings`
# is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Opened by class rather than by `Image.open`: its check of the size follows a process-wide setting and warns,
# and a JPEG with a second picture in it (MPO) would be another format.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)

_UNSUPPORTED_MODES = {"F": "32-bit float", "LAB": "CIELAB"}


def decode_image(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image for the eye: RGB, upright.

    CMYK and palettes are converted, 16-bit grey is scaled to 8 bits, transparency is laid over white, EXIF's
    orientation is applied. Of an animation, the first frame.

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
    image = _open(data, component, max_pixels)
    if _is_plain_jpeg(image):
        with _corrupt():
            orientation = _orientation(image)
        pixels = _decode_plain_jpeg(data)
        if pixels is not None:
            return _upright(pixels, orientation)
    with _corrupt():
        image.load()
        orientation = _orientation(image)  # after load: Pillow turns a TIFF itself and drops the tag
    return _upright(_rgb(image), orientation)


def decode_mask(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> Labels:
    """Decode a label map: the values as they are stored, upright.

    A palette gives its indices, 1-bit gives 0 and 1, 2- and 4-bit grey their small numbers, 16-bit all 16
    bits. A mask stored as RGB passes when its three channels are equal.

    Returns:
        uint8 or uint16 [height, width], contiguous, writable.

    Raises:
        Rejected: As `decode_image`; "unsupported pixel format" also for colours and transparency.
        ConfigurationError: The component is not an image.
    """
    image = _open(data, component, max_pixels)
    with _corrupt():
        image.load()
        orientation = _orientation(image)
    return _upright(_labels(image, data), orientation)


def verify_image(data: bytes, component: str, max_pixels: int = MAX_PIXELS) -> None:
    """Check that `decode_image` would decode it, at the least cost.

    All of the compressed data are read. A JPEG is reconstructed at an eighth of its size, in grey.

    Raises:
        Rejected: As `decode_image`.
        ConfigurationError: The component is not an image.
    """
    image = _open(data, component, max_pixels)
    if _is_plain_jpeg(image) and _jpeg_decodes(data):
        return
    with _corrupt():
        image.draft("RGB" if image.mode == "RGB" else "L", (1, 1))  # of use to JPEG only
        image.load()
    if image.mode == "I":
        _sixteen_bits(image)


def _open(data: bytes, component: str, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header; check format, size and mode."""
    wanted = image_format(component)
    if wanted is None:
        known = ", ".join(IMAGE_FORMATS)
        raise ConfigurationError(f"component {component!r} is not an image: its suffix must be one of {known}")
    if not data:
        raise Rejected(reasons.EMPTY_FILE, f"{component} has no bytes")
    suffix = component.rpartition(".")[2]
    found = _sniff(data)
    if found is None:
        raise Rejected(reasons.NOT_AN_IMAGE, f"named .{suffix}, begins with {bytes(data[:12])!r}")
    if found != wanted:
        raise Rejected(reasons.WRONG_EXTENSION, f"named .{suffix}, but the bytes are {found}")
    with _corrupt():
        image = _READERS[found](io.BytesIO(data))
    width, height = image.size
    if width * height > max_pixels:
        raise Rejected(reasons.TOO_MANY_PIXELS, f"{width} x {height}, the limit is {max_pixels}")
    if width == 0 or height == 0:
        raise Rejected(reasons.CORRUPT_IMAGE, f"{width} x {height} pixels")
    if image.mode in _UNSUPPORTED_MODES:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"{_UNSUPPORTED_MODES[image.mode]} {found}")
    return image


def _sniff(data: bytes) -> str | None:
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


@contextmanager
def _corrupt() -> Iterator[None]:
    """Turn what Pillow raises on bad bytes into `Rejected`; nothing but calls of Pillow belongs in its scope.

    Its readers parse with struct, zlib, int(), dictionaries and asserts, so that hostile bytes raise nearly
    anything.
    """
    try:
        yield
    except Image.DecompressionBombError as error:
        raise Rejected(reasons.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:
        if lacks_memory(error):
            raise MemoryError(str(error)) from error
        raise Rejected(reasons.CORRUPT_IMAGE, f"{type(error).__name__}: {error}") from error


def _is_plain_jpeg(image: ImageFile.ImageFile) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L")


def _decode_plain_jpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode with libjpeg-turbo directly. None on any complaint, also a harmless one: let Pillow judge."""
    import simplejpeg

    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return pixels


def _jpeg_decodes(data: bytes) -> bool:
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except ValueError:
        return False
    return True


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) else 1


def _upright(pixels: npt.NDArray[_T], orientation: int) -> npt.NDArray[_T]:
    """Apply EXIF's orientation to [height, width, ...]; unknown values change nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A loaded image → uint8 [height, width, 3], writable."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = _sixteen_bits(image)
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 → 255; Pillow's convert clips
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    with _corrupt():
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
        return np.array(image.convert("RGB"))


def _labels(image: Image.Image, data: bytes) -> Labels:
    """A loaded image → [height, width], writable."""
    if image.mode in ("1", "P"):
        with _corrupt():
            return np.array(image).astype(np.uint8)
    if image.mode == "L":
        with _corrupt():
            return np.array(image) // np.uint8(255 // ((1 << min(_grey_bits(image, data), 8)) - 1))
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _sixteen_bits(image)
    if image.mode in ("RGB", "RGBA", "LA"):
        with _corrupt():
            channels = np.array(image.convert("RGBA"))
        grey = channels[:, :, 0]
        if (channels[:, :, 1:3] == grey[:, :, None]).all() and (channels[:, :, 3] == 255).all():
            return grey.copy()
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"a mask holds labels, not colours or transparency ({image.mode})")
    raise Rejected(reasons.UNSUPPORTED_PIXELS, f"a mask cannot be {image.mode}")


def _grey_bits(image: Image.Image, data: bytes) -> int:
    """Bits that a stored grey value has; Pillow stretches fewer than 8 to 0…255."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24]  # of the IHDR, which always comes first
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))[0])
    return 8


def _sixteen_bits(image: Image.Image) -> npt.NDArray[np.uint16]:
    with _corrupt():
        values = np.array(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"32-bit integers, from {low} to {high}; 16 bits are the most")
    return values.astype(np.uint16)
