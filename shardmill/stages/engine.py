"""What an engine is, for the code that uses one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from shardmill.shards.commit import ShardEntry
from shardmill.stages.stage import MakeShard, PlannedShard
from shardmill.storage import Storage


class Engine(Protocol):
    """Maps a stage over shards."""

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Iterator[ShardEntry]:
        """Make and publish every shard; entries come in any order, as they are done.

        Where the stage has a `gpu`, each process that runs it has a CUDA device to itself.

        `advance` is called in the caller's process with numbers of finished samples; an exception that it raises
        cancels the run. Raises EngineError, naming the shard, when the stage fails on one; shards published by then
        stay and are found again by the next run.
        """
