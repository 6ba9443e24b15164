"""The manifest: the table of a partition's raw objects, what exists and at which version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shardmill.sources.content import content_digest, content_of

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = "missing"
"""The version of an object that a table names and the store does not hold."""


@dataclass(frozen=True)
class RawObject:
    """One object of the source, and the place it takes in a sample."""

    key: str
    component: str
    """Empty if the name has no suffix: the sample is then rejected, not lost."""
    uri: str
    size: int
    """Bytes."""
    version: str
    modified: float
    """Seconds since the epoch."""
    metadata: str | None = None
    """The other columns of a source table, as canonical JSON."""


class Manifest:
    """Raw objects sorted by all that they are, the key first, so that equal sets are equal manifests."""

    def __init__(self, table: pa.Table) -> None:
        """`table` has the columns of `manifest_schema()` and is sorted."""
        self.table = table

    @classmethod
    def from_objects(cls, objects: Iterable[RawObject]) -> Manifest:
        """The manifest of these objects, in any order."""
        import pyarrow as pa

        schema = manifest_schema()
        batches = []
        for chunk in _chunks(objects, 10_000):
            columns = {name: [getattr(item, name) for item in chunk] for name in schema.names}
            columns["modified"] = [round(item.modified * 1e6) for item in chunk]
            batches.append(pa.RecordBatch.from_pydict(columns, schema=schema))
        table = pa.Table.from_batches(batches, schema=schema)
        return cls(table.sort_by([(name, "ascending") for name in _FIELDS]))

    @property
    def objects(self) -> int:
        """Number of objects."""
        return int(self.table.num_rows)

    @cached_property
    def samples(self) -> int:
        """Number of samples, those included that will be rejected."""
        return int(self.table["key"].combine_chunks().value_counts().__len__()) if self.objects else 0

    @cached_property
    def bytes(self) -> int:
        """Size of all objects."""
        import pyarrow.compute as pc

        return int(pc.sum(self.table["size"]).as_py() or 0)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what every object is: key, component, URI, size, version and metadata."""
        digest = hashlib.sha256()
        for item in self:
            fields = (item.key, item.component, item.uri, item.size, item.version, item.metadata)
            digest.update(repr(fields).encode())
        return digest.hexdigest()

    @cached_property
    def content(self) -> str:
        """What the objects are, by URI and version alone: what a listing can be compared with."""
        return content_digest(sum(content_of(item.uri, item.version) for item in self))

    def __iter__(self) -> Iterator[RawObject]:
        for batch in self.table.to_batches(max_chunksize=10_000):
            columns = [batch.column(name).to_pylist() for name in _FIELDS]
            stamps = batch.column("modified").cast("int64").to_pylist()
            for (key, component, uri, size, version, metadata), stamp in zip(
                zip(*columns, strict=True), stamps, strict=True
            ):
                yield RawObject(key, component, uri, size, version, stamp / 1e6, metadata)

    def by_key(self) -> Iterator[tuple[str, list[RawObject]]]:
        """Each key with its objects, in the order of the keys."""
        group: list[RawObject] = []
        for item in self:
            if group and item.key != group[0].key:
                yield group[0].key, group
                group = []
            group.append(item)
        if group:
            yield group[0].key, group


_FIELDS = ("key", "component", "uri", "size", "version", "metadata")


def manifest_schema() -> pa.Schema:
    """The columns of a manifest; `modified` is in microseconds, UTC."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("component", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
            pa.field("modified", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("metadata", pa.string()),
        ]
    )


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
