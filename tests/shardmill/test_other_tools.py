"""Tools that people hand a folder or a glob to: each committed sample once, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
import webdataset as wds
from PIL import Image

from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.errors import TooManyRejectsError
from shardmill.shards.commit import read_commit
from shardmill.shards.layout import Layout
from shardmill.storage import Storage
from tests.servers.places import NewPlace, Place

PARTITIONS = ("a", "b")
EACH = 12

Read = Callable[[str], list[str]]
"""From a folder to the keys that a tool finds there."""

TABLES: dict[str, Read] = {
    "pandas": lambda folder: pd.read_parquet(folder)["key"].tolist(),
    "arrow": lambda folder: ds.dataset(folder, partitioning=None).to_table(columns=["key"])["key"].to_pylist(),
    "duckdb": lambda folder: _keys(f"'{folder}/**/*.parquet'"),
    "duckdb, the folder": lambda folder: _keys(f"'{folder}'"),
    "polars": lambda folder: pl.read_parquet(folder)["key"].to_list(),
    "polars, a glob": lambda folder: pl.read_parquet(f"{folder}/**/*.parquet")["key"].to_list(),
    "datasets": lambda folder: list(_hugging_face("parquet", folder)["key"]),
}
TARS: dict[str, Read] = {
    "webdataset": lambda folder: [
        sample["__key__"]
        for sample in wds.WebDataset([str(file) for file in sorted(Path(folder).rglob("*.tar"))], shardshuffle=False)
    ],
    "datasets": lambda folder: list(_hugging_face("webdataset", folder)["__key__"]),
    "datasets, a glob": lambda folder: list(_hugging_face("webdataset", data_files=f"{folder}/**/*.tar")["__key__"]),
}


def _keys(what: str) -> list[str]:
    return [key for (key,) in duckdb.sql(f"select key from read_parquet({what})").fetchall()]


def _hugging_face(kind: str, folder: str | None = None, **options: Any) -> Any:
    import uuid

    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE) / uuid.uuid4().hex  # what was read there before is not of interest
    return datasets.load_dataset(kind, data_dir=folder, split="train", cache_dir=str(cache), **options)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    """Two partitions of twelve samples; one more in the first is a reject."""
    folder = tmp_path_factory.mktemp("raw")
    for number, partition in enumerate(PARTITIONS):
        images(folder / partition, EACH, first=100 * number)
    (folder / "a/broken.jpg").write_bytes(b"")
    return folder


def dataset_of(raw: Path, root: str, storage: Storage | None = None, **fields: Any) -> Dataset:
    spec = {
        "name": "d",
        "source": {"uri": f"{raw}/{{partition}}"},
        "partitions": list(PARTITIONS),
        "root": root,
        "shards": {"max_samples": 5},
        "max_reject_ratio": 0.1,
        "transform": {"operations": []},
        "embedder": {},
        **fields,
    }
    return Dataset(DatasetSpec.model_validate(spec), storage or Storage())


def run(dataset: Dataset) -> None:
    for partition in PARTITIONS:
        list(graph.run(dataset, partition, LocalEngine(2)))


@pytest.fixture(scope="module")
def root(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything made, superseded once, with what is superseded kept."""
    folder = tmp_path_factory.mktemp("root")
    run(dataset_of(raw, str(folder), keep_superseded="1d"))
    run(dataset_of(raw, str(folder), keep_superseded="1d", shards={"max_samples": 4}))
    assert list(folder.rglob("superseded/*.tar"))
    return folder


def expected(*partitions: str) -> list[str]:
    numbers = [100 * PARTITIONS.index(name) + number for name in partitions for number in range(EACH)]
    return [f"image_{number:05}" for number in numbers]


@pytest.mark.parametrize("tool", TABLES)
@pytest.mark.parametrize("asset", ["embeddings", "embedding_map"])
def test_a_table_s_folder_has_each_sample_once(root: Path, asset: str, tool: str) -> None:
    assert sorted(TABLES[tool](f"{root}/d/{asset}/a")) == expected("a")
    assert sorted(TABLES[tool](f"{root}/d/{asset}")) == expected("a", "b")


@pytest.mark.parametrize("tool", TABLES)
def test_a_manifest_s_folder_has_each_object_once(root: Path, tool: str) -> None:
    assert len(TABLES[tool](f"{root}/d/raw_images/a")) == 2 * EACH + 1


