"""A spec run over samples: what changes, what passes, what is refused, and that chance is a function of the key."""

import io
import json
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shardmill.dataset import load_dataset
from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import decode_image, decode_mask, encode_image
from shardmill.images.primaries import ADOBE_RGB
from shardmill.samples import EncodedSample
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms import DecodedSample, Operation, SampleTransform, TransformSpec, build_transform, reasons
from shardmill.transforms.sample import seeded_generator

tv_tensors = import_torchvision().tv_tensors
EXAMPLES = Path(__file__).parents[3] / "examples"
ROWS, COLUMNS = np.mgrid[0:60, 0:80]
PIXELS = np.stack([ROWS * 4, COLUMNS * 3, ROWS + COLUMNS], axis=2).astype(np.uint8)
LABELS = (ROWS // 8 * 20 + COLUMNS // 8).astype(np.uint8)
SAMPLE = EncodedSample(
    "a.b/key",
    {
        "png": encode_image(PIXELS, "png"),
        "mask.png": encode_image(LABELS, "mask.png"),
        "cls": b"3",
        "json": b'{"a":  1}',
    },
)


def transform(*operations: dict[str, Any], **fields: Any) -> SampleTransform:
    return build_transform(TransformSpec.model_validate({"operations": operations, **fields}))


def only(results: list[EncodedSample]) -> EncodedSample:
    (result,) = results
    return result


def rejected(run: Callable[[EncodedSample], Any], sample: EncodedSample = SAMPLE) -> Rejected:
    with pytest.raises(Rejected) as caught:
        run(sample)
    return caught.value


@pytest.fixture
def custom(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Make a callable importable, as a user's module would be."""
    module = types.ModuleType("user_transforms")
    monkeypatch.setitem(sys.modules, "user_transforms", module)

    def operation(function: Any, **fields: Any) -> dict[str, Any]:
        setattr(module, function.__name__, function)
        return {"operation": f"user_transforms:{function.__name__}", **fields}

    return operation


# What changes, what passes


def test_components_not_seen_pass_byte_for_byte() -> None:
    result = only(transform({"operation": "CenterCrop", "arguments": {"size": 20}, "components": ["png"]})(SAMPLE))
    assert np.array_equal(decode_image(result.components["png"], "png"), PIXELS[20:40, 30:50])
    assert {n: result.components[n] for n in ("mask.png", "cls", "json")} == {
        n: SAMPLE.components[n] for n in ("mask.png", "cls", "json")
    }
    assert result.key == SAMPLE.key


def test_an_image_that_no_operation_sees_is_not_even_decoded() -> None:
    sample = EncodedSample("k", {**SAMPLE.components, "other.png": SAMPLE.components["png"][:100]})
    crop = {"operation": "CenterCrop", "arguments": {"size": 20}}
    result = only(transform({**crop, "components": ["png"]})(sample))
    assert result.components["other.png"] == sample.components["other.png"]
    assert rejected(transform(crop), sample).reason == "truncated or corrupt image"


def test_by_default_an_operation_sees_every_image() -> None:
    result = only(transform({"operation": "CenterCrop", "arguments": {"size": 20}}, masks=["mask.png"])(SAMPLE))
    assert np.array_equal(decode_image(result.components["png"], "png"), PIXELS[20:40, 30:50])
    assert np.array_equal(decode_mask(result.components["mask.png"], "mask.png"), LABELS[20:40, 30:50])


def test_an_image_is_written_in_its_own_format_and_quality() -> None:
    crop = {"operation": "CenterCrop", "arguments": {"size": 50}}
    sizes = []
    for quality in (95, 30):
        for suffix, name in (("jpg", "JPEG"), ("webp", "WEBP")):
            sample = EncodedSample("k", {suffix: encode_image(PIXELS, suffix)})
            data = only(transform(crop, jpeg_quality=quality)(sample)).components[suffix]
            assert Image.open(io.BytesIO(data)).format == name
            sizes.append(len(data))
    assert sizes[2] < sizes[0]
    assert sizes[3] < sizes[1]


def test_every_image_is_written_in_one_format_under_its_suffix() -> None:
    """What has that format already passes byte for byte where no operation sees it."""
    components = {
        "photo.png": encode_image(PIXELS, "png"),
        "thumb.webp": encode_image(PIXELS, "webp"),
        "jpg": encode_image(PIXELS, "jpg"),
        "mask.png": SAMPLE.components["mask.png"],
        "cls": b"3",
    }
    result = only(transform(masks=["mask.png"], format="jpg", jpeg_quality=80)(EncodedSample("k", components)))
    assert sorted(result.components) == ["cls", "jpg", "mask.png", "photo.jpg", "thumb.jpg"]
    assert {name: result.components[name] for name in ("cls", "jpg", "mask.png")} == {
        name: components[name] for name in ("cls", "jpg", "mask.png")
    }
    assert result.components["photo.jpg"] == encode_image(PIXELS, "jpg", quality=80)
    assert Image.open(io.BytesIO(result.components["thumb.jpg"])).format == "JPEG"


@pytest.mark.parametrize("kind", ["cmyk", "turned", "profile"])
def test_an_image_that_viewers_show_otherwise_than_it_is_stored_is_written_anew(kind: str) -> None:
    """Also where it has the format already and no operation sees it."""
    image, options = Image.fromarray(PIXELS), dict[str, Any]()
    if kind == "cmyk":
        image = image.convert("CMYK")
    elif kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    else:
        options["icc_profile"] = ADOBE_RGB
    image.save(file := io.BytesIO(), "JPEG", **options)
    sample = EncodedSample("k", {"jpg": file.getvalue()})
    assert only(transform()(sample)).components["jpg"] == file.getvalue()
    data = only(transform(format="jpg")(sample)).components["jpg"]
    assert data == encode_image(decode_image(file.getvalue(), "jpg"), "jpg", quality=95)


def test_an_operation_sees_an_image_under_the_name_that_it_had() -> None:
    crop = {"operation": "CenterCrop", "arguments": {"size": 20}, "components": ["png"]}
    sample = EncodedSample("k", {"png": SAMPLE.components["png"]})
    result = only(transform(crop, format="webp")(sample))
    assert list(result.components) == ["webp"]
    assert decode_image(result.components["webp"], "webp").shape == (20, 20, 3)


def test_images_that_would_get_one_name_reject_the_sample() -> None:
    sample = EncodedSample("k", {suffix: encode_image(PIXELS, suffix) for suffix in ("png", "jpg")})
    refused = rejected(transform(format="jpg"), sample)
    assert (refused.reason, refused.detail) == ("duplicate component", "png and jpg would both be jpg")


def test_an_image_that_chance_left_alone_is_encoded_anew_as_the_others_are() -> None:
    """Else the quality of an image would tell what was done to it."""
    sample = EncodedSample("k", {"jpg": encode_image(PIXELS, "jpg", quality=40)})
    Image.fromarray(PIXELS).save(at_75 := io.BytesIO(), "JPEG", quality=75)
    tables = Image.open(at_75).quantization
    for probability in (0.0, 1.0):
        flip = {"operation": "RandomHorizontalFlip", "arguments": {"p": probability}}
        data = only(transform(flip, jpeg_quality=75)(sample)).components["jpg"]
        assert Image.open(io.BytesIO(data)).quantization == tables


def test_an_image_and_its_mask_share_one_random_geometry() -> None:
    """The labels stand in the image as well, so that the two can be compared after any crop and flip."""
    wide = LABELS.astype(np.uint16) * 300
    image = np.repeat(LABELS[:, :, None], 3, axis=2)
    sample = {"png": encode_image(image, "png"), "mask.png": encode_image(LABELS, "png")}
    run = transform(
        {"operation": "RandomResizedCrop", "arguments": {"size": 32, "interpolation": "nearest"}},
        {"operation": "RandomHorizontalFlip"},
        {"operation": "RandomRotation", "arguments": {"degrees": 30}},
        {"operation": "ColorJitter", "arguments": {"brightness": 0.5}, "components": ["other.png"]},
        masks=["mask.png", "wide.png"],
    )
    seen = set()
    for number in range(8):
        other = {"other.png": sample["png"], "wide.png": encode_image(wide, "png")}
        result = only(run(EncodedSample(f"key{number}", {**sample, **other}))).components
        mask = decode_mask(result["mask.png"], "png")
        assert np.array_equal(decode_image(result["png"], "png")[:, :, 0], mask)
        assert np.array_equal(decode_mask(result["wide.png"], "png"), mask.astype(np.uint16) * 300)
        seen.add(mask.tobytes())
    assert len(seen) == 8


def test_labels_are_never_blended_nor_recoloured() -> None:
    labels = np.where(COLUMNS < 40, 1, 200).astype(np.uint8)
    sample = EncodedSample("k", {"png": encode_image(PIXELS, "png"), "mask.png": encode_image(labels, "png")})
    run = transform(
        {"operation": "Resize", "arguments": {"size": [33, 47]}},
        {"operation": "ColorJitter", "arguments": {"brightness": 0.9}},
        {"operation": "ElasticTransform"},
        {"operation": "ToTensor"},
        {"operation": "Normalize", "arguments": {"mean": [0.5] * 3, "std": [0.5] * 3}},
        masks=["mask.png"],
    )
    mask = decode_mask(only(run(sample)).components["mask.png"], "png")
    assert mask.shape == (33, 47)
    assert set(np.unique(mask)) <= {0, 1, 200}  # 0 is the fill


def test_labels_of_a_callable_s_own_making_are_a_mask(custom: Callable[..., dict[str, Any]]) -> None:
    """A plain tensor of two dimensions can be nothing else, declared or not."""

    def segment(sample: DecodedSample) -> DecodedSample:
        return sample.replace({"segments.png": (sample.components["png"][0] > 100).to(torch.uint8) * 200})

    resize = {"operation": "Resize", "arguments": {"size": [31, 33]}}
    found = decode_mask(only(transform(custom(segment), resize)(SAMPLE)).components["segments.png"], "png")
    assert found.shape == (31, 33)
    assert set(np.unique(found)) == {0, 200}


def test_what_is_neither_image_nor_mask_is_left_to_torchvision(custom: Callable[..., dict[str, Any]]) -> None:
    """Boxes move with the image and have no colours; of plain tensors, it changes none that stand beside an image."""

    def annotated(sample: DecodedSample) -> DecodedSample:
        boxes = tv_tensors.BoundingBoxes(torch.tensor([[10.0, 10, 30, 30]]), format="XYXY", canvas_size=(60, 80))
        depth = torch.arange(3 * 60 * 80).reshape(3, 60, 80).to(torch.uint8)
        return sample.replace({"png": sample.components["png"], "boxes": boxes, "depth": depth})

    def written(sample: DecodedSample) -> DecodedSample:
        boxes, depth = (sample.components[name].as_subclass(torch.Tensor) for name in ("boxes", "depth"))
        values = {"boxes.json": boxes.tolist(), "depth": depth.numpy().tobytes()}
        return sample.replace({"png": sample.components["png"], **values})

    operations: list[dict[str, Any]] = [
        {"operation": "ColorJitter", "arguments": {"brightness": [2, 2]}},
        {"operation": "GaussianBlur", "arguments": {"kernel_size": 3}},
        {"operation": "Grayscale"},
        {"operation": "CenterCrop", "arguments": {"size": 40}},
    ]
    result = only(transform(custom(annotated), *operations, custom(written))(SAMPLE))
    assert json.loads(result.components["boxes.json"]) == [[0, 0, 10, 20]]
    assert result.components["depth"] == np.arange(3 * 60 * 80).astype(np.uint8).tobytes()
    assert decode_image(result.components["png"], "png").shape == (40, 40, 3)


def test_an_image_in_place_of_a_mask_is_a_mistake(custom: Callable[..., dict[str, Any]]) -> None:
    def coloured(sample: DecodedSample) -> DecodedSample:
        labels = sample.components["mask.png"].as_subclass(torch.Tensor)
        return sample.replace({**sample.components, "mask.png": tv_tensors.Image(labels.expand(3, -1, -1))})

    crop = {"operation": "CenterCrop", "arguments": {"size": 20}}
    for operations in ([custom(coloured)], [custom(coloured), crop]):
        with pytest.raises(ConfigurationError, match=r"mask .mask\.png. is torch\.uint8"):
            transform(*operations, masks=["mask.png"])(SAMPLE)


@pytest.mark.parametrize("profile", [None, ADOBE_RGB], ids=["sRGB", "Adobe RGB"])
@pytest.mark.parametrize("size", [[0, 0], [0, 5], [5, 0]])
def test_a_crop_without_pixels_rejects_the_sample(size: list[int], profile: bytes | None) -> None:
    Image.fromarray(PIXELS).save(file := io.BytesIO(), "JPEG", icc_profile=profile)
    crop = {"operation": "CenterCrop", "arguments": {"size": size}}
    refused = rejected(transform(crop), EncodedSample("k", {"jpg": file.getvalue()}))
    assert (refused.reason, refused.detail) == ("cannot be encoded", f"jpg has {size[1]} x {size[0]} pixels")


def test_one_row_that_is_repeated_is_an_image(custom: Callable[..., dict[str, Any]]) -> None:
    def striped(sample: DecodedSample) -> DecodedSample:
        return sample.replace({"jpg": sample.components["png"][:, :1].expand(-1, 50, -1)})

    result = only(transform(custom(striped))(SAMPLE))
    assert result.components["jpg"] == encode_image(np.repeat(PIXELS[:1], 50, axis=0), "jpg")


def test_floats_are_scaled_rounded_and_clamped() -> None:
    to_float = {"operation": "ToDtype", "arguments": {"dtype": "float32", "scale": True}, "components": ["png"]}
    same = only(transform(to_float)(SAMPLE))
    assert np.array_equal(decode_image(same.components["png"], "png"), PIXELS)
    normalise = {"operation": "Normalize", "arguments": {"mean": [0.5] * 3, "std": [0.25] * 3}, "components": ["png"]}
    ends = [{"operation": name, "components": ["png"]} for name in ("ToTensor", "ToPILImage")]
    result = decode_image(only(transform(ends[0], normalise, ends[1])(SAMPLE)).components["png"], "png")
    expected = np.clip(np.round((PIXELS / 255 - 0.5) / 0.25 * 255), 0, 255)
    assert np.abs(result - expected).max() <= 1
    assert {0, 255} <= set(result.flat)


def test_floats_up_to_255_are_refused_rather_than_white() -> None:
    with pytest.raises(ConfigurationError, match="scale: true"):
        transform({"operation": "ToDtype", "arguments": {"dtype": "float32"}, "components": ["png"]})(SAMPLE)


def test_not_a_number_rejects_the_sample(custom: Callable[..., dict[str, Any]]) -> None:
    def divide(sample: DecodedSample) -> DecodedSample:
        image = sample.components["png"].float() / 255
        return sample.replace({"png": image / image.sum(0).clamp(max=0)})  # 0/0 in the black corner

    assert "not a number" in rejected(transform(custom(divide))).detail


def test_operations_may_hold_operations() -> None:
    nested = {
        "operation": "RandomApply",
        "arguments": {"p": 1.0, "transforms": [{"operation": "CenterCrop", "arguments": {"size": 20}}]},
    }
    result = only(transform(nested, masks=["mask.png"])(SAMPLE))
    assert decode_image(result.components["png"], "png").shape == (20, 20, 3)


def test_fill_may_differ_for_images_and_masks() -> None:
    pad = {"operation": "Pad", "arguments": {"padding": 2, "fill": {"image": 9, "mask": 255}}}
    result = only(transform(pad, masks=["mask.png"])(SAMPLE)).components
    assert (decode_image(result["png"], "png")[0] == 9).all()
    assert (decode_mask(result["mask.png"], "png")[0] == 255).all()


# Chance

RANDOM = (
    {"operation": "RandomResizedCrop", "arguments": {"size": 16}},
    {"operation": "RandomHorizontalFlip"},
    {"operation": "ColorJitter", "arguments": {"brightness": 0.5, "hue": 0.2}},
    {"operation": "TrivialAugmentWide", "components": ["png"]},
    {"operation": "GaussianBlur", "arguments": {"kernel_size": 3}},
    {"operation": "RandomErasing"},
)


def test_results_depend_on_no_thread_order_or_global_generator() -> None:
    run = transform(*RANDOM, masks=["mask.png"])
    samples = [EncodedSample(f"key{number}", SAMPLE.components) for number in range(24)]
    state = torch.get_rng_state()
    alone = [run(sample) for sample in samples]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, reversed(samples)))[::-1]
    assert together == alone
    assert len({only(each).components["png"] for each in alone}) > 20
    copy = pickle.loads(pickle.dumps(run))
    assert [copy(sample) for sample in samples] == alone


