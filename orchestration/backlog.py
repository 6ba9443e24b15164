"""Which partitions of a dataset are failed, missing or stale."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import dagster as dg

from orchestration.runs import DATASET, partitions_of_run
from shardmill import chain
from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset

Trouble = Literal["failed", "missing", "stale"]
_RUNS = 1000
"""How far back failures are counted."""
_STALE_SECONDS = 25.0
"""The longest that one look for stale partitions takes: a tick has 60 s."""


def backlog(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetsDefinition], keys: Sequence[str]
) -> tuple[dict[str, Trouble], list[str]]:
    """Failed and missing partitions by what Dagster has recorded, in the order of `keys`; and those that are whole.

    Partitions of which a run is under way are in neither. One query an asset.
    """
    troubled: dict[str, Trouble] = {}
    busy: set[str] = set()
    for asset in assets:
        assert asset.partitions_def is not None
        statuses = instance.get_status_by_partition(asset.key, keys, asset.partitions_def) or {}
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


def stale(dataset: Dataset, partitions: Sequence[str], most: int) -> tuple[list[str], int]:
    """The first stale ones of the partitions, by what is committed, and how many there was time to look at."""
    found: list[str] = []
    looked, end = 0, time.monotonic() + _STALE_SECONDS
    for start in range(0, len(partitions), 2 * REQUESTS_AT_ONCE):
        if len(found) >= most or time.monotonic() >= end:
            break
        some = partitions[start : start + 2 * REQUESTS_AT_ONCE]
        answers = bounded_map(lambda key: chain.is_stale(dataset, key), some, REQUESTS_AT_ONCE)
        found += [key for key, answer in zip(some, answers, strict=True) if answer]
        looked += len(some)
    return found[:most], looked


def failures_in_a_row(
    instance: dg.DagsterInstance, dataset: str, tags: Mapping[str, str], keys: Sequence[str]
) -> dict[str, int]:
    """How many of each partition's runs with these tags failed since the last that succeeded. One query."""
    positions = {key: position for position, key in enumerate(keys)}
    ended = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]
    filters = dg.RunsFilter(statuses=ended, tags={DATASET: dataset, **tags})
    counts: dict[str, int] = {}
    succeeded: set[str] = set()
    for run in instance.get_runs(filters=filters, limit=_RUNS):  # the newest first
        partitions = partitions_of_run(run, positions, keys)
        if run.status is dg.DagsterRunStatus.SUCCESS:
            succeeded.update(partitions)
            continue
        for partition in partitions:
            if partition not in succeeded:
                counts[partition] = counts.get(partition, 0) + 1
    return counts
