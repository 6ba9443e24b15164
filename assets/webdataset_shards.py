"""`webdataset_shards`: the raw samples, packed into tars."""

import dagster as dg

from assets.common import AnyOutput, LoadedPartitions, asset_options, code_version, each_partition, upstream_of
from shardmill import chain
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.shards.reader import ShardSet
from shardmill.stages.lazy_shard_set import LazyShardSet
from shardmill.stages.pack import PackStage


def build_webdataset_shards(spec: DatasetSpec) -> dg.AssetsDefinition:
    """The asset of one dataset."""
    dataset = Dataset(spec)
    stage = chain.pack_stage(spec)
    parameters = {**stage.parameters(), "shards": spec.shards.model_dump(mode="json")}
    code = code_version("pack", PackStage.version, parameters)
    description = "The samples as WebDataset shards, bytes unchanged; every image in them decodes."

    @dg.asset(
        **asset_options(spec, "webdataset_shards", {"webdataset", "tar"}, code, description),
        ins={"raw_images": upstream_of(spec, "raw_images")},
    )
    def webdataset_shards(context: dg.AssetExecutionContext, raw_images: LoadedPartitions) -> AnyOutput:
        def make(raw: ShardSet) -> LazyShardSet:
            return chain.webdataset_shards(dataset, raw)

        return each_partition(context, raw_images, make)

    return webdataset_shards
