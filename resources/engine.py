"""Engines as Dagster resources: on which threads, processes and machines stages run."""

from collections.abc import Callable

import dagster as dg

from shardmill.engines import LocalEngine


class LocalEngineResource(dg.ConfigurableResource[None]):
    """This machine's cores."""

    workers: int | None = None
    """Threads in all; by default one a core that the process may use."""

    def open(self, say: Callable[[str], None]) -> LocalEngine:
        """The engine; `say` is told what it waits for."""
        return LocalEngine(self.workers, say)
