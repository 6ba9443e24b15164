"""Brightness, contrast, saturation and hue of an image: torchvision's arithmetic, to the bit, in fewer passes.

The planes are floats from the first adjustment to the last, cut to whole numbers after each. What torchvision picks by
an index is a sum here, of which all terms but one are zero.

The module is torch through and through: import it inside functions.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch  # noqa: TID253

Floats: TypeAlias = npt.NDArray[np.float32]

_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114


def adjusted(pixels: npt.NDArray[np.uint8], adjustments: Iterable[tuple[int, float | None]]) -> npt.NDArray[np.uint8]:
    """Adjust colours in the order given.

    Args:
        pixels: uint8 [height, width, 3].
        adjustments: Which, by its number in `ColorJitter` (brightness, contrast, saturation, hue), and its factor;
            None changes nothing.

    Returns:
        uint8 [height, width, 3], contiguous.
    """
    planes: Floats = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    for number, factor in adjustments:
        if factor is not None:
            planes = _ADJUST[number](planes, factor)
    return np.stack(list(planes.astype(np.uint8)), axis=-1)


def _brightness(planes: Floats, factor: float) -> Floats:
    planes *= np.float32(factor)
    return _whole(planes)


def _contrast(planes: Floats, factor: float) -> Floats:
    return _blended(planes, torch.mean(_grey(planes), dim=(-3, -2, -1), keepdim=True), factor)


def _saturation(planes: Floats, factor: float) -> Floats:
    return _blended(planes, _grey(planes), factor)


def _grey(planes: Floats) -> torch.Tensor:
    """Torch multiplies and adds in one step, which rounds once."""
    red, green, blue = torch.from_numpy(planes).unbind(0)
    return red.mul(_RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE).floor_().unsqueeze(0)


def _blended(planes: Floats, other: torch.Tensor, factor: float) -> Floats:
    torch.from_numpy(planes).mul_(factor).add_(other, alpha=1.0 - factor)
    return _whole(planes)


def _whole(planes: Floats) -> Floats:
    np.clip(planes, 0, 255, out=planes)
    return np.floor(planes, out=planes)


def _hue(planes: Floats, factor: float) -> Floats:
    planes *= np.float32(1 / 255)
    hue, saturation, value = _to_hsv(planes)
    hue += np.float32(factor)
    hue -= np.floor(hue)
    planes = _to_rgb(hue, saturation, value)
    planes *= np.float32(256 - 1e-3)
    return np.floor(planes, out=planes)


def _to_hsv(planes: Floats) -> tuple[Floats, Floats, Floats]:
    red, green, blue = planes
    largest = np.maximum(np.maximum(red, green), blue)
    extent = largest - np.minimum(np.minimum(red, green), blue)
    is_grey = extent == 0
    saturation = extent / (largest + is_grey)
    extent += is_grey
    below_red, below_green, below_blue = (largest - planes) / extent
    is_red = largest == red
    is_green = (largest == green) & ~is_red
    hue = (below_blue - below_green) * is_red
    below_blue -= below_red + np.float32(2)
    hue -= below_blue * is_green
    below_green += np.float32(4)
    below_green -= below_red
    hue += below_green * ~(is_red | is_green)
    hue *= np.float32(1 / 6)
    hue += np.float32(1)
    hue -= np.floor(hue)
    return hue, saturation, largest


def _to_rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    one = np.float32(1)
    hue *= np.float32(6)
    sector = np.floor(hue)
    hue -= sector
    hue *= saturation
    rest = one - saturation
    falling = _of_one((one - hue) * value)
    rising = _of_one((hue + rest) * value)
    least = _of_one(rest * value)
    is_1, is_2, is_3, is_4, is_5 = (sector == number for number in range(1, 6))
    is_0 = ~(is_1 | is_2 | is_3 | is_4 | is_5)
    return np.stack(
        [
            value * (is_0 | is_5) + falling * is_1 + least * (is_2 | is_3) + rising * is_4,
            value * (is_1 | is_2) + falling * is_3 + least * (is_4 | is_5) + rising * is_0,
            value * (is_3 | is_4) + falling * is_5 + least * (is_0 | is_1) + rising * is_2,
        ]
    )


def _of_one(plane: Floats) -> Floats:
    return np.clip(plane, 0, 1, out=plane)


_ADJUST = (_brightness, _contrast, _saturation, _hue)
