"""Code versions and data versions: what makes an asset stale, and what does not."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from tests.small import ASSETS, BASIS
from tests.small_embedder import SMALL

ALL = [*ASSETS[:-1], BASIS, ASSETS[-1]]
RESIZED = {"operations": [{"operation": "Resize", "arguments": {"size": 44}}]}
SMALLER = {"operations": [{"operation": "Resize", "arguments": {"size": 40}}]}


def tags_of(result: dg.ExecuteInProcessResult, tag: str) -> dict[str, str]:
    assert result.success
    materializations = [event.materialization for event in result.get_asset_materialization_events()]
    return {each.asset_key.path[-1]: (each.tags or {})[tag] for each in materializations}


def data_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return tags_of(result, "dagster/data_version")


def code_versions(tiny: Any, **changes: Any) -> dict[str, str | None]:
    specs = tiny.defs(**changes).resolve_all_asset_specs()
    return {spec.key.path[-1]: spec.code_version for spec in specs if spec.key.path[-1] in ALL}


def modified(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    assert before.keys() == after.keys() == set(ALL)
    return [asset for asset in ALL if before[asset] != after[asset]]


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, []),
        ({"description": "Others.", "owners": ["team:other"]}, []),
        ({"max_reject_ratio": 0.5, "min_same_class_rate": 0.1, "partitions": ["a"]}, []),
        ({"embedder": {**SMALL, "batch_size": 7}}, []),
        ({"transform": SMALLER}, ["transformed_shards"]),
        ({"shards": {"max_samples": 3}}, ["webdataset_shards"]),
        ({"embedder": {**SMALL, "normalize": True}}, ["embeddings"]),
        ({"projection": "umap"}, ["embedding_basis"]),
        ({"class_names": ["a"]}, ["embedding_map"]),
        ({"gpu": True, "embedder": {**SMALL, "runtime": "auto"}}, ["embeddings"]),  # bfloat16
        ({"source": {"uri": "/elsewhere/{partition}"}}, ["raw_images"]),
    ],
)
def test_a_changed_dataset_file_changes_the_code_version_of_the_assets_that_it_concerns(
    tiny: Any, change: dict[str, Any], stale: list[str]
) -> None:
    assert changed(code_versions(tiny), code_versions(tiny, **change)) == stale


TWO = {
    "transform": None,
    "embedder": None,
    "transforms": {"a": SMALLER, "b": {**SMALLER, "of": "transformed_shards_a"}},
    "embedders": {"a": {"of": "transformed_shards_a"}, "b": {"of": "transformed_shards_b"}},
}


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (
            {"transforms": {**TWO["transforms"], "b": {**RESIZED, "of": "transformed_shards_a"}}},
            ["transformed_shards_b"],
        ),
        ({"embedders": {**TWO["embedders"], "a": {"of": "transformed_shards_a", "normalize": True}}}, ["embeddings_a"]),
        ({"embedders": {"a": {"of": "transformed_shards_a"}}}, []),
    ],
)
def test_of_several_transforms_and_embedders_each_has_a_version_of_its_own(
    tiny: Any, change: dict[str, Any], concerned: list[str]
) -> None:
    def versions(**fields: Any) -> dict[str, Any]:
        return {spec.key.path[-1]: spec.code_version for spec in tiny.defs(**fields).resolve_all_asset_specs()}

    before, after = versions(**TWO), versions(**{**TWO, **change})
    assert [asset for asset in after if before[asset] != after[asset]] == concerned


def test_data_versions_follow_from_bytes_and_parameters(tiny: Any) -> None:
    """A rerun changes none, a changed transform those from there on, a changed raw file all."""
    first = tiny.materialize("a", checks=False)
    again = tiny.materialize("a", checks=False)
    assert changed(data_versions(first), data_versions(again)) == []

    smaller = tiny.materialize("a", checks=False, transform=SMALLER)
    assert changed(data_versions(again), data_versions(smaller)) == [name for name in ALL[2:] if name != BASIS]
    for result, transform in ((again, {}), (smaller, {"transform": SMALLER})):
        assert tags_of(result, "dagster/code_version") == code_versions(tiny, **transform)

    Image.effect_noise((70, 70), 50).convert("RGB").save(tiny.folder / "raw/a/a0.jpg")
    other = tiny.materialize("a", checks=False, transform=SMALLER)
    assert changed(data_versions(smaller), data_versions(other)) == [name for name in ALL if name != BASIS]

    assert tiny.materialize("a", checks=False, transform=SMALLER).success
    records = tiny.instance.fetch_materializations(dg.AssetKey(["tiny", "embeddings"]), limit=10).records
    assert len(records) == 5


def test_a_removed_raw_file_changes_the_version_and_the_rows(tiny: Any) -> None:
    chosen = ["raw_images", "webdataset_shards"]
    first = data_versions(tiny.materialize("c", chosen, checks=False))
    (tiny.folder / "raw/c/c0.jpg").unlink()
    (tiny.folder / "raw/c/c0.cls").unlink()
    result = tiny.materialize("c", chosen, checks=False)
    second = data_versions(result)
    assert all(first[asset] != second[asset] for asset in chosen)
    for event in result.get_asset_materialization_events():
        assert event.materialization.metadata["dagster/row_count"].value == 5


def test_an_asset_made_on_its_own_is_not_made_again(tiny: Any) -> None:
    chosen = ["raw_images", "webdataset_shards"]
    assert tiny.materialize("a", chosen, checks=False).success
    files = modified(tiny.stored("webdataset_shards", "a"))
    result = tiny.materialize("a", ["webdataset_shards"], checks=False)
    [event] = result.get_asset_materialization_events()
    assert event.materialization.metadata["shards made"].value == 0
    assert "samples per second" not in event.materialization.metadata
    assert modified(tiny.stored("webdataset_shards", "a")) == files
