"""`python -m shardmill.cli`."""

from shardmill.cli import app

app()
