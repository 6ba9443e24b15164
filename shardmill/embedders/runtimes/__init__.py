"""Runtimes: what computes an embedder's module. `build_runtime` chooses one."""

from shardmill.embedders.runtimes.base import Runtime
from shardmill.embedders.runtimes.choice import available_runtimes, build_runtime, choose_runtime

__all__ = ["Runtime", "available_runtimes", "build_runtime", "choose_runtime"]
