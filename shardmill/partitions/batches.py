"""Batches: new objects sealed together. A batch's manifest is written once and says for ever which objects it has.

`<root>/<dataset>/_shardmill/batches/<key>.parquet`, a row an object: uri, size, version, modified. Which version of an
object counts is found out when the batch is listed again: an overwritten object stays in its batch, a deleted one
leaves it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConfigurationError, UnreadableError
from shardmill.shards.layout import SIDE
from shardmill.sources.manifest import UNREADABLE
from shardmill.storage import ObjectInfo, Storage, join_uri, relative_to
from shardmill.tables import read_parquet

_NAME = re.compile(r"(batch-\d{6,})\.parquet")


@dataclass(frozen=True)
class Batch:
    """A sealed batch."""

    key: str
    uris: list[str]
    """Of its objects, sorted."""

    def objects(self, storage: Storage) -> Iterator[ObjectInfo]:
        """Those of its objects that are there now, as they are now. One request an object.

        One that cannot be looked at (a loop of links, a locked folder) has the version `UNREADABLE`.
        """

        def look_up(uri: str) -> ObjectInfo | None:
            try:
                return storage.stat(uri)
            except UnreadableError:
                return ObjectInfo(uri, 0, UNREADABLE, 0.0)

        found = bounded_map(look_up, self.uris, REQUESTS_AT_ONCE)
        return (info for info in found if info is not None)


def seal_batch(storage: Storage, home: str, number: int, objects: Sequence[ObjectInfo]) -> Batch:
    """Record batch `number`, whole or not at all.

    Raises:
        ConflictError: There is one with this number already.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(objects, key=lambda info: info.uri)
    columns = {
        "uri": [info.uri for info in ordered],
        "size": [info.size for info in ordered],
        "version": [info.version for info in ordered],
        "modified": pa.array([round(info.modified * 1e6) for info in ordered], pa.timestamp("us", tz="UTC")),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd")
    key = batch_key(number)
    storage.replace(_uri(home, key), file.getvalue(), expected=None)
    return Batch(key, columns["uri"])


def sealed_batches(storage: Storage, home: str) -> list[str]:
    """Keys of the batches, in the order in which they were sealed."""
    folder = _folder(home)
    names = (_NAME.fullmatch(relative_to(folder, info.uri)) for info in storage.list(folder))
    return sorted((match[1] for match in names if match), key=batch_number)


def read_batch(storage: Storage, home: str, key: str) -> Batch:
    """A sealed batch.

    Raises:
        ConfigurationError: There is none with this key.
    """
    try:
        data = storage.read(_uri(home, key))
    except FileNotFoundError:
        raise ConfigurationError(f"there is no batch {key!r}: {_uri(home, key)} does not exist") from None
    return Batch(key, read_parquet(io.BytesIO(data), ["uri"])["uri"].to_pylist())


def batch_key(number: int) -> str:
    """`batch-000001`."""
    return f"batch-{number:06}"


def is_batch_key(key: str) -> bool:
    """Whether a batch could be called so."""
    return _NAME.fullmatch(f"{key}.parquet") is not None


def batch_number(key: str) -> int:
    """The number in a batch's key."""
    return int(key.rpartition("-")[2])


def _uri(home: str, key: str) -> str:
    return join_uri(_folder(home), f"{key}.parquet")


def _folder(home: str) -> str:
    return join_uri(home, f"{SIDE}/batches")
