"""The engine as a Dagster resource: on which threads, processes and machines stages run."""

from __future__ import annotations

import os
from collections.abc import Callable

import dagster as dg

from shardmill.engines import Engine, choose_engine

SETTING = "SHARDMILL_ENGINE"
"""Environment variable with the engine of a deployment."""


class EngineResource(dg.ConfigurableResource[None]):
    """What runs the stages of every step."""

    engine: str = "local"
    """`local`, or one that runs on other machines: its name, and `://` and its address where it needs one."""
    workers: int | None = None
    """Threads in all; by default one a core that it may use."""

    @classmethod
    def from_environment(cls) -> EngineResource:
        """The engine that SHARDMILL_ENGINE names, else this machine."""
        return cls(engine=os.environ.get(SETTING) or "local")

    def open(self, say: Callable[[str], None]) -> Engine:
        """The engine; `say` is told what it waits for."""
        return choose_engine(self.engine, self.workers, say)
