"""Several partitions in one run, and stored partitions loaded back."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pandas as pd
import pytest

ASSETS = ["raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"]
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
        assert {file.parent.name for file in tiny.stored(asset, "").glob("*/index.json")} <= {"a", "b"}
        materialized = tiny.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset]))
        assert materialized == {"a", "b"}


@pytest.mark.parametrize("partition", ["a", "b"])
def test_each_partition_holds_its_own_rows(made: tuple[Any, dg.ExecuteInProcessResult], partition: str) -> None:
    tiny, _ = made
    for asset in ("embeddings", "embedding_map"):
        keys = pd.read_parquet(tiny.stored(asset, partition))["key"]
        assert sorted(keys) == [f"{partition}{number}" for number in range(ROWS[partition])]


def test_metadata_tells_the_partitions_apart(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    _, result = made
    for event in result.get_asset_materialization_events():
        value = event.materialization.metadata["partitions"]
        assert isinstance(value, dg.TableMetadataValue)
        table = [record.data for record in value.records]
        assert [(row["partition"], row["samples"], row["rejects"]) for row in table] == [("a", 4, 0), ("b", 5, 0)]
        assert all(str(row["uri"]).endswith(f"/{row['partition']}") for row in table)


def test_no_partition_is_given_the_rows_of_all(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    """Dagster shows a run's metadata at each of its partitions: there, `dagster/row_count` would be wrong."""
    _, result = made
    for event in result.get_asset_materialization_events():
        assert "dagster/row_count" not in event.materialization.metadata
        assert event.materialization.metadata["samples"].value == ROWS["a"] + ROWS["b"]


def test_checks_cover_every_partition_of_the_range(made: tuple[Any, dg.ExecuteInProcessResult]) -> None:
    _, result = made
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 8
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
    assert (tiny.stored("webdataset_shards", "a") / "index.json").exists()
    assert not (tiny.stored("webdataset_shards", "b") / "index.json").exists()
