"""The IO manager of every Shardmill asset: runs lazy shard sets into place, commits, and says what came out."""

import time
from collections.abc import Callable

import dagster as dg

from resources.engine import EngineResource
from resources.failures import failure, partial_failure
from resources.metadata import describe_shard_set
from resources.planned import PlannedPartitions
from resources.storage import StorageResource
from shardmill.dataset import WHOLE
from shardmill.engines import Engine
from shardmill.errors import ConfigurationError, ConflictError, ShardmillError
from shardmill.graph import LazyShardSet
from shardmill.left_out import described
from shardmill.progress import Progress, for_a_log
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.storage import Storage, absolute_uri, join_uri

ROOT = "shardmill/root"
SCOPE = "shardmill/scope"
MAX_REJECT_RATIO = "shardmill/max_reject_ratio"
KEEP_SUPERSEDED = "shardmill/keep_superseded"
MASKS = "shardmill/masks"
"""Definition metadata of an asset that the IO manager reads."""
EACH_ALONE = "shardmill/each_alone"
"""Likewise of an input."""

_TRIES = 5


class ShardSetIOManager(dg.ConfigurableIOManager):
    """Stores lazy shard sets and loads `ShardSet`s, at `<root>/<asset key>/<partition>`."""

    storage: dg.ResourceDependency[StorageResource]
    engine: dg.ResourceDependency[EngineResource]

    def handle_output(self, context: dg.OutputContext, obj: PlannedPartitions | LazyShardSet) -> None:
        """Run, commit and describe each partition; a bare `LazyShardSet` is that of the run's one partition.

        A failure leaves the partition's last commit as it was, and the other partitions are made nevertheless. The step
        fails in the end; its metadata say which partitions failed and which ranges are left to carry on with.
        """
        if isinstance(obj, LazyShardSet):
            lazy = obj
            obj = PlannedPartitions(
                {context.partition_key: lazy}, lambda _: lazy, lambda _, data: context.add_output_metadata({**data})
            )
        failed: dict[str, ShardmillError] = {}
        with self.engine.open(context.log.info) as engine:
            self._write_all(context, obj, engine, failed)
        if failed:
            raise partial_failure(list(obj.partitions), failed)

    def _write_all(
        self, context: dg.OutputContext, obj: PlannedPartitions, engine: Engine, failed: dict[str, ShardmillError]
    ) -> None:
        """Each partition with the same engine, whose processes and models last over all of them."""
        for partition, planned in obj.partitions.items():
            started = time.monotonic()
            try:
                if isinstance(planned, ShardmillError):
                    raise planned
                made = self._write(context, partition, planned, obj.again, engine)
            except ShardmillError as error:
                failed[partition] = error
                if len(obj.partitions) > 1:
                    context.log.error(f"{partition} failed: {error}")
            else:
                seconds = time.monotonic() - started + obj.seconds.get(partition, 0.0)
                self._describe(context, made, partition, seconds, obj)

    def load_input(self, context: dg.InputContext) -> ShardSet | dict[str, ShardSet | ShardmillError]:
        """The committed set, or a dict of those of several partitions.

        Where the input's metadata say `EACH_ALONE`, and there are several, the error of loading one stands in the dict
        in the place of its set.

        Raises:
            dg.Failure: Otherwise, if one is not there or cannot be read.
        """
        upstream = context.upstream_output
        assert upstream is not None
        storage, partitions = self.storage.open(), list(context.asset_partition_keys)
        each_alone = context.definition_metadata.get(EACH_ALONE) and len(partitions) > 1
        loaded: dict[str, ShardSet | ShardmillError] = {}
        for partition in partitions:
            try:
                loaded[partition] = _load(storage, upstream, partition)
            except ShardmillError as error:
                if not each_alone:
                    raise failure(error) from error
                loaded[partition] = error
        only = next(iter(loaded.values()))
        return only if len(loaded) == 1 and isinstance(only, ShardSet) else loaded

    def _write(
        self,
        context: dg.OutputContext,
        partition: str,
        lazy: LazyShardSet,
        again: Callable[[str], LazyShardSet],
        engine: Engine,
    ) -> ShardSet:
        """Run and commit one partition.

        The data version has been handed to Dagster by now, so that nothing else than what was planned can be written.

        Raises:
            ConflictError: Another run was first, and something else is to be made now: a retry plans that.
        """
        folder, storage = _folder(context, partition), self.storage.open()
        name = "/".join([*context.asset_key.path, _place(context, partition)])
        ratio = context.definition_metadata[MAX_REJECT_RATIO]
        keep = context.definition_metadata.get(KEEP_SUPERSEDED, 0.0)

        def log(progress: Progress) -> None:
            context.log.info(str(progress))

        for left in reversed(range(_TRIES)):
            try:
                result = lazy.write(storage, folder, name, engine, ratio, for_a_log(log), keep)
                break
            except ConflictError as error:
                anew = again(partition) if left else None
                if anew is None or anew.digest != lazy.digest:
                    raise
                lazy = anew
                context.log.info(f"{error}. Trying again")
        total = len(result.commit.shards)
        samples = f"; {result.computed:,} samples computed, {result.copied:,} copied" if result.made else ""
        context.log.info(f"{name}: {result.made} of {total} shards made, {total - result.made} stood already{samples}")
        for warning in result.commit.warnings if result.made else ():
            context.log.warning(warning)
        if result.commit.left_out_sha256:
            commit = result.commit
            context.log.info(f"{name}: {commit.listed:,} objects listed, {described(commit.left_out)}")
        return result

    def _describe(
        self, context: dg.OutputContext, made: ShardSet, partition: str, seconds: float, planned: PlannedPartitions
    ) -> None:
        try:
            metadata = describe_shard_set(made, seconds, context.definition_metadata[MASKS])
        except Exception as error:  # a picture that cannot be drawn is no reason to fail what is committed
            context.log.warning(
                f"{partition} is committed, and could not be described: {type(error).__name__}: {error}"
            )
        else:
            planned.describe(partition, metadata)


def _load(storage: Storage, upstream: dg.OutputContext, partition: str) -> ShardSet:
    folder = _folder(upstream, partition)
    try:
        return open_shards(folder, storage)
    except FileNotFoundError:
        name = "/".join([*upstream.asset_key.path, _place(upstream, partition)])
        raise ConfigurationError(f"{name} has to be materialized first: nothing is committed in {folder}") from None


def _folder(context: dg.OutputContext, partition: str) -> str:
    root = absolute_uri(context.definition_metadata[ROOT])
    return join_uri(root, "/".join([*context.asset_key.path, _place(context, partition)]))


def _place(context: dg.OutputContext, partition: str) -> str:
    """An asset that the dataset has once stands in one folder, whichever partition's run makes it."""
    return WHOLE if context.definition_metadata.get(SCOPE) == "dataset" else partition
