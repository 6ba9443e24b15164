"""Making the shards of several assets in one pass over those that they are made of."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace

from shardmill.dataset import Dataset
from shardmill.engines import Engine
from shardmill.engines.making import EntryOfSeveral, MakeShard, PlannedShard
from shardmill.errors import ConfigurationError, ConflictError, ShardmillError
from shardmill.graph.asset import Asset
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.graph.planner import Planner
from shardmill.progress import ProgressMeter, ProgressSink, silent
from shardmill.shards.commit import ShardEntry, read_commit
from shardmill.stages.stage import Resources

logger = logging.getLogger(__name__)


def make_together(
    planner: Planner,
    partition: str,
    planned: Mapping[str, LazyShardSet],
    engine: Engine,
    progress: ProgressSink = silent,
) -> dict[str, LazyShardSet | ShardmillError]:
    """Make the missing shards of a partition of several assets, those of equal inputs in one pass. Commits nothing.

    Returns each set of `planned`, by asset, with what was made of it; or why its shards cannot be made. One that fails
    keeps none of the others back: where a pass over several fails, what it has published stays, and each goes on alone.
    """
    sets = [_Set(planner.dataset, planner.graph[name], partition, lazy) for name, lazy in planned.items()]
    found: dict[str, LazyShardSet | ShardmillError] = {}
    for several in _lacking_the_same(sets):
        try:
            _pass_over(several, engine, progress)
        except ShardmillError as error:
            names = ", ".join(each.asset for each in several)
            logger.warning("%s of %s are made one after the other: %s", names, partition, error)
    for each in sets:
        try:
            with suppress(ConflictError):  # its commit says what it is about
                _pass_over({each: list(each.todo)}, engine, progress)
            found[each.asset] = replace(each.lazy, made=each.made)
        except ShardmillError as error:
            found[each.asset] = error
    return found


class _Set:
    """What is to be made of one asset's partition."""

    def __init__(self, dataset: Dataset, asset: Asset, partition: str, lazy: LazyShardSet) -> None:
        place = asset.place(partition)
        self.storage, self.asset, self.lazy = dataset.storage, asset.name, lazy
        self.name = dataset.name(asset.name, place)
        self.layout = dataset.layout(asset.name, place)
        self.make = MakeShard(lazy.stage, self.layout)
        committed, _ = read_commit(self.storage, self.layout)
        standing = lazy.standing(self.storage, self.layout.folder, committed)
        missing = lazy.missing(self.storage, self.layout, committed, standing)
        self.todo = {shard.id: shard for shard in missing}
        self.made: dict[str, ShardEntry] = {}

    @property
    def needs(self) -> Resources | None:
        """What a process needs that makes its shards; None where that is not to be had here."""
        try:
            return self.lazy.stage.resources
        except ConfigurationError:
            return None

    def take(self, entry: ShardEntry) -> None:
        """Note what was made."""
        self.made[self.todo.pop(entry.id).fingerprint] = entry


def _lacking_the_same(sets: Sequence[_Set]) -> list[dict[_Set, list[str]]]:
    """Sets that can share a process and lack the same shards, with the ids of these; no set alone."""
    lacking: dict[tuple[_Set, ...], list[str]] = defaultdict(list)
    needs = {each: each.needs for each in sets}
    for kind in dict.fromkeys(need for need in needs.values() if need is not None):
        alike = [each for each in sets if needs[each] == kind]
        for shard in dict.fromkeys(shard for each in alike for shard in each.todo):
            who = [each for each in alike if shard in each.todo]
            its = who[0].todo[shard].input.identity()
            lacking[tuple(each for each in who if each.todo[shard].input.identity() == its)].append(shard)
    return [dict.fromkeys(several, shards) for several, shards in lacking.items() if len(several) > 1]


def _pass_over(several: Mapping[_Set, Sequence[str]], engine: Engine, progress: ProgressSink) -> None:
    """Make the shards with these ids, the same of each set."""
    first, *others = several
    shards: list[PlannedShard] = [
        replace(first.todo[shard], beside=tuple((each.make, each.todo[shard]) for each in others))
        for shard in several[first]
    ]
    if not shards:
        return
    for each in several:
        each.storage.check_writable(each.layout.side)
        each.storage.check_movable(each.layout.side, each.layout.folder)
    task = f"{first.lazy.stage.name} {', '.join(each.name for each in several)}"
    meter = ProgressMeter(task, sum(shard.samples for shard in shards), progress)
    with closing(engine.run(first.make, shards, first.storage, meter.advance)) as run:
        for entry in run:
            entries = entry.each if isinstance(entry, EntryOfSeveral) else (entry,)
            for each, its in zip(several, entries, strict=True):
                each.take(its)
