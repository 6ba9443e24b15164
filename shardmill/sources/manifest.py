"""The manifest: the table of a partition's raw objects, what exists and at which version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import ConfigurationError
from shardmill.left_out import LeftOut, LeftOutWriter
from shardmill.sources.content import content_digest, content_of_all
from shardmill.tables import table_digest

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

    Only a part that was chosen of another (`part`) is in an order of its own.
    """

    def __init__(self, table: pa.Table) -> None:
        """`table` has the columns of `manifest_schema()`, each in one piece, and is sorted, or else a part."""
        self.table = table
        self._left_out: LeftOut | None = None

    @classmethod
    def from_objects(cls, objects: Iterable[RawObject]) -> Manifest:
        """The manifest of these objects, in any order.

        Raises:
            ConfigurationError: As `from_batches`.
        """
        rest = iter(objects)
        return cls.from_batches(map(batch_of, iter(lambda: list(islice(rest, _TOGETHER)), [])))

    @classmethod
    def from_batches(cls, batches: Iterable[pa.RecordBatch]) -> Manifest:
        """The manifest of the objects in these batches, which have the columns of `manifest_schema()`, in any order.

        Raises:
            ConfigurationError: There are more than a manifest can hold.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        schema = manifest_schema()
        table = pa.Table.from_batches(batches, schema)
        _check_length(table)
        order = pc.sort_indices(table.select(_FIELDS), [(name, "ascending") for name in _FIELDS])
        unsorted, columns = table.columns, []
        del table  # so that one column at a time is in memory twice
        while unsorted:
            columns.append(unsorted.pop(0).take(order).combine_chunks())
            pa.default_memory_pool().release_unused()
        return cls(pa.table(columns, schema=schema))

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

    @property
    def samples(self) -> int:
        """Number of samples, those included that will be rejected."""
        return len(self.starts)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Of each sample the number of its first object."""
        import pyarrow.compute as pc

        keys = self.table["key"]
        differ = pc.not_equal(keys.slice(1), keys.slice(0, max(0, self.objects - 1)))
        return np.concatenate([np.zeros(min(1, self.objects), np.int64), np.flatnonzero(differ) + 1])

    @cached_property
    def bytes(self) -> int:
        """Size of all objects."""
        import pyarrow.compute as pc

        return int(pc.sum(self.table["size"]).as_py() or 0)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what every object is, but for its time."""
        return table_digest(self.table.select(_FIELDS))

    @cached_property
    def digest_of_samples(self) -> str:
        """SHA-256 over what of each object goes into its sample: all but its time and the declared columns."""
        return table_digest(self.table.select(_OF_SAMPLES))

    @cached_property
    def content(self) -> str:
        """What the objects are, by URI and version alone: what a listing can be compared with."""
        return content_digest(content_of_all(self.rows("uri", "version")))

    def __iter__(self) -> Iterator[RawObject]:
        return map(RawObject._make, self.rows(*RawObject._fields))

    def by_key(self) -> Iterator[tuple[str, tuple[RawObject, ...]]]:
        """Each key with its objects, in the order of the keys."""
        for key, group in groupby(self, attrgetter("key")):
            yield key, tuple(group)

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

    def part(self, rows: NDArray[np.int64], fields: Sequence[str] = RawObject._fields) -> Manifest:
        """A manifest of some of these objects, by their numbers and in that order, with these fields alone."""
        return Manifest(self.table.select(fields).take(rows))


_MOST_BYTES = 2**31 - 1
"""Of a column of strings in one piece: Arrow counts them with 32 bits."""
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


def _check_length(table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in table.column_names:
        if pa.types.is_string(table.schema.field(name).type) and table[name].nbytes > _MOST_BYTES:
            length = pc.sum(pc.binary_length(table[name]).cast(pa.int64())).as_py()
            if length > _MOST_BYTES:
                raise ConfigurationError(
                    f"the field {name!r} of {table.num_rows:,} objects has {length:,} bytes in all; a partition's "
                    f"manifest holds at most {_MOST_BYTES:,}. Cut the source into more partitions"
                )


def batch_of(objects: Sequence[RawObject]) -> pa.RecordBatch:
    """Some objects, in the columns of `manifest_schema()`."""
    import pyarrow as pa

    columns = dict(zip(RawObject._fields, map(list, zip(*objects, strict=True)), strict=True))
    columns["modified"] = microseconds(columns["modified"])
    return pa.RecordBatch.from_pydict(columns, schema=manifest_schema())


def microseconds(modified: Sequence[float]) -> pa.TimestampArray:
    """Times in seconds since the epoch, as a manifest has them."""
    import pyarrow as pa

    return pa.array(np.rint(np.array(modified) * 1e6).astype(np.int64)).cast(pa.timestamp("us", tz="UTC"))


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    if name == "modified":
        return [stamp / 1e6 for stamp in batch.column(name).cast("int64").to_pylist()]
    return batch.column(name).to_pylist()  # type: ignore[no-any-return]
