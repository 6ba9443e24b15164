"""Embedders: a model with its own preprocessing, and the runtimes that compute it. Importing this imports no torch."""

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.registry import EMBEDDERS, load_embedder, preprocessing, weights_identity
from shardmill.embedders.runtimes import Runtime, available_runtimes, build_runtime, choose_runtime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.unknown import unknown_model

__all__ = [
    "EMBEDDERS",
    "Embedder",
    "EmbedderSpec",
    "Runtime",
    "available_runtimes",
    "build_runtime",
    "choose_runtime",
    "load_embedder",
    "preprocessing",
    "unknown_model",
    "weights_identity",
]
