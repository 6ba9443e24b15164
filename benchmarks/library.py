"""What benchmarks call to declare a dataset and to make its assets, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardmill import Dataset, DatasetSpec, LocalEngine, Planner, ShardSet, Storage, graph, run

__all__ = ["STAGES", "Dataset", "LocalEngine", "declared", "made_before", "make", "make_all", "moved"]

STAGES: dict[str, str] = {
    "list": "raw_images",
    "pack": "webdataset_shards",
    "transform": "transformed_shards",
    "embed": "embeddings",
}
"""A stage, and the asset that it makes of the one before."""


def declared(spec: Mapping[str, Any], storage: Storage | None = None) -> Dataset:
    """The dataset that a dataset file with this content declares."""
    return Dataset(DatasetSpec.model_validate(spec), storage or Storage())


def moved(dataset: Dataset, root: str) -> Dataset:
    """The same dataset with another root."""
    return Dataset(dataset.spec.model_copy(update={"root": root}), dataset.storage)


def make(
    dataset: Dataset, stage: str, partition: str, upstream: ShardSet | None, engine: LocalEngine | int | None
) -> ShardSet:
    """Run one stage on a partition, over what the stage before it made, on an engine or on so many threads."""
    planner = Planner(dataset)
    asset = planner.graph[STAGES[stage]]
    sets = {asset.inputs[0]: upstream} if upstream is not None else {}
    engine = engine if isinstance(engine, LocalEngine) else LocalEngine(engine)
    return graph.make(planner, asset, partition, sets, engine)


def made_before(dataset: Dataset, stage: str, partition: str) -> ShardSet | None:
    """What the stage before this one made of a partition, in an earlier process; None before the first."""
    stages = list(STAGES)
    number = stages.index(stage)
    return dataset.stored(STAGES[stages[number - 1]], partition) if number else None


def make_all(dataset: Dataset, partition: str, workers: int | None) -> Iterator[ShardSet]:
    """Run every stage of `STAGES` on a partition, one after the other."""
    for asset, shards in run(dataset, partition, LocalEngine(workers)):
        yield shards
        if asset == STAGES["embed"]:
            return
