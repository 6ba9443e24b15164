"""Custom transforms: counts add up, children know the raw object they come from, bad names stop the run."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import EngineError
from shardmill.shards.verify import verify

TILES = """
    def transform(sample):
        image = sample.components["jpg"]
        for name, tile in (("left", image[..., :32]), ("right", image[..., 32:])):
            yield sample.child(name, {**sample.components, "jpg": tile})
"""
FILTER = """
    def transform(sample):
        return None if sample.components["cls"] == b"0" else sample
"""
RENAME = """
    from dataclasses import replace

    def transform(sample):
        return replace(sample, key="renamed/" + sample.key[::-1])
"""
SOME_FAIL = """
    def transform(sample):
        if sample.components["cls"] == b"1":
            raise ValueError("a one")
        return sample
"""


@pytest.fixture
def transformed(tmp_path: Path, images, make_dataset, run_chain, write_module):
    """Run 45 images (15 of each class) through a custom transform of this source code."""
    images(tmp_path / "raw", 45)

    def run(source: str, **fields):
        operation = {"operation": f"{write_module(source)}:transform"}
        dataset: Dataset = make_dataset(
            tmp_path / "raw", tmp_path / "root", transform={"operations": [operation]}, **fields
        )
        made = run_chain(dataset)
        assert [problem for shards in made.values() for problem in verify(shards)] == []
        return made, made["embeddings"].table().to_pandas()

    return run


def assert_lineage(table: pd.DataFrame, shards, raw_key) -> None:
    """Every row's source is the raw file of `raw_key(key)`, as it is on the disk, and names a tar that holds it."""
    for _, row in table.iterrows():
        file = Path(row["source_uri"].removeprefix("file://"))
        assert file.name == f"{raw_key(row['key'])}.jpg"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["source_sha256"]
    tars = {shard.file_name: shard for shard in shards.shards}
    for name, rows in table.groupby("shard"):
        found = {sample.key: sample.components for sample, _ in tars[name].read(shards.storage)}
        assert set(rows["shard_sha256"]) == {tars[name].entry.sha256}
        for _, row in rows.iterrows():
            data = found[row["key"]][row["component"]]
            assert hashlib.sha256(data).hexdigest() == row["component_sha256"]


def test_one_to_many_gives_children_of_their_parents(transformed) -> None:
    made, table = transformed(TILES)
    commit = made["transformed_shards"].commit
    assert (commit.total_samples_in, commit.total_samples, commit.total_filtered) == (45, 90, 0)
    assert sum(entry.kept for entry in commit.shards) == 45
    read = list(made["webdataset_shards"].samples())
    sizes = sum(len(data) for sample in read for data in sample.components.values())
    assert sum(entry.bytes_in for entry in commit.shards) == sizes
    assert len(table) == table["key"].nunique() == 90
    assert_lineage(table, made["transformed_shards"], lambda key: key.rpartition("~")[0])


def test_a_filter_leaves_out_and_counts(transformed) -> None:
    made, table = transformed(FILTER)
    commit = made["transformed_shards"].commit
    assert (commit.total_samples_in, commit.total_samples, commit.total_filtered) == (45, 30, 15)
    assert commit.total_rejects == 0
    assert set(table["cls"]) == {"1", "2"}
    assert_lineage(table, made["transformed_shards"], lambda key: key)


def test_a_filter_that_leaves_nothing_makes_no_tar(transformed, tmp_path: Path) -> None:
    made, table = transformed("def transform(sample): return None")
    assert made["transformed_shards"].commit.total_filtered == 45
    assert len(table) == 0
    assert list((tmp_path / "root/d/webdataset_shards").rglob("*.tar"))
    assert not list((tmp_path / "root/d/transformed_shards").rglob("*.tar"))


def test_a_renamed_sample_keeps_its_lineage(transformed) -> None:
    made, table = transformed(RENAME)
    assert len(table) == 45
    assert all(key.startswith("renamed/") for key in table["key"])
    assert_lineage(table, made["transformed_shards"], lambda key: key.removeprefix("renamed/")[::-1])


