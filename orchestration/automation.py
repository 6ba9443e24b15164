"""Declarative automation: assets follow the asset before them."""

import dagster as dg

from shardmill.dataset import DatasetSpec


def build_automation_sensor(spec: DatasetSpec) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions of one dataset's assets. Partitions are launched as a backfill."""
    return dg.AutomationConditionSensorDefinition(
        name=f"{spec.name}_automation",
        target=dg.AssetSelection.groups(spec.name),
        emit_backfills=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Assets of {spec.name} follow the asset before them.",
    )
