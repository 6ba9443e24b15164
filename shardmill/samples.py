"""A sample: one key and its components, WebDataset's sense. Also what names of components mean."""

from collections.abc import Mapping
from dataclasses import dataclass

IMAGE_FORMATS: Mapping[str, str] = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "tiff": "TIFF",
    "bmp": "BMP",
    "avif": "AVIF",
    "heic": "HEIF",
    "jxl": "JXL",
}
"""Pillow's format name for the last part of a component's name (`trimap.png` → `PNG`)."""

SUFFIX_ALIASES: Mapping[str, str] = {
    "jpeg": "jpg",
    "jpe": "jpg",
    "jfif": "jpg",
    "tif": "tiff",
    "apng": "png",
    "dib": "bmp",
    "heif": "heic",
}
"""Other suffixes of the same formats, and the one that a component has."""


def canonical_suffix(suffix: str) -> str:
    """The one suffix of all that name the same format, in lower case (`JPEG` → `jpg`)."""
    lower = suffix.lower()
    return SUFFIX_ALIASES.get(lower, lower)


def image_format(component: str) -> str | None:
    """Pillow's format name of an image component, None if the component is not an image."""
    return IMAGE_FORMATS.get(canonical_suffix(component.rpartition(".")[2]))


@dataclass(frozen=True)
class EncodedSample:
    """A sample as it stands in a shard: component name → bytes."""

    key: str
    components: Mapping[str, bytes]