def test_a_sample_on_which_the_transform_fails_is_a_reject(transformed) -> None:
    made, table = transformed(SOME_FAIL, max_reject_ratio=0.5)
    commit = made["transformed_shards"].commit
    assert (commit.total_samples, commit.rejects_by_reason) == (30, {"transform failed": 15})
    rejects = list(made["transformed_shards"].rejects())
    assert all("ValueError: a one" in reject.detail for reject in rejects)
    assert all(reject.source_uri.endswith(f"{reject.key}.jpg") for reject in rejects)
    assert len(table) == 30


@pytest.mark.parametrize(
    ("key", "component"),
    [
        ('"same"', '"jpg"'),
        ('sample.key + "_" * 90', '"jpg"'),
        ('sample.key + " with spaces"', '"jpg"'),
        ('"__" + sample.key', '"jpg"'),
        ('"/" + sample.key', '"jpg"'),
        ("sample.key", '"UPPER.jpg"'),
        ("sample.key", '"a/b.jpg"'),
        ("sample.key", '"ä.jpg"'),
    ],
)
def test_a_name_that_no_shard_holds_stops_the_run_and_names_the_shard(transformed, key: str, component: str) -> None:
    source = f"""
    from dataclasses import replace

    def transform(sample):
        return replace(sample, key={key}, components={{{component}: sample.components["jpg"]}})
    """
    with pytest.raises(EngineError, match=r"transform failed on shard [0-9a-f]{6} of file://.*/transformed_shards/p: "):
        transformed(source)


def test_a_new_code_version_of_the_transform_makes_the_shards_anew(transformed) -> None:
    """And their tables too, since these name the tars."""
    source = "def transform(sample): return sample\ntransform.code_version = "
    first, _ = transformed(source + "'1'")
    second, table = transformed(source + "'2'")
    assert second["webdataset_shards"].made == 0
    assert second["transformed_shards"].made == len(first["transformed_shards"].commit.shards)
    assert_lineage(table, second["transformed_shards"], lambda key: key)


def test_a_declared_component_is_named_by_all_that_it_can_be_called(
    tmp_path: Path, run_chain, embedder_of_tests: dict[str, str]
) -> None:
    labels = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 3)
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    for folder in ("img", "m"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for key, suffix, mask in (("a", "jpg", "png"), ("b", "png", "tif")):
        picture.save(tmp_path / "raw" / "img" / f"{key}.{suffix}")
        labels.save(tmp_path / "raw" / "m" / f"{key}.{mask}")
    components = {"image": ["img/{key}.jpg", "img/{key}.png"], "seg.png": ["m/{key}.png", "m/{key}.tif"]}
    resize = {"operation": "Resize", "arguments": {"size": 32}, "components": ["image.jpg", "seg.png"]}
    declared = {
        "name": "d",
        "root": str(tmp_path / "root"),
        "source": {"uri": str(tmp_path / "raw"), "components": components},
        "partitions": ["p"],
        "transform": {"operations": [resize], "masks": ["seg.png"]},
        "embedder": {**embedder_of_tests, "component": "image.jpg"},
    }
    dataset = Dataset(DatasetSpec.model_validate(declared))
    made = run_chain(dataset)
    samples = {sample.key: sample.components for sample in made["transformed_shards"].samples()}
    for key, names in (("a", {"image.jpg", "seg.png"}), ("b", {"image.png", "seg.tiff"})):
        assert samples[key].keys() == names
        for name, data in samples[key].items():
            with Image.open(io.BytesIO(data)) as image:
                assert image.size == (32, 32)
                assert not name.startswith("seg") or set(np.unique(np.asarray(image))) <= {0, 1, 2}
    assert set(made["embeddings"].table().to_pandas()["component"]) == {"image.jpg", "image.png"}
