"""Runs over several partitions of which some failed: runs of their own carry on with the others."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from orchestration.new_objects import LAUNCHED_BY
from orchestration.runs import DATASET, FIRST, LAST
from resources.failures import CARRY_ON, metadata_of


def build_partial_failures_sensor(jobs: Sequence[Any]) -> dg.SensorDefinition:
    """The sensor of the code location. `jobs` are the datasets', each called `<dataset>_job`."""

    @dg.run_failure_sensor(
        name="partial_failures",
        request_jobs=jobs or None,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        description="Where one partition of a run failed, runs the other partitions of it without that one.",
    )
    def partial_failures(context: dg.RunFailureSensorContext) -> list[dg.RunRequest] | dg.SkipReason:
        run = context.dagster_run
        if run.tags.get("dagster/will_retry") == "true":
            return dg.SkipReason("the whole run is tried again")
        requests = list(_requests(context, run))
        return requests or dg.SkipReason("no other partition was in the run")

    return partial_failures


def _requests(context: dg.RunFailureSensorContext, run: dg.DagsterRun) -> Iterator[dg.RunRequest]:
    """A run may be over several datasets with equal partitions: each goes on in its own job."""
    carried_on: set[str] = set()
    for event in context.get_step_failure_events():
        ranges = metadata_of(event, CARRY_ON)
        dataset = (event.step_key or "").rpartition("__")[0]
        if ranges is None or dataset in carried_on:  # its assets after the first that failed were not begun
            continue
        carried_on.add(dataset)
        selected = [key for key in run.asset_selection or () if key.path[0] == dataset]
        tags = {DATASET: dataset, LAUNCHED_BY: "partial_failures", "shardmill/after_run": run.run_id}
        for first, last in ranges:
            yield dg.RunRequest(
                run_key=f"{run.run_id} {dataset} {first}",
                job_name=f"{dataset}_job",
                partition_key=first if first == last else None,
                tags=tags if first == last else {**tags, FIRST: first, LAST: last},
                asset_selection=selected or None,
            )
