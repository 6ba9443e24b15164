"""The regular look at the state of a dataset that keeps itself up to date."""

import zlib

import dagster as dg

from assets.health import health_check_key
from shardmill.dataset import DatasetSpec


def build_health_schedule(spec: DatasetSpec) -> dg.ScheduleDefinition:
    """Runs the check on failed partitions, four times a day: not of all datasets at the same minute."""
    minute = zlib.crc32(spec.name.encode()) % 60
    return dg.ScheduleDefinition(
        name=f"{spec.name}_health",
        job=dg.define_asset_job(f"{spec.name}_health_job", dg.AssetSelection.checks(health_check_key(spec))),
        cron_schedule=f"{minute} */6 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Looks which partitions of {spec.name} have failed, and draws rejects and throughput.",
    )
