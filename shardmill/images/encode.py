"""From an array of pixels to an image's bytes: the same array, the same bytes."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import reasons
from shardmill.memory import lacks_memory
from shardmill.samples import IMAGE_FORMATS, image_format

_READ_ONLY = {"HEIF": "HEIC", "JXL": "JPEG XL"}
_LOSSLESS_FOR_LABELS = ("PNG", "TIFF")


def encode_image(array: npt.NDArray[Any], component: str, quality: int = 95) -> bytes:
    """Encode an image, or a label map, in the format that the component's suffix names.

    JPEG is written with 4:2:0 chroma, as Pillow does; WebP and AVIF are lossy; a GIF gets a palette of its own.

    Args:
        array: An image, uint8 [height, width, 3 or 1]; or a mask, uint8 or uint16 [height, width].
        component: `jpg`, `trimap.png` …
        quality: 1 to 100, of JPEG, WebP and AVIF.

    Raises:
        ConfigurationError: Not an image's suffix, a format that is only read, another shape or dtype, or a mask in a
            format that would change its values.
        Rejected: The format cannot hold an image of this size.
    """
    name = image_format(component)
    if name is None:
        known = ", ".join(IMAGE_FORMATS)
        raise ConfigurationError(f"component {component!r} is not an image: its suffix must be one of {known}")
    if name in _READ_ONLY:
        raise ConfigurationError(
            f"{_READ_ONLY[name]} is read, and not written: {component!r} cannot be encoded. Let the transform write "
            "another format"
        )
    mask = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not mask and not (array.ndim == 3 and array.shape[2] in (1, 3) and array.dtype == np.uint8):
        raise ConfigurationError(
            f"cannot encode {component!r} from {array.dtype}{list(array.shape)}: "
            "an image is uint8 [height, width, 3 or 1], a mask is uint8 or uint16 [height, width]"
        )
    if mask and name not in _LOSSLESS_FOR_LABELS:
        better = f"{component.rpartition('.')[0] or 'mask'}.png"
        raise ConfigurationError(
            f"a mask cannot be stored as {component!r}: {name} changes its values. Name it {better}"
        )
    if 0 in array.shape:
        raise Rejected(reasons.NOT_ENCODABLE, f"{component} has {array.shape[1]} x {array.shape[0]} pixels")
    try:
        return _jpeg(array, quality) if name == "JPEG" else _pillow(array, name, quality)
    except (OSError, ValueError) as error:  # larger than the format allows
        if lacks_memory(error):
            raise MemoryError(f"{component}: {error}") from error
        detail = f"{component}, {array.shape[1]} x {array.shape[0]}: {error}"
        raise Rejected(reasons.NOT_ENCODABLE, detail) from error


def _jpeg(array: npt.NDArray[np.uint8], quality: int) -> bytes:
    import simplejpeg

    _, width, channels = array.shape
    grey = channels == 1
    if array.strides[1:] != (channels, 1) or array.strides[0] < width * channels:
        array = np.ascontiguousarray(array)  # gaps between rows, which a crop has, need no copy
    encoded: bytes = simplejpeg.encode_jpeg(
        array,
        quality=quality,
        colorspace="GRAY" if grey else "RGB",
        colorsubsampling="Gray" if grey else "420",
    )
    return encoded


def _pillow(array: npt.NDArray[Any], name: str, quality: int) -> bytes:
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_adobe_deflate"},
        "AVIF": {"quality": quality, "max_threads": 1},  # the number of threads decides on the tiles
    }
    squeezed = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(squeezed)).save(file, name, **options.get(name, {}))
    return file.getvalue()
