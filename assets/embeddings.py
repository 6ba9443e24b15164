"""`embeddings`: one row a sample, with the way back to the raw object."""

import dagster as dg

from assets.common import AnyOutput, LoadedPartitions, asset_options, code_version, each_partition, upstream_of
from assets.gpu import gpu_options
from shardmill import chain
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.shards.reader import ShardSet
from shardmill.stages.embed import EmbedStage
from shardmill.stages.lazy_shard_set import LazyShardSet


def build_embeddings(spec: DatasetSpec) -> dg.AssetsDefinition:
    """The asset of one dataset; on a GPU's pool and tags if the dataset needs one."""
    dataset = Dataset(spec)
    code = code_version(
        "embed", EmbedStage.version, {**spec.resolved_embedder.declared(), "masks": spec.transform.masks}
    )
    description = f"Vectors of `{spec.embedder.model}`, one row a sample, with the raw object that each comes from."

    @dg.asset(
        **asset_options(spec, "embeddings", {"parquet", "pytorch"}, code, description),
        **(gpu_options(spec.gpu) if spec.gpu else {}),
        ins={"transformed_shards": upstream_of(spec, "transformed_shards")},
    )
    def embeddings(context: dg.AssetExecutionContext, transformed_shards: LoadedPartitions) -> AnyOutput:
        def make(shards: ShardSet) -> LazyShardSet:
            return chain.embeddings(dataset, shards)

        return each_partition(context, transformed_shards, make)

    return embeddings
