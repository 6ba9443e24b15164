"""`python -m orchestration.materialize FILE`: every partition of a dataset that is not up to date, through Dagster.

It does in one process what a backfill from the UI does: for a demonstration, a cron job, or a machine without the
daemon. It ends with a table of what is stored.
"""

import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table

from assets.common import partitions_of
from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.storage import StorageResource
from shardmill.dataset import RAW, Dataset, load_dataset
from shardmill.errors import ShardmillError
from shardmill.graph import Planner, build_graph, states

# A log has no width of its own; 80 columns would fold the table.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)


def main(file: Path) -> int:
    """Materialize, then show. Returns the exit status: 1 if a partition failed."""
    try:
        dataset = load_dataset(file, StorageResource.from_environment().open())
        with dg.DagsterInstance.get() as instance:
            planner = Planner(dataset)
            runs = {
                partition: _materialize(dataset, partition, instance)
                for partition in _add(dataset, instance)
                if not _is_up_to_date(planner, partition)
            }
        console.print(_table(dataset, runs))
    except (ShardmillError, dg.DagsterError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}")
        return 1
    for partition, run in runs.items():
        for reason in run.failures:
            console.print(f"[red]{partition} failed:[/] {escape(reason)}")
        for check in run.failed_checks:
            console.print(f"[yellow]{partition}:[/] the check {check} did not pass; the UI says why")
    if not runs:
        console.print("Everything was up to date: no work was done.")
    console.print(f"Stored below {dataset.home}\nLook at it with: make ui")
    return 1 if any(run.failures for run in runs.values()) else 0


@dataclass(frozen=True)
class _Run:
    """What came of one partition's run."""

    seconds: float
    failures: list[str]
    """Why it failed; empty if it succeeded."""
    failed_checks: list[str]


def _add(dataset: Dataset, instance: dg.DagsterInstance) -> list[str]:
    """The dataset's partitions; Dagster is told of those that it cannot know by itself."""
    partitions = dataset.known_partitions()
    if isinstance(partitions_of(dataset.spec), dg.DynamicPartitionsDefinition):
        instance.add_dynamic_partitions(dataset.spec.name, partitions)
    return partitions


def _is_up_to_date(planner: Planner, partition: str) -> bool:
    try:
        return all(found.state == "up to date" for found in states(planner, partition))
    except ShardmillError:
        return False  # its run will say what is wrong, and the other partitions get theirs


def _materialize(dataset: Dataset, partition: str, instance: dg.DagsterInstance) -> _Run:
    """Run the dataset's job on one partition."""
    console.print(f"{partition}: materializing …")
    job = build_defs(dataset_definitions(dataset.spec)).resolve_job_def(f"{dataset.spec.name}_job")
    logs = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}
    started = time.monotonic()
    result = job.execute_in_process(run_config=logs, partition_key=partition, instance=instance, raise_on_error=False)
    checks = [each for each in result.get_asset_check_evaluations() if not each.passed]
    return _Run(
        time.monotonic() - started,
        [] if result.success else _failures(result),
        [f"{check.asset_key.to_user_string()}:{check.check_name}" for check in checks],
    )


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """In plain words where the step says it so; else the exception's message."""
    reasons = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            reasons.append(said or (data.error.to_string() if data.error else event.message) or "no reason is known")
    return reasons or ["its run, in the UI, says why"]


def _table(dataset: Dataset, runs: Mapping[str, _Run]) -> Table:
    """A row a partition: samples of each asset, what was rejected anywhere, and how fast this run was."""
    assets = [asset for asset in build_graph(dataset.spec) if asset.scope == "partition"]
    names = (asset.name.replace("_", " ") for asset in assets)
    table = Table("partition", *names, "bytes", Column("rejects by reason", no_wrap=True), "samples/s")
    for partition in dataset.known_partitions():
        found = [dataset.stored(asset.name, partition) for asset in assets]
        stored = [shards.commit for shards in found if shards is not None]
        reasons: dict[str, int] = {}
        for commit in stored:
            for reason, count in commit.rejects_by_reason.items():
                reasons[reason] = reasons.get(reason, 0) + count
        run = runs.get(partition)
        taken = run.seconds if run and not run.failures else None
        raw = dataset.stored(RAW, partition)
        table.add_row(
            partition,
            *(f"{shards.commit.total_samples:,}" if shards else "" for shards in found),
            decimal(sum(commit.total_bytes for commit in stored)),
            "\n".join(f"{count} × {reason}" for reason, count in reasons.items()) or "none",
            f"{raw.commit.total_samples / taken:.0f}" if raw and taken else "",
        )
    return table


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    if len(sys.argv) != 2:
        sys.exit("usage: python -m orchestration.materialize FILE, a dataset's defs.yaml")
    sys.exit(main(Path(sys.argv[1])))
