"""`raw_images`: the manifest of a partition, every object with its version."""

import dagster as dg

from assets.common import AnyOutput, asset_options, code_version, planned_output
from resources.storage import StorageResource
from shardmill import chain
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.stages.lazy_shard_set import LazyShardSet
from shardmill.stages.list_objects import ListStage


def build_raw_images(spec: DatasetSpec) -> dg.AssetsDefinition:
    """The asset of one dataset."""
    code = code_version("list", ListStage.version, spec.source.model_dump(mode="json"))
    description = "Every raw object of the partition: key, component, URI, size, version."

    @dg.asset(**asset_options(spec, "raw_images", {"parquet"}, code, description))
    def raw_images(context: dg.AssetExecutionContext, storage: StorageResource) -> AnyOutput:
        dataset = Dataset(spec, storage.open())

        def make(partition: str) -> LazyShardSet:
            # Here, because a run that fails after packing a bucket fails too late.
            chain.check_transform_and_model(dataset)
            return chain.raw_images(dataset, partition)

        return planned_output(context, make)

    return raw_images
