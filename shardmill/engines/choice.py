"""Which engine a word asks for: `local`, or `<name>` or `<name>://<address>` of one that runs on other machines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from shardmill.engines.protocol import Engine
from shardmill.errors import ConfigurationError
from shardmill.spec import did_you_mean

logger = logging.getLogger(__name__)

ENGINES = {
    "local": "shardmill.engines.local",
    "ray": "shardmill.engines.ray",
    "beam": "shardmill.engines.beam",
}
"""Name → the module that provides it (see `EngineModule`), imported when it is chosen."""


class EngineModule(Protocol):
    """What a module named in `ENGINES` provides."""

    def engine_at(self, address: str, workers: int | None, say: Callable[[str], None]) -> Engine:
        """The engine. `address` is what follows `://`, else empty; `workers` bounds what it keeps busy.

        Raises:
            ConfigurationError: Its package is not installed, or the address is none.
        """


def choose_engine(
    engine: str = "local", workers: int | None = None, say: Callable[[str], None] = logger.warning
) -> Engine:
    """The engine that a word asks for, not yet opened.

    `workers` bounds the threads that it keeps busy in all, by default all there are. `say` is told what it waits for.

    Raises:
        ConfigurationError: There is no such engine, its package is not installed, or the address is none.
    """
    name, _, address = engine.partition("://")
    if name not in ENGINES:
        hint = did_you_mean(name, ENGINES) or ";"
        raise ConfigurationError(f"there is no engine {engine!r}{hint} there are {', '.join(ENGINES)}")
    return cast(EngineModule, import_module(ENGINES[name])).engine_at(address, workers, say)
