"""Shardmill's data plane: a library that imports neither Dagster nor, when it loads, torch.

What is named here is for scripts, and is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardmill.shards.reader import ShardSet, open_shards
    from shardmill.storage import Storage, load_credentials

__version__ = "0.1.0"

__all__ = ["ShardSet", "Storage", "load_credentials", "open_shards"]

_HOMES = {
    "ShardSet": "shardmill.shards.reader",
    "Storage": "shardmill.storage",
    "load_credentials": "shardmill.storage",
    "open_shards": "shardmill.shards.reader",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shardmill' has no attribute {name!r}")
