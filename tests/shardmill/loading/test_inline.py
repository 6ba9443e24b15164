"""One plan, offline and inline: the same draws, and encoded the same bytes; images and masks stay together."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_info, threadpool_limits

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ConfigurationError, Rejected
from shardmill.loading import prepare
from shardmill.loading.prepare import Prepare
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet
from shardmill.transforms import build_transform
from shardmill.transforms.values import encode_value

CROP = {"operation": "RandomResizedCrop", "arguments": {"size": 24}}
FLIP = {"operation": "RandomHorizontalFlip"}
TILES = """
    import torch

    def transform(sample):
        image = sample.components["photo.jpg"]
        if sample.components["cls"] == b"0":
            return
        for name, tile in (("left", image[..., :20]), ("right", image[..., 20:])):
            noise = torch.randint(0, 9, tile.shape, dtype=torch.uint8, generator=sample.generator)
            yield sample.child(name, {**sample.components, "photo.jpg": tile // 2 + noise, "json": {"of": sample.key}})
"""


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    """`photo.jpg`, `edge.png`, a mask and a class of nine samples; the labels of a mask are the blue of the PNG."""
    folder = tmp_path_factory.mktemp("inline") / "raw"
    images(folder, 9, size=40)
    for number, file in enumerate(sorted(folder.glob("*.jpg"))):
        file.rename(file.with_suffix(".photo.jpg"))
        labels = np.random.default_rng(number).integers(0, 8, (5, 5), np.uint8).repeat(8, 0).repeat(8, 1)
        file.with_suffix(".edge.png").write_bytes(_png(np.stack([labels * 9, labels * 7, labels], axis=2)))
        file.with_suffix(".mask.png").write_bytes(_png(labels))
    return folder


@pytest.fixture
def both(raw: Path, tmp_path: Path, make_dataset, run_chain):
    """`both(transform)`: the dataset, its packed samples and what the stage makes of them."""

    def run(transform: dict[str, Any]) -> tuple[Dataset, ShardSet, ShardSet]:
        dataset = make_dataset(raw, tmp_path / "root", transform=transform)
        made = run_chain(dataset, last="transformed_shards")
        return dataset, made["webdataset_shards"], made["transformed_shards"]

    return run


@pytest.mark.parametrize(
    "transform",
    [
        {"operations": [CROP, FLIP], "masks": ["mask.png"]},
        {"operations": [CROP, FLIP], "masks": ["mask.png"], "format": "jpg", "seed": 5, "epoch": 3},
        {"operations": [{**CROP, "components": ["edge.png", "mask.png"]}], "masks": ["mask.png"]},
        {"operations": ["custom", {**FLIP, "components": ["photo.jpg"]}], "masks": ["mask.png"], "epoch": 2},
        {"operations": []},
    ],
    ids=["joint", "as jpg in another epoch", "some components", "custom, one to many, filtered", "nothing"],
)
def test_what_inline_gives_is_encoded_what_offline_stores(transform, both, write_module) -> None:
    custom = {"operation": f"{write_module(TILES)}:transform"}
    transform = {**transform, "operations": [custom if each == "custom" else each for each in transform["operations"]]}
    dataset, packed, stored = both(transform)
    inline, epoch = dataset.transform(), transform.get("epoch", 0)
    expected = {sample.key: sample.components for sample in stored.samples()}

    as_stored = [made for sample in packed.samples() for made in inline(sample, epoch)]
    assert [made.key for made in as_stored] == [*expected]
    assert {made.key: made.components for made in as_stored} == expected

    tensors = [made for sample in packed.samples() for made in Prepare(transform=inline)(sample, {}, epoch)]
    for made in tensors:
        components = expected[made["__key__"]]
        assert made.keys() - {"__key__", "__url__"} == components.keys()
        for name, value in made.items():
            if name in components and isinstance(value, torch.Tensor) and not _passed(packed, made, name, components):
                assert encode_value(value, name, name in transform.get("masks", ()), 95) == components[name]
    as_bytes = [
        made for sample in packed.samples() for made in Prepare(transform=inline, decode=False)(sample, {}, epoch)
    ]
    assert [{name: made[name] for name in expected[made["__key__"]]} for made in as_bytes] == [*expected.values()]


def _passed(packed: ShardSet, made: dict[str, Any], name: str, components: dict[str, bytes]) -> bool:
    """Whether a component passed byte for byte: nothing was encoded."""
    return packed.sample(made["__key__"].partition("~")[0]).components.get(name) == components[name]


def test_the_epoch_of_a_call_takes_the_place_of_the_specs(both) -> None:
    dataset, packed, _ = both({"operations": [CROP, FLIP], "masks": ["mask.png"]})
    other = build_transform(dataset.spec.transform.spec.model_copy(update={"epoch": 7}))
    sample = next(packed.samples())
    assert dataset.transform()(sample, 7) == other(sample)
    assert dataset.transform()(sample, 7) == other(sample, 7) != other(sample, 8)


def test_image_and_mask_stay_together_on_every_sample_in_every_epoch(both) -> None:
    nearest = {"interpolation": "nearest"}
    operations = [
        {"operation": "RandomResizedCrop", "arguments": {"size": 24, **nearest}},
        FLIP,
        {"operation": "RandomRotation", "arguments": {"degrees": 30, **nearest}},
    ]
    dataset, packed, _ = both({"operations": operations, "masks": ["mask.png"]})
    made_of = Prepare(transform=dataset.transform(), components=["edge.png", "mask.png"])
    seen = set()
    for epoch in range(4):
        for sample in packed.samples():
            [made] = made_of(sample, {}, epoch)
            assert torch.equal(made["edge.png"][2], made["mask.png"])
            seen.add(hashlib.sha256(made["mask.png"].numpy().tobytes()).digest())
    assert len(seen) == 4 * 9  # all are drawn anew


def test_a_dataset_gives_its_transforms_by_name(raw: Path, tmp_path: Path, make_dataset) -> None:
    several = {"small": {"operations": [CROP]}, "flipped": {"operations": [FLIP], "masks": ["mask.png"]}}
    dataset = make_dataset(raw, tmp_path / "root", transform=None, transforms=several, embedder=None)
    sample = EncodedSample("a", {"photo.jpg": next(raw.glob("*.jpg")).read_bytes()})
    assert dataset.transform("small")(sample)[0].components != sample.components
    with pytest.raises(ConfigurationError, match=r"no transform 'tiny'.*small, flipped"):
        dataset.transform("tiny")
    with pytest.raises(ConfigurationError, match="no transform without a name"):
        dataset.transform()


def test_what_a_dataset_file_declares_is_built_by_the_dataset(raw: Path, tmp_path: Path, make_dataset) -> None:
    """It knows what its components can be called, and `max_pixels`."""
    transform = {"operations": [{**CROP, "components": ["scene"]}]}
    declared = make_dataset(raw, tmp_path / "root", transform=transform).spec.model_dump()
    declared["source"] = {"uri": str(raw), "components": {"scene": "{key}.photo.*", "mask.png": "{key}.mask.png"}}
    dataset = Dataset(DatasetSpec.model_validate(declared))
    sample = EncodedSample("a", {"scene.jpg": next(raw.glob("*.jpg")).read_bytes()})
    [made] = Prepare(transform=prepare.built(dataset.transform()), components=["scene"])(sample, {}, 0)
    assert made["scene"].shape == (3, 24, 24)
    with pytest.raises(ConfigurationError, match=r"give `dataset\.transform"):
        prepare.built(dataset.spec.transform)


def test_a_dataset_refuses_inline_what_its_stage_refuses(raw: Path, tmp_path: Path, make_dataset) -> None:
    dataset = make_dataset(raw, tmp_path / "root", transform={"operations": [CROP]}, max_pixels=100)
    sample = EncodedSample("a", {"photo.jpg": next(raw.glob("*.jpg")).read_bytes()})
    with pytest.raises(Rejected, match="too"):
        dataset.transform()(sample)


def test_in_a_worker_libraries_compute_in_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: "a worker")
    prepare._settle_in_worker.cache_clear()
    with threadpool_limits(2):
        try:
            Prepare()(EncodedSample("a", {"txt": b"a"}), {}, 0)
            assert {each["num_threads"] for each in threadpool_info()} == {1}
        finally:
            prepare._for_good.close()
            prepare._settle_in_worker.cache_clear()


@pytest.mark.parametrize(
    ("component", "data", "value"),
    [
        ("cls", b" 7\n", 7),
        ("json", b'{"a": [1]}', {"a": [1]}),
        ("note.txt", "\u00e9".encode(), "\u00e9"),
        ("npy", b"?", b"?"),
    ],
)
def test_plain_components_are_what_their_suffix_says(component: str, data: bytes, value: object) -> None:
    assert Prepare()(EncodedSample("a", {component: data}), {}, 0)[0][component] == value


@pytest.mark.parametrize(("component", "data"), [("cls", b"cat"), ("json", b"{"), ("txt", b"\xff")])
def test_a_component_that_is_not_what_its_suffix_says_is_a_reject(component: str, data: bytes) -> None:
    with pytest.raises(Rejected, match=f"unreadable value: {component}"):
        Prepare()(EncodedSample("a", {component: data}), {}, 0)


def test_components_are_chosen_also_by_the_name_before_their_suffix(raw: Path) -> None:
    sample = EncodedSample("a", {"photo.jpg": next(raw.glob("*.jpg")).read_bytes(), "cls": b"1"})
    [made] = Prepare(components=["photo"])(sample, {}, 0)
    assert made.keys() == {"__key__", "__url__", "photo"}
    with pytest.raises(Rejected, match="mask is asked for; the sample has cls"):
        Prepare(components=["mask"])(sample, {}, 0)
