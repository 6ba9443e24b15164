"""Embedders: a model with its own preprocessing, and the runtimes that compute it. Importing this imports no torch."""

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.registry import load_embedder
from shardmill.embedders.runtimes import Runtime, available_runtimes, build_runtime, choose_runtime
from shardmill.embedders.spec import EmbedderSpec

__all__ = [
    "Embedder",
    "EmbedderSpec",
    "Runtime",
    "available_runtimes",
    "build_runtime",
    "choose_runtime",
    "load_embedder",
]
