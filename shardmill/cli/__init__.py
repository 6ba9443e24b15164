"""The `shardmill` command: a dataset file without Dagster."""

from shardmill.cli.app import app

__all__ = ["app"]