def test_a_copy_in_a_worker_refuses_what_the_original_does() -> None:
    small = build_transform(TransformSpec(operations=[Operation(operation="Grayscale")]), max_pixels=100)
    for run in (small, pickle.loads(pickle.dumps(small))):
        assert rejected(run).reason == "too many pixels"


def test_seed_key_and_epoch_each_change_the_draw() -> None:
    results = {
        only(
            transform(*RANDOM, seed=seed, epoch=epoch)(EncodedSample(key, {"png": SAMPLE.components["png"]}))
        ).components["png"]
        for seed, epoch, key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "a"))
    }
    assert len(results) == 4


# Custom callables


def test_one_to_one_one_to_many_and_filter(custom: Callable[..., dict[str, Any]]) -> None:
    def label(sample: DecodedSample, prefix: str) -> DecodedSample:
        height = sample.components["png"].shape[1]
        return sample.replace({**sample.components, "txt": prefix + str(height), "cls": 7, "json": {"b": [1, None]}})

    def tiles(sample: DecodedSample) -> Iterator[DecodedSample]:
        for number, tile in enumerate(sample.components["png"].split(30, dim=1)):
            yield sample.child(f"{number}", {"png": tile, "noise": str(torch.rand(1).item())})

    def drop(sample: DecodedSample) -> DecodedSample | None:
        return None if sample.components["png"].float().mean() > 1 else sample

    labelled = only(transform(custom(label, arguments={"prefix": "h"}))(SAMPLE)).components
    assert (labelled["txt"], labelled["cls"], json.loads(labelled["json"])) == (b"h60", b"7", {"b": [1, None]})

    run = transform(custom(tiles), {"operation": "RandomCrop", "arguments": {"size": 8}})
    first, second = run(SAMPLE)
    assert (first.key, second.key) == ("a.b/key~0", "a.b/key~1")
    assert decode_image(second.components["png"], "png").shape == (8, 8, 3)
    assert run(SAMPLE) == [first, second]

    assert transform(custom(drop))(SAMPLE) == []


