"""Embedders: a model with its own preprocessing, and the runtimes that compute it. Importing this imports no torch."""

from shardmill.embedders.net import NetEmbedder
from shardmill.embedders.preset import Preset
from shardmill.embedders.protocol import Embedder, TextEmbedder
from shardmill.embedders.registry import EMBEDDERS, check_model, load_embedder, preprocessing, weights_identity
from shardmill.embedders.runtimes import Runtime, available_runtimes, build_runtime, choose_runtime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.text import embed_text
from shardmill.embedders.weights import read_state_dict

__all__ = [
    "EMBEDDERS",
    "Embedder",
    "EmbedderSpec",
    "NetEmbedder",
    "Preset",
    "Runtime",
    "TextEmbedder",
    "available_runtimes",
    "build_runtime",
    "check_model",
    "choose_runtime",
    "embed_text",
    "load_embedder",
    "preprocessing",
    "read_state_dict",
    "weights_identity",
]
