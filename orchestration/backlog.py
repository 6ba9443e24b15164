"""Which partitions of a dataset are failed, missing or stale."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset
from shardmill.errors import ConfigurationError, CorruptionError
from shardmill.graph import Planner
from shardmill.graph import is_stale as is_outdated
from shardmill.partitions import BatchPartitions
from shardmill.sources import SampleNames
from shardmill.storage import join_uri, relative_to

Trouble = Literal["failed", "missing", "stale"]
_FIRST = 200
"""Partitions that every look begins with."""
_SECONDS_EACH = 10.0
"""Of reading the folder of one partition, so that one of millions of objects leaves time for the others."""


def backlog(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetsDefinition], keys: Sequence[str]
) -> tuple[dict[str, Trouble], list[str]]:
    """Failed and missing partitions by what Dagster has recorded, in the order of `keys`; and those that are whole.

    Neither has the partitions that a run is under way for. One query an asset.
    """
    troubled: dict[str, Trouble] = {}
    busy: set[str] = set()
    for key, definition in ((key, asset.partitions_def) for asset in assets for key in asset.keys):
        assert definition is not None
        statuses = instance.get_status_by_partition(key, keys, definition) or {}
        for partition in keys:
            status = statuses.get(partition)
            if status is dg.AssetPartitionStatus.IN_PROGRESS:
                busy.add(partition)
            elif status is dg.AssetPartitionStatus.FAILED:
                troubled[partition] = "failed"
            elif status is None:
                troubled.setdefault(partition, "missing")
    whole = [partition for partition in keys if partition not in troubled and partition not in busy]
    return {key: troubled[key] for key in keys if key in troubled and key not in busy}, whole


@dataclass
class Deadline:
    """When a look has to end."""

    seconds: float

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def over(self) -> bool:
        """Whether it is past."""
        return time.monotonic() >= self._end


def first_that(
    holds: Callable[[str], bool | None], partitions: Sequence[str], most: int, deadline: Deadline, turn: int
) -> tuple[list[str], int]:
    """The first `most` partitions for which `holds` is true, and how many there was no time to ask about.

    The answer None means that there was no time to find out. With every `turn` another part of them is asked about
    beside the first few.
    """
    found: list[str] = []
    unanswered = len(partitions)
    for some in _blocks(partitions, turn):
        if len(found) >= most:
            return found[:most], 0
        if deadline.over:
            break
        answers = list(bounded_map(holds, some, REQUESTS_AT_ONCE))
        found += [key for key, answer in zip(some, answers, strict=True) if answer]
        unanswered -= sum(answer is not None for answer in answers)
    return found[:most], unanswered


def _blocks(partitions: Sequence[str], turn: int) -> Iterator[Sequence[str]]:
    """The partitions, some at a time: the first few in their order, and in turn with them the rest."""
    size = 2 * REQUESTS_AT_ONCE
    first, rest = partitions[:_FIRST], partitions[_FIRST:]
    start = turn * size % len(rest) if rest else 0
    rest = [*rest[start:], *rest[:start]]
    for position in range(0, max(len(first), len(rest)), size):
        for part in (first, rest):
            if block := part[position : position + size]:
                yield block


def is_stale(planner: Planner, partition: str) -> bool:
    """Whether it is stale; one whose files are damaged is, too: its run says what is wrong."""
    try:
        return is_outdated(planner, partition)
    except CorruptionError:
        return True
    except ConfigurationError:  # no partition of the dataset as it is declared: somebody added the key by hand
        return False


def has_samples(dataset: Dataset, partition: str, deadline: Deadline) -> bool | None:
    """Whether the source holds samples of the partition, complete: with its marker if it has one, and quiet if asked.

    None where there was no time to read all of the folder: what is too young may have any name.
    """
    spec = dataset.spec
    if isinstance(spec.partitions, BatchPartitions) or spec.source.table is not None:
        return True
    try:
        folder = dataset.partitioning.folder(partition, dataset.storage)
    except ConfigurationError:
        return False
    if spec.source.marker and dataset.storage.stat(join_uri(folder, spec.source.marker)) is None:
        return False
    quiet = spec.sensor.quiet_seconds if spec.sensor else 0.0
    names, own, found = SampleNames(spec.source), Deadline(_SECONDS_EACH), False
    for info in dataset.storage.list(folder, passed_over=names.passed_over(folder)):
        if names.takes(relative_to(folder, info.uri)):
            found = True
            if quiet and time.time() - info.modified < quiet:
                return False
            if not quiet:
                break
        if deadline.over or own.over:
            return None
    return found
