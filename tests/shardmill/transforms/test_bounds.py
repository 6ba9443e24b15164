"""An operation is refused by the size that it would make, before it takes the memory."""

import resource
from typing import Any

import numpy as np
import pytest

from shardmill.errors import Rejected
from shardmill.images import encode_image, reasons
from shardmill.samples import EncodedSample
from shardmill.transforms import TransformSpec, build_transform

LINE = EncodedSample("line", {"png": encode_image(np.full((1, 20_000, 3), 200, np.uint8), "png")})
COLUMN = EncodedSample("column", {"png": encode_image(np.full((20_000, 1, 3), 200, np.uint8), "png")})
MASKED = EncodedSample("line", {**LINE.components, "mask.png": encode_image(np.ones((1, 20_000), np.uint8), "png")})
ENLARGE: dict[str, dict[str, Any]] = {
    "Resize": {"size": 224},
    "RandomResize": {"min_size": 200, "max_size": 300},
    "RandomShortestSize": {"min_size": 200},
    "ScaleJitter": {"target_size": [9_000_000, 9_000_000]},
    "Pad": {"padding": 20_000},
    "RandomZoomOut": {"side_range": [9000, 9001], "p": 1.0},
    "RandomCrop": {"size": [20_000, 20_000], "pad_if_needed": True},
    "CenterCrop": {"size": [20_000, 20_000]},
    "RandomRotation": {"degrees": [45, 46], "expand": True},
}


def refusal(sample: EncodedSample, *operations: dict[str, Any], **fields: Any) -> Rejected:
    transform = build_transform(
        TransformSpec.model_validate({"operations": operations, **fields}), max_pixels=50_000_000
    )
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Rejected) as caught:
        transform(sample)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 400 << 10, "it was made first"
    return caught.value


@pytest.mark.parametrize("name", ENLARGE)
@pytest.mark.parametrize("sample", [LINE, COLUMN], ids=["line", "column"])
def test_every_operation_that_enlarges_is_bounded(name: str, sample: EncodedSample) -> None:
    refused = refusal(sample, {"operation": name, "arguments": ENLARGE[name]})
    assert refused.reason == reasons.TOO_MANY_PIXELS
    assert refused.detail.startswith(f"{name} would make ")
    assert refused.detail.endswith("the limit is 50000000")


def test_the_size_that_it_would_make_is_named() -> None:
    refused = refusal(LINE, {"operation": "Resize", "arguments": {"size": 224}})
    assert refused.detail == "Resize would make 4480000 x 224, the limit is 50000000"


def test_small_steps_come_to_the_same_limit() -> None:
    step = {"operation": "Resize", "arguments": {"size": 8}}  # 160000 x 8
    refused = refusal(LINE, step, {"operation": "Identity"}, {"operation": "Resize", "arguments": {"size": 64}})
    assert refused.detail == "Resize would make 1280000 x 64, the limit is 50000000"


def test_masks_and_operations_within_operations_are_bounded() -> None:
    inner = {
        "operation": "RandomApply",
        "arguments": {"transforms": [{"operation": "Resize", "arguments": {"size": 224}}], "p": 1.0},
    }
    assert refusal(MASKED, inner, masks=["mask.png"]).reason == reasons.TOO_MANY_PIXELS
    alone = {"operation": "Resize", "arguments": {"size": 224}, "components": ["mask.png"]}
    assert refusal(MASKED, alone, masks=["mask.png"]).reason == reasons.TOO_MANY_PIXELS


def test_what_fits_passes() -> None:
    spec = {"operations": [{"operation": "Resize", "arguments": {"size": [224, 224]}}]}
    (made,) = build_transform(TransformSpec.model_validate(spec))(LINE)
    assert made.key == "line"


@pytest.mark.parametrize(
    "operation",
    [
        {"operation": "GaussianBlur", "arguments": {"kernel_size": 3}},
        {"operation": "ElasticTransform"},
        {"operation": "RandomRotation", "arguments": {"degrees": 30}},
        {"operation": "RandomAffine", "arguments": {"degrees": 10, "translate": [0.1, 0.1]}},
        {"operation": "RandomCrop", "arguments": {"size": 50, "padding": 10}},
    ],
    ids=lambda value: value["operation"],
)
def test_an_operation_that_makes_no_larger_image_passes_at_the_limit(operation: dict[str, Any]) -> None:
    """Whatever it works on meanwhile: borders, grids."""
    sample = EncodedSample("key", {"png": encode_image(np.zeros((100, 100, 3), np.uint8), "png")})
    spec = TransformSpec.model_validate({"operations": [operation]})
    assert len(build_transform(spec, max_pixels=10_000)(sample)) == 1


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_a_larger_image_is_refused_however_it_is_made(mode: str) -> None:
    sample = EncodedSample("key", {"png": encode_image(np.zeros((100, 100, 3), np.uint8), "png")})
    pad = {"operation": "Pad", "arguments": {"padding": 40, "padding_mode": mode}}
    with pytest.raises(Rejected, match=r"Pad (would make|makes) 180 x 180, the limit is 10000"):
        build_transform(TransformSpec.model_validate({"operations": [pad]}), max_pixels=10_000)(sample)
