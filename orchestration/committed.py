"""What is committed without a run of Dagster's, by the command line or a script, shows as materialized."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

import dagster as dg

from assets.common import asset_key, code_version, partitions_of
from orchestration.runs import partition_keys, under_way
from resources.metadata import describe_shard_set
from resources.storage import StorageResource
from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ShardmillError
from shardmill.graph import Asset, Graph, Planner, why_stale
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.reader import ShardSet
from shardmill.storage.check import impatient

_SECONDS = 30.0
"""Of comparing and describing: a tick has 60 s. The next one goes on where this one stopped."""
_SLACK_SECONDS = 60.0
"""By so much stores' clocks may differ, and a commit be listed later than one that came after it."""


def build_committed_sensor(spec: DatasetSpec, graph: Graph) -> dg.SensorDefinition:
    """The sensor of one dataset. It launches nothing: it reports, as Dagster's runless events."""
    definition = partitions_of(spec)

    @dg.sensor(
        name=f"{spec.name}_committed",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Shows partitions of {spec.name} as materialized that were made without Dagster.",
    )
    def committed(context: dg.SensorEvaluationContext, storage: StorageResource) -> dg.SensorResult:
        planner, instance = Planner(Dataset(spec, impatient(storage.open()))), context.instance
        known = partition_keys(instance, definition)
        busy = under_way(instance, spec, known)
        events, cursor = _look(planner, graph, instance, float(context.cursor or 0), busy)
        # A run that has begun meanwhile reports what it makes itself.
        busy = under_way(instance, spec, known)
        events = [event for event in events if event.partition not in busy]
        new = {event.partition or "" for event in events} - set(known)
        if new and isinstance(definition, dg.DynamicPartitionsDefinition):
            instance.add_dynamic_partitions(spec.name, sorted(new))
        names = ", ".join(sorted({event.partition or "" for event in events})[:5])
        skip = None if events else dg.SkipReason("everything that is committed shows as materialized")
        if events:
            context.log.info(f"{spec.name}: {len(events)} assets of partitions made without Dagster, such as {names}")
        return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=str(cursor))

    return committed


@dataclass(frozen=True)
class _Commit:
    """A commit that stands, of an asset as Dagster shows it: what a dataset has once with each of its partitions."""

    asset: Asset
    partition: str
    modified: float
    """Seconds since the epoch."""


def _look(
    planner: Planner, graph: Graph, instance: dg.DagsterInstance, since: float, busy: set[str]
) -> tuple[list[dg.AssetMaterialization], float]:
    """The events of commits since a moment that Dagster has not recorded; and the moment from which to go on."""
    commits = (commit for commit in _commits(planner.dataset, graph) if commit.modified >= since - _SLACK_SECONDS)
    found = sorted(commits, key=lambda commit: commit.modified)
    end, cursor = time.monotonic() + _SECONDS, since
    waiting = [commit.modified for commit in found if commit.partition in busy]
    stale = cache(lambda partition: {asset for asset, _ in why_stale(planner, partition)})
    found = [commit for commit in found if commit.partition not in busy]
    events = []
    with closing(bounded_map(lambda it: _unreported(planner, it, instance, stale), found, REQUESTS_AT_ONCE)) as asked:
        for commit, event in zip(found, asked, strict=False):
            events += [event] if event else []
            cursor = max(cursor, commit.modified)
            if time.monotonic() > end:
                break
    return events, min([cursor, *waiting])


def _commits(dataset: Dataset, graph: Graph) -> Iterator[_Commit]:
    """What a dataset has once is as new, for a partition, as that and what it is made of there are."""
    stood = {
        asset.name: {partition: info.modified for partition, info in dataset.commits(asset.name).items()}
        for asset in graph
    }
    for asset in graph:
        at = stood[asset.name]
        if asset.scope == "dataset":
            once = at.values()
            before = stood[asset.inputs[0]] if once else {}
            at = {partition: max(modified, *once) for partition, modified in before.items()}
        yield from (_Commit(asset, key, modified) for key, modified in at.items() if dataset.may_have(key))


def _unreported(
    planner: Planner, commit: _Commit, instance: dg.DagsterInstance, stale: Callable[[str], Collection[str]]
) -> dg.AssetMaterialization | None:
    dataset, asset = planner.dataset, commit.asset
    key = asset_key(dataset.spec, asset.name)
    try:
        shards = dataset.stored(asset.name, asset.place(commit.partition))
        if shards is None or shards.commit.digest == _recorded_digest(instance, key, commit.partition):
            return None
        return _event(planner, commit, key, shards, commit.asset.name in stale(commit.partition))
    except ShardmillError:  # a run of it, or a check, says what is wrong
        return None


def _recorded_digest(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> str | None:
    filters = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for record in instance.fetch_materializations(filters, limit=1).records:
        made = record.asset_materialization
        if made is not None and "digest" in made.metadata:
            return str(made.metadata["digest"].value)
    return None


def _event(
    planner: Planner, commit: _Commit, key: dg.AssetKey, shards: ShardSet, is_stale: bool
) -> dg.AssetMaterialization:
    ordered = sorted(shards.commit.shards, key=lambda entry: entry.start)  # as they were planned
    tags = {"dagster/data_version": fingerprint(shards=[entry.fingerprint for entry in ordered])}
    if not is_stale:
        tags["dagster/code_version"] = code_version(commit.asset)
    metadata: dict[str, Any]
    try:
        metadata = describe_shard_set(shards, None, planner.dataset.spec.masks)
    except Exception:  # a picture that cannot be drawn keeps nothing back
        metadata = {"digest": shards.commit.digest, "dagster/row_count": shards.commit.total_samples}
    return dg.AssetMaterialization(key, partition=commit.partition, metadata=metadata, tags=tags)
