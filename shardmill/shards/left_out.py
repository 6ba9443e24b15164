"""The table of what was left out of a partition, as it is stored."""

from __future__ import annotations

from shardmill.left_out import LeftOut, LeftOutWriter
from shardmill.shards.layout import Layout
from shardmill.storage import Storage


def read_left_out(storage: Storage, layout: Layout) -> tuple[LeftOut | None, str | None]:
    """What `left_out.parquet` says and its version: no rows if it is not there, None if it cannot be read."""
    try:
        data, info = storage.read_version(layout.left_out)
    except FileNotFoundError:
        return LeftOutWriter().done(), None
    try:
        return LeftOut.from_bytes(data), info.version
    except ValueError:
        return None, info.version
