"""What an engine is: it maps a stage over shards, somewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from shardmill.engines.making import MakeShard, PlannedShard
from shardmill.shards.commit import ShardEntry
from shardmill.stages.stage import Stage
from shardmill.storage import Storage


class Engine(Protocol):
    """Maps stages over shards. What is expensive to start (processes, leases, models) lasts while it is open.

    A `with` block opens it, for a run over as many assets and partitions as it takes; outside of one each call opens it
    for itself.
    """

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def check(self, stage: Stage[Any], task: str) -> None:
        """Refuse, before anything is done, a stage for which it is known that what it needs is not to be had.

        Raises:
            ConfigurationError: `task` needs devices, or a runtime, that are not here.
        """

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Generator[ShardEntry]:
        """Make and publish every shard; entries come in any order, as they are done.

        Where the stage asks for GPUs, each process that runs it has a CUDA device to itself. `advance` is called in the
        caller's process with numbers of finished samples; an exception that it raises cancels the run, and so does
        closing it.

        Raises:
            EngineError: The stage failed on a shard, which it names; shards published by then stay and are found again.
            ConfigurationError: The stage needs devices that are not to be had.
        """
