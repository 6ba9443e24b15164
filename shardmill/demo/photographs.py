"""The photographs of the demo, and the views cut from them. Knows nothing of files to be written."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from shardmill.errors import ConfigurationError

PHOTOGRAPHS: Mapping[str, str] = {
    "astronaut": "skimage/data/astronaut.png",
    "bricks": "skimage/data/brick.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "dahlia": "sklearn/datasets/images/flower.jpg",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "moon": "skimage/data/moon.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "pagoda": "sklearn/datasets/images/china.jpg",
    "photographer": "skimage/data/camera.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
    "tissue": "skimage/data/ihc.png",
}
"""Name of a photograph → where it lies in site-packages; its class is its place in this order.

These are files of the wheels themselves; what `skimage.data` would download is not used.
"""

LONG_SIDE = 500
"""Pixels on the long side of a view: ImageNet's usual size."""

MASK_CLASSES = 4
"""A mask's labels are 0 (the darkest region) … 3 (the lightest)."""

_LARGEST = 750  # of a photograph as used: two are far larger than any view needs, and masks cost by the pixel
_SHAPES = ((4, 3), (3, 2), (1, 1), (3, 4))
_SCALES = (0.5, 0.95)  # below 1, or views that fit the photograph exactly would all be the same


@dataclass(frozen=True)
class View:
    """A picture and its mask, of one size. The picture is `RGB` or `L`, the mask `L` with a label a pixel."""

    image: Image.Image
    mask: Image.Image


@dataclass(frozen=True)
class Photograph:
    """A whole photograph with its mask."""

    name: str
    image: Image.Image
    mask: Image.Image

    def view(self, seed: int | str) -> View:
        """Cut one view, determined by the photograph's name and `seed`; its long side is `LONG_SIDE`.

        Shape, scale and place are drawn; views of different seeds overlap.
        """
        # `random()` of a seeded `Random` is the one draw that Python promises never to change.
        draw = random.Random(f"{self.name}/{seed}").random
        across, down = _SHAPES[int(draw() * len(_SHAPES))]
        low, high = _SCALES
        unit = min(self.image.width / across, self.image.height / down) * (low + (high - low) * draw())
        width, height = unit * across, unit * down
        left, top = (self.image.width - width) * draw(), (self.image.height - height) * draw()
        box = (left, top, left + width, top + height)
        size = (LONG_SIDE * across // max(across, down), LONG_SIDE * down // max(across, down))
        return View(
            self.image.resize(size, Image.Resampling.LANCZOS, box),
            self.mask.resize(size, Image.Resampling.NEAREST, box),
        )


def load_photograph(name: str) -> Photograph:
    """Read a photograph of `PHOTOGRAPHS` and make its mask.

    Raises:
        ConfigurationError: The wheel that carries it is not installed, or carries it no more.
    """
    package, _, path = PHOTOGRAPHS[name].partition("/")
    file = _package_folder(package) / path
    if not file.is_file():
        raise ConfigurationError(
            f"The demo's photograph {name!r} is not in the installed {package}: {file} is missing. "
            "Install another version: pip install 'shardmill[demo]'"
        )
    with Image.open(file) as opened:
        image = opened.convert("L" if opened.mode == "L" else "RGB")
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return Photograph(name, image, _mask(image))


def _package_folder(package: str) -> Path:
    """The folder of an installed package, found without the seconds that importing it takes."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"The demo dataset is cut from photographs that {package} carries, and {package} is not "
            "installed: pip install 'shardmill[demo]'"
        )
    return Path(spec.submodule_search_locations[0])


def _mask(image: Image.Image) -> Image.Image:
    """Regions of like colour: `L`, labels 0 … `MASK_CLASSES` - 1 from dark to light.

    Pillow's quantiser is k-means in integers, so the labels are the same on every machine.
    """
    smooth = image.convert("RGB").filter(ImageFilter.GaussianBlur(2))
    few = smooth.copy()
    few.thumbnail((128, 128))  # enough pixels to find the colours by; k-means over all would take seconds
    palette = few.quantize(MASK_CLASSES, Image.Quantize.MAXCOVERAGE, kmeans=10)
    regions = smooth.quantize(palette=palette, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette(), dtype=np.int64).reshape(-1, 3)[:MASK_CLASSES]
    brightness = colours @ (299, 587, 114)
    label = brightness.argsort().argsort().astype(np.uint8)  # the rank of each region
    return Image.fromarray(label[np.asarray(regions)]).filter(ImageFilter.ModeFilter(7))
