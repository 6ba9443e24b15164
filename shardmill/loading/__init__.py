"""Reading shards in training: streams of samples, also through a server, and tables for random access.

The names here are imported when they are used: they import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardmill.loading.loader import Loader
    from shardmill.loading.mixture import Mixture
    from shardmill.loading.stream import ShardStream
    from shardmill.loading.table import SampleTable
    from shardmill.loading.through_server import ThroughServer

_HOMES = {
    "Loader": "loader",
    "Mixture": "mixture",
    "SampleTable": "table",
    "ShardStream": "stream",
    "ThroughServer": "through_server",
}

__all__ = ["Loader", "Mixture", "SampleTable", "ShardStream", "ThroughServer"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"shardmill.loading.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'shardmill.loading' has no attribute {name!r}")
