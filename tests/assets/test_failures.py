"""What goes wrong is told in one plain sentence, and is not retried where that can't help."""

import re
import shutil
from typing import Any

import dagster as dg
import pytest


def failures(result: dg.ExecuteInProcessResult) -> list[dg.DagsterEvent]:
    assert not result.success
    return [event for event in result.all_events if event.is_step_failure]


def said(result: dg.ExecuteInProcessResult) -> str:
    """What the one failed step says: a `dg.Failure`'s description, not some exception's."""
    [event] = failures(result)
    data = event.step_failure_data.user_failure_data
    assert data is not None, event.step_failure_data.error
    return data.description or ""


def retries(result: dg.ExecuteInProcessResult) -> int:
    return sum(event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY for event in result.all_events)


@pytest.fixture
def retrying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every asset may be retried twice."""
    import assets.common

    given = assets.common.asset_options

    def options(*arguments: Any) -> dict[str, Any]:
        return {**given(*arguments), "retry_policy": dg.RetryPolicy(max_retries=2)}

    monkeypatch.setattr("assets.build.asset_options", options)


def test_a_missing_source_folder_is_named_and_not_tried_again(tiny: Any, retrying: None) -> None:
    shutil.rmtree(tiny.folder / "raw/a")
    result = tiny.materialize("a")
    assert said(result) == (
        f"no object below file://{tiny.folder}/raw/a/: check the source's uri and that partition 'a' exists"
    )
    assert retries(result) == 0


def test_a_missing_upstream_partition_is_named_and_not_tried_again(tiny: Any, retrying: None) -> None:
    result = tiny.materialize("b", ["transformed_shards"], checks=False)
    folder = f"file://{tiny.stored('webdataset_shards', 'b')}"
    assert said(result) == (f"tiny/webdataset_shards/b has to be materialized first: nothing is committed in {folder}")
    assert retries(result) == 0


def test_too_many_rejects_are_counted_with_an_example_and_not_tried_again(tiny: Any, retrying: None) -> None:
    (tiny.folder / "raw/a/a0.jpg").write_bytes(b"")
    result = tiny.materialize("a", ["raw_images", "webdataset_shards"], checks=False)
    assert re.match(r"tiny/webdataset_shards/a: 1 of 4 samples \(25\.0%\) were rejected, more than", said(result))
    assert f"file://{tiny.folder}/raw/a/a0.jpg: empty file" in said(result)
    assert retries(result) == 0


def test_a_gpu_that_is_not_there_is_named_and_not_tried_again(tiny: Any, retrying: None) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = tiny.materialize("a", gpu=True, embedder={}, checks=False)
    assert "the runtime cuda is not available here: torch sees no GPU" in said(result)
    assert retries(result) == 0


def test_a_model_that_does_not_exist_is_named_and_not_tried_again(tiny: Any, retrying: None) -> None:
    result = tiny.materialize("a", checks=False, embedder={"model": "torchvision/resnet1"})
    assert re.search(r"'torchvision/resnet1' is unknown.*resnet18", said(result))
    assert retries(result) == 0
    with pytest.raises(ValueError, match=r"'resnet1' is unknown.*efficientnet-lite0"):
        tiny.materialize("a", checks=False, embedder={"model": "resnet1"})


def test_a_shard_that_is_gone_is_named(tiny: Any) -> None:
    assert tiny.materialize("a", ["raw_images", "webdataset_shards"], checks=False).success
    [file] = tiny.stored("webdataset_shards", "a").glob("*.tar")
    file.unlink()
    result = tiny.materialize("a", ["transformed_shards"], checks=False)
    [event] = failures(result)
    assert file.name in event.step_failure_data.error.to_string()


def test_a_corrupt_shard_is_named_and_not_tried_again(tiny: Any, retrying: None) -> None:
    assert tiny.materialize("a", ["raw_images", "webdataset_shards"], checks=False).success
    [file] = tiny.stored("webdataset_shards", "a").glob("*.tar")
    data = bytearray(file.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 300] ^= 255
    file.unlink()
    file.write_bytes(data)
    result = tiny.materialize("a", ["transformed_shards"], checks=False)
    assert file.name in said(result)
    assert retries(result) == 0


def test_a_failed_run_leaves_the_last_commit_as_it_was(tiny: Any) -> None:
    chosen = ["raw_images", "webdataset_shards"]
    assert tiny.materialize("a", chosen, checks=False).success
    folder = tiny.stored("webdataset_shards", "a")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (tiny.folder / "raw/a/a0.jpg").write_bytes(b"")
    assert not tiny.materialize("a", chosen, checks=False).success
    assert {file: file.read_bytes() for file in before} == before


def test_a_gpu_dataset_asks_for_one_for_its_embeddings_alone(tiny: Any) -> None:
    defs = tiny.defs(gpu=True, embedder={})
    for asset in ("raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"):
        definition = defs.resolve_assets_def(dg.AssetKey(["tiny", asset]))
        config = definition.op.tags.get("dagster-k8s/config")
        if asset == "embeddings":
            assert definition.op.pool == "gpu"
            assert definition.op.tags["shardmill/gpu"] == "1"
            assert "nvidia.com/gpu" in str(config)
        else:
            assert definition.op.pool is None
            assert config is None
            assert "shardmill/gpu" not in definition.op.tags


def test_a_dataset_without_gpu_asks_for_none(tiny: Any) -> None:
    definition = tiny.defs().resolve_assets_def(dg.AssetKey(["tiny", "embeddings"]))
    assert definition.op.pool is None
    assert not definition.op.tags
