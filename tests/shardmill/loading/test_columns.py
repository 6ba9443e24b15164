"""Columns and vectors beside the components: joined by key, chosen by a filter before anything is read."""

import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from shardmill.errors import ConfigurationError
from shardmill.loading.columns import LocalTable
from shardmill.loading.indexes import write_table
from shardmill.loading.sources import Source, open_source
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.temporary import TemporaryFolder
from tests.counting import CountingStorage

TILES = """
def transform(sample):
    for name in ("left", "right"):
        yield sample.child(name, sample.components)
"""
COLUMNS = {"caption": "string", "width": "int32", "cls": "int64", "tags": "list<string>", "taken": "timestamp"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, run_chain) -> dict[str, ShardSet]:
    """Fifty samples with columns in their JSON, one of them without a vector, and a transform that makes two of one."""
    base = tmp_path_factory.mktemp("columns")
    with pytest.MonkeyPatch.context() as patch:
        (base / "tiles_of_columns.py").write_text(TILES)
        patch.syspath_prepend(base)
        for number, key in enumerate(images(base / "raw", 50)):
            said = {"caption": f"number {number}", "width": number if number != 7 else "wide"}
            said |= {"tags": ["a", "b"][: number % 3], "taken": f"2026-01-{number % 28 + 1:02}T10:00:00Z"}
            (base / "raw" / f"{key}.json").write_text(json.dumps(said))
        transform = {"operations": [{"operation": "tiles_of_columns:transform"}]}
        embedder = {"model": "small", "runtime": "torch"}
        dataset = make_dataset(
            base / "raw",
            base / "root",
            columns=COLUMNS,
            transform=None,
            transforms={"tiles": transform},
            embedder=None,
            embedders={
                "raw": {**embedder, "of": "webdataset_shards"},
                "tiles": {**embedder, "of": "transformed_shards_tiles"},
            },
            max_reject_ratio=0.1,
        )
        return run_chain(dataset, last="")


def rows_of(table: ShardSet) -> Mapping[str, Any]:
    return {row["key"]: row for row in table.table().to_pylist()}


def read(source: Source) -> dict[str, Mapping[str, Any]]:
    """Key → cells of all samples that are selected."""
    found = {}
    for number, shard in enumerate(source.shards):
        chosen = range(shard.samples) if source.selected is None else source.selected[number].tolist()
        cells = source.cells(number, chosen)
        samples = [sample for each in chosen for _, sample in shard.read([range(each, each + 1)])]
        found |= {sample.key: each for sample, each in zip(samples, cells, strict=True)}
    return found


def test_columns_are_those_of_the_table_and_null_where_it_has_no_row(made) -> None:
    read_now = read(open_source(made["webdataset_shards"], columns=[*COLUMNS]))
    rows = rows_of(made["embeddings_raw"])
    assert len(rows) == 49
    assert len(read_now) == 50
    for key, cells in read_now.items():
        assert cells == {name: rows[key][name] if key in rows else None for name in COLUMNS}


def test_what_a_transform_made_of_a_sample_has_its_columns(made) -> None:
    rows = rows_of(made["embeddings_raw"])
    tiles = read(open_source(made["transformed_shards_tiles"], columns=["caption"]))
    assert len(tiles) == 100
    for key, cells in tiles.items():
        assert cells["caption"] == rows.get(key.partition("~")[0], {"caption": None})["caption"]


def test_a_filter_chooses_by_columns_and_opens_no_other_shards(made) -> None:
    storage = CountingStorage()
    source = open_source(made["webdataset_shards"].folder, storage, filter=pc.field("width") == 20)
    assert source.selected is not None
    chosen = [(shard, numbers) for shard, numbers in zip(source.shards, source.selected, strict=True) if len(numbers)]
    assert [len(numbers) for _, numbers in chosen] == [1]
    tars = {shard.url for shard in source.shards}
    assert not tars & {uri for _, uri in storage.reads}
    assert [*read(source)] == ["image_00020"]
    assert {uri for _, uri in storage.reads} & tars == {chosen[0][0].url}


def test_null_and_what_has_no_row_pass_no_filter(made) -> None:
    keys = {*read(open_source(made["webdataset_shards"], filter=(pc.field("width") >= 5) & (pc.field("cls") != 1)))}
    assert keys == {f"image_{n:05}" for n in range(5, 50) if n % 3 != 1 and n != 7}
    assert read(open_source(made["webdataset_shards"], filter=pc.field("caption") == "nobody")) == {}


