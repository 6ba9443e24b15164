"""The manifest: the table of a partition's raw objects, what exists and at which version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from shardmill.left_out import LeftOut, LeftOutWriter
from shardmill.sources.content import content_digest, content_of

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = "missing"
"""The version of an object that a table names and the store does not hold."""
NOT_ALLOWED = "not allowed"
"""The version of an object that a table names and must not lead to: nobody has asked whether it is there."""
UNSUPPORTED = "unsupported store"
"""The version of an object that a table names where no store is read: nobody could ask."""
NOT_A_FILE = "not a file"
"""The version of what a table names and is a folder, a pipe or a device."""
UNREADABLE = "unreadable"
"""The version of what a table names and cannot be looked at: whoever reads it finds out why."""


class RawObject(NamedTuple):
    """One object of the source, and the place it takes in a sample: a row of a manifest."""

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
    """The columns of a source table that are not declared, as canonical JSON: part of the sample."""
    columns: str | None = None
    """The declared columns of its sample, as canonical JSON: of each, the cells of all rows. No part of the sample."""


class Manifest:
    """Raw objects sorted by all that they are, the key first, so that equal sets are equal manifests.

    Only a part that was chosen of another (`parts`) is in an order of its own.
    """

    def __init__(self, table: pa.Table) -> None:
        """`table` has the columns of `manifest_schema()` and is sorted, or else a part."""
        self.table = table
        self._left_out: LeftOut | None = None

    @classmethod
    def from_objects(cls, objects: Iterable[RawObject]) -> Manifest:
        """The manifest of these objects, in any order."""
        import pyarrow as pa

        schema = manifest_schema()
        batches, rest = [], iter(objects)
        while chunk := list(islice(rest, _TOGETHER)):
            columns: dict[str, Sequence[Any]] = dict(zip(RawObject._fields, zip(*chunk, strict=True), strict=True))
            columns["modified"] = [round(seconds * 1e6) for seconds in columns["modified"]]
            batches.append(pa.RecordBatch.from_pydict(columns, schema=schema))
        table = pa.Table.from_batches(batches, schema=schema)
        return cls(table.sort_by([(name, "ascending") for name in _FIELDS]))

    def leaving_out(self, left_out: LeftOut) -> Manifest:
        """The same objects, where others were listed beside them."""
        manifest = Manifest(self.table)
        manifest._left_out = left_out
        return manifest

    @property
    def left_out(self) -> LeftOut:
        """What was listed and belongs to no sample. It is no part of the manifest: equal manifests may differ in it."""
        return self._left_out or LeftOutWriter(self.objects).done()

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
        """SHA-256 over what every object is, but for its time."""
        digest = hashlib.sha256()
        for row in self.rows(*_FIELDS):
            digest.update(repr(row).encode())
        return digest.hexdigest()

    @cached_property
    def content(self) -> str:
        """What the objects are, by URI and version alone: what a listing can be compared with."""
        return content_digest(sum(content_of(uri, version) for uri, version in self.rows("uri", "version")))

    def __iter__(self) -> Iterator[RawObject]:
        return map(RawObject._make, self.rows(*RawObject._fields))

    def by_key(self) -> Iterator[tuple[str, tuple[RawObject, ...]]]:
        """Each key with its objects, in the order of the keys."""
        for key, group in groupby(self, attrgetter("key")):
            yield key, tuple(group)

    def identities(self) -> Iterator[tuple[Any, ...]]:
        """What of each object goes into its sample: all but its time and the declared columns."""
        return self.rows(*_OF_SAMPLES)

    def rows(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """These fields of each object, in order: cheaper than objects with all of them."""
        for batch in self.table.to_batches(max_chunksize=_TOGETHER):
            yield from zip(*(_values(batch, name) for name in names), strict=True)

    def with_columns(self, columns: Mapping[str, str]) -> Manifest:
        """The same objects with these declared columns, by the keys of their samples."""
        import pyarrow as pa

        cells = pa.array((columns.get(key) for (key,) in self.rows("key")), pa.string())
        place = self.table.schema.get_field_index("columns")
        return Manifest(self.table.set_column(place, "columns", cells)).leaving_out(self.left_out)

    def parts(self, rows: Iterable[Sequence[int]]) -> Iterator[Manifest]:
        """A manifest of each of these selections of objects, by their numbers and in that order."""
        table = self.table.combine_chunks()  # else each object is looked for among the chunks
        return (Manifest(table.take(part)) for part in rows)


_TOGETHER = 1000
"""Objects that are handled together."""
_OF_SAMPLES = ("key", "component", "uri", "size", "version", "metadata")
_FIELDS = (*_OF_SAMPLES, "columns")


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
            pa.field("columns", pa.string()),
        ]
    )


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    if name == "modified":
        return [stamp / 1e6 for stamp in batch.column(name).cast("int64").to_pylist()]
    return batch.column(name).to_pylist()  # type: ignore[no-any-return]
