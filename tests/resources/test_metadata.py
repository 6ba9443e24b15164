"""Metadata never says what is not so, and never fails a run."""

import base64
import re
from io import BytesIO
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from resources.metadata import describe_shard_set
from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.shards.reader import ShardSet, open_shards


def write_images(folder: Path, numbers: range) -> None:
    for number in numbers:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"s{number}.png")
        Image.fromarray(np.full((40, 60), number % 4, np.uint8)).save(folder / f"s{number}.mask.png")


def packed(folder: Path) -> ShardSet:
    """The images of a folder, packed into shards of at most four samples."""
    spec = DatasetSpec.model_validate(
        {
            "name": "tiny",
            "root": str(folder / "out"),
            "source": {"uri": str(folder / "raw")},
            "partitions": ["all"],
            "shards": {"max_samples": 4},
        }
    )
    run = graph.run(Dataset(spec), "all", LocalEngine(1))
    next(run)
    return next(run)[1]


def sheet(metadata: dict[str, object]) -> np.ndarray:
    value = metadata["contact sheet"]
    assert isinstance(value, dg.MarkdownMetadataValue)
    match = re.search(r"base64,([^)]+)", value.md_str or "")
    assert match
    with Image.open(BytesIO(base64.b64decode(match[1]))) as image:
        return np.asarray(image.convert("RGB"))


def test_a_rate_is_given_only_where_all_shards_were_made(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", range(12))
    first = describe_shard_set(packed(tmp_path), 2.0)
    assert first["samples per second"] == 6.0
    assert first["shards made"] == first["shards"] > 2
    assert (first["samples computed"], first["samples copied"]) == (12, 0)

    write_images(tmp_path / "raw", range(12, 13))
    second = describe_shard_set(packed(tmp_path), 2.0)
    assert 0 < second["shards made"] < second["shards"]
    assert second["samples computed"] == 1
    assert second["samples copied"] > 0
    assert "samples per second" not in second

    third = describe_shard_set(packed(tmp_path), 2.0)
    assert third["shards made"] == 0
    assert "samples per second" not in third


def test_label_maps_are_coloured(tmp_path: Path) -> None:
    """As they are, labels 0 to 3 look all black."""
    write_images(tmp_path / "raw", range(4))
    shards = packed(tmp_path)
    black = sheet(describe_shard_set(shards, 1.0))
    coloured = sheet(describe_shard_set(shards, 1.0, ["mask.png"]))
    assert (np.ptp(coloured.astype(int), axis=2) > 100).sum() > (np.ptp(black.astype(int), axis=2) > 100).sum()


def test_an_image_that_cannot_be_shown_is_left_out_of_the_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that only the dataset's own max_pixels allows."""
    from resources import metadata
    from shardmill.errors import Rejected

    write_images(tmp_path / "raw", range(4))
    shards = packed(tmp_path)

    def refuse(*_: object) -> None:
        raise Rejected("too many pixels")

    monkeypatch.setattr(metadata, "decode_image", refuse)
    assert "contact sheet" not in describe_shard_set(shards, 1.0)
    assert "contact sheet" in describe_shard_set(shards, 1.0, ["mask.png"])


def test_what_became_of_the_objects_is_shown(tmp_path: Path) -> None:
    write_images(tmp_path / "raw", range(5))
    for name in ("._a.jpg", "._b.jpg", ".DS_Store"):
        (tmp_path / "raw" / name).write_bytes(b"x")
    shards = packed(tmp_path)
    samples = describe_shard_set(shards, 1.0)
    assert (samples["objects in samples"], samples["objects in rejects"]) == (10, 0)
    raw = describe_shard_set(open_shards(tmp_path / "out/tiny/raw_images/all"), 1.0)
    assert (raw["objects listed"], raw["objects left out"]) == (13, 3)
    table = raw["left out by rule"]
    assert isinstance(table, dg.TableMetadataValue)
    found = [(row.data["rule"], row.data["objects"], row.data["for example"]) for row in table.records]
    folder = f"file://{tmp_path}/raw"
    assert found == [
        ("default: ._*", 2, f"{folder}/._a.jpg, {folder}/._b.jpg"),
        ("default: .DS_Store", 1, f"{folder}/.DS_Store"),
    ]
