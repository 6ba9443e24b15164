"""The map: the table's keys, on a basis that the dataset's partitions share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from shardmill.dataset import Dataset
from shardmill.shards.layout import Layout


@pytest.fixture
def two(tmp_path: Path, images, make_dataset, run_chain) -> Dataset:
    """Two partitions, the second one of other images, run."""
    images(tmp_path / "raw/a", 30)
    images(tmp_path / "raw/b", 20, first=100)
    return make_dataset(tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"])


def bases(root: Path) -> list[Path]:
    return sorted((root / "d/_shardmill/basis").glob("*.json"))


def test_the_map_has_the_keys_of_the_table_and_a_picture(two: Dataset, run_chain) -> None:
    made = run_chain(two, "a")
    table = pd.read_parquet(two.folder("embeddings", "a"))
    points = pd.read_parquet(two.folder("embedding_map", "a"))
    assert list(points["key"]) == list(table["key"])
    assert list(points["cls"]) == list(table["cls"])
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()
    [entry] = made["embedding_map"].commit.shards
    assert entry.picture
    picture = Path(Layout.at(two.folder("embedding_map", "a")).beside(entry.picture).removeprefix("file://"))
    with Image.open(picture) as image:
        image.verify()


def test_partitions_share_a_basis(two: Dataset, tmp_path: Path, run_chain) -> None:
    first = run_chain(two, "a")["embedding_map"].commit.parameters
    [basis] = bases(tmp_path / "root")
    before = basis.stat().st_mtime_ns
    second = run_chain(two, "b")["embedding_map"].commit.parameters
    assert bases(tmp_path / "root") == [basis]
    assert basis.stat().st_mtime_ns == before
    assert first["basis"] == second["basis"]


def test_new_images_in_a_partition_move_no_other_point(two: Dataset, tmp_path: Path, images, run_chain) -> None:
    run_chain(two, "a")
    before = pd.read_parquet(two.folder("embedding_map", "a")).set_index("key")
    images(tmp_path / "raw/a", 1, first=900)
    run_chain(two, "a")
    after = pd.read_parquet(two.folder("embedding_map", "a")).set_index("key")
    assert len(after) == 31
    pd.testing.assert_frame_equal(after.loc[before.index], before)


def test_another_embedder_gets_a_basis_of_its_own(two: Dataset, tmp_path: Path, make_dataset, run_chain) -> None:
    first = run_chain(two, "a")["embedding_map"].commit.parameters["basis"]
    changed = make_dataset(
        tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"], embedder={"normalize": True}
    )
    second = run_chain(changed, "a")["embedding_map"].commit.parameters["basis"]
    assert first != second
    assert len(bases(tmp_path / "root")) == 2
