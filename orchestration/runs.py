"""Runs over partitions: which partitions a run takes, and the requests for new ones."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg

from shardmill.dataset import DatasetSpec

PARTITION = "dagster/partition"
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""Tags of Dagster's own: a run's partition, or the first and last of its range."""
DATASET = "shardmill/dataset"
_OVER = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
    dg.DagsterRunStatus.MANAGED,
)
"""The last is that of a run elsewhere, of whose end Dagster hears nothing."""
UNDER_WAY = [status for status in dg.DagsterRunStatus if status not in _OVER]


def job_name(spec: DatasetSpec) -> str:
    """The name of the job over all assets of the dataset."""
    return f"{spec.name}_job"


def partition_keys(instance: dg.DagsterInstance, definition: dg.PartitionsDefinition) -> Sequence[str]:
    """Every partition that Dagster knows of, in its order."""
    return definition.get_partition_keys(dynamic_partitions_store=instance)


def partitions_of_run(run: dg.DagsterRun, positions: Mapping[str, int], keys: Sequence[str]) -> Sequence[str]:
    """The partitions that a run takes. `positions` are those of `keys`."""
    if one := run.tags.get(PARTITION):
        return [one]
    first, last = positions.get(run.tags.get(FIRST, "")), positions.get(run.tags.get(LAST, ""))
    return [] if first is None or last is None else keys[first : last + 1]


def under_way(instance: dg.DagsterInstance, spec: DatasetSpec, keys: Sequence[str]) -> set[str]:
    """The partitions that some run of the dataset, whoever launched it, is to take or is taking."""
    positions = {key: position for position, key in enumerate(keys)}
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=UNDER_WAY))
    return {partition for run in runs if _is_of(run, spec) for partition in partitions_of_run(run, positions, keys)}


def _is_of(run: dg.DagsterRun, spec: DatasetSpec) -> bool:
    selected = run.asset_selection or ()
    return run.job_name == job_name(spec) or any(key.path[0] == spec.name for key in selected)


def run_requests(
    spec: DatasetSpec, partitions: Mapping[str, str], keys: Sequence[str], tags: Mapping[str, str]
) -> Iterator[dg.RunRequest]:
    """One request a partition, or a range of at most `partitions_per_run` that follow one another in `keys`.

    `partitions` gives each a reason; the same partitions for the same reasons are run once.
    """
    tags = {**tags, DATASET: spec.name}
    for group in _ranges(partitions, keys, spec.partitions_per_run):
        reason = "\n".join(partitions[key] for key in group)
        run_key = reason if len(group) == 1 else hashlib.sha256(reason.encode()).hexdigest()
        if len(group) == 1:
            yield dg.RunRequest(run_key=run_key, partition_key=group[0], tags=tags)
        else:
            yield dg.RunRequest(run_key=run_key, tags={**tags, FIRST: group[0], LAST: group[-1]})


def _ranges(partitions: Iterable[str], keys: Sequence[str], most: int) -> Iterator[list[str]]:
    """The partitions, neighbours together; a range comes when the first of its partitions would."""
    if most == 1:
        yield from ([key] for key in partitions)
        return
    positions = {key: position for position, key in enumerate(keys)}
    groups: list[list[str]] = []
    for key in sorted(partitions, key=lambda key: positions[key]):
        if not groups or len(groups[-1]) == most or positions[key] != positions[groups[-1][-1]] + 1:
            groups.append([])
        groups[-1].append(key)
    turns = {key: turn for turn, key in enumerate(partitions)}
    yield from sorted(groups, key=lambda group: min(turns[key] for key in group))
