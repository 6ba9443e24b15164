"""The state of a dataset at a glance: partitions by state, what failed and why, rejects and throughput over time."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import dagster as dg

from assets.common import asset_key, partitions_of
from resources.history import Point, draw_history
from resources.storage import StorageResource
from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ShardmillError
from shardmill.graph import Graph, Planner, beside_partitions, why_stale
from shardmill.images.contact_sheet import data_uri
from shardmill.storage.check import impatient

NAME = "failed_partitions"
_LISTED = 50
"""Failed partitions in the table, each with its reason."""
_SECONDS = 60.0
"""Of looking for stale partitions."""
_POINTS = 200
"""Materializations in the picture."""


def build_health(spec: DatasetSpec, graph: Graph) -> dg.AssetSpec:
    """The asset that the check is on. Nobody materializes it: each time it would lose its check's result."""
    return dg.AssetSpec(
        health_check_key(spec).asset_key,
        deps=[asset_key(spec, asset.name) for asset in graph.leaves],
        description=f"The state of {spec.name}: its check says which partitions failed and why.",
        group_name=spec.name,
    )


def health_check_key(spec: DatasetSpec) -> dg.AssetCheckKey:
    """Key of the check on the dataset as a whole. Not below its name: what `key:"<name>/*"` selects can all be made."""
    return dg.AssetCheckKey(dg.AssetKey(["health", spec.name]), NAME)


def build_health_check(spec: DatasetSpec, graph: Graph) -> dg.AssetChecksDefinition:
    """The check of one dataset. It looks at all partitions, so it runs on a schedule and not with every partition."""
    definition = partitions_of(spec)
    names = [asset.name for asset in graph]
    worked = [asset.name for asset in graph if asset.inputs and asset.scope == "partition"]

    @dg.asset_check(
        asset=health_check_key(spec).asset_key,
        name=NAME,
        description=(
            "No partition's last run failed. Shows the dataset's partitions by state, why which are stale, rejects and "
            "throughput."
        ),
    )
    def failed_partitions(context: dg.AssetCheckExecutionContext, storage: StorageResource) -> dg.AssetCheckResult:
        instance = context.op_execution_context.instance
        keys = definition.get_partition_keys(dynamic_partitions_store=instance)
        states = {asset: _states(instance, asset_key(spec, asset), keys, definition) for asset in names}
        failed = {
            key: asset
            for asset in reversed(names)
            for key, state in states[asset].items()
            if state is dg.AssetPartitionStatus.FAILED
        }
        metadata: dict[str, Any] = {"partitions": len(keys), "failed": len(failed), "by state": _by_state(states)}
        if failed:
            metadata["failed partitions"] = _reasons(instance, spec, failed)
        made = [key for key in keys if all(states[asset].get(key) is _MADE for asset in names)]
        dataset = Dataset(spec, impatient(storage.open()))
        stale, looked = _stale(Planner(dataset), made)
        if stale:
            metadata["stale partitions"] = dg.MetadataValue.table(stale)
        if beside := _beside(dataset):
            metadata["objects in no partition"] = beside
        if looked < len(made):
            metadata["not looked at for want of time"] = len(made) - looked
        last = instance.get_latest_materialization_event(asset_key(spec, names[-1]))
        if last is not None:
            metadata["last success"] = dg.MetadataValue.timestamp(last.timestamp)
        points: dict[str, list[Point]] = {asset: _points(instance, asset_key(spec, asset)) for asset in worked}
        if any(points.values()):
            metadata["history"] = dg.MetadataValue.md(f"![history]({data_uri(draw_history(points))})")
        return dg.AssetCheckResult(passed=not failed, metadata=metadata)

    return failed_partitions


_MADE = dg.AssetPartitionStatus.MATERIALIZED
States = Mapping[str, dg.AssetPartitionStatus | None]


def _states(
    instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Sequence[str], definition: dg.PartitionsDefinition
) -> States:
    return instance.get_status_by_partition(asset, keys, definition) or dict.fromkeys(keys)


def _by_state(states: Mapping[str, States]) -> dg.MetadataValue[Any]:
    columns = {
        "materialized": dg.AssetPartitionStatus.MATERIALIZED,
        "failed": dg.AssetPartitionStatus.FAILED,
        "in progress": dg.AssetPartitionStatus.IN_PROGRESS,
        "missing": None,
    }
    records = []
    for asset, partitions in states.items():
        counts = Counter(partitions.values())
        numbers = {name: counts[state] for name, state in columns.items()}
        records.append(dg.TableRecord({"asset": asset, **numbers}))
    return dg.MetadataValue.table(records)


def _stale(planner: Planner, partitions: Sequence[str]) -> tuple[list[dg.TableRecord], int]:
    """The first fifty that are stale, asset by asset, each with why; and how many partitions were looked at."""
    records: list[dg.TableRecord] = []
    end = time.monotonic() + _SECONDS

    def look(partition: str) -> list[dg.TableRecord]:
        try:
            found = list(why_stale(planner, partition))
        except ShardmillError as error:
            found = [("", str(error))]
        return [dg.TableRecord({"partition": partition, "asset": asset, "why": why}) for asset, why in found]

    with closing(bounded_map(look, reversed(partitions), REQUESTS_AT_ONCE)) as looks:
        for number, found in enumerate(looks, 1):
            records += found
            if len(records) >= _LISTED or time.monotonic() > end:
                return records, number
    return records, len(partitions)


def _beside(dataset: Dataset) -> str | None:
    """What lies beside the partitions; or why nobody knows."""
    try:
        beside = beside_partitions(dataset)
    except ShardmillError as error:
        return str(error)
    return str(beside) if beside else None


def _reasons(instance: dg.DagsterInstance, spec: DatasetSpec, failed: Mapping[str, str]) -> dg.MetadataValue[Any]:
    """The first fifty, each with the reason of the last run that was to make it."""
    records = []
    for partition, asset in sorted(failed.items())[:_LISTED]:
        planned = instance.get_latest_planned_materialization_info(asset_key(spec, asset), partition)
        run = planned.run_id if planned else ""
        reason = _reason(instance, run) if run else ""
        records.append(dg.TableRecord({"partition": partition, "asset": asset, "reason": reason, "run": run}))
    return dg.MetadataValue.table(records)


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        if event is not None:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            return said or (data.error.message.strip() if data.error else entry.message)
    return "the run ended before a step failed"


def _points(instance: dg.DagsterInstance, asset: dg.AssetKey) -> list[Point]:
    """The last materializations, the oldest first."""
    points = []
    for record in instance.fetch_materializations(asset, limit=_POINTS).records:
        made = record.asset_materialization
        if made is None:
            continue
        values = {
            name: made.metadata[name].value for name in ("rejects", "samples per second") if name in made.metadata
        }
        rate = values.get("samples per second")
        points.append(Point(record.timestamp, int(str(values.get("rejects", 0))), float(str(rate)) if rate else None))
    return points[::-1]
