"""A sample: one key and its components, WebDataset's sense. Also what names of components mean."""

from collections.abc import Mapping
from dataclasses import dataclass

IMAGE_FORMATS: Mapping[str, str] = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
}
"""Pillow's format name for the last part of a component's name (`trimap.png` → `PNG`)."""


def image_format(component: str) -> str | None:
    """Pillow's format name of an image component, None if the component is not an image."""
    return IMAGE_FORMATS.get(component.rpartition(".")[2])


@dataclass(frozen=True)
class EncodedSample:
    """A sample as it stands in a shard: component name → bytes."""

    key: str
    components: Mapping[str, bytes]
