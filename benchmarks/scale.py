"""A dataset of 100 million objects in 10,000 partitions: what planning, state, sensors, commits and Dagster cost.

    python -m benchmarks.scale [--partitions 10 100 1000 10000] [--objects 10000] [--large 1000000]

The planning code is the real one, over a bucket whose names are formulas (benchmarks/simulation): one partition is
planned and committed in earnest, but for the bytes of its shards, and the others stand as if they had been. Each number
of partitions is a process of its own. Of each step: CPU seconds without those of the bucket, requests, and peak memory
with libraries. What is done to each partition is done to some of them and given for one.

The sensor comes by all partitions over `--watched` objects of each, which shows what partitions cost it; and by a
million objects in one look, which shows what objects do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.report import machine
from benchmarks.simulation.steps import measured

RESULT = Path(__file__).parent / "results" / "scale.json"


def main(given: Sequence[str] | None = None) -> None:
    """Print tables, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--objects", type=int, default=10_000, help="of a partition")
    parser.add_argument("--large", type=int, default=1_000_000, help="objects of the one large partition")
    parser.add_argument("--watched", type=int, default=2, help="objects of a partition that the sensor walks over")
    parser.add_argument("--results", type=Path, default=RESULT)
    parser.add_argument("--step", type=json.loads, help=argparse.SUPPRESS)  # what a child process measures
    arguments = parser.parse_args(given)
    if arguments.step is not None:
        for figures in measured(**arguments.step):
            print(json.dumps(figures), flush=True)
        return
    found: dict[str, Any] = {"objects": arguments.objects, "machine": machine(), "runs": [], "sizes": []}
    for size in (arguments.objects, arguments.large // 10, arguments.large):
        found["sizes"].append({"objects": size, "steps": in_its_own_process({"what": "partition", "objects": size})})
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    print(partition_table(found), flush=True)
    for count in arguments.partitions:
        step = {"what": "dataset", "partitions": count, "objects": arguments.objects, "watched": arguments.watched}
        found["runs"].append({"partitions": count, "steps": in_its_own_process(step)})
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    print(dataset_table(found), flush=True)


def in_its_own_process(step: dict[str, Any]) -> list[dict[str, Any]]:
    """What `measured` gives."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--step", json.dumps(step)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def partition_table(found: dict[str, Any]) -> str:
    """Markdown: what one partition takes, by its size."""
    return _table([f"{run['objects']:,} objects" for run in found["sizes"]], [run["steps"] for run in found["sizes"]])


def dataset_table(found: dict[str, Any]) -> str:
    """Markdown: what the dataset takes, by the number of its partitions."""
    return _table(
        [f"{run['partitions']:,} partitions" for run in found["runs"]], [run["steps"] for run in found["runs"]]
    )


def _table(heads: Sequence[str], runs: Sequence[Sequence[dict[str, Any]]]) -> str:
    steps = {step["step"]: None for run in runs for step in run}
    lines = [f"| CPU s, requests, peak MB | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name in steps:
        cells = [next((_cell(step) for step in run if step["step"] == name), "") for run in runs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(step: dict[str, Any]) -> str:
    requests = f"{sum(step['requests'].values()):,.1f}".removesuffix(".0")
    cell = f"{step['seconds']:.3g}, {requests}, {step['peak']:.0f}"
    return f"{cell} ({step['note']})" if step["note"] else cell


if __name__ == "__main__":
    main()
