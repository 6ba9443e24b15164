"""What tests say of a dataset with one transform and one embedder."""

from collections.abc import Mapping

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.engines import LocalEngine
from shardmill.graph import LazyShardSet, Planner, write
from shardmill.shards.reader import ShardSet

ASSETS = ("raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map")
"""Those that it has for each partition, in the order in which they are made."""
BASIS = "embedding_basis"
"""The one that it has once."""


def plan(dataset: Dataset, asset: str, partition: str, sets: Mapping[str, ShardSet] | None = None) -> LazyShardSet:
    """What a partition of an asset should be, of these sets of its inputs."""
    planner = Planner(dataset)
    return planner.plan(planner.graph[asset], partition, sets or {})


def make(dataset: Dataset, asset: str, partition: str, lazy: LazyShardSet, engine: LocalEngine) -> ShardSet:
    """Make and commit what was planned."""
    return write(dataset, Planner(dataset).graph[asset], partition, lazy, engine)


def states(dataset: Dataset, partition: str = "p") -> list[str]:
    """Of `ASSETS`, in their order."""
    return [found.state for found in graph.states(dataset, partition) if found.asset in ASSETS]
