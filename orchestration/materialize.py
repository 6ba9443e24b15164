"""`python -m orchestration.materialize FILE`: every partition of a dataset that is not up to date, through Dagster.

What a backfill from the UI does, in one process: for a demonstration, a cron job, or a machine without the daemon.
Ends with a table of what is stored.
"""

import sys
import time
import warnings
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from shardmill import chain
from shardmill.dataset import ASSETS, Dataset, load_dataset
from shardmill.errors import ShardmillError

# A log has no width of its own; 80 columns would fold the table.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main(file: Path) -> int:
    """Materialize, then show. Returns the exit status: 1 if a partition failed."""
    try:
        dataset = load_dataset(file)
        seconds = {
            partition: _materialize(dataset, partition)
            for partition in dataset.spec.partitions
            if not _is_up_to_date(dataset, partition)
        }
        console.print(_table(dataset, seconds))
    except ShardmillError as error:
        console.print(f"[red]error:[/] {error}")
        return 1
    failed = [partition for partition, taken in seconds.items() if taken is None]
    for partition in failed:
        console.print(f"[red]{partition} failed:[/] its run, in the UI, says why")
    if not seconds:
        console.print("Everything was up to date: no work was done.")
    console.print(f"Stored below {dataset.home}\nLook at it with: make ui")
    return 1 if failed else 0


def _is_up_to_date(dataset: Dataset, partition: str) -> bool:
    return all(found.state == "up to date" for found in chain.states(dataset, partition))


def _materialize(dataset: Dataset, partition: str) -> float | None:
    """Run the dataset's job on one partition, on the instance of `DAGSTER_HOME`. Seconds, None if it failed."""
    console.print(f"{partition}: materializing …")
    job = build_defs(dataset_definitions(dataset.spec)).resolve_job_def(f"{dataset.spec.name}_job")
    logs = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            run_config=logs, partition_key=partition, instance=instance, raise_on_error=False
        )
    return time.monotonic() - started if result.success else None


def _table(dataset: Dataset, seconds: dict[str, float | None]) -> Table:
    """A row a partition: what is stored, what was rejected at any stage, and how fast this run was."""
    table = Table("partition", "samples", "shards", "bytes", "embeddings", "rejects by reason", "images/s")
    for partition in dataset.spec.partitions:
        commits = {found.asset: found.commit for found in chain.states(dataset, partition)}
        stored = [commit for asset in ASSETS if (commit := commits[asset])]
        raw, shards, vectors = commits["raw_images"], commits["transformed_shards"], commits["embeddings"]
        reasons: dict[str, int] = {}
        for commit in stored:
            for reason, count in commit.rejects_by_reason.items():
                reasons[reason] = reasons.get(reason, 0) + count
        taken = seconds.get(partition)
        table.add_row(
            partition,
            str(raw.total_samples) if raw else "",
            str(len(shards.shards)) if shards else "",
            decimal(sum(commit.total_bytes for commit in stored)),
            str(vectors.total_samples) if vectors else "",
            "\n".join(f"{count} × {reason}" for reason, count in reasons.items()) or "none",
            f"{raw.total_samples / taken:.0f}" if raw and taken else "",
        )
    return table


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    if len(sys.argv) != 2:
        sys.exit("usage: python -m orchestration.materialize FILE, a dataset's defs.yaml")
    sys.exit(main(Path(sys.argv[1])))