@pytest.mark.parametrize("tool", TARS)
@pytest.mark.parametrize("asset", ["webdataset_shards", "transformed_shards"])
def test_a_folder_of_tars_has_each_sample_once(root: Path, asset: str, tool: str) -> None:
    assert sorted(TARS[tool](f"{root}/d/{asset}/a")) == expected("a")
    assert sorted(TARS[tool](f"{root}/d/{asset}")) == expected("a", "b")


def test_a_mixed_collection_is_told_of_and_reads_back_whole_once_it_is_one_format(tmp_path: Path, images) -> None:
    raw = tmp_path / "raw/a"
    images(raw, EACH)
    for number in (7, 9, 11):
        file = raw / f"image_{number:05}.jpg"
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    dataset = dataset_of(tmp_path / "raw", str(tmp_path / "root"), transform={"operations": [], "format": "jpg"})
    made = dict(graph.run(dataset, "a", LocalEngine(2)))
    assert made["webdataset_shards"].commit.components == {"cls jpg": 9, "cls png": 3}
    (warning,) = made["webdataset_shards"].commit.warnings
    assert "d/webdataset_shards/a: samples differ in their components: 9 have cls jpg; 3 have cls png." in warning
    assert "format: jpg" in warning
    assert made["transformed_shards"].commit.warnings == []
    rows = list(_hugging_face("webdataset", f"{tmp_path}/root/d/transformed_shards/a"))
    assert sorted(row["__key__"] for row in rows) == expected("a")
    assert all(row["jpg"].size[0] > 0 for row in rows)


def test_a_folder_on_s3_has_each_sample_once(raw: Path, place: NewPlace) -> None:
    where: Place = place("s3")
    dataset = dataset_of(raw, where.uri, where.storage)
    run(dataset)
    filesystem = where.storage.filesystem(where.uri)
    folder = f"{where.uri}/d/embeddings".removeprefix("s3://")

    def read_all() -> dict[str, list[str]]:
        filesystem.invalidate_cache()
        files = [f"s3://{name}" for name in filesystem.glob(f"{folder}/**/*.parquet")]
        table = ds.dataset(folder, filesystem=filesystem, partitioning=None).to_table(columns=["key"])
        tars = filesystem.glob(folder.replace("embeddings", "webdataset_shards") + "/**/*.tar")
        with duckdb.connect() as connection:
            connection.register_filesystem(filesystem)
            found = connection.sql(f"select key from read_parquet('s3://{folder}/**/*.parquet')").fetchall()
        return {
            "arrow": table["key"].to_pylist(),
            "pandas": [key for file in files for key in pd.read_parquet(filesystem.open(file))["key"]],
            "polars": [key for file in files for key in pl.read_parquet(filesystem.open(file))["key"]],
            "duckdb": [key for (key,) in found],
            "webdataset": [key for tar in tars for key in _samples(filesystem.open(tar))],
        }

    for tool, keys in read_all().items():
        assert sorted(keys) == expected("a", "b"), tool
    run(dataset_of(raw, where.uri, where.storage, shards={"max_samples": 3}))
    for tool, keys in read_all().items():
        assert sorted(keys) == expected("a", "b"), tool


def _samples(stream: Any) -> list[str]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    return [sample["__key__"] for sample in group_by_keys(tar_file_expander([{"url": "x", "stream": stream}]))]


def test_a_run_that_fails_leaves_nothing_among_the_data(raw: Path, tmp_path: Path) -> None:
    """Too many rejects, found when all shards are made."""
    root = str(tmp_path / "root")
    run(dataset_of(raw, root))
    with pytest.raises(TooManyRejectsError):
        run(dataset_of(raw, root, shards={"max_samples": 3}, max_reject_ratio=0.0))
    for asset, tools in (("webdataset_shards", TARS), ("embeddings", TABLES)):
        for tool, read in tools.items():
            assert sorted(read(f"{root}/d/{asset}")) == expected("a", "b"), tool


class Looking(Storage):
    """Compares what stands among the data with what is committed, whenever a shard has been published."""

    def publish(self, file: Path, uri: str) -> None:
        super().publish(file, uri)
        side, _, name = uri.partition("/staged/")
        if name:
            layout = Layout.at(side.replace("/_shardmill/", "/"))
            committed, _ = read_commit(self, layout)
            found = {info.uri.rpartition("/")[2] for info in self.list(layout.folder)}
            assert found == ({shard.data for shard in committed.shardlist} if committed else set())
            looks.append(name)


looks: list[str] = []


def test_while_a_run_makes_its_shards_the_data_stay_as_they_are(raw: Path, tmp_path: Path) -> None:
    for limit in (5, 3, 5):
        run(dataset_of(raw, str(tmp_path / "root"), Looking(), shards={"max_samples": limit}))
    assert len(looks) > 40
