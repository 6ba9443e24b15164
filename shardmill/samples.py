"""A sample: one key and its components, WebDataset's sense. Also what names of components mean."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

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


def called_so(name: str, components: Collection[str]) -> str | None:
    """The component that a dataset file means; `image` is `image.jpg` or `image.png`, whichever there is."""
    if name in components:
        return name
    images = [each for each in components if each.rpartition(".")[0] == name and image_format(each)]
    return images[0] if len(images) == 1 else None


def names_of(name: str) -> list[str]:
    """All components that a name can stand for: itself, and images with a suffix more."""
    return [name, *(f"{name}.{suffix}" for suffix in (*IMAGE_FORMATS, *SUFFIX_ALIASES))]


@dataclass(frozen=True)
class EncodedSample:
    """A sample as it stands in a shard: component name → bytes."""

    key: str
    components: Mapping[str, bytes]
    is_checked: bool = field(default=True, compare=False)
    """Whether somebody has decoded its images whole, as packing does: a part of one that is damaged may look sound."""
