"""What all assets share: keys, partitions, options, and the plan for the partitions of a run."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, time, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import dagster as dg

from resources.planned import PlannedPartitions
from resources.shard_set_io_manager import EACH_ALONE, KEEP_SUPERSEDED, MASKS, MAX_REJECT_RATIO, ROOT, SCOPE
from shardmill.dataset import DatasetSpec
from shardmill.errors import ShardmillError
from shardmill.graph import Asset, LazyShardSet
from shardmill.partitions import TimePartitions
from shardmill.shards.fingerprint import fingerprint

IO_MANAGER = "shard_set_io_manager"

AnyOutput = dg.Output[Any]
"""Of `PlannedPartitions`: Dagster's types know no dicts with values of two kinds."""


def asset_key(spec: DatasetSpec, asset: str) -> dg.AssetKey:
    """`<dataset>/<asset>`."""
    return dg.AssetKey([spec.name, asset])


def upstream_of(spec: DatasetSpec, asset: str) -> dg.AssetIn:
    """Another asset, as an input. A partition of it that cannot be loaded fails alone."""
    return dg.AssetIn(asset_key(spec, asset), metadata={EACH_ALONE: True})


def partitions_of(spec: DatasetSpec) -> dg.PartitionsDefinition:
    """The dataset's partitions. Prefixes and batches are added by the sensor, under the dataset's name."""
    declared = spec.partitions
    if isinstance(declared, TimePartitions):
        cron = {"hour": "0 * * * *", "day": "0 0 * * *", "month": "0 0 1 * *"}[declared.every]
        return dg.TimeWindowPartitionsDefinition(
            start=datetime.combine(declared.start, time(), ZoneInfo(declared.timezone)),
            fmt=declared.key_format,
            timezone=declared.timezone,
            cron_schedule=cron,
            end_offset=1,  # the window that is open now has objects already
        )
    if isinstance(declared, list):
        return dg.StaticPartitionsDefinition(declared)
    return dg.DynamicPartitionsDefinition(name=spec.name)


def code_version(asset: Asset) -> str:
    """Changes with the stage's version and with everything that the dataset file tells the asset itself."""
    stage = asset.stage
    return f"{stage.name}-{stage.version}-{fingerprint(parameters=stage.declared(), **asset.declared)[:8]}"


def asset_options(spec: DatasetSpec, asset: Asset) -> dict[str, Any]:
    """Options of an asset that follow from the dataset and its graph.

    What the dataset has once is shown with its partitions, too: a run of any of them makes it, or finds it there.
    """
    return {
        "key": asset_key(spec, asset.name),
        "partitions_def": partitions_of(spec),
        "backfill_policy": _backfill_policy(spec.partitions_per_run),
        "automation_condition": _follow_upstream() if spec.automation and asset.inputs else None,
        "freshness_policy": _freshness(spec.fresh_hours) if spec.fresh_hours else None,
        "io_manager_key": IO_MANAGER,
        "group_name": spec.name,
        "owners": spec.owners or None,
        "kinds": set(asset.kinds),
        "code_version": code_version(asset),
        "description": f"{asset.description}\n\n{spec.description}".strip(),
        "metadata": {
            ROOT: spec.root,
            SCOPE: asset.scope,
            MAX_REJECT_RATIO: spec.max_reject_ratio,
            KEEP_SUPERSEDED: spec.keep_superseded,
            MASKS: spec.masks,
        },
    }


def _backfill_policy(partitions_per_run: int) -> dg.BackfillPolicy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.BackfillPolicy.multi_run(partitions_per_run)


def _follow_upstream() -> dg.AutomationCondition[Any]:
    """Once for each new materialization of the asset before. A failure is not tried again until there is another."""
    condition = dg.AutomationCondition
    answered = condition.newly_requested() | condition.newly_updated() | condition.execution_failed().newly_true()
    return (
        condition.any_deps_updated().since(answered)
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("follows the asset before")


def _freshness(hours: float) -> dg.FreshnessPolicy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))


class Plans(Protocol):
    """How one asset's partitions are planned."""

    def first(self, partition: str) -> LazyShardSet:
        """What a partition is to be.

        Raises:
            ShardmillError: It cannot be planned.
        """

    def again(self, partition: str) -> LazyShardSet:
        """What a partition is to be, of what stands now: another run committed something meanwhile."""


Planned = dict[str, LazyShardSet | ShardmillError]
"""By partition, what it is to be or why it cannot be made."""


def plan_partitions(partitions: Iterable[str], plans: Plans) -> Planned:
    """What each partition of a run is to be, or why it cannot be planned."""
    planned: Planned = {}
    for partition in partitions:
        try:
            planned[partition] = plans.first(partition)
        except ShardmillError as error:
            planned[partition] = error
    return planned


def output_of(
    context: dg.AssetExecutionContext,
    name: str,
    key: dg.AssetKey,
    planned: Planned,
    again: Callable[[str], LazyShardSet],
    seconds: Mapping[str, float],
) -> AnyOutput:
    """An asset's lazy set of every partition of the run, and the data version that it will have.

    The version is known beforehand: it is the digest of the fingerprints, which determine the bytes. A partition that
    cannot be made is left to the IO manager, which writes the others first. `seconds` is what some took already.
    """
    digests = {partition: lazy.digest for partition, lazy in planned.items() if isinstance(lazy, LazyShardSet)}

    def describe(partition: str, metadata: Mapping[str, Any]) -> None:
        context.add_asset_metadata(metadata, asset_key=key, partition_key=partition)

    (version,) = digests.values() if len(planned) == len(digests) == 1 else [fingerprint(partitions=digests)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # data_version is
        return dg.Output(
            PlannedPartitions(planned, again, describe, seconds),
            output_name=name,
            data_version=dg.DataVersion(version),
        )
