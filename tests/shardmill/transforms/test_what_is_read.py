"""What of a sample a transform's result depends on: its key, and which of its components."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardmill.images import encode_image
from shardmill.samples import EncodedSample
from shardmill.transforms import DecodedSample, TransformSpec, build_transform
from shardmill.transforms.operations import _DRAW_NOTHING

PIXELS = np.asarray(Image.effect_mandelbrot((48, 40), (-2, -1.5, 1, 1.5), 50).convert("RGB"))
COMPONENTS = {"png": encode_image(PIXELS, "png"), "mask.png": encode_image(PIXELS[..., 0] % 7, "mask.png"), "cls": b"3"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 16},
    "ConvertImageDtype": {"dtype": "float32"},
    "ToDtype": {"dtype": {"image": "float32", "others": None}, "scale": True},
    "Normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
    "Pad": {"padding": 3},
    "Resize": {"size": 20},
}
SCALED = ("Normalize",)
"""They want numbers, not pixels."""


def spec(*operations: dict[str, Any]) -> TransformSpec:
    return TransformSpec.model_validate({"operations": operations, "masks": ["mask.png"], "seed": 5})


def steps(name: str, **more: Any) -> list[dict[str, Any]]:
    operation = {"operation": name, "arguments": ARGUMENTS.get(name, {}), **more}
    return [{"operation": "ToTensor", "components": ["png"]}, operation] if name in SCALED else [operation]


def results(given: TransformSpec) -> list[dict[str, bytes]]:
    """Of equal samples with other keys."""
    transform = build_transform(given)
    return [dict(made.components) for n in range(8) for made in transform(EncodedSample(f"key{n}", COMPONENTS))]


@pytest.mark.parametrize("name", sorted(_DRAW_NOTHING))
def test_an_operation_that_draws_nothing_makes_the_same_of_equal_samples(name: str) -> None:
    given = spec(*steps(name, components=["png"]))
    assert not build_transform(given).reads_keys
    first, *others = results(given)
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    "operation",
    [
        {"operation": "RandomHorizontalFlip"},
        {"operation": "RandomApply", "arguments": {"transforms": [{"operation": "Grayscale"}]}},
        {"operation": "ColorJitter", "arguments": {"brightness": 0.9}},
        {"operation": "TrivialAugmentWide"},
    ],
)
def test_one_that_draws_reads_the_key(operation: dict[str, Any]) -> None:
    given = spec({**operation, "components": ["png"]})
    assert build_transform(given).reads_keys
    assert len({each["png"] for each in results(given)}) > 1


def test_a_callable_of_the_users_own_reads_everything() -> None:
    transform = build_transform(spec({"operation": f"{__name__}:as_it_is"}))
    assert transform.reads_keys
    assert all(map(transform.reads, ("png", "mask.png", "cls")))


def as_it_is(sample: DecodedSample) -> DecodedSample:
    return sample


def test_operations_read_the_images_that_they_are_told_to_see() -> None:
    every = build_transform(spec(*steps("CenterCrop")))
    assert [every.reads(name) for name in ("png", "mask.png", "cls", "json")] == [True, True, False, False]
    told = build_transform(spec(*steps("CenterCrop", components=["png"])))
    assert [told.reads(name) for name in ("png", "mask.png", "cls")] == [True, False, False]


def test_a_format_for_all_images_reads_every_image() -> None:
    """One that is not to be written may still have the name of another."""
    given = TransformSpec.model_validate({"operations": [], "masks": ["mask.png"], "format": "jpg"})
    assert [build_transform(given).reads(name) for name in ("png", "jpg", "mask.png", "cls")] == [True] * 3 + [False]


def test_what_is_not_read_passes_and_changes_nothing_else() -> None:
    transform = build_transform(spec(*steps("CenterCrop", components=["png"])))
    (plain,) = transform(EncodedSample("key", {"png": COMPONENTS["png"]}))
    (more,) = transform(EncodedSample("key", COMPONENTS))
    assert more.components == {**COMPONENTS, "png": plain.components["png"]}
