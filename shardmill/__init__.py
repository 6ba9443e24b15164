"""Shardmill's data plane: a library that imports neither Dagster nor, when it loads, torch.

The names here are for scripts; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardmill.dataset import Dataset, DatasetSpec, load_dataset
    from shardmill.engines import LocalEngine
    from shardmill.errors import ShardmillError
    from shardmill.graph import AssetState, Planner, run, states
    from shardmill.samples import EncodedSample
    from shardmill.shards.reader import ShardSet, open_shards
    from shardmill.stages import RowStage, SampleStage, Stage
    from shardmill.storage import GCSCredentials, S3Credentials, Storage, load_credentials

__version__ = "0.1.0"

_HOMES = {
    "AssetState": "shardmill.graph",
    "Dataset": "shardmill.dataset",
    "DatasetSpec": "shardmill.dataset",
    "EncodedSample": "shardmill.samples",
    "GCSCredentials": "shardmill.storage",
    "LocalEngine": "shardmill.engines",
    "Planner": "shardmill.graph",
    "RowStage": "shardmill.stages",
    "S3Credentials": "shardmill.storage",
    "SampleStage": "shardmill.stages",
    "ShardSet": "shardmill.shards.reader",
    "ShardmillError": "shardmill.errors",
    "Stage": "shardmill.stages",
    "Storage": "shardmill.storage",
    "load_credentials": "shardmill.storage",
    "load_dataset": "shardmill.dataset",
    "open_shards": "shardmill.shards.reader",
    "run": "shardmill.graph",
    "states": "shardmill.graph",
}

__all__ = [
    "AssetState",
    "Dataset",
    "DatasetSpec",
    "EncodedSample",
    "GCSCredentials",
    "LocalEngine",
    "Planner",
    "RowStage",
    "S3Credentials",
    "SampleStage",
    "ShardSet",
    "ShardmillError",
    "Stage",
    "Storage",
    "load_credentials",
    "load_dataset",
    "open_shards",
    "run",
    "states",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shardmill' has no attribute {name!r}")