def test_a_child_draws_the_same_whatever_its_siblings_draw() -> None:
    parent = DecodedSample("a/k", {}, seeded_generator(1))
    alone = parent.child("x", {})
    first = torch.rand(3, generator=alone.generator)
    torch.rand(5, generator=parent.child("y", {}).generator)
    torch.rand(5, generator=parent.generator)
    again, other = parent.child("x", {}), parent.child("y", {})
    assert (alone.key, other.key) == ("a/k~x", "a/k~y")
    assert torch.equal(torch.rand(3, generator=again.generator), first)
    assert not torch.equal(torch.rand(3, generator=other.generator), first)


@pytest.mark.parametrize("name", ["", "a.b", "a/b"])
def test_a_child_s_name_that_would_be_another_key_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no dot, no slash, not empty"):
        DecodedSample("k", {}, seeded_generator(1)).child(name, {})


def test_a_callable_that_asks_for_the_end_of_the_process_is_named_with_the_sample(
    custom: Callable[..., dict[str, Any]],
) -> None:
    def leave(sample: DecodedSample) -> DecodedSample:
        sys.exit(0)

    with pytest.raises(ConfigurationError, match=r"user_transforms:leave calls sys.exit\(0\) on a.b/key"):
        transform(custom(leave))(SAMPLE)


