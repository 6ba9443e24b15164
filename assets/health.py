"""The state of a dataset at a glance: partitions by state, what failed and why, rejects and throughput over time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.common import asset_key, partitions_of
from resources.history import Point, draw_history
from shardmill.dataset import ASSETS, AssetName, DatasetSpec
from shardmill.images.contact_sheet import data_uri

NAME = "failed_partitions"
_LISTED = 50
"""Failed partitions in the table, each with its reason."""
_POINTS = 200
"""Materializations in the picture."""


def build_health(spec: DatasetSpec) -> dg.AssetSpec:
    """What the check is on: an asset that nobody materializes. One that is loses its check's result each time."""
    return dg.AssetSpec(
        health_check_key(spec).asset_key,
        deps=[asset_key(spec, ASSETS[-1])],
        description=f"The state of {spec.name}: its check says which partitions failed and why.",
        group_name=spec.name,
    )


def health_check_key(spec: DatasetSpec) -> dg.AssetCheckKey:
    """Of the check on the dataset as a whole. Not below its name: what `key:"<name>/*"` selects can all be made."""
    return dg.AssetCheckKey(dg.AssetKey(["health", spec.name]), NAME)


def build_health_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """The check of one dataset. It looks at all partitions, so it runs on a schedule and not with every partition."""
    definition = partitions_of(spec)

    @dg.asset_check(
        asset=health_check_key(spec).asset_key,
        name=NAME,
        description="No partition's last run failed. Shows the dataset's partitions by state, rejects and throughput.",
    )
    def failed_partitions(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        instance = context.op_execution_context.instance
        keys = definition.get_partition_keys(dynamic_partitions_store=instance)
        states = {asset: _states(instance, asset_key(spec, asset), keys, definition) for asset in ASSETS}
        failed = {
            key: asset
            for asset in reversed(ASSETS)
            for key, state in states[asset].items()
            if state is dg.AssetPartitionStatus.FAILED
        }
        metadata: dict[str, Any] = {"partitions": len(keys), "failed": len(failed), "by state": _by_state(states)}
        if failed:
            metadata["failed partitions"] = _reasons(instance, spec, failed)
        last = instance.get_latest_materialization_event(asset_key(spec, ASSETS[-1]))
        if last is not None:
            metadata["last success"] = dg.MetadataValue.timestamp(last.timestamp)
        points: dict[str, list[Point]] = {asset: _points(instance, asset_key(spec, asset)) for asset in ASSETS[1:4]}
        if any(points.values()):
            metadata["history"] = dg.MetadataValue.md(f"![history]({data_uri(draw_history(points))})")
        return dg.AssetCheckResult(passed=not failed, metadata=metadata)

    return failed_partitions


States = Mapping[str, dg.AssetPartitionStatus | None]


def _states(
    instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Sequence[str], definition: dg.PartitionsDefinition
) -> States:
    return instance.get_status_by_partition(asset, keys, definition) or dict.fromkeys(keys)


def _by_state(states: Mapping[AssetName, States]) -> dg.MetadataValue[Any]:
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


def _reasons(instance: dg.DagsterInstance, spec: DatasetSpec, failed: Mapping[str, AssetName]) -> dg.MetadataValue[Any]:
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