def test_a_filter_knows_the_types_of_columns(made) -> None:
    late = pc.field("taken") >= datetime(2026, 1, 27, 10, tzinfo=UTC)
    assert {*read(open_source(made["webdataset_shards"], filter=late))} == {"image_00026", "image_00027"}


def test_vectors_keep_their_type(tmp_path: Path) -> None:
    matrix = np.arange(12, dtype=np.float16).reshape(4, 3)
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), 3)})
    local = LocalTable(SimpleNamespace(folder="f", digest="d"), ["embedding"], TemporaryFolder())
    write_table(local.folder, local._name, table)
    found = [cells["embedding"] for cells in local.cells(np.array([2, -1, 0, 2], np.int32))]
    assert found[1] is None
    assert [each.tolist() for each in found if each is not None] == [[6, 7, 8], [0, 1, 2], [6, 7, 8]]
    assert found[0].dtype == torch.float16


def test_vectors_are_joined_by_key_and_what_has_none_is_left_out_and_counted(made) -> None:
    source = open_source(made["webdataset_shards"], embeddings=made["embeddings_raw"].folder, columns=["caption"])
    rows, found = rows_of(made["embeddings_raw"]), read(source)
    assert (found.keys(), source.without_vector) == (rows.keys(), 1)
    for key, cells in found.items():
        assert cells["embedding"].dtype == torch.float32
        assert np.array_equal(cells["embedding"].numpy(), np.array(rows[key]["embedding"], np.float32))
        assert cells["caption"] == rows[key]["caption"]


def test_a_vector_is_of_the_very_sample(made) -> None:
    tiles = open_source(made["transformed_shards_tiles"], embeddings=made["embeddings_tiles"])
    assert (len(read(tiles)), tiles.without_vector) == (98, 2)
    with pytest.raises(ConfigurationError, match="has a row of no sample"):
        open_source(made["transformed_shards_tiles"], embeddings=made["embeddings_raw"])


def test_a_source_of_two_partitions_has_a_table_for_each(made) -> None:
    both = [made["webdataset_shards"], made["transformed_shards_tiles"]]
    found = read(open_source(both, embeddings=[made["embeddings_raw"], made["embeddings_tiles"].folder]))
    assert len(found) == 49 + 98
    with pytest.raises(ConfigurationError, match="1 tables for 2 partitions"):
        open_source(both, embeddings=made["embeddings_raw"])


def test_a_source_with_columns_pickles_and_is_read_where_its_copies_are_not(made) -> None:
    source = open_source(made["webdataset_shards"], embeddings=made["embeddings_raw"], columns=["caption"])
    data, expected = pickle.dumps(source), read(source)
    again = pickle.loads(data)
    for file in Path(again.beside[0].table.folder.path).iterdir():
        file.unlink()  # as on another machine
    found = read(pickle.loads(data))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key]["embedding"], expected[key]["embedding"]) for key in found)


def test_the_identity_says_which_samples_are_chosen(made) -> None:
    sources = [open_source(made["webdataset_shards"], filter=pc.field("width") > least) for least in (3, 3, 4)]
    assert sources[0].identity == sources[1].identity != sources[2].identity


def test_wrong_columns_filters_and_tables_are_refused(
    made, images, make_dataset, run_chain, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = made["webdataset_shards"]
    with pytest.raises(ConfigurationError, match=r"no column 'captions'.*caption"):
        open_source(shards, columns=["captions"])
    with pytest.raises(ConfigurationError, match=r"does not fit.*width.*: there is no widht; did you mean 'width'\?$"):
        open_source(shards, filter=pc.field("widht") > 3)
    with pytest.raises(ConfigurationError, match="filter is a str: it is an expression"):
        open_source(shards, filter="width > 3")  # type: ignore[arg-type]
    open_source(shards, filter=pc.field("width") < 0)
    assert "lets no sample of" in caplog.text
    with pytest.raises(ConfigurationError, match="does not fit"):
        open_source(shards, filter=pc.field("caption") > 3)
    with pytest.raises(ConfigurationError, match="no table of embeddings"):
        open_source(shards, embeddings=made["raw_images"])
    images(tmp_path / "raw", 3)
    bare = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root"), last="webdataset_shards")["webdataset_shards"]
    with pytest.raises(ConfigurationError, match=r"none of p is committed.*embeddings="):
        open_source(open_shards(bare.folder), columns=["caption"])
