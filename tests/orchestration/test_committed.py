"""What the command line made shows as materialized, without a run of its own."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.storage import StorageResource
from shardmill import Dataset, DatasetSpec, LocalEngine, graph
from tests.small import ASSETS, BASIS

ALL = (*ASSETS, BASIS)


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    for partition in ("a", "b"):
        (tmp_path / "raw" / partition).mkdir(parents=True)
        for number in range(3):
            image = Image.effect_noise((40 + number, 40), 60).convert("RGB")
            image.save(tmp_path / "raw" / partition / f"{partition}{number}.png")
    return DatasetSpec.model_validate(
        {
            "name": "d",
            "root": str(tmp_path / "root"),
            "source": {"uri": f"{tmp_path}/raw/{{partition}}"},
            "partitions": {"by": "prefix"},
            "transform": {"operations": [{"operation": "Resize", "arguments": {"size": 32}}]},
            "embedder": {},
        }
    )


def tick(spec: DatasetSpec, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """What the daemon does at a tick."""
    defs = build_defs(dataset_definitions(spec))
    with dg.build_sensor_context(
        instance, cursor, definitions=defs, resources={"storage": StorageResource()}
    ) as context:
        result: Any = defs.resolve_sensor_def("d_committed")(context)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    return result


def materialized(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    return {asset: instance.get_materialized_partitions(dg.AssetKey(["d", asset])) for asset in ALL}


def test_what_was_made_without_dagster_is_reported_once(spec: DatasetSpec, tmp_path: Path) -> None:
    dataset = Dataset(spec)
    with dg.instance_for_test() as instance:
        assert tick(spec, instance).asset_events == []
        made = dict(graph.run(dataset, "a", LocalEngine(1)))
        first = tick(spec, instance)
        assert materialized(instance) == {asset: {"a"} for asset in ALL}
        assert instance.get_dynamic_partitions("d") == ["a"]
        assert instance.get_runs() == []
        [record] = instance.fetch_materializations(dg.AssetKey(["d", "embeddings"]), limit=5).records
        metadata = record.asset_materialization.metadata
        assert metadata["digest"].value == made["embeddings"].commit.digest
        assert metadata["model"].value == "efficientnet-lite0"
        assert "samples per second" not in metadata
        assert tick(spec, instance, first.cursor).asset_events == []

        (tmp_path / "raw/a/a0.png").unlink()
        list(graph.run(dataset, "a", LocalEngine(1)))
        again = tick(spec, instance, first.cursor)
        assert {event.asset_key.path[-1] for event in again.asset_events} == set(ASSETS)  # the basis stays

        list(graph.run(dataset, "b", LocalEngine(1)))
        tick(spec, instance, again.cursor)
        assert materialized(instance) == {asset: {"a", "b"} for asset in ALL}


def test_a_run_of_dagster_s_own_is_not_reported_again(spec: DatasetSpec) -> None:
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("d", ["a", "b"])
        defs = build_defs(dataset_definitions(spec))
        done = defs.resolve_job_def("d_job").execute_in_process(partition_key="a", instance=instance)
        assert done.success
        assert tick(spec, instance).asset_events == []
        versions = {
            event.asset_key.path[-1]: event.materialization.tags["dagster/data_version"]
            for event in done.get_asset_materialization_events()
        }
    with dg.instance_for_test() as other:
        events = tick(spec, other).asset_events
        assert {event.asset_key.path[-1]: event.tags["dagster/data_version"] for event in events} == versions
    changed = DatasetSpec.model_validate({**spec.model_dump(exclude_unset=True), "class_names": ["a"]})
    with dg.instance_for_test() as third:
        events = tick(changed, third).asset_events
        stale = {event.asset_key.path[-1] for event in events if "dagster/code_version" not in event.tags}
        assert stale == {"embedding_map"}  # it was not made by this code


def test_a_damaged_commit_is_not_reported_and_stops_no_other(spec: DatasetSpec, tmp_path: Path) -> None:
    plain = DatasetSpec.model_validate({**spec.model_dump(exclude_unset=True), "embedder": None, "transform": None})
    for partition in ("a", "b"):
        list(graph.run(Dataset(plain), partition, LocalEngine(1)))
    (tmp_path / "root/d/_shardmill/webdataset_shards/a/index.json").write_text("{}")
    with dg.instance_for_test() as instance:
        events = tick(plain, instance).asset_events
        assert [event.partition for event in events] == ["b", "b"]


def test_a_partition_that_a_run_is_at_work_on_waits(spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestration.committed._SLACK_SECONDS", 0.0)
    list(graph.run(Dataset(spec), "a", LocalEngine(1)))
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("d", ["a"])
        job = build_defs(dataset_definitions(spec)).resolve_job_def("d_job")
        run = instance.create_run_for_job(job, tags={"dagster/partition": "a"}, status=dg.DagsterRunStatus.STARTED)
        list(graph.run(Dataset(spec), "b", LocalEngine(1)))
        first = tick(spec, instance)
        assert {event.partition for event in first.asset_events} == {"b"}
        instance.delete_run(run.run_id)
        second = tick(spec, instance, first.cursor)
        assert {event.partition for event in second.asset_events} == {"a"}
        assert len(second.asset_events) == len(ALL)


def test_a_tick_without_time_goes_on_where_it_stopped(spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    for partition in ("a", "b"):
        list(graph.run(Dataset(spec), partition, LocalEngine(1)))
    ticks = iter(range(10_000))
    monkeypatch.setattr("orchestration.committed._SLACK_SECONDS", 0.0)
    monkeypatch.setattr("orchestration.committed._SECONDS", 6.5)
    monkeypatch.setattr("orchestration.committed.time.monotonic", lambda: float(next(ticks)))
    with dg.instance_for_test() as instance:
        cursor, counts = None, []
        while not counts or counts[-1]:
            result = tick(spec, instance, cursor)
            cursor = result.cursor
            counts.append(len(result.asset_events))
        assert materialized(instance) == {asset: {"a", "b"} for asset in ALL}
        assert len(counts) > 2
