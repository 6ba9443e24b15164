"""Shardmill's data plane: a library that imports neither Dagster nor, when it loads, torch.

The names here are for scripts; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardmill.dataset import Dataset, DatasetSpec, load_dataset
    from shardmill.embedders import Embedder, EmbedderSpec
    from shardmill.engines import LocalEngine
    from shardmill.errors import Rejected, ShardmillError
    from shardmill.graph import AssetState, Planner, run, states
    from shardmill.samples import EncodedSample
    from shardmill.shards.reader import ShardSet, open_shards
    from shardmill.stages import RowStage, SampleStage, Stage
    from shardmill.storage import GCSCredentials, S3Credentials, Storage, load_credentials
    from shardmill.torchvision_compat import import_torchvision
    from shardmill.transforms import DecodedSample

__version__ = "0.1.0"

_HOMES = {
    "AssetState": "shardmill.graph",
    "Dataset": "shardmill.dataset",
    "DatasetSpec": "shardmill.dataset",
    "DecodedSample": "shardmill.transforms",
    "Embedder": "shardmill.embedders",
    "EmbedderSpec": "shardmill.embedders",
    "EncodedSample": "shardmill.samples",
    "GCSCredentials": "shardmill.storage",
    "LocalEngine": "shardmill.engines",
    "Planner": "shardmill.graph",
    "Rejected": "shardmill.errors",
    "RowStage": "shardmill.stages",
    "S3Credentials": "shardmill.storage",
    "SampleStage": "shardmill.stages",
    "ShardSet": "shardmill.shards.reader",
    "ShardmillError": "shardmill.errors",
    "Stage": "shardmill.stages",
    "Storage": "shardmill.storage",
    "import_torchvision": "shardmill.torchvision_compat",
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
    "DecodedSample",
    "Embedder",
    "EmbedderSpec",
    "EncodedSample",
    "GCSCredentials",
    "LocalEngine",
    "Planner",
    "Rejected",
    "RowStage",
    "S3Credentials",
    "SampleStage",
    "ShardSet",
    "ShardmillError",
    "Stage",
    "Storage",
    "import_torchvision",
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
