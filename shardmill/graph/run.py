"""Running: a partition is brought up to date, asset by asset, without Dagster."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping

from shardmill.dataset import Dataset
from shardmill.engines import Engine, LocalEngine
from shardmill.errors import ConflictError, ShardmillError
from shardmill.graph.asset import Asset
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.graph.planner import Planner
from shardmill.graph.together import make_together
from shardmill.progress import ProgressSink, silent
from shardmill.shards.reader import ShardSet

logger = logging.getLogger(__name__)

_TRIES = 5
"""Plans that are made of one asset, where other runs commit something else meanwhile."""
_LONGEST_WAIT_SECONDS = 1.0


def run(
    dataset: Dataset | Planner, partition: str, engine: Engine | None = None, progress: ProgressSink = silent
) -> Iterator[tuple[str, ShardSet]]:
    """Bring a partition up to date: yields each asset's name and what is committed of it now, in the graph's order.

    For several partitions give a `Planner` and an engine that is open (`with LocalEngine() as engine:`): weights,
    processes and models then last from one to the next. Mistakes in the dataset file show before anything is done.
    """
    planner = dataset if isinstance(dataset, Planner) else Planner(dataset)
    planner.dataset.check(partition)
    engine = LocalEngine() if engine is None else engine
    planner.check(partition, engine)
    with engine as opened:
        sets: dict[str, ShardSet] = {}
        begun: dict[str, LazyShardSet | ShardmillError] = {}
        for asset in planner.graph:
            if asset.name not in begun:
                begun |= _begin(planner, asset, partition, sets, opened, progress)
            try:
                sets[asset.name] = make(planner, asset, partition, sets, opened, progress, begun.pop(asset.name, None))
            except ShardmillError:
                for name, lazy in begun.items():  # what was made with it is committed nevertheless
                    try:
                        made = make(planner, planner.graph[name], partition, sets, opened, progress, lazy)
                    except ShardmillError as error:
                        logger.warning("%s of %s is not made either: %s", name, partition, error)
                    else:
                        yield name, made
                raise
            yield asset.name, sets[asset.name]


def _begin(
    planner: Planner,
    asset: Asset,
    partition: str,
    sets: Mapping[str, ShardSet],
    engine: Engine,
    progress: ProgressSink,
) -> dict[str, LazyShardSet | ShardmillError]:
    """Make the shards of an asset and of those that are made with it in one pass; nothing where it is alone."""
    siblings = planner.graph.siblings(asset)
    if len(siblings) < 2:
        return {}
    planned = {each.name: planner.plan(each, partition, sets, progress=progress) for each in siblings}
    return make_together(planner, partition, planned, engine, progress)


def make(
    planner: Planner,
    asset: Asset,
    partition: str,
    sets: Mapping[str, ShardSet],
    engine: Engine,
    progress: ProgressSink = silent,
    begun: LazyShardSet | ShardmillError | None = None,
) -> ShardSet:
    """Plan and write an asset's partition, again where another run was first with something else.

    What is `begun` is not planned first: its shards are made, or cannot be.

    Raises:
        ConflictError: Others are first time and again.
    """
    if isinstance(begun, ShardmillError):
        raise begun
    for left in reversed(range(_TRIES)):
        try:
            lazy, begun = begun or planner.plan(asset, partition, sets, progress=progress), None
            return write(planner.dataset, asset, partition, lazy, engine, progress)
        except ConflictError:
            if not left:
                raise
            time.sleep(random.uniform(0, _LONGEST_WAIT_SECONDS))
            planner.forget()
            sets = {name: shards.newest() for name, shards in sets.items()}
    raise AssertionError


def write(
    dataset: Dataset,
    asset: Asset,
    partition: str,
    lazy: LazyShardSet,
    engine: Engine,
    progress: ProgressSink = silent,
) -> ShardSet:
    """Make and commit an asset's partition, as `LazyShardSet.write` does."""
    place, spec = asset.place(partition), dataset.spec
    folder, name = dataset.folder(asset.name, place), dataset.name(asset.name, place)
    return lazy.write(dataset.storage, folder, name, engine, spec.max_reject_ratio, progress, spec.keep_superseded)
