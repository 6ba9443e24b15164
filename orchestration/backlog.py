"""Which partitions of a dataset are failed, missing or stale, by what Dagster has recorded."""

from collections.abc import Mapping, Sequence
from typing import Literal

import dagster as dg

from orchestration.runs import DATASET, partitions_of_run

Trouble = Literal["failed", "missing", "stale"]
CODE_VERSION = "dagster/code_version"
DATA_VERSION = "dagster/data_version"
INPUT_DATA_VERSION = "dagster/input_data_version/"
"""Tags of a materialization."""
_RUNS = 1000
"""How far back failures are counted."""


def backlog(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetsDefinition], keys: Sequence[str]
) -> dict[str, Trouble]:
    """The partitions that are not as they should be, in the order of `keys`, each with the worst that is true of it.

    Stale: made by another version of the code, or from another version of the asset before. Partitions of which a run
    is under way are left out.
    """
    worst: dict[str, Trouble] = {}
    busy: set[str] = set()
    versions: Mapping[str, str] = {}
    before: dg.AssetKey | None = None
    for asset in assets:
        assert asset.partitions_def is not None
        statuses = instance.get_status_by_partition(asset.key, keys, asset.partitions_def) or {}
        recorded = _recorded(instance, asset.key, before)
        for partition in keys:
            status = statuses.get(partition)
            if status is dg.AssetPartitionStatus.IN_PROGRESS:
                busy.add(partition)
            elif status is dg.AssetPartitionStatus.FAILED:
                worst[partition] = "failed"
            elif status is None:
                worst[partition] = "missing" if worst.get(partition) != "failed" else "failed"
            elif _is_stale(recorded.get(partition, {}), asset, before, versions.get(partition)):
                worst.setdefault(partition, "stale")
        versions = {partition: tags[DATA_VERSION] for partition, tags in recorded.items() if DATA_VERSION in tags}
        before = asset.key
    return {partition: worst[partition] for partition in keys if partition in worst and partition not in busy}


def _recorded(
    instance: dg.DagsterInstance, asset: dg.AssetKey, before: dg.AssetKey | None
) -> Mapping[str, Mapping[str, str]]:
    """The tags of each partition's last materialization. One query."""
    tags = [CODE_VERSION, DATA_VERSION, *([_input_tag(before)] if before else [])]
    return instance.event_log_storage.get_latest_tags_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, tags
    )


def _is_stale(
    tags: Mapping[str, str], asset: dg.AssetsDefinition, before: dg.AssetKey | None, version: str | None
) -> bool:
    if tags.get(CODE_VERSION) != asset.code_versions_by_key[asset.key]:
        return True
    return before is not None and tags.get(_input_tag(before)) != version


def _input_tag(asset: dg.AssetKey) -> str:
    return f"{INPUT_DATA_VERSION}{asset.to_user_string()}"


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
