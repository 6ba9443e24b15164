"""Shardmill's data plane: a library that imports neither Dagster nor, when it loads, torch."""

__version__ = "0.1.0"
