"""What EXIF says of the pixels: which side is up, and whether they are Adobe RGB. Damaged EXIF says nothing."""

from typing import NamedTuple

from shardmill.images.directory import Directory, read_directory

_ORIENTATION, _EXIF, _COLOUR_SPACE, _INTEROPERABILITY, _INDEX = 0x0112, 0x8769, 0xA001, 0xA005, 1
_ADOBE_RGB, _UNCALIBRATED = 2, 0xFFFF


class Exif(NamedTuple):
    """What matters of it."""

    orientation: int = 1
    is_adobe_rgb: bool = False
    """As cameras say it that write no ICC profile (DCF 2.0)."""


def read_exif(data: bytes | None) -> Exif:
    """Read an EXIF block, with or without its `Exif` header."""
    if not data:
        return Exif()
    try:
        first = read_directory(data.removeprefix(b"Exif\0\0"))
    except ValueError:
        return Exif()
    orientation = first.value(_ORIENTATION, 1)
    return Exif(orientation if 1 <= orientation <= 8 else 1, _is_adobe_rgb(first))


def _is_adobe_rgb(first: Directory) -> bool:
    try:
        exif = first.at(first.value(_EXIF, 0))
        space = exif.value(_COLOUR_SPACE, 0)
        if space != _UNCALIBRATED:
            return space == _ADOBE_RGB
        return (first.at(exif.value(_INTEROPERABILITY, 0)).raw(_INDEX) or b"").startswith(b"R03")
    except ValueError:
        return False
