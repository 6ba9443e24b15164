"""`python -m orchestration.materialize FILE`: every partition of a dataset that is not up to date, through Dagster.

It does in one process what a backfill from the UI does: for a demonstration, a cron job, or a machine without the
daemon. It ends with tables of what is stored, and of how fast each asset was made.
"""

import sys
import warnings
from collections.abc import Collection, Iterator
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
from shardmill.concurrency import usable_cores
from shardmill.dataset import Dataset, load_dataset
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
        console.print(_table(dataset))
        if runs:
            console.print(_rates(runs.values()))
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

    failures: list[str]
    """Why it failed; empty if it succeeded."""
    failed_checks: list[str]
    paces: dict[str, tuple[int, float]]
    """By asset: the samples that were computed, and the seconds that it took."""


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
    result = job.execute_in_process(run_config=logs, partition_key=partition, instance=instance, raise_on_error=False)
    checks = [each for each in result.get_asset_check_evaluations() if not each.passed]
    return _Run(
        [] if result.success else _failures(result),
        [f"{check.asset_key.to_user_string()}:{check.check_name}" for check in checks],
        dict(_paces(result)),
    )


def _paces(result: dg.ExecuteInProcessResult) -> Iterator[tuple[str, tuple[int, float]]]:
    """As the metadata of its materializations say them."""
    for event in result.get_asset_materialization_events():
        key, metadata = event.asset_key, event.materialization.metadata
        if key is not None and "samples computed" in metadata:
            found = metadata["samples computed"].value, metadata["seconds"].value
            yield key.path[-1], (int(str(found[0])), float(str(found[1])))


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """In plain words where the step says it so; else the exception's message."""
    reasons = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            reasons.append(said or (data.error.to_string() if data.error else event.message) or "no reason is known")
    return reasons or ["its run, in the UI, says why"]


def _table(dataset: Dataset) -> Table:
    """A row a partition: samples of each asset, and what was rejected anywhere."""
    assets = [asset for asset in build_graph(dataset.spec) if asset.scope == "partition"]
    names = (asset.name.replace("_", " ") for asset in assets)
    table = Table("partition", *names, "bytes", Column("rejects by reason", no_wrap=True))
    for partition in dataset.known_partitions():
        found = [dataset.stored(asset.name, partition) for asset in assets]
        stored = [shards.commit for shards in found if shards is not None]
        reasons: dict[str, int] = {}
        for commit in stored:
            for reason, count in commit.rejects_by_reason.items():
                reasons[reason] = reasons.get(reason, 0) + count
        table.add_row(
            partition,
            *(f"{shards.commit.total_samples:,}" if shards else "" for shards in found),
            decimal(sum(commit.total_bytes for commit in stored)),
            "\n".join(f"{count} × {reason}" for reason, count in reasons.items()) or "none",
        )
    return table


def _rates(runs: Collection[_Run]) -> Table:
    """A row an asset: how fast these runs made it, over all their partitions."""
    numbers = ("samples computed", "seconds", "samples/s", "ms a sample")
    table = Table(
        "asset",
        *(Column(number, justify="right") for number in numbers),
        caption=f"wall time on {usable_cores()} cores; the start of models is in it",
    )
    for name in dict.fromkeys(name for run in runs for name in run.paces):
        paces = [run.paces[name] for run in runs if name in run.paces]
        samples, seconds = sum(samples for samples, _ in paces), sum(seconds for _, seconds in paces)
        rate = (f"{samples / seconds:,.1f}", f"{seconds / samples * 1e3:.2f}") if samples and seconds else ("", "")
        table.add_row(name.replace("_", " "), f"{samples:,}", f"{seconds:.1f}", *rate)
    return table


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    if len(sys.argv) != 2:
        sys.exit("usage: python -m orchestration.materialize FILE, a dataset's defs.yaml")
    sys.exit(main(Path(sys.argv[1])))