def test_what_a_callable_gives_that_is_no_sample_is_its_mistake(custom: Callable[..., dict[str, Any]]) -> None:
    def count(sample: DecodedSample) -> int:
        return 3

    async def wait(sample: DecodedSample) -> DecodedSample:
        return sample

    for function, kind in ((count, "int"), (wait, "coroutine")):
        with pytest.raises(ConfigurationError, match=f"{function.__name__} gave a {kind}; return a DecodedSample"):
            transform(custom(function))(SAMPLE)


def test_a_class_is_made_with_its_arguments(custom: Callable[..., dict[str, Any]]) -> None:
    class Keep:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, sample: DecodedSample) -> DecodedSample:
            return sample.replace({self.name: sample.components[self.name]})

    assert dict(only(transform(custom(Keep, arguments={"name": "cls"}))(SAMPLE)).components) == {"cls": b"3"}


def test_what_a_callable_gives_back_as_it_got_it_passes_byte_for_byte(custom: Callable[..., dict[str, Any]]) -> None:
    def look(sample: DecodedSample) -> DecodedSample:
        assert sample.components["jpg"].shape == (3, 60, 80)
        return sample

    def invert_in_place(sample: DecodedSample) -> DecodedSample:
        sample.components["jpg"].mul_(-1)
        return sample

    sample = EncodedSample("k", {"jpg": encode_image(PIXELS, "jpg", quality=40)})
    assert only(transform(custom(look))(sample)) == sample
    assert only(transform(custom(invert_in_place))(sample)) != sample


