"""What an asset is: one kind of thing that a dataset has, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import WHOLE, Dataset
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.left_out import LeftOut
from shardmill.progress import ProgressSink, silent
from shardmill.shards.layout import Suffix
from shardmill.shards.reader import ShardSet
from shardmill.shards.slicing import Order
from shardmill.stages.stage import InputShard, Stage

Scope = Literal["partition", "dataset"]


@dataclass(frozen=True)
class Inputs:
    """What a partition of an asset is to be made of."""

    dataset: Dataset
    partition: str
    sets: Mapping[str, ShardSet]
    """Asset → its committed set, or the one that is foreseen."""
    planned: Mapping[str, LazyShardSet] = dataclasses.field(default_factory=dict)
    """Asset → how its set is to be made, where it is only foreseen."""
    progress: ProgressSink = silent
    """Is told how far the look at what the world outside holds has come."""

    def every(self, asset: str) -> Iterator[ShardSet]:
        """The sets of all partitions of an asset, in the order of their keys; of this partition that in `sets`."""
        known = {self.partition: mine} if (mine := self.sets.get(asset)) is not None else {}
        keys = sorted({*self.dataset.stored_partitions(asset), *known})

        def find(partition: str) -> ShardSet | None:
            return known[partition] if partition in known else self.dataset.stored(asset, partition)

        found = bounded_map(find, keys, REQUESTS_AT_ONCE, known.__contains__)
        return (shards for shards in found if shards is not None)


@dataclass(frozen=True)
class Cut:
    """Into which shards the inputs are cut, and all that decided it."""

    shards: Callable[[], Sequence[InputShard]]
    """Computed where they are needed: it shows without them whether anything has changed."""
    upstream: Mapping[str, ShardSet] = dataclasses.field(default_factory=dict)
    """The inputs, as far as another state of them means other shards."""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Plain JSON of what else decided."""
    order: Order = "hash"
    left_out: Callable[[], LeftOut] | None = None
    """Where something is listed for the shards, what of that belongs to none; asked for after `shards`."""


def shard_by_shard(asset: Asset, stage: Stage[Any], inputs: Inputs) -> Cut:  # noqa: ARG001
    """Each shard of the first input gives one."""
    first = inputs.sets[asset.inputs[0]]
    upstream = {name: inputs.sets[name] for name in asset.inputs}
    return Cut(lambda: first.shards, upstream, asset.declared, first.commit.order)


@dataclass(frozen=True)
class Asset:
    """One kind of thing that a dataset has for each partition, or once."""

    name: str
    stage: Stage[Any]
    """What makes its shards; not resolved."""
    inputs: tuple[str, ...] = ()
    """The assets that it is made of. An asset without any is made of what the world outside holds."""
    scope: Scope = "partition"
    cut: Callable[[Asset, Stage[Any], Inputs], Cut] = shard_by_shard
    description: str = ""
    kinds: frozenset[str] = frozenset()
    """What people know it as: shown in Dagster's UI."""
    masks: tuple[str, ...] = ()
    """Components of its samples that are label maps."""
    field: str = ""
    """Of the dataset file, that declares it: `transform`, `embedders.clip` …; empty if none does."""
    declared: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Plain JSON of what the dataset file says of it beside the stage: part of its code version."""

    @property
    def format(self) -> Suffix:
        """Of its data files."""
        return self.stage.suffix

    def place(self, partition: str) -> str:
        """The partition under which what belongs to `partition` is stored."""
        return partition if self.scope == "partition" else WHOLE
