"""What is done here in torchvision's place gives what torchvision gives, byte for byte."""

import io
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import encode_image
from shardmill.images.primaries import ADOBE_RGB
from shardmill.samples import EncodedSample
from shardmill.transforms import TransformSpec, build_transform, kernels

SIDES = st.integers(1, 40)
SIZES = st.one_of(SIDES, st.tuples(SIDES, SIDES).map(list))
INTERPOLATIONS = st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic"])
FACTORS = st.floats(0, 0.9)


def operation(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"operation": st.just(name), "arguments": st.fixed_dictionaries(arguments)})


PROBABILITY = st.sampled_from([0.0, 0.5, 1.0])
OPERATIONS = {
    "CenterCrop": operation("CenterCrop", size=SIZES),
    "ColorJitter": operation(
        "ColorJitter", brightness=FACTORS, contrast=FACTORS, saturation=FACTORS, hue=st.floats(0, 0.5)
    ),
    "GaussianBlur": operation("GaussianBlur", kernel_size=st.sampled_from([3, 5, [3, 7]])),
    "Grayscale": operation("Grayscale", num_output_channels=st.sampled_from([1, 3])),
    "Normalize": operation("Normalize", mean=st.just([0.5, 0.4, 0.3]), std=st.just([0.5, 0.25, 0.5])),
    "RandomCrop": operation("RandomCrop", size=SIZES, padding=st.sampled_from([None, 3]), pad_if_needed=st.booleans()),
    "RandomHorizontalFlip": operation("RandomHorizontalFlip", p=PROBABILITY),
    "RandomResizedCrop": operation("RandomResizedCrop", size=SIZES, interpolation=INTERPOLATIONS),
    "RandomVerticalFlip": operation("RandomVerticalFlip", p=PROBABILITY),
    "Resize": operation("Resize", size=SIZES, interpolation=INTERPOLATIONS, antialias=st.booleans()),
    "Resize to at most": operation("Resize", size=st.just(8), max_size=st.integers(9, 30)),
    "ToDtype": operation("ToDtype", dtype=st.sampled_from(["float32", "uint8"]), scale=st.just(True)),
    "ToDtype by kind": operation("ToDtype", dtype=st.just({"image": "uint8", "others": None})),
    "torchvision's own": operation("RandomRotation", degrees=st.just(20)),
}

PREPARED = {"Normalize": [{"operation": "ToTensor", "components": ["jpg"]}]}
"""What has to come before."""


def stored(height: int, width: int, profile: bytes | None, labels: np.typing.DTypeLike | None) -> EncodedSample:
    """An image of chance colours, and a mask beside it."""
    random = np.random.default_rng(height * 100 + width)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", icc_profile=profile)
    components = {"jpg": file.getvalue()}
    if labels is not None:
        components["mask.png"] = encode_image(random.integers(0, 200, (height, width)).astype(labels), "mask.png")
    return EncodedSample("key", components)


def made(spec: TransformSpec, sample: EncodedSample, **limits: int) -> Any:
    """What comes out, or the refusal."""
    try:
        return build_transform(spec, **limits)(sample)
    except Rejected as rejected:
        return rejected.reason, rejected.detail


def by_torchvision(spec: TransformSpec, sample: EncodedSample, **limits: int) -> Any:
    with patch.dict(kernels._KERNELS, clear=True):
        return made(spec, sample, **limits)


def same(operations: Sequence[dict[str, Any]], sample: EncodedSample, seed: int = 0, **limits: int) -> None:
    masks = ["mask.png"] if "mask.png" in sample.components else []
    spec = TransformSpec.model_validate({"operations": operations, "masks": masks, "seed": seed})
    assert made(spec, sample, **limits) == by_torchvision(spec, sample, **limits)


SAMPLES = st.builds(
    stored, SIDES, SIDES, st.sampled_from([None, ADOBE_RGB]), st.sampled_from([None, np.uint8, np.uint16])
)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=40)
@given(data=st.data(), sample=SAMPLES)
def test_an_operation_on_any_image_and_mask_gives_the_same(
    name: str, data: st.DataObject, sample: EncodedSample
) -> None:
    same([*PREPARED.get(name, []), data.draw(OPERATIONS[name])], sample)


@settings(max_examples=60)
@given(
    operations=st.lists(st.one_of(*OPERATIONS.values()), min_size=2, max_size=4),
    sample=SAMPLES,
    seed=st.integers(0, 1000),
    max_pixels=st.sampled_from([700, 1_000_000]),
)
def test_any_operations_in_a_row_give_the_same(
    operations: list[dict[str, Any]], sample: EncodedSample, seed: int, max_pixels: int
) -> None:
    """Refusals, too."""
    same(operations, sample, seed, max_pixels=max_pixels)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=2)
@given(data=st.data())
def test_an_operation_on_a_photograph_gives_the_same(name: str, data: st.DataObject) -> None:
    """It is large enough for whatever torch does otherwise from some size on."""
    same([*PREPARED.get(name, []), data.draw(OPERATIONS[name])], stored(375, 500, ADOBE_RGB, np.uint8))
