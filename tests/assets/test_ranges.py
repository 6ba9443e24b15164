"""Several partitions in one run, and stored partitions loaded back."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from tests.small import ASSETS, BASIS

ROWS = {"a": 4, "b": 5, "c": 6}


@pytest.fixture(scope="module")
def made(new_tiny: Callable[[], Any]) -> tuple[Any, dg.ExecuteInProcessResult]:
    """The dataset after one run over its first two partitions."""
    tiny = new_tiny()
    return tiny, tiny.materialize(("a", "b"))


def test_every_partition_of_the_range_is_written_and_no_other(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    tiny, result = made
    assert result.success
    for asset in ASSETS:
        assert {key for key in "abc" if tiny.commit(asset, key).exists()} <= {"a", "b"}
        materialized = tiny.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset]))
        assert materialized == {"a", "b"}


@pytest.mark.parametrize("partition", ["a", "b"])
def test_each_partition_holds_its_own_rows(made: tuple[Any, dg.ExecuteInProcessResult], partition: str) -> None:
    tiny, _ = made
    for asset in ("embeddings", "embedding_map"):
        keys = pd.read_parquet(tiny.stored(asset, partition))["key"]
        assert sorted(keys) == [f"{partition}{number}" for number in range(ROWS[partition])]


def test_each_partition_has_its_own_metadata(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    _, result = made
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        if event.asset_key.path[-1] == BASIS:  # the same for all
            assert str(metadata["dagster/uri"].value).endswith(f"/{BASIS}/all")
            continue
        assert metadata["dagster/row_count"].value == ROWS[event.partition]
        assert str(metadata["dagster/uri"].value).endswith(f"/{event.partition}")
        assert ("contact sheet" in metadata) == (
            event.asset_key.path[-1] in ("webdataset_shards", "transformed_shards")
        )


def test_checks_cover_every_partition_of_the_range(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    _, result = made
    every = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert every.pop("one_model").metadata["partitions looked at"].value == 2
    evaluations = [each for each in result.get_asset_check_evaluations() if each.check_name in every]
    evaluations = [each for each in evaluations if each.check_name != "failed_partitions"]
    assert len(evaluations) == 9
    for evaluation in evaluations:
        assert evaluation.passed, evaluation
        assert evaluation.metadata.keys() == {"a", "b"}


def test_a_partition_is_loaded_back(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    tiny, _ = made
    loaded = tiny.defs().load_asset_value(["tiny", "embeddings"], partition_key="b", instance=tiny.instance)
    assert loaded.commit.name == "tiny/embeddings/b"
    assert loaded.commit.total_samples == ROWS["b"]
    assert sum(len(pd.read_parquet(url)) for url in loaded.urls) == ROWS["b"]


def test_several_partitions_are_loaded_back_by_name(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    tiny, _ = made

    @dg.asset(ins={"embeddings": dg.AssetIn(dg.AssetKey(["tiny", "embeddings"]))}, io_manager_key="memory")
    def rows(embeddings: Any) -> dict[str, int]:
        return {partition: shards.commit.total_samples for partition, shards in embeddings.items()}

    mine = dg.Definitions(assets=[rows], resources={"memory": dg.InMemoryIOManager()})
    defs = dg.Definitions.merge(tiny.defs(partitions=["a", "b"]), mine)
    job = defs.resolve_implicit_job_def_def_for_assets([rows.key])
    assert job is not None
    result = job.execute_in_process(instance=tiny.instance, asset_selection=[rows.key])
    assert result.output_for_node("rows") == {"a": ROWS["a"], "b": ROWS["b"]}


def test_one_partition_that_fails_leaves_the_others_of_the_run_as_they_are(tiny: Any) -> None:
    (tiny.folder / "raw/b/b0.jpg").write_bytes(b"")
    result = tiny.materialize(("a", "c"), ["raw_images", "webdataset_shards"], checks=False)
    assert not result.success
    made = {key for key in "abc" if tiny.commit("webdataset_shards", key).exists()}
    assert made == {"a", "c"}
    failure = result.failure_data_for_node("tiny__webdataset_shards").user_failure_data
    assert "1 of 3 partitions failed" in failure.description
    assert "b: " in failure.description
    assert failure.metadata["carry on"].value == [["a", "a"], ["c", "c"]]


def test_a_partition_that_cannot_be_listed_fails_alone(tiny: Any) -> None:
    for file in (tiny.folder / "raw/a").iterdir():
        file.unlink()
    result = tiny.materialize(("a", "b"), ["raw_images"], checks=False)
    assert not result.success
    assert tiny.commit("raw_images", "b").exists()


def test_a_partition_whose_upstream_is_not_there_fails_alone(tiny: Any) -> None:
    assert tiny.materialize("b", ["raw_images"], checks=False).success
    result = tiny.materialize(("a", "b"), ["webdataset_shards"], checks=False)
    assert not result.success
    assert tiny.commit("webdataset_shards", "b").exists()
    failure = result.failure_data_for_node("tiny__webdataset_shards").user_failure_data
    assert "raw_images/a has to be materialized first" in failure.description
