"""`transformed_shards`: the samples after the dataset's transform."""

import dagster as dg

from assets.common import AnyOutput, LoadedPartitions, asset_options, code_version, each_partition, upstream_of
from shardmill import chain
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.shards.reader import ShardSet
from shardmill.stages.lazy_shard_set import LazyShardSet
from shardmill.stages.transform import TransformStage


def build_transformed_shards(spec: DatasetSpec) -> dg.AssetsDefinition:
    """The asset of one dataset."""
    dataset = Dataset(spec)
    code = code_version("transform", TransformStage.version, spec.transform.model_dump(mode="json"))
    steps = ", ".join(operation.operation for operation in spec.transform.operations) or "no operation"
    description = f"The shards after the dataset's transform: {steps}."

    @dg.asset(
        **asset_options(spec, "transformed_shards", {"webdataset", "torchvision"}, code, description),
        ins={"webdataset_shards": upstream_of(spec, "webdataset_shards")},
    )
    def transformed_shards(context: dg.AssetExecutionContext, webdataset_shards: LoadedPartitions) -> AnyOutput:
        def make(shards: ShardSet) -> LazyShardSet:
            return chain.transformed_shards(dataset, shards)

        return each_partition(context, webdataset_shards, make)

    return transformed_shards
