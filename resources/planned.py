"""What an asset hands to the IO manager: for each partition of the run what is to be made, or why nothing can be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardmill.errors import ShardmillError
from shardmill.graph import LazyShardSet


@dataclass(frozen=True)
class PlannedPartitions:
    """The partitions of one run, in order."""

    partitions: Mapping[str, LazyShardSet | ShardmillError]
    again: Callable[[str], LazyShardSet]
    """Plans a partition with what stands now, where another run was first to commit it."""
    describe: Callable[[str, Mapping[str, Any]], None]
    """Takes a partition and metadata for its materialization."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What partitions took that were made, with other assets, before they are committed."""
