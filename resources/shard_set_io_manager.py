"""The IO manager of every Shardmill asset: runs lazy shard sets into place, commits, and says what came out."""

import time
from collections.abc import Mapping

import dagster as dg

from resources.engine import LocalEngineResource
from resources.failures import failure
from resources.metadata import describe_shard_set, describe_shard_sets
from resources.storage import StorageResource
from shardmill.errors import ShardmillError
from shardmill.progress import Progress, for_a_log
from shardmill.shards.layout import Suffix
from shardmill.stages.shard_set import LazyShardSet, ShardSet
from shardmill.storage import absolute_uri, join_uri

ROOT = "shardmill/root"
SUFFIX = "shardmill/suffix"
MAX_REJECT_RATIO = "shardmill/max_reject_ratio"
MASKS = "shardmill/masks"
"""Definition metadata of an asset that the IO manager reads."""


class ShardSetIOManager(dg.ConfigurableIOManager):
    """Stores `LazyShardSet`s and loads `ShardSet`s at `<root>/<asset key>/<partition>`.

    A run over several partitions hands over, and is handed, a dict from partition to set.
    """

    storage: dg.ResourceDependency[StorageResource]
    engine: dg.ResourceDependency[LocalEngineResource]

    def handle_output(self, context: dg.OutputContext, obj: LazyShardSet | Mapping[str, LazyShardSet]) -> None:
        """Run, commit and describe each partition. A failure leaves the partition's last commit as it was."""
        partitions = list(context.asset_partition_keys)
        by_partition = {partitions[0]: obj} if isinstance(obj, LazyShardSet) else obj
        written: dict[str, ShardSet] = {}
        started = time.monotonic()
        for partition, lazy in by_partition.items():
            written[partition] = self._write(context, partition, lazy)
        seconds = time.monotonic() - started
        try:
            if len(written) == 1:
                masks = context.definition_metadata[MASKS]
                metadata = describe_shard_set(written[partitions[0]], seconds, masks)
            else:
                metadata = describe_shard_sets(written, seconds)
        except Exception as error:  # a picture that cannot be drawn is no reason to fail what is committed
            context.log.warning(f"committed, and could not be described: {type(error).__name__}: {error}")
        else:
            context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> ShardSet | dict[str, ShardSet]:
        """The committed set of each partition asked for. Raises `dg.Failure` if one is not there."""
        upstream = context.upstream_output
        assert upstream is not None
        suffix: Suffix = upstream.definition_metadata[SUFFIX]
        loaded: dict[str, ShardSet] = {}
        for partition in context.asset_partition_keys:
            try:
                loaded[partition] = ShardSet.open(self.storage.open(), _folder(upstream, partition), suffix)
            except FileNotFoundError as error:
                name = "/".join([*upstream.asset_key.path, partition])
                text = f"{name} has to be materialized first: nothing is committed in {_folder(upstream, partition)}"
                raise dg.Failure(text, allow_retries=False) from error
            except ShardmillError as error:
                raise failure(error) from error
        return next(iter(loaded.values())) if len(loaded) == 1 else loaded

    def _write(self, context: dg.OutputContext, partition: str, lazy: LazyShardSet) -> ShardSet:
        folder = _folder(context, partition)
        name = "/".join([*context.asset_key.path, partition])
        ratio = context.definition_metadata[MAX_REJECT_RATIO]

        def log(progress: Progress) -> None:
            context.log.info(str(progress))

        try:
            engine = self.engine.open(context.log.info)
            result = lazy.write(self.storage.open(), folder, name, engine, ratio, for_a_log(log))
        except ShardmillError as error:
            raise failure(error) from error
        total = len(result.commit.shards)
        context.log.info(f"{name}: {result.made} of {total} shards made, {total - result.made} stood already")
        return result


def _folder(context: dg.OutputContext, partition: str) -> str:
    root = absolute_uri(context.definition_metadata[ROOT])
    return join_uri(root, "/".join([*context.asset_key.path, partition]))
