"""Planning: what an asset's partition is to be, given what it is made of. Nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from threading import RLock
from typing import Any

from shardmill.dataset import Dataset
from shardmill.engines.protocol import Engine
from shardmill.errors import ConfigurationError
from shardmill.graph.asset import Asset, Cut, Inputs
from shardmill.graph.build import Graph, build_graph
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.progress import ProgressSink, silent
from shardmill.shards.commit import Commit, read_commit
from shardmill.shards.reader import ShardSet
from shardmill.stages.stage import Stage

logger = logging.getLogger(__name__)
_RATES = 10
"""Partitions that are asked how long a sample takes: the first may be empty."""


class Planner:
    """Plans the assets of a dataset. Every stage is resolved once, when it is first needed: keep one for a run."""

    def __init__(self, dataset: Dataset) -> None:
        """Build the graph of `dataset`.

        Raises:
            ConfigurationError: The dataset file declares none.
        """
        self.dataset = dataset
        self._stages: dict[str, Stage[Any]] = {}
        self._rates: dict[str, float | None] = {}
        self._shared: dict[tuple[str, str], Cut] = {}
        self._lock = RLock()
        self._has_warned = False
        self._graph: Graph = build_graph(dataset.spec)

    @property
    def graph(self) -> Graph:
        """The assets of the dataset."""
        return self._graph

    def stage(self, asset: Asset) -> Stage[Any]:
        """The stage of an asset, resolved.

        Raises:
            ConfigurationError: What the dataset file asks of it cannot work.
        """
        with self._lock:  # several threads may look at partitions at once
            if asset.name not in self._stages:
                try:
                    resolved = asset.stage.resolve(self.dataset.storage)
                    if asset.stage.imported_from and resolved is not asset.stage:
                        resolved.is_declared(asset.stage.imported_from, asset.stage.given)
                    self._stages[asset.name] = resolved
                except ConfigurationError as error:
                    raise type(error)(f"{asset.field or asset.name}: {error}") from error
            return self._stages[asset.name]

    def forget(self) -> None:
        """Resolve stages anew: something that they were resolved to has changed."""
        with self._lock:
            self._stages.clear()
            self._shared.clear()

    def shared_cut(self, asset: Asset, inputs: Inputs, commit: Commit) -> Cut:
        """The cut of what the dataset has once, for a look at what stands: made once for each commit of it."""
        key = asset.name, commit.digest
        with self._lock:
            if key not in self._shared:
                self._shared[key] = self.cut(asset, inputs)
            return self._shared[key]

    def seconds_a_sample(self, asset: Asset, commit: Commit | None) -> float | None:
        """What a sample took when this commit was made; where there is none, another partition's. None: never made."""
        rate = _rate(commit)
        if rate is not None:
            return rate
        with self._lock:
            if asset.name not in self._rates:
                names = islice((name for name, _ in self.dataset.listed_commits(asset.name)), _RATES)
                stored = (self.dataset.stored(asset.name, name) for name in names)
                rates = (_rate(shards.commit) for shards in stored if shards is not None)
                self._rates[asset.name] = next((rate for rate in rates if rate is not None), None)
            return self._rates[asset.name]

    def check(self, partition: str = "", engine: Engine | None = None) -> None:
        """Refuse, before anything is done, what cannot work: for a partition, on an engine, or wherever.

        Raises:
            ConfigurationError: Operations, weights or devices that are asked for will not do.
        """
        self._warn()
        for asset in self._graph:
            stage = self.stage(asset)
            try:
                stage.check(self.dataset.storage)
            except ConfigurationError as error:
                raise type(error)(f"{asset.field or asset.name}: {error}") from error
            if engine is not None:
                engine.check(stage, self.dataset.name(asset.name, partition))

    def _warn(self) -> None:
        """Say once which fields of the dataset file apply to nothing."""
        spec, has_warned = self.dataset.spec, self._has_warned
        self._has_warned = True
        if has_warned or spec.all_embedders:
            return
        for name in ("class_names", "min_same_class_rate"):
            if getattr(spec, name):
                logger.warning(
                    "%s: %s applies to nothing: it is for embeddings, and there is no embedder", spec.name, name
                )

    def cut(self, asset: Asset, inputs: Inputs) -> Cut:
        """How the inputs are cut.

        Raises:
            ConfigurationError: The inputs do not fit together.
        """
        return asset.cut(asset, self.stage(asset), inputs)

    def plan(
        self,
        asset: Asset,
        partition: str,
        sets: Mapping[str, ShardSet],
        planned: Mapping[str, LazyShardSet] | None = None,
        progress: ProgressSink = silent,
    ) -> LazyShardSet:
        """What a partition of an asset should be, of these sets of its inputs, some of which may only be `planned`.

        `progress` is told how far a look at the source has come, where that takes requests.

        Raises:
            ConfigurationError: One of its inputs is not in `sets`, or they do not fit together.
        """
        missing = [name for name in asset.inputs if name not in sets]
        if missing:
            raise ConfigurationError(f"{asset.name} of {partition} is made of {missing[0]}: materialize that first")
        # What the world outside holds is looked at after the commit is read: another run may commit meanwhile.
        layout = self.dataset.layout(asset.name, asset.place(partition))
        base = None if asset.inputs else read_commit(self.dataset.storage, layout)
        cut = self.cut(asset, Inputs(self.dataset, partition, sets, planned or {}, progress))
        shards = cut.shards()
        left_out = cut.left_out() if cut.left_out else None
        return LazyShardSet(self.stage(asset), shards, cut.parameters, cut.order, cut.upstream, base, left_out)


def _rate(commit: Commit | None) -> float | None:
    return commit.seconds_a_sample if commit else None
