"""`embedding_map`: the embeddings in two dimensions, and their picture."""

import dagster as dg

from assets.common import AnyOutput, LoadedPartitions, asset_options, code_version, each_partition, upstream_of
from resources.storage import StorageResource
from shardmill import chain
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.shards.reader import ShardSet
from shardmill.stages.embedding_map import MapStage
from shardmill.stages.lazy_shard_set import LazyShardSet


def build_embedding_map(spec: DatasetSpec) -> dg.AssetsDefinition:
    """The asset of one dataset."""
    code = code_version("map", MapStage.version, {"projection": spec.projection, "class_names": spec.class_names})
    description = f"Two dimensions by {spec.projection.upper()}, on one basis for all partitions of the dataset."

    @dg.asset(
        **asset_options(spec, "embedding_map", {"parquet", "matplotlib"}, code, description),
        ins={"embeddings": upstream_of(spec, "embeddings")},
    )
    def embedding_map(
        context: dg.AssetExecutionContext, embeddings: LoadedPartitions, storage: StorageResource
    ) -> AnyOutput:
        dataset = Dataset(spec, storage.open())

        def make(table: ShardSet) -> LazyShardSet:
            return chain.embedding_map(dataset, table)

        return each_partition(context, embeddings, make)

    return embedding_map
