"""Dagster's assets of a dataset, one for each asset of its graph; those that are made together are one step."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.common import AnyOutput, Planned, asset_options, output_of, plan_partitions, upstream_of
from assets.gpu import gpu_options
from resources.engine import EngineResource
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ShardmillError
from shardmill.graph import Asset, Graph, LazyShardSet, Planner, make_together
from shardmill.progress import ProgressSink, for_a_log
from shardmill.shards.reader import ShardSet
from shardmill.stages.embed import EmbedStage

LoadedInputs = Mapping[str, ShardSet | Mapping[str, ShardSet | ShardmillError]]
"""By asset: the set of the run's one partition, or each partition's set or the error of loading it."""
_OF_STEPS = ("partitions_def", "backfill_policy", "retry_policy")
"""Options that assets which are one step have in common."""


def build_assets(spec: DatasetSpec, graph: Graph) -> Sequence[dg.AssetsDefinition]:
    """The assets of one dataset, in the graph's order."""
    steps = dict.fromkeys(tuple(each.name for each in graph.siblings(asset)) for asset in graph)
    return [_build(spec, [graph[name] for name in names]) for names in steps]


def _build(spec: DatasetSpec, assets: Sequence[Asset]) -> dg.AssetsDefinition:
    """One step, on a GPU's pool and tags if it embeds and the dataset needs GPUs. A run may take some of its assets."""
    first, several = assets[0], len(assets) > 1
    gpu = gpu_options(spec.gpu) if spec.gpu and isinstance(first.stage, EmbedStage) else {}
    options = {asset.name: asset_options(spec, asset) for asset in assets}

    @dg.multi_asset(
        name=f"{spec.name}__{'_and_'.join(options)}",
        outs={
            name: dg.AssetOut(is_required=not several, **{key: own[key] for key in own if key not in _OF_STEPS})
            for name, own in options.items()
        },
        ins={name: upstream_of(spec, name) for name in first.inputs},
        can_subset=several,
        **{key: value for key, value in options[first.name].items() if key in _OF_STEPS},
        **gpu,
    )
    def make(
        context: dg.AssetExecutionContext, storage: StorageResource, engine: EngineResource, **loaded: Any
    ) -> Iterator[AnyOutput]:
        planner = Planner(Dataset(spec, storage.open()))
        selected = context.op_execution_context.selected_output_names
        plans = {
            asset.name: _Plans(planner, asset, loaded, lambda state: context.log.info(str(state)))
            for asset in assets
            if asset.name in selected
        }
        planned = {name: plan_partitions(context.partition_keys, its) for name, its in plans.items()}
        seconds = _make_together(context, engine, planner, planned) if len(planned) > 1 else {}
        for name in sorted(planned, key=lambda name: _fails(planned[name])):  # the step ends with the first that does
            yield output_of(context, name, options[name]["key"], planned[name], plans[name].again, seconds)

    return make


def _make_together(
    context: dg.AssetExecutionContext, engine: EngineResource, planner: Planner, planned: Mapping[str, Planned]
) -> dict[str, float]:
    """Make the shards of several assets, and put the sets, or why they cannot be made, in the place of those planned.

    Returns how many seconds each partition took for one of them.
    """
    seconds = {}
    with engine.open(context.log.info) as opened:
        for partition in context.partition_keys:
            started = time.monotonic()
            sets = {name: each[partition] for name, each in planned.items()}
            good = {name: each for name, each in sets.items() if isinstance(each, LazyShardSet)}
            progress = for_a_log(lambda state: context.log.info(str(state)))
            for name, made in make_together(planner, partition, good, opened, progress).items():
                planned[name][partition] = made
            seconds[partition] = (time.monotonic() - started) / len(planned)
    return seconds


def _fails(planned: Planned) -> bool:
    return any(isinstance(each, ShardmillError) for each in planned.values())


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