def test_an_error_in_a_callable_rejects_the_sample(custom: Callable[..., dict[str, Any]]) -> None:
    def fail(sample: DecodedSample) -> DecodedSample:
        raise KeyError("no such thing")

    def refuse(sample: DecodedSample) -> DecodedSample:
        raise Rejected("too dark")

    refused = rejected(transform(custom(fail)))
    assert refused.reason == reasons.TRANSFORM_FAILED
    assert refused.detail == "user_transforms:fail: KeyError: 'no such thing'"
    assert rejected(transform(custom(refuse))).reason == "too dark"


@pytest.mark.parametrize("where", ["operation", "callable", "encoder"])
def test_a_lack_of_memory_rejects_no_sample(
    custom: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It says nothing of the sample."""

    def lack(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def lack_in_libjpeg(*_: Any, **__: Any) -> Any:
        raise ValueError("Insufficient memory (case 4)")

    sample = EncodedSample("k", {"jpg": encode_image(PIXELS, "jpg")})
    operation = custom(lack) if where == "callable" else {"operation": "Grayscale"}
    if where == "operation":
        monkeypatch.setattr("torchvision.transforms.v2.Grayscale.transform", lack)
    elif where == "encoder":
        monkeypatch.setattr("simplejpeg.encode_jpeg", lack_in_libjpeg)
    with pytest.raises(MemoryError):
        transform(operation)(sample)


def test_what_is_no_sample_is_an_error_of_configuration(custom: Callable[..., dict[str, Any]]) -> None:
    def twins(sample: DecodedSample) -> list[DecodedSample]:
        return [sample, sample]

    def number(sample: DecodedSample) -> list[int]:
        return [3]

    def empty(sample: DecodedSample) -> DecodedSample:
        return sample.replace({})

    def dotted(sample: DecodedSample) -> DecodedSample:
        return DecodedSample("a.b", sample.components, sample.generator)

    def odd(sample: DecodedSample) -> DecodedSample:
        return sample.replace({"cls": object()})

    def boolean(sample: DecodedSample) -> DecodedSample:
        return sample.replace({"cls": True})

    def lossy(sample: DecodedSample) -> DecodedSample:
        return sample.replace({"mask.jpg": sample.components["mask.png"]})

    for function, words in (
        (twins, "two samples"),
        (number, "gave a int"),
        (empty, "return None"),
        (dotted, "no dot"),
        (odd, "cls"),
        (boolean, "'cls' is a bool"),
        (lossy, r"mask\.png"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            transform(custom(function), masks=["mask.png"])(SAMPLE)


# Refusals


def test_samples_that_cannot_be_transformed_are_rejected() -> None:
    missing = rejected(transform({"operation": "RandomHorizontalFlip", "components": ["jpg"]}))
    assert (missing.reason, "needs jpg" in missing.detail) == (reasons.MISSING_COMPONENT, True)
    too_small = rejected(transform({"operation": "RandomCrop", "arguments": {"size": 100}}))
    assert too_small.reason == reasons.TRANSFORM_FAILED
    assert too_small.detail.startswith("RandomCrop: ValueError: ")
    small_mask = EncodedSample("k", {**SAMPLE.components, "mask.png": encode_image(LABELS[:30], "png")})
    flip = {"operation": "RandomHorizontalFlip"}
    differ = rejected(transform(flip, masks=["mask.png"]), small_mask)
    assert (differ.reason, "80 x 30" in differ.detail) == (reasons.SIZES_DIFFER, True)
    crop = {"operation": "RandomResizedCrop", "arguments": {"size": 8}}
    assert rejected(transform(crop), small_mask).reason == reasons.SIZES_DIFFER
    broken = EncodedSample("k", {"png": SAMPLE.components["png"][:100]})
    assert rejected(transform(flip), broken).reason == "truncated or corrupt image"


PNG_ONLY = {"operation": "Grayscale", "components": ["png"]}


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"operation": "RandomResizeCrop"}, "did you mean 'RandomResizedCrop'"),
        ({"operation": "center_crop"}, "did you mean 'CenterCrop'"),
        ({"operation": "Resize", "arguments": {"sizes": 3}}, "it has no 'sizes'; did you mean 'size'"),
        ({"operation": "Resize"}, "missing a required argument: 'size'"),
        ({"operation": "RandomHorizontalFlip", "arguments": {"p": 3.0}}, "refuses its arguments"),
        ({"operation": "Resize", "arguments": {"size": 3, "interpolation": "cubic"}}, "did you mean 'bicubic'"),
        ({"operation": "ToDtype", "arguments": {"dtype": "float33"}}, "no dtype 'float33'"),
        ({"operation": "MixUp"}, "training loader"),
        ({"operation": "FiveCrop", "arguments": {"size": 3}}, r"sample\.child"),
        ({"operation": "no.such.module:f"}, r"package\.module:callable"),
        ({"operation": "json:dumps", "arguments": {"indnt": 3, "obj": 1}}, "json:dumps"),
        ({"operation": "json:__name__"}, "not a callable"),
        ({"operation": "Grayscale", "components": ["cls"]}, "'cls' is not an image"),
        ({"operation": "json:JSONDecoder"}, "has no __call__"),
        ({"operation": "RandomOrder", "arguments": {"transforms": [3]}}, "each of its transforms"),
        ({"operation": "RandomOrder", "arguments": {"transforms": [{"operation": "json:dumps"}]}}, "neither be custom"),
        ({"operation": "RandomOrder", "arguments": {"transforms": [PNG_ONLY]}}, "nor name components"),
        ({"operation": "Pad", "arguments": {"padding": 2, "fill": {"msk": 9}}}, r"fill is given for \['msk'\]"),
        ({"operation": "AutoAugment", "arguments": {"policy": "cifar"}}, "did you mean 'cifar10'"),
    ],
)
def test_a_mistake_in_the_spec_is_told_when_it_is_built(operation: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        transform(operation)


def test_component_names_are_checked_against_the_samples() -> None:
    spec = TransformSpec.model_validate({"operations": [{"operation": "Grayscale", "components": ["imag.jpg"]}]})
    with pytest.raises(ConfigurationError, match=r"did you mean 'image\.jpg'"):
        build_transform(spec, components=["image.jpg", "cls"])
    for name in ("mask.jpg", "mask.webp", "mask.gif", "mask.bmp"):
        with pytest.raises(ConfigurationError, match="png or tiff"):
            transform(masks=[name])


def test_components_after_a_callable_may_be_those_that_it_added(custom: Callable[..., dict[str, Any]]) -> None:
    def edges(sample: DecodedSample) -> DecodedSample:
        return sample.replace({**sample.components, "edges.png": sample.components["png"]})

    grey = {"operation": "Grayscale", "components": ["edges.png"]}
    spec = TransformSpec.model_validate({"operations": [custom(edges), grey]})
    assert "edges.png" in only(build_transform(spec, components=SAMPLE.components)(SAMPLE)).components
    with pytest.raises(ConfigurationError, match=r"no component 'edges\.png'"):
        build_transform(TransformSpec.model_validate({"operations": [grey]}), components=SAMPLE.components)


# The examples


def load(name: str) -> SampleTransform:
    return build_transform(load_dataset(EXAMPLES / name / "defs.yaml").spec.transform)


def test_the_pets_example_crops_image_and_trimap_alike() -> None:
    """Of a picture that shows its labels."""
    trimap = np.repeat(np.repeat(np.random.default_rng(0).integers(1, 4, (6, 6), np.uint8), 50, 0), 50, 1)
    image = np.repeat(trimap[..., None] * 80, 3, 2)
    sample = EncodedSample(
        "cat_1", {"image.jpg": encode_image(image, "jpg"), "trimap.png": encode_image(trimap, "png")}
    )
    result = only(load("pets_segmentation")(sample)).components
    cropped, labels = decode_image(result["image.jpg"], "jpg"), decode_mask(result["trimap.png"], "png")
    assert cropped.shape == (128, 128, 3)
    means = [cropped[labels == label].mean() for label in (1, 2, 3)]
    nearest = np.abs(cropped.mean(2)[..., None] - means).argmin(2) + 1
    assert (nearest == labels).mean() > 0.95  # but for edges


def test_the_imagenet_example_crops_and_flips_and_keeps_the_class() -> None:
    sample = EncodedSample("n01/1", {"jpg": encode_image(PIXELS, "jpg"), "cls": b"17"})
    result = only(load("imagenet_train_val")(sample))
    assert decode_image(result.components["jpg"], "jpg").shape == (224, 224, 3)
    assert result.components["cls"] == b"17"
