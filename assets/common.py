"""What the five assets share: keys, tags, partitions, and one function for one or several partitions."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from resources.failures import failure
from resources.shard_set_io_manager import MASKS, MAX_REJECT_RATIO, ROOT, SUFFIX
from shardmill.dataset import AssetName, DatasetSpec, suffix_of
from shardmill.errors import ShardmillError
from shardmill.shards.fingerprint import fingerprint
from shardmill.stages.shard_set import LazyShardSet, ShardSet

IO_MANAGER = "shard_set_io_manager"

AnyShardSet = Any
"""`ShardSet` of the run's one partition, or a dict from partition to set: Dagster's types know no unions."""
AnyOutput = dg.Output[Any]
"""Of `LazyShardSet`, likewise."""


def asset_key(spec: DatasetSpec, asset: AssetName) -> dg.AssetKey:
    """`<dataset>/<asset>`."""
    return dg.AssetKey([spec.name, asset])


def partitions_of(spec: DatasetSpec) -> dg.PartitionsDefinition:
    """The dataset's partitions."""
    return dg.StaticPartitionsDefinition(spec.partitions)


def code_version(stage: str, version: int, parameters: Mapping[str, Any]) -> str:
    """Changes with the stage's version and with everything that the dataset file tells it."""
    return f"{stage}-{version}-{fingerprint(parameters=parameters)[:8]}"


def asset_options(spec: DatasetSpec, asset: AssetName, kinds: set[str], code: str, description: str) -> dict[str, Any]:
    """Arguments of `@dg.asset` that follow from the dataset."""
    return {
        "key": asset_key(spec, asset),
        "partitions_def": partitions_of(spec),
        "io_manager_key": IO_MANAGER,
        "group_name": spec.name,
        "owners": spec.owners or None,
        "kinds": kinds,
        "code_version": code,
        "description": f"{description}\n\n{spec.description}".strip(),
        "metadata": {
            ROOT: spec.root,
            SUFFIX: suffix_of(asset),
            MAX_REJECT_RATIO: spec.max_reject_ratio,
            MASKS: spec.transform.masks,
        },
    }


def lazy_output(context: dg.AssetExecutionContext, make: Callable[[str], LazyShardSet]) -> AnyOutput:
    """The lazy set of every partition of the run, and the data version that it will have.

    The version is known beforehand: it is the digest of the fingerprints, which determine the bytes.
    """
    try:
        lazy = {partition: make(partition) for partition in context.partition_keys}
        digests = {partition: item.digest for partition, item in lazy.items()}  # reads the weights, for one
    except ShardmillError as error:
        raise failure(error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # data_version is
        if len(lazy) == 1:
            ((partition, only),) = lazy.items()
            return dg.Output(only, data_version=dg.DataVersion(digests[partition]))
        return dg.Output(lazy, data_version=dg.DataVersion(fingerprint(partitions=digests)))


def each_partition(
    context: dg.AssetExecutionContext,
    upstream: AnyShardSet,
    make: Callable[[ShardSet], LazyShardSet],
) -> AnyOutput:
    """`lazy_output` over the loaded upstream sets, of one partition or of several."""
    return lazy_output(context, lambda key: make(upstream if isinstance(upstream, ShardSet) else upstream[key]))
