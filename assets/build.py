"""Dagster's assets of a dataset, one for each asset of its graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.common import AnyOutput, asset_options, planned_output, upstream_of
from assets.gpu import gpu_options
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ShardmillError
from shardmill.graph import Asset, Graph, LazyShardSet, Planner
from shardmill.progress import ProgressSink, for_a_log
from shardmill.shards.reader import ShardSet
from shardmill.stages.embed import EmbedStage

LoadedInputs = Mapping[str, ShardSet | Mapping[str, ShardSet | ShardmillError]]
"""By asset: the set of the run's one partition, or each partition's set or the error of loading it."""


def build_assets(spec: DatasetSpec, graph: Graph) -> Sequence[dg.AssetsDefinition]:
    """The assets of one dataset, in the graph's order."""
    return [_build(spec, asset) for asset in graph]


def _build(spec: DatasetSpec, asset: Asset) -> dg.AssetsDefinition:
    """On a GPU's pool and tags if it embeds and the dataset needs GPUs."""
    gpu = gpu_options(spec.gpu) if spec.gpu and isinstance(asset.stage, EmbedStage) else {}

    @dg.asset(**asset_options(spec, asset), **gpu, ins={name: upstream_of(spec, name) for name in asset.inputs})
    def make(context: dg.AssetExecutionContext, storage: StorageResource, **loaded: Any) -> AnyOutput:
        planner = Planner(Dataset(spec, storage.open()))
        return planned_output(context, _Plans(planner, asset, loaded, lambda state: context.log.info(str(state))))

    return make


class _Plans:
    """How the partitions of a run are planned."""

    def __init__(self, planner: Planner, asset: Asset, loaded: LoadedInputs, log: ProgressSink) -> None:
        self._planner, self._asset, self._loaded, self._log = planner, asset, loaded, log

    def first(self, partition: str) -> LazyShardSet:
        """Of what was loaded."""
        if not self._asset.inputs:
            self._planner.check()  # here, because a run that fails after packing a bucket fails too late
        return self._planner.plan(self._asset, partition, self._sets(partition), progress=for_a_log(self._log))

    def again(self, partition: str) -> LazyShardSet:
        """Of what stands now."""
        self._planner.forget()
        newest = {name: shards.newest() for name, shards in self._sets(partition).items()}
        return self._planner.plan(self._asset, partition, newest, progress=for_a_log(self._log))

    def _sets(self, partition: str) -> dict[str, ShardSet]:
        sets = {}
        for name, found in self._loaded.items():
            one = found if isinstance(found, ShardSet) else found[partition]
            if isinstance(one, ShardmillError):
                raise one
            sets[name] = one
        return sets
