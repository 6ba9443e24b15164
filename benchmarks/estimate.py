"""What a dataset of so many images costs, from ten thousand to five billion, and what gives way first.

    python -m benchmarks.estimate

Arithmetic over unit costs that were measured: those of the stages are in `benchmarks/results`, the others stand below
with the command that measures them. Nothing of it was run at these sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison.report import per_sample

RESULTS = Path(__file__).parent / "results"
SIZES = (*(10**power for power in range(4, 10)), 5 * 10**9)
STAGES = ("pack", "transform", "embed")

# What the stages leave of photographs of 111 kB, cropped to 350 px at quality 75.
RAW_BYTES, CROPPED_BYTES, ROW_BYTES = 111_000, 26_000, 5_370
INDEX_BYTES = 15 + 117 + 86 + 86
"""Of an image in the manifest and in the indexes of its two shards and its table."""
CATALOG_BYTES = 12
"""Of an image and computation; the catalog keeps 16 million (docs/storage.md)."""
SHARD_BYTES = 256_000_000
FILL = 0.7
"""Leaves of the trie are between half full and full."""
REQUESTS_A_SHARD = 7.7
"""python -m benchmarks.requests: a first run on GCS or S3, beside the reads of raw objects."""
PLANNING_SECONDS, PLANNING_BYTES = 8.6e-6, 480
"""python -m benchmarks.listing: of an object, from the listing to the fingerprints, nothing written; the bytes at
the peak, libraries included."""
LISTED_A_SECOND = 104_000
"""python -m benchmarks.watching: objects of one listing of GCS."""
RUN_SECONDS = 5
"""Dagster's own for a run of a partition: a process, the code location, events."""

READS_A_SECOND = 5_000
"""Of a bucket of GCS at the start; it grows as a load stays."""
KNOWN_PARTITIONS, SHOWN_PARTITIONS = 100_000, 40_000
"""Dagster's limit of a definition, and where its UI freezes (dagster#15679, #33456)."""
PARTITION_SIZES = (10_000, 100_000, 1_000_000)
PARTITIONS = 10_000
"""What is aimed at: a quarter of what the UI shows."""
CORES = (2, 8, 32, 128, 512, 2048)
HOURS = 24
"""What CPU time is to take at most."""


@dataclass(frozen=True)
class Need:
    """Of a dataset."""

    images: int
    partition: int
    """Images of a partition."""
    cores: int
    cpu_hours: float
    """Of cores."""

    @property
    def partitions(self) -> int:
        """How many."""
        return math.ceil(self.images / self.partition)

    @property
    def shards(self) -> int:
        """Of one asset; the others have as many."""
        a_partition = math.ceil(min(self.images, self.partition) * RAW_BYTES / (FILL * SHARD_BYTES))
        return self.partitions * a_partition

    @property
    def requests(self) -> float:
        """To a bucket: a read an image, and what three assets' shards and a manifest a partition need."""
        return self.images + REQUESTS_A_SHARD * (3 * self.shards + self.partitions)

    @property
    def stored_bytes(self) -> float:
        """Without the raw objects."""
        return self.images * (RAW_BYTES + CROPPED_BYTES + ROW_BYTES + INDEX_BYTES)

    @property
    def planning_bytes(self) -> int:
        """Of the process that plans a partition."""
        return min(self.images, self.partition) * PLANNING_BYTES

    @property
    def hours(self) -> Mapping[str, float]:
        """What each takes that cannot be shared out further, next to the CPU time over the cores."""
        return {
            "CPU": self.cpu_hours / self.cores,
            "reads of one bucket": self.images / READS_A_SECOND / 3600,
            "planning, in one process": self.images * PLANNING_SECONDS / 3600,
            "runs of Dagster, one at a time": self.partitions * RUN_SECONDS / 3600,
        }

    @property
    def bottleneck(self) -> str:
        """What takes longest, or what does not fit."""
        if self.partitions > SHOWN_PARTITIONS:
            return "partitions in Dagster's UI"
        return max(self.hours, key=lambda name: self.hours[name])


def need(images: int, milliseconds: Mapping[str, float]) -> Need:
    """The smallest partitions of which there are few enough; the fewest cores that end within a day."""
    partition = next((size for size in PARTITION_SIZES if images / size <= PARTITIONS), PARTITION_SIZES[-1])
    cpu_hours = images * sum(milliseconds.values()) / 1e3 / 3600
    cores = next((cores for cores in CORES if cpu_hours / cores <= HOURS), CORES[-1])
    return Need(images, partition, cores, cpu_hours)


def stage_milliseconds(folder: Path = RESULTS) -> dict[str, float]:
    """CPU milliseconds of a sample by ours, in float32, as the benchmarks found them last."""
    found = {}
    for stage in STAGES:
        result: dict[str, Any] = json.loads((folder / f"{stage}.json").read_text())
        ours = next(outcome for outcome in result["outcomes"] if outcome["variant"]["kind"] == "ours")
        found[stage] = statistics.median(per_sample(result, ours, "cpu_seconds"))
    return found


def unit_table(milliseconds: Mapping[str, float]) -> str:
    """Markdown: what one image costs."""
    rows = [
        *((f"CPU of {stage}, ms", f"{value:.2f}", f"`benchmarks.{stage}`") for stage, value in milliseconds.items()),
        ("listing and planning an object, µs", f"{PLANNING_SECONDS * 1e6:.1f}", "`benchmarks.listing`"),
        ("memory of an object while its partition is planned, bytes", f"{PLANNING_BYTES:,}", "the same"),
        ("stored: packed, transformed, a row, bytes", f"{RAW_BYTES:,}, {CROPPED_BYTES:,}, {ROW_BYTES:,}", "the shards"),
        ("stored: manifest and indexes, bytes", f"{INDEX_BYTES}", "the shards"),
        ("catalog of a computation, bytes", f"{CATALOG_BYTES}", "`benchmarks.catalog`"),
        ("requests: one read, and of a shard", f"1, {REQUESTS_A_SHARD}", "`benchmarks.requests`"),
        ("listed on GCS, objects/s", f"{LISTED_A_SECOND:,}", "`benchmarks.watching`"),
    ]
    return "\n".join(
        ["| one image | | measured by |", "| --- | ---: | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def table(milliseconds: Mapping[str, float]) -> str:
    """Markdown: a line a size."""
    lines = [
        "| images | partitions | shards of an asset | core-hours | cores | CPU h | reads h | planning h | "
        "runs h | planning GB | stored TB | requests | first bottleneck |",
        "| ---: " * 12 + "| --- |",
    ]
    for images in SIZES:
        found = need(images, milliseconds)
        hours = found.hours
        cells = [
            f"{images:,}",
            f"{found.partitions:,} × {min(found.images, found.partition):,}",
            f"{found.shards:,}",
            f"{found.cpu_hours:,.2f}" if found.cpu_hours < 10 else f"{found.cpu_hours:,.0f}",
            f"{found.cores:,}",
            *(f"{each:,.2f}" for each in hours.values()),
            f"{found.planning_bytes / 1e9:.2f}",
            f"{found.stored_bytes / 1e12:,.3f}",
            f"{found.requests:,.0f}",
            found.bottleneck,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(given)
    milliseconds = stage_milliseconds()
    print(unit_table(milliseconds), table(milliseconds), sep="\n\n")


if __name__ == "__main__":
    main()
