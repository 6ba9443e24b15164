"""From a dataset file to its graph: what is made of what, and what cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from shardmill import graph
from shardmill.dataset import DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError, EngineError
from shardmill.graph import build_graph
from shardmill.samples import EncodedSample
from shardmill.stages import RowStage

CROPS = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 48}}], "masks": ["mask.png"]}
VIEWS = {"operations": [{"operation": "RandomHorizontalFlip"}]}


class Plain(RowStage):
    """Rows without columns."""

    name = "plain"

    def schema(self) -> pa.Schema:
        return pa.schema([])

    def row(self, sample: EncodedSample) -> dict[str, Any]:
        del sample
        return {}


class AlsoPlain(Plain):
    """Another stage of the same name."""


class Renamed(Plain):
    """The same by another name."""

    name = "renamed"


class Talkative(Plain):
    """Says more than it has columns for."""

    def row(self, sample: EncodedSample) -> dict[str, Any]:
        return {"length": len(sample.key)}


def spec(**fields: Any) -> DatasetSpec:
    declared = {"name": "d", "root": "/root", "source": {"uri": "/raw"}, "partitions": ["p"], **fields}
    return DatasetSpec.model_validate(declared)


def edges(**fields: Any) -> dict[str, tuple[str, ...]]:
    return {asset.name: asset.inputs for asset in build_graph(spec(**fields))}


def test_a_dataset_that_declares_nothing_ends_at_its_shards() -> None:
    assert edges() == {"raw_images": (), "webdataset_shards": ("raw_images",)}


def test_without_an_embedder_there_is_no_table() -> None:
    assert list(edges(transform=CROPS)) == ["raw_images", "webdataset_shards", "transformed_shards"]


def test_without_a_transform_the_packed_shards_are_embedded() -> None:
    assert edges(embedder={}) == {
        "raw_images": (),
        "webdataset_shards": ("raw_images",),
        "embeddings": ("webdataset_shards",),
        "embedding_basis": ("embeddings",),
        "embedding_map": ("embeddings", "embedding_basis"),
    }


def test_a_table_of_columns_is_made_of_the_manifest_too() -> None:
    of_both = ("webdataset_shards", "raw_images")
    assert edges(embedder={}, columns={"caption": "string"})["embeddings"] == of_both
    assert edges(embedder={}, source={"table": "/raw/t.csv"})["embeddings"] == of_both  # it may have classes


def test_two_transforms_and_two_embedders() -> None:
    found = edges(
        transforms={"crops": CROPS, "views": {**VIEWS, "of": "transformed_shards_crops"}},
        embedders={
            "lite0": {"of": "transformed_shards_views"},
            "half": {"of": "webdataset_shards", "dtype": "float16"},
        },
    )
    assert list(found)[:4] == [
        "raw_images",
        "webdataset_shards",
        "transformed_shards_crops",
        "transformed_shards_views",
    ]
    assert found["transformed_shards_views"] == ("transformed_shards_crops",)
    assert found["embeddings_lite0"] == ("transformed_shards_views",)
    assert found["embeddings_half"] == ("webdataset_shards",)
    assert found["embedding_map_half"] == ("embeddings_half", "embedding_basis_half")


def test_an_embedder_with_a_name_stands_beside_the_one_without() -> None:
    found = edges(embedder={}, embedders={"half": {"dtype": "float16"}})
    assert [name for name in found if name.startswith("embeddings")] == ["embeddings", "embeddings_half"]


def test_an_embedder_knows_the_masks_of_the_shards_that_it_is_of() -> None:
    transforms = {"crops": CROPS, "views": {**VIEWS, "of": "transformed_shards_crops"}, "plain": VIEWS}
    embedders = {
        "crops": {"of": "transformed_shards_crops"},
        "views": {"of": "transformed_shards_views"},
        "plain": {"of": "transformed_shards_plain"},
    }
    built = build_graph(spec(transforms=transforms, embedders=embedders))
    masks = {name: built[f"embeddings_{name}"].stage.masks for name in embedders}
    assert masks == {"crops": ("mask.png",), "views": ("mask.png",), "plain": ()}


def test_images_are_looked_at_once_where_all_that_is_embedded_was_verified() -> None:
    own = {"name": "own", "use": "examples.text_parts.parts:Parts"}
    transforms = {
        "crops": CROPS,
        "views": {**VIEWS, "of": "transformed_shards_crops"},
        "of_own": {**VIEWS, "of": "own"},
    }
    ofs = {"crops": "transformed_shards_crops", "views": "transformed_shards_views", "packed": "webdataset_shards"}
    transforms["custom"] = {"operations": [{"operation": "shutil:copy"}]}
    others = {"own": "own", "of_own": "transformed_shards_of_own", "custom": "transformed_shards_custom"}
    embedders = {name: {"of": of} for name, of in (ofs | others).items()}
    built = build_graph(spec(transforms=transforms, stages=[own], embedders=embedders))
    assert {name for name in embedders if built[f"embeddings_{name}"].stage.all_sound} == set(ofs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": {**CROPS, "of": "nowhere"}}, "transform.of: nowhere is no asset"),
        ({"embedder": {"of": "raw_images"}}, "embedder.of: raw_images is a table; webdataset_shards hold"),
        ({"transforms": {"a": CROPS, "b": VIEWS}, "embedder": {}}, "say in each embedder's `of` which it embeds, "),
        (
            {
                "transforms": {
                    "a": {**CROPS, "of": "transformed_shards_b"},
                    "b": {**VIEWS, "of": "transformed_shards_a"},
                }
            },
            "made of each other: transformed_shards_",
        ),
        (
            {"stages": [{"name": "raw_images", "use": "shardmill.stages.pack:PackStage"}]},
            "two assets called raw_images",
        ),
        ({"stages": [{"name": "own", "use": "nowhere.to:Find"}]}, "d: stages.own: cannot import nowhere.to:Find"),
        ({"stages": [{"name": "own", "use": "pathlib:Path"}]}, "pathlib:Path is no subclass of shardmill.Stage"),
        ({"stages": [{"name": "own", "use": "shardmill.stages:Stage"}]}, "Stage has no class attribute `name`"),
        ({"stages": [{"name": "own", "use": f"{__name__}:Plain", "of": "raw_images"}]}, "raw_images is a table"),
        (
            {"stages": [{"name": "own", "use": "shardmill.stages.pack:PackStage", "parameters": {"speed": 3}}]},
            "cannot be made of these parameters: .*speed",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_graph(spec(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": CROPS, "transforms": {"a": CROPS}}, "give either `transform`, or several by name"),
        ({"embedders": {"a-b": {}}}, "is no name"),
        ({"gpu": True}, "there is no embedder"),
        ({"source": {"table": "/{partition}.csv"}, "partitions": {"by": "prefix"}}, "a table has declared partitions"),
        ({"source": {"table": "/t.csv"}, "sensor": {}}, "a table has declared partitions and no sensor"),
        ({"source": {"uri": "/raw", "marker": "_DONE"}, "partitions": {"by": "batch"}}, "a batch is when it is sealed"),
        (
            {
                "source": {"uri": "/raw", "components": {"jpg": "a/{key}.jpg", "cls": "b/{key}.cls"}},
                "partitions": {"by": "batch"},
            },
            "would be torn apart by batches",
        ),
        ({"embedder": {"model": "efficientnet-lite9"}}, "efficientnet-lite9"),
    ],
)
def test_what_a_file_cannot_say(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**fields)


def test_a_second_embedder_leaves_every_file_of_the_first_untouched(
    tmp_path: Path, images: Any, make_dataset: Any, snapshot: Callable[..., Any]
) -> None:
    images(tmp_path / "raw", 8)
    embedders = {"lite0": {"of": "webdataset_shards"}}
    first = make_dataset(tmp_path / "raw", tmp_path / "root", embedder=None, embedders=embedders)
    list(graph.run(first, "p", LocalEngine(1)))
    before = snapshot(tmp_path / "root")
    embedders["half"] = {"of": "transformed_shards", "dtype": "float16"}
    second = make_dataset(tmp_path / "raw", tmp_path / "root", embedder=None, embedders=embedders)
    made = {asset: shards.made for asset, shards in graph.run(second, "p", LocalEngine(1))}
    after = snapshot(tmp_path / "root")
    assert {name: after[name] for name in before} == before
    assert {asset for asset, count in made.items() if count} == {
        "embeddings_half",
        "embedding_basis_half",
        "embedding_map_half",
    }


def test_an_embedder_that_comes_later_packs_no_shard_anew_that_has_an_image_of_every_sample(
    tmp_path: Path, images: Any, make_dataset: Any
) -> None:
    """Samples without one are rejected from then on: their shards are made again, and no others."""
    images(tmp_path / "raw", 30)
    (tmp_path / "raw/readme.txt").write_text("no image")
    fields = {"transform": None, "max_reject_ratio": 0.1}
    plain = make_dataset(tmp_path / "raw", tmp_path / "root", embedder=None, **fields)
    made = dict(graph.run(plain, "p", LocalEngine(1)))
    assert made["webdataset_shards"].commit.total_samples == 31
    embedded = make_dataset(tmp_path / "raw", tmp_path / "root", **fields)
    [state] = [state for state in graph.states(embedded, "p") if state.asset == "webdataset_shards"]
    assert state.why == ("images was false, and is true", "1 shard is new or changed", "1 shard is superseded")
    made = dict(graph.run(embedded, "p", LocalEngine(1)))
    assert made["webdataset_shards"].made == 1
    assert made["webdataset_shards"].commit.rejects_by_reason == {"no image": 1}
    assert made["embeddings"].commit.total_samples == 30


def test_another_class_of_the_same_name_is_another_stage(tmp_path: Path, images: Any, make_dataset: Any) -> None:
    images(tmp_path / "raw", 3)
    fields = {"embedder": None, "transform": None}
    one, other = (
        make_dataset(
            tmp_path / "raw", tmp_path / "root", stages=[{"name": "own", "use": f"{__name__}:{name}"}], **fields
        )
        for name in ("Plain", "AlsoPlain")
    )
    list(graph.run(one, "p", LocalEngine(1)))
    assert not graph.is_stale(one, "p")
    [(asset, why)] = list(graph.why_stale(other, "p"))
    assert asset == "own"
    assert why.startswith("use was ")
    assert dict(graph.run(other, "p", LocalEngine(1)))["own"].made == 1
    renamed = make_dataset(
        tmp_path / "raw", tmp_path / "root", stages=[{"name": "own", "use": f"{__name__}:Renamed"}], **fields
    )
    assert ("own", "it was made by plain, and is made by renamed now") in list(graph.why_stale(renamed, "p"))


def test_a_cell_without_a_column_is_a_mistake_that_names_it(tmp_path: Path, images: Any, make_dataset: Any) -> None:
    images(tmp_path / "raw", 1)
    stages = [{"name": "own", "use": f"{__name__}:Talkative"}]
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", stages=stages, embedder=None, transform=None)
    with pytest.raises(EngineError, match="plain gives 'length', which its schema has no column for"):
        list(graph.run(dataset, "p", LocalEngine(1)))


def draw(sample: Any) -> Any:
    """A custom transform that makes an image of a text."""
    import torch

    from shardmill import import_torchvision

    image = import_torchvision().tv_tensors.Image(torch.full((3, 40, 40), 90, dtype=torch.uint8))
    return sample.replace({**sample.components, "png": image})


def test_what_a_callable_draws_needs_no_image_before(tmp_path: Path, make_dataset: Any) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.txt").write_text("a text")
    operations = [{"operation": f"{__name__}:draw"}, {"operation": "Resize", "arguments": {"size": 32}}]
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform={"operations": operations})
    assert not dataset.spec.reads_images
    made = dict(graph.run(dataset, "p", LocalEngine(1)))
    assert made["embeddings"].commit.total_samples == 1


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, False),
        ({"embedder": {}}, True),
        ({"transform": CROPS}, True),
        ({"transform": {"operations": []}, "embedder": {}}, True),
        ({"transform": {"operations": [{"operation": "a:b"}]}}, False),
        ({"transform": {"operations": [{"operation": "a:b"}]}, "embedder": {}}, False),
        ({"transform": {"operations": [{"operation": "a:b"}]}, "embedder": {"of": "webdataset_shards"}}, True),
    ],
)
def test_images_are_needed_where_something_reads_those_that_were_packed(fields: dict[str, Any], needed: bool) -> None:
    assert spec(**fields).reads_images == needed


@pytest.mark.parametrize("patterns", [["m/{key}.png", "m/{key}.gif"], ["m/{key}.*"], ["m/{key}.jpg"]])
def test_a_mask_that_can_be_stored_so_that_its_labels_change_is_refused(patterns: list[str]) -> None:
    source = {"uri": "/raw", "components": {"jpg": "img/{key}.jpg", "seg.png": patterns}}
    views = {**VIEWS, "masks": ["seg.png"]}
    for fields in ({"transform": views}, {"transforms": {"views": views}}):
        field = "transform.masks" if "transform" in fields else "transforms.views.masks"
        with pytest.raises(ValidationError, match=r"'seg.png' can be 'seg.*a mask is stored as png or tiff") as refused:
            spec(source=source, **fields)
        assert field in str(refused.value)
