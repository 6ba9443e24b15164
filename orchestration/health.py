"""The hourly look at the state of a dataset that keeps itself up to date."""

import dagster as dg

from assets.health import health_check_key
from shardmill.dataset import DatasetSpec


def build_health_schedule(spec: DatasetSpec) -> dg.ScheduleDefinition:
    """Runs the check on failed partitions."""
    return dg.ScheduleDefinition(
        name=f"{spec.name}_health",
        job=dg.define_asset_job(f"{spec.name}_health_job", dg.AssetSelection.checks(health_check_key(spec))),
        cron_schedule="@hourly",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Looks which partitions of {spec.name} have failed, and draws rejects and throughput.",
    )
