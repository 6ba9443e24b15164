"""GIF, BMP, AVIF, HEIC and JPEG XL: by Pillow and its plug-ins as they are."""

from functools import partial
from io import BytesIO

from PIL import AvifImagePlugin, BmpImagePlugin, GifImagePlugin, Image, ImageFile

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.exif import read_exif
from shardmill.images.formats import plugin
from shardmill.images.opened import Opened, corrupt

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}


def open_other(data: bytes, name: str) -> Opened:
    """Read the header.

    Raises:
        Rejected: It is damaged, or what reads the format is not installed.
    """
    reader = _READERS.get(name) or plugin(name)
    with corrupt():
        image = reader(BytesIO(data))
    if image.mode == "F":
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"floats in {name}")
    with corrupt():
        exif = read_exif(image.info.get("exif"))
        profile = image.info.get("icc_profile")
    return Opened(
        *image.size,
        partial(_load, image),
        exif.orientation,
        profile if isinstance(profile, bytes) else None,
        16 if image.mode.startswith("I") else 8,
    )


def _load(image: Image.Image) -> Image.Image:
    with corrupt():
        image.load()
        return image
