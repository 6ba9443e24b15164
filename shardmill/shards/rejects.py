"""The rejects of a commit: in the reports of its shards, and once more in one table for people."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.shards.commit import ShardEntry
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.layout import Layout
from shardmill.shards.report import Reject
from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage
from shardmill.tables import read_parquet


def rejects_of(storage: Storage, layout: Layout, entries: Iterable[ShardEntry]) -> Iterator[Reject]:
    """The rejects in the reports of these shards, in order, compared with the commit.

    Raises:
        SupersededError: A shard is gone because another commit stands by now.
        CorruptionError: A shard's index is not what the commit says.
    """

    def read(entry: ShardEntry) -> list[Reject]:
        return StoredShard(layout, entry).report(storage).rejects

    for rejects in bounded_map(read, (entry for entry in entries if entry.rejects), REQUESTS_AT_ONCE):
        yield from rejects


def rejects_digest(rejects: Sequence[Reject]) -> str:
    """Of what the rows say, not of how a version of Parquet writes them."""
    return fingerprint(rejects=[reject.model_dump() for reject in rejects])


def read_table(storage: Storage, layout: Layout) -> tuple[list[Reject] | None, str | None]:
    """The rows of `rejects.parquet` and its version; no rows if it is not there or cannot be read."""
    import pyarrow as pa

    try:
        data, info = storage.read_version(layout.rejects)
    except FileNotFoundError:
        return None, None
    try:
        return [Reject(**row) for row in read_parquet(io.BytesIO(data)).to_pylist()], info.version
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return None, info.version


def write_table(storage: Storage, layout: Layout, rejects: Sequence[Reject], expected: str | None) -> None:
    """Replace `rejects.parquet` at this version.

    Raises:
        ConflictError: It is no longer at this version; nothing is changed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [getattr(reject, name) for reject in rejects] for name in Reject.model_fields}
    types = {"may_pass": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    storage.replace(layout.rejects, buffer.getvalue(), expected)
