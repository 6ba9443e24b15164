"""What operations made of a component becomes bytes: the same numbers, or a refusal."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from shardmill.errors import ConfigurationError, Rejected
from shardmill.transforms.values import encode_value


def stored(value: torch.Tensor, mask: bool = False) -> list[list[int]]:
    """The numbers in the PNG, of an image those of its one channel."""
    data = encode_value(value, "png", mask, 95)
    values: list[list[int]] = np.asarray(Image.open(io.BytesIO(data))).tolist()
    return values


def test_a_float_is_rounded_to_the_nearest_level_and_cut_off_at_the_ends() -> None:
    levels = torch.tensor([[[-3.0, 0.4, 0.6, 99.4, 99.6, 254.6, 255.0, 300.0]]])
    assert stored(levels / 255) == [[0, 0, 1, 99, 100, 255, 255, 255]]


def test_a_bool_image_is_black_and_white() -> None:
    assert stored(torch.tensor([[[True, False]]])) == [[255, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_are_stored_as_they_are(dtype: torch.dtype) -> None:
    most = 255 if dtype == torch.uint8 else 65535
    for labels in (torch.tensor([[0, 3, most]], dtype=dtype), torch.tensor([[[0, 3, most]]], dtype=dtype)):
        assert stored(labels, mask=True) == [[0, 3, most]]
    assert stored(torch.tensor([[True, False]]), mask=True) == [[1, 0]]


@pytest.mark.parametrize("label", [-1, 65536])
def test_a_label_that_16_bits_cannot_hold_rejects_the_sample(label: int) -> None:
    with pytest.raises(Rejected, match=f"labels from {min(label, 3)} to {max(label, 3)}"):
        stored(torch.tensor([[3, label]]), mask=True)


@pytest.mark.parametrize(
    ("value", "component", "mask", "words"),
    [
        (torch.ones(1, 2), "png", True, r"float32\[1, 2\], not integers"),
        (torch.ones(2, 1, 2, dtype=torch.uint8), "png", True, "not integers"),
        (torch.ones(2, 1, 2, dtype=torch.uint8), "png", False, "3 or 1, height, width"),
        (torch.ones(1, 1, 2, dtype=torch.int32), "png", False, "end with ToDtype to uint8"),
        ({"ratio": float("nan")}, "json", False, "is not JSON"),
        (1.5, "cls", False, "is a float"),
    ],
)
def test_what_no_component_can_be_is_an_error_of_configuration(
    value: object, component: str, mask: bool, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        encode_value(value, component, mask, 95)
