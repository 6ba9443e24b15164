"""Engines: on which threads, processes and machines a stage runs. All give the same results byte for byte."""

from shardmill.engines.choice import ENGINES, choose_engine
from shardmill.engines.local import LocalEngine
from shardmill.engines.protocol import Engine

__all__ = ["ENGINES", "Engine", "LocalEngine", "choose_engine"]
