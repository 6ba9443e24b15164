"""Colours are adjusted to the bit as torchvision adjusts them."""

import numpy as np
import pytest
import torch

from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms.colours import adjusted

import_torchvision()
from torchvision.transforms.v2 import functional as F  # noqa: E402

ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
FACTORS = [
    *((number, factor) for number in range(3) for factor in (0.0, 0.3, 1.0, 1.7)),
    *((3, f) for f in (-0.5, 0.0, 0.037, 0.5)),
]


def every_colour(step: int = 1) -> np.typing.NDArray[np.uint8]:
    values = np.append(np.arange(0, 255, step), 255).astype(np.uint8)
    cube = np.stack(np.meshgrid(values, values, values, indexing="ij"), axis=-1)
    return cube.reshape(len(values), -1, 3)


def by_torchvision(pixels: np.typing.NDArray[np.uint8], number: int, factor: float) -> np.typing.NDArray[np.uint8]:
    planes: torch.Tensor = ADJUST[number](torch.from_numpy(pixels).permute(2, 0, 1), factor)
    return planes.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("number", "factor"), FACTORS)
def test_colours_all_over_the_cube_are_adjusted_the_same(number: int, factor: float) -> None:
    cube = every_colour(step=5)
    assert np.array_equal(adjusted(cube, [(number, factor)]), by_torchvision(cube, number, factor))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "factor"), FACTORS)
def test_every_colour_is_adjusted_the_same(number: int, factor: float) -> None:
    cube = every_colour()
    assert np.array_equal(adjusted(cube, [(number, factor)]), by_torchvision(cube, number, factor))


def test_adjustments_follow_each_other_in_the_order_given() -> None:
    cube = every_colour(step=17)
    order = [(3, 0.2), (1, 0.4), (0, None), (2, 1.5)]
    expected = cube
    for number, factor in order:
        if factor is not None:
            expected = by_torchvision(expected, number, factor)
    assert np.array_equal(adjusted(cube, order), expected)
