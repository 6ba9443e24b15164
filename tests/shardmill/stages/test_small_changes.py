"""A change of one object touches the one shard that it is in, two where the shard splits or merges, at every stage."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from shardmill.dataset import Dataset

STAGES = ("webdataset_shards", "transformed_shards", "embeddings")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, run_chain) -> Path:
    """A folder with `raw`, 1,500 images, and `root`, everything made of them."""
    base = tmp_path_factory.mktemp("large")
    images(base / "raw", 1500)
    made = run_chain(make_dataset(base / "raw", base / "root", shards={"max_samples": 110}))
    assert len(made["webdataset_shards"].commit.shards) >= 14
    return base


@pytest.fixture
def large(original: Path, images, make_dataset, run_chain):
    """The dataset and its raw folder; what a test changes is changed back."""
    dataset: Dataset = make_dataset(original / "raw", original / "root", shards={"max_samples": 110})
    yield dataset, original / "raw"
    for file in [*original.glob("raw/new*"), *original.glob("raw/image_01234*")]:
        file.unlink()
    images(original / "raw", 1, first=1234)
    run_chain(dataset)


def change(dataset: Dataset, snapshot, run_chain):
    """Run again; assert that at most two shards of each stage are new, and that the other files are as they were."""
    home = Path(dataset.home.removeprefix("file://"))
    before = {stage: {**snapshot(home / stage), **snapshot(home / "_shardmill" / stage)} for stage in STAGES}
    made = run_chain(dataset)
    for stage in STAGES:
        after = {**snapshot(home / stage), **snapshot(home / "_shardmill" / stage)}
        new = {name for name in after if name not in before[stage]}
        gone = {name for name in before[stage] if name not in after}
        for names in (new, gone):
            assert 1 <= len([name for name in names if name.endswith(".index.parquet")]) <= 2, stage
        assert 1 <= made[stage].made <= 2
        rewritten = {
            name.rpartition("/")[2] for name in before[stage].keys() & after if before[stage][name] != after[name]
        }
        assert rewritten <= {"index.json", "rejects.parquet"}, stage
    return made, pd.read_parquet(home / "embeddings/p")


def test_one_more_image_touches_at_most_two_shards(large, images, snapshot, run_chain) -> None:
    dataset, raw = large
    images(raw.parent / "other", 1, first=5000)
    for file in (raw.parent / "other").iterdir():
        shutil.move(file, raw / f"new{file.suffix}")
    made, table = change(dataset, snapshot, run_chain)
    assert made["embeddings"].commit.total_samples == len(table) == 1501
    assert "new" in set(table["key"])


def test_one_image_less_touches_at_most_two_shards_and_takes_its_row_with_it(large, snapshot, run_chain) -> None:
    dataset, raw = large
    (raw / "image_01234.jpg").unlink()
    (raw / "image_01234.cls").unlink()
    made, table = change(dataset, snapshot, run_chain)
    assert made["embeddings"].commit.total_samples == len(table) == 1499
    assert "image_01234" not in set(table["key"])


def test_an_image_overwritten_touches_one_shard(large, images, snapshot, run_chain) -> None:
    dataset, raw = large
    before = pd.read_parquet(dataset.folder("embeddings", "p")).set_index("key")
    images(raw.parent / "third", 1, first=6000)
    shutil.copyfile(raw.parent / "third/image_06000.jpg", raw / "image_01234.jpg")
    made, table = change(dataset, snapshot, run_chain)
    assert [made[stage].made for stage in STAGES] == [1, 1, 1]
    after = table.set_index("key")
    changed = [key for key in after.index if after.source_sha256[key] != before.source_sha256[key]]
    assert changed == ["image_01234"]
