"""What is committed without a run of Dagster's, by the command line or a script, shows as materialized."""

import time
from collections.abc import Collection

import dagster as dg

from assets.common import asset_key, code_version, partitions_of
from orchestration.runs import partition_keys, under_way
from resources.metadata import describe_shard_set
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ShardmillError
from shardmill.graph import Asset, Graph, Planner, why_stale
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.reader import ShardSet
from shardmill.storage import ObjectInfo
from shardmill.storage.check import impatient

_SECONDS = 30.0
"""Of reading what is to be reported: a tick has 60 s."""


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
        dataset, instance = Dataset(spec, impatient(storage.open())), context.instance
        known = partition_keys(instance, definition)
        since, end = float(context.cursor or 0), time.monotonic() + _SECONDS
        busy = under_way(instance, spec, known)  # before the commits are listed: a run reports what it makes itself
        newest, left = since, False
        events: list[dg.AssetMaterialization] = []
        for asset in graph:
            for partition, info in _commits(dataset, asset).items():
                if partition in busy or time.monotonic() > end:
                    left = True
                    continue
                newest = max(newest, info.modified)
                event = _unreported(dataset, asset, partition, instance, info.modified >= since)
                events += [event] if event else []
        new = {event.partition or "" for event in events} - set(known)
        if new and isinstance(definition, dg.DynamicPartitionsDefinition):
            instance.add_dynamic_partitions(spec.name, sorted(new))
        names = ", ".join(sorted({event.partition or "" for event in events})[:5])
        skip = None if events else dg.SkipReason("everything that is committed shows as materialized")
        if events:
            context.log.info(f"{spec.name}: {len(events)} assets of partitions made without Dagster, such as {names}")
        return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=str(since if left else newest))

    return committed


def _commits(dataset: Dataset, asset: Asset) -> dict[str, ObjectInfo]:
    """Commits by partition; an asset that the dataset has once belongs to each partition that it was made of."""
    found = dataset.commits(asset.name)
    if asset.scope == "dataset":
        partitions: Collection[str] = dataset.commits(asset.inputs[0]) if found else ()
        found = {partition: info for partition in partitions for info in found.values()}
    return {partition: info for partition, info in found.items() if dataset.may_have(partition)}


def _unreported(
    dataset: Dataset, asset: Asset, partition: str, instance: dg.DagsterInstance, is_new: bool
) -> dg.AssetMaterialization | None:
    """The event of a commit that Dagster has not recorded; only those that came since the last look are compared."""
    if not is_new:
        return None
    key = asset_key(dataset.spec, asset.name)
    recorded = _recorded_digest(instance, key, partition)
    try:
        shards = dataset.stored(asset.name, asset.place(partition))
        if shards is None or shards.commit.digest == recorded:
            return None
        return _event(dataset, asset, partition, key, shards)
    except ShardmillError:  # a run of it or a check says what is wrong with it
        return None


def _recorded_digest(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> str | None:
    filters = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for record in instance.fetch_materializations(filters, limit=1).records:
        made = record.asset_materialization
        if made is not None and "digest" in made.metadata:
            return str(made.metadata["digest"].value)
    return None


def _event(
    dataset: Dataset, asset: Asset, partition: str, key: dg.AssetKey, shards: ShardSet
) -> dg.AssetMaterialization:
    commit = shards.commit
    ordered = sorted(commit.shards, key=lambda entry: entry.start)  # as they were planned
    tags = {"dagster/data_version": fingerprint(shards=[entry.fingerprint for entry in ordered])}
    if asset.name not in dict(why_stale(Planner(dataset), partition)):
        tags["dagster/code_version"] = code_version(asset)
    metadata = describe_shard_set(shards, None, dataset.spec.masks)
    return dg.AssetMaterialization(key, partition=partition, metadata=metadata, tags=tags)
