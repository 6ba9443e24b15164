"""Shardmill's data plane: a library that imports neither Dagster nor, when it loads, torch.

The names here are for scripts; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardmill.dataset import Dataset, DatasetSpec, load_dataset
    from shardmill.embedders import Embedder, EmbedderSpec, NetEmbedder, Preset, TextEmbedder, read_state_dict
    from shardmill.engines import LocalEngine
    from shardmill.errors import Rejected, ShardmillError
    from shardmill.graph import AssetState, Planner, run, states
    from shardmill.loading import Loader, Mixture, SampleTable, ShardStream, ThroughServer
    from shardmill.samples import EncodedSample
    from shardmill.serving.server import DatasetServer
    from shardmill.shards.reader import ShardSet, open_shards
    from shardmill.stages import FileStage, InputFile, OutputFile, Resources, RowStage, SampleStage, Stage
    from shardmill.storage import GCSCredentials, S3Credentials, Storage, load_credentials
    from shardmill.torchvision_compat import import_torchvision
    from shardmill.transforms import DecodedSample, TransformSpec

__version__ = "0.1.0"

_HOMES = {
    "AssetState": "shardmill.graph",
    "Dataset": "shardmill.dataset",
    "DatasetServer": "shardmill.serving.server",
    "DatasetSpec": "shardmill.dataset",
    "DecodedSample": "shardmill.transforms",
    "Embedder": "shardmill.embedders",
    "EmbedderSpec": "shardmill.embedders",
    "EncodedSample": "shardmill.samples",
    "FileStage": "shardmill.stages",
    "GCSCredentials": "shardmill.storage",
    "InputFile": "shardmill.stages",
    "Loader": "shardmill.loading",
    "LocalEngine": "shardmill.engines",
    "Mixture": "shardmill.loading",
    "NetEmbedder": "shardmill.embedders",
    "OutputFile": "shardmill.stages",
    "Planner": "shardmill.graph",
    "Preset": "shardmill.embedders",
    "Rejected": "shardmill.errors",
    "Resources": "shardmill.stages",
    "RowStage": "shardmill.stages",
    "S3Credentials": "shardmill.storage",
    "SampleStage": "shardmill.stages",
    "SampleTable": "shardmill.loading",
    "ShardSet": "shardmill.shards.reader",
    "ShardStream": "shardmill.loading",
    "ShardmillError": "shardmill.errors",
    "Stage": "shardmill.stages",
    "Storage": "shardmill.storage",
    "TextEmbedder": "shardmill.embedders",
    "ThroughServer": "shardmill.loading",
    "TransformSpec": "shardmill.transforms",
    "import_torchvision": "shardmill.torchvision_compat",
    "load_credentials": "shardmill.storage",
    "load_dataset": "shardmill.dataset",
    "open_shards": "shardmill.shards.reader",
    "read_state_dict": "shardmill.embedders",
    "run": "shardmill.graph",
    "states": "shardmill.graph",
}

__all__ = [
    "AssetState",
    "Dataset",
    "DatasetServer",
    "DatasetSpec",
    "DecodedSample",
    "Embedder",
    "EmbedderSpec",
    "EncodedSample",
    "FileStage",
    "GCSCredentials",
    "InputFile",
    "Loader",
    "LocalEngine",
    "Mixture",
    "NetEmbedder",
    "OutputFile",
    "Planner",
    "Preset",
    "Rejected",
    "Resources",
    "RowStage",
    "S3Credentials",
    "SampleStage",
    "SampleTable",
    "ShardSet",
    "ShardStream",
    "ShardmillError",
    "Stage",
    "Storage",
    "TextEmbedder",
    "ThroughServer",
    "TransformSpec",
    "import_torchvision",
    "load_credentials",
    "load_dataset",
    "open_shards",
    "read_state_dict",
    "run",
    "states",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shardmill' has no attribute {name!r}")
