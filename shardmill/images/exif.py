"""What EXIF says of the pixels: which side is up, and whether they are Adobe RGB. Damaged EXIF says nothing."""

from typing import NamedTuple

from PIL import ExifTags, Image

from shardmill.memory import lacks_memory

_ADOBE_RGB = 2
_UNCALIBRATED = 0xFFFF


class Exif(NamedTuple):
    """What matters of it."""

    orientation: int = 1
    is_adobe_rgb: bool = False
    """As cameras say it that write no ICC profile (DCF 2.0)."""


def read_exif(data: bytes | None) -> Exif:
    """Read an EXIF block, with or without its `Exif` header."""
    if not data:
        return Exif()
    exif = Image.Exif()
    try:
        exif.load(data)
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        if lacks_memory(error):
            raise
        return Exif()
    if not (isinstance(orientation, int) and 1 <= orientation <= 8):
        orientation = 1
    return Exif(orientation, _is_adobe_rgb(exif))


def _is_adobe_rgb(exif: Image.Exif) -> bool:
    try:
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        if space != _UNCALIBRATED:
            return bool(space == _ADOBE_RGB)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(1)
    except Exception as error:
        if lacks_memory(error):
            raise
        return False
    return isinstance(index, str) and index.startswith("R03")
