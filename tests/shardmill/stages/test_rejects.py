"""What is wrong is rejected with a reason, what is merely odd comes out right, and nothing is lost."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.demo import make_demo_dataset, planted_rejects
from shardmill.engines import LocalEngine
from shardmill.errors import TooManyRejectsError
from shardmill.shards.layout import Layout
from shardmill.shards.verify import verify

DEMO = {
    "name": "demo",
    "max_reject_ratio": 0.25,
    "shards": {"max_samples": 20},
    "transform": {"masks": ["mask.png"], "operations": [{"operation": "CenterCrop", "arguments": {"size": 200}}]},
}
ODD = {"dahlia_cmyk": "jpg", "photographer_exif_rotated": "jpg", "moon_grey16": "png"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, make_dataset, run_chain) -> Dataset:
    """One partition with every planted sample in it, run."""
    base = tmp_path_factory.mktemp("demo")
    make_demo_dataset(base / "raw", ["p"], 1)
    dataset: Dataset = make_dataset(base / "raw/p", base / "root", **DEMO)
    run_chain(dataset)
    return dataset


def samples(dataset: Dataset, asset) -> dict[str, dict[str, bytes]]:
    shards = dataset.stored(asset, "p")
    assert shards is not None
    return {sample.key: dict(sample.components) for shard in shards.shards for sample, _ in shard.read(dataset.storage)}


def test_every_planted_bad_file_is_a_reject_with_its_reason(demo: Dataset) -> None:
    rejects = pd.read_parquet(Layout.at(demo.folder("webdataset_shards", "p")).rejects)
    assert dict(zip(rejects["key"], rejects["reason"], strict=True)) == planted_rejects("p", ["p"])
    for _, row in rejects.iterrows():
        file = Path(row["source_uri"].removeprefix("file://"))
        assert file.name == f"{row['key']}.jpg"
        assert file.exists()


def test_rows_in_are_rows_out_and_rejects_at_every_stage(demo: Dataset) -> None:
    samples_in = len({file.name.partition(".")[0] for file in Path(str(demo.spec.source.uri)).iterdir()})
    for asset in ("webdataset_shards", "transformed_shards", "embeddings", "embedding_map"):
        commit = demo.stored(asset, "p").commit  # type: ignore[union-attr]
        assert commit.total_samples_in == samples_in
        assert commit.total_samples == samples_in - commit.total_rejects
        samples_in = commit.total_samples
    assert len(pd.read_parquet(demo.folder("embeddings", "p"))) == samples_in


def test_packing_leaves_the_bytes_as_they_are(demo: Dataset) -> None:
    raw = Path(str(demo.spec.source.uri))
    for key, components in samples(demo, "webdataset_shards").items():
        for component, data in components.items():
            assert data == (raw / f"{key}.{component}").read_bytes()


@pytest.mark.parametrize("key", list(ODD))
def test_cmyk_rotated_and_16_bit_images_come_out_with_their_pixels(demo: Dataset, key: str) -> None:
    raw = Path(str(demo.spec.source.uri)) / f"{key}.{ODD[key]}"
    with Image.open(raw) as opened:
        if opened.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)).convert("RGB")
        else:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    left, top = round((upright.width - 200) / 2), round((upright.height - 200) / 2)
    expected = upright.crop((left, top, left + 200, top + 200))
    if ODD[key] == "jpg":  # it is encoded once more
        expected.save(again := io.BytesIO(), "JPEG", quality=95)
        expected = Image.open(again)
    with Image.open(io.BytesIO(samples(demo, "transformed_shards")[key][ODD[key]])) as transformed:
        assert transformed.size == (200, 200)
        assert transformed.mode == "RGB"
        assert not transformed.getexif().get(0x0112)
        found = np.asarray(transformed, int)
    assert np.abs(found - np.asarray(expected, int)).mean() < 1.5


def test_a_mask_is_cropped_like_its_image_and_keeps_its_labels(demo: Dataset) -> None:
    raw = Path(str(demo.spec.source.uri))
    for key, components in samples(demo, "transformed_shards").items():
        mask = Image.open(raw / f"{key}.mask.png")
        left, top = round((mask.width - 200) / 2), round((mask.height - 200) / 2)
        expected = np.asarray(mask.crop((left, top, left + 200, top + 200)))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(components["mask.png"]))), expected)


@pytest.fixture
def mostly_good(tmp_path: Path, images, make_dataset, run_chain):
    """A committed partition of 40 good images, and its raw folder."""
    images(tmp_path / "raw", 40)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", max_reject_ratio=0.05)
    run_chain(dataset)
    return dataset, tmp_path / "raw"


def test_too_many_rejects_commit_nothing_and_the_partition_stays_as_it_was(mostly_good, snapshot) -> None:
    dataset, raw = mostly_good
    folder = Path(dataset.folder("webdataset_shards", "p").removeprefix("file://"))
    before = snapshot(folder)
    for key in ("image_00001", "image_00002", "image_00003"):
        (raw / f"{key}.jpg").write_bytes(b"")
    with pytest.raises(TooManyRejectsError) as caught:
        list(graph.run(dataset, "p", LocalEngine(2)))
    message = str(caught.value)
    for part in ("d/webdataset_shards/p", "3 of 40", "7.5%", "5.0%", "3 × empty file", f"{raw}/image_0000"):
        assert part in message
    after = snapshot(folder)
    assert {name: after.get(name) for name in before} == before
    shards = dataset.stored("webdataset_shards", "p")
    assert shards is not None
    assert sum(1 for shard in shards.shards for _ in shard.read(dataset.storage)) == 40
    assert dataset.stored("embeddings", "p").commit.total_samples == 40  # type: ignore[union-attr]


def test_after_the_limit_is_raised_the_same_rejects_pass_and_nothing_is_left_over(
    mostly_good, tmp_path: Path, make_dataset, run_chain
) -> None:
    dataset, raw = mostly_good
    for key in ("image_00001", "image_00002", "image_00003"):
        (raw / f"{key}.jpg").write_bytes(b"")
    with pytest.raises(TooManyRejectsError):
        run_chain(dataset)
    made = run_chain(make_dataset(raw, tmp_path / "root", max_reject_ratio=0.1))
    assert made["webdataset_shards"].made == 0  # what the failed run made is found again
    assert made["embeddings"].commit.total_samples == 37
    assert [problem for shards in made.values() for problem in verify(shards)] == []


def test_a_partition_of_nothing_but_rejects_goes_through_empty(tmp_path: Path, make_dataset, run_chain) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(3):
        (tmp_path / f"raw/{number}.jpg").write_bytes(b"no image")
    (tmp_path / "raw/3.jpg").write_bytes(b"")
    made = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", max_reject_ratio=1))
    reasons = made["webdataset_shards"].commit.rejects_by_reason
    assert list(reasons.items()) == [("not an image", 3), ("empty file", 1)]  # the most frequent first
    assert [made[asset].commit.total_samples for asset in ("transformed_shards", "embeddings", "embedding_map")] == [
        0
    ] * 3
    assert not list((tmp_path / "root").rglob("*.tar"))
    assert [problem for shards in made.values() for problem in verify(shards)] == []


def test_a_partition_of_one_image_goes_through(tmp_path: Path, images, make_dataset, run_chain) -> None:
    images(tmp_path / "raw", 1)
    made = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root"))
    assert made["embedding_map"].commit.total_samples == 1


def test_max_pixels_holds_at_every_stage(tmp_path: Path, make_dataset, run_chain) -> None:
    (tmp_path / "raw").mkdir()
    for side in (64, 80):
        Image.new("RGB", (side, side)).save(tmp_path / f"raw/{side}.jpg")
    raw = tmp_path / "raw"
    made = run_chain(make_dataset(raw, tmp_path / "a", max_pixels=64 * 64, max_reject_ratio=1))
    assert made["webdataset_shards"].commit.rejects_by_reason == {"too many pixels": 1}
    crop = {"operations": [{"operation": "Resize", "arguments": {"size": [90, 90]}}]}
    made = run_chain(make_dataset(raw, tmp_path / "b", max_pixels=80 * 80, max_reject_ratio=1, transform=crop))
    assert made["webdataset_shards"].commit.total_samples == 2
    assert made["transformed_shards"].commit.rejects_by_reason == {"too many pixels": 2}  # enlarged beyond the limit
