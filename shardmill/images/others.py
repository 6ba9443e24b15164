"""BMP, AVIF, HEIC and JPEG XL: by Pillow and its plug-ins as they are."""

from functools import partial
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, BmpImagePlugin, Image, ImageFile

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.colour import to_rgb
from shardmill.images.exif import read_exif
from shardmill.images.formats import plugin
from shardmill.images.jxl import jxl_size
from shardmill.images.opened import Opened, corrupt
from shardmill.images.primaries import ADOBE_RGB

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BMP_HEADER = 14
_BMP_V5 = 124
_EMBEDDED = b"DEBM"


def open_other(data: bytes, name: str) -> Opened:
    """Read the header.

    Raises:
        Rejected: It is damaged, or what reads the format is not installed.
    """
    if name == "JXL":
        return _open_jxl(data)
    image = _opened(_READERS.get(name) or plugin(name), data, name)
    exif = read_exif(image.info.get("exif"))
    profile = _bmp_profile(data) if name == "BMP" else image.info.get("icc_profile")
    profile = profile or (ADOBE_RGB if exif.is_adobe_rgb else None)
    bits = 16 if image.mode.startswith("I") else 8
    return Opened(*image.size, partial(_load, image), exif.orientation, profile, bits)


def _open_jxl(data: bytes) -> Opened:
    """The plug-in tells profile and bits once it has decoded the pixels, which the codec turns upright itself."""
    reader = plugin("JXL")

    def load() -> Image.Image:
        image = _opened(reader, data, "JXL")
        method = None
        if getattr(image, "jpeg", False):  # a JPEG within is given as it is
            method = _TURNS.get(read_exif(image.info.get("exif")).orientation)
        loaded = _load(image)
        return loaded if method is None else loaded.transpose(method)

    def load_pixels() -> npt.NDArray[np.uint8]:
        image = load()
        return to_rgb(image, image.info.get("icc_profile"), 16 if image.mode.startswith("I") else 8)

    return Opened(*jxl_size(data), load, load_pixels=load_pixels)


def _opened(reader: type[ImageFile.ImageFile], data: bytes, name: str) -> ImageFile.ImageFile:
    with corrupt():
        image = reader(BytesIO(data))
    if image.mode == "F":
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"floats in {name}")
    return image


def _load(image: Image.Image) -> Image.Image:
    with corrupt():
        image.load()
        return image


def _bmp_profile(data: bytes) -> bytes | None:
    """What a header of version 5 embeds."""
    header = data[_BMP_HEADER : _BMP_HEADER + _BMP_V5]
    if len(header) < _BMP_V5 or int.from_bytes(header[:4], "little") < _BMP_V5 or header[56:60] != _EMBEDDED:
        return None
    start, size = (int.from_bytes(header[at : at + 4], "little") for at in (112, 116))
    return data[_BMP_HEADER + start :][:size] or None
