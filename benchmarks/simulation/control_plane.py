"""What Dagster's side of a dataset costs: building its definitions, its sensors, its health."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from assets.common import asset_key
from benchmarks.simulation.dataset import NAME
from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.storage import StorageResource
from shardmill import Dataset, DatasetSpec, Storage
from shardmill.graph import Planner

SOME = 40
"""Partitions that Dagster knows as materialized."""


def of_dagster(dataset: Dataset, keys: Sequence[str], meter: Any) -> Iterator[dict[str, Any]]:
    """Definitions by each kind of partitions; the sensor of what is committed, and health, over an instance of ours."""
    for kind, spec in _specs(dataset.spec, keys).items():
        meter.step("")
        built = build_defs(dataset_definitions(spec))
        built.get_repository_def()
        yield meter.step(f"building the definitions, {kind}")
    quiet = {"telemetry": {"enabled": False}}
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder, quiet) as instance:
        instance.add_dynamic_partitions(NAME, list(keys))
        storage = _storage_of(dataset)
        definitions = build_defs(dataset_definitions(dataset.spec), {"storage": storage})
        sensor = definitions.get_sensor_def(f"{NAME}_committed")
        meter.step("")
        for since, name in ((time.time() + 3600, "nothing new"), (0.0, "all is new")):
            with dg.build_sensor_context(instance, str(since), resources={"storage": storage}) as context:
                result = sensor(context)
            assert isinstance(result, dg.SensorResult)
            yield meter.step(f"the committed sensor: {name}", note=f"{len(result.asset_events or ())} events")
        for key in keys[:SOME]:
            for asset in Planner(dataset).graph:
                event = dg.AssetMaterialization(asset_key(dataset.spec, asset.name), partition=key)
                instance.report_runless_asset_event(event)
        meter.step("")
        job = definitions.resolve_job_def(f"{NAME}_health_job")
        started = time.monotonic()
        assert job.execute_in_process(instance=instance).success
        looked = min(SOME, len(keys))
        yield meter.step("health", note=f"{looked} partitions looked at, {time.monotonic() - started:.0f} s")


def _specs(spec: DatasetSpec, keys: Sequence[str]) -> dict[str, DatasetSpec]:
    plain = {**spec.model_dump(exclude_unset=True), "backfill": {"cron": "0 3 * * *"}}
    first = {"by": "time", "every": "hour", "start": "2026-01-01"}
    source = plain["source"]["uri"]
    return {
        "declared keys": DatasetSpec.model_validate({**plain, "partitions": list(keys)}),
        "prefixes": DatasetSpec.model_validate(plain),
        "hours": DatasetSpec.model_validate(
            {**plain, "partitions": first, "source": {"uri": source.replace("{partition}", "%Y-%m-%d-%H")}}
        ),
    }


def _storage_of(dataset: Dataset) -> StorageResource:
    class Simulated(StorageResource):
        def open(self) -> Storage:
            return dataset.storage

    return Simulated()
