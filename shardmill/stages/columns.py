"""The columns that a dataset declares, on their way into a table with a row a sample."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from shardmill.errors import Rejected
from shardmill.shards.commit import Commit
from shardmill.shards.stored import Rows, StoredShard
from shardmill.sources.columns import CLASS, arrow_type, column_value, declared, json_fields
from shardmill.sources.manifest import Manifest
from shardmill.tables import table_digest

if TYPE_CHECKING:
    import pyarrow as pa

_JSON = "json"


class UnfitValueError(Rejected):
    """A sample is refused for a value of a column: that is no part of the sample, so it may fit another time."""


@dataclass(frozen=True)
class ShardWithColumns(StoredShard):
    """A shard of samples, and what the source says of them beside their components."""

    types: Mapping[str, str]
    """Declared column → type."""
    cells: pa.Table = field(compare=False)
    """`key` of the packed sample, and its `columns` as a manifest has them."""

    @override
    def identity(self) -> Any:
        return [*super().identity(), declared(self.types), self._digest]

    @cached_property
    def _digest(self) -> str:
        return table_digest(self.cells)


def shards_with_columns(
    shards: Sequence[StoredShard], commit: Commit, manifest: Manifest, types: Mapping[str, str]
) -> list[ShardWithColumns]:
    """The shards of a commit, each with the columns of the samples in its range of positions."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = manifest.table.select(["key", "columns"]).filter(pc.is_valid(manifest.table["columns"])).combine_chunks()
    keys = table["key"].to_pylist()
    first = [row for row, key in enumerate(keys) if not row or keys[row - 1] != key]  # components share their columns
    places = [commit.position(keys[row]) for row in first]
    order = sorted(range(len(first)), key=places.__getitem__)
    places.sort()
    starts = sorted({entry.start for entry in commit.shards})
    bounds = {start: bisect_left(places, start) for start in starts[1:]}
    ends = dict(pairwise([*starts, ""]))

    def cells(shard: StoredShard) -> pa.Table:
        low, high = bounds.get(shard.start, 0), bounds.get(ends[shard.start], len(order))
        return table.take(pa.array((first[row] for row in order[low:high]), pa.int64()))

    return [ShardWithColumns(shard.layout, shard.entry, types, cells(shard)) for shard in shards]


class SampleColumns:
    """The values of the columns of a shard's samples: `cls` in any case, and those that the dataset declares.

    A value comes from the source's tables; else from the component of this name, as text; else, where the column is
    declared, from the field of the sample's `json`.
    """

    def __init__(self, shard: StoredShard) -> None:
        self._declared: Mapping[str, str] = {}
        self._cells: dict[str, str] = {}
        if isinstance(shard, ShardWithColumns):
            self._declared = shard.types
            self._cells = dict(zip(*(shard.cells[name].to_pylist() for name in ("key", "columns")), strict=True))
        self.types = {CLASS: "string", **self._declared}
        """Column → type, in the table's order."""

    def fields(self) -> Iterator[pa.Field]:
        """The columns as Arrow has them: all may be null."""
        import pyarrow as pa

        for name, kind in self.types.items():
            yield pa.field(name, arrow_type(kind))

    def given(self, rows: Rows) -> dict[str, Any]:
        """What the source's tables say of a sample.

        Raises:
            UnfitValueError: A value does not fit its column.
        """
        cells = self._cells.get(next(iter(rows.values())).origin)
        return self._values(json.loads(cells)) if cells else {}

    def read_from(self, given: Mapping[str, Any], rows: Rows) -> list[str]:
        """The components that the others are read from."""
        components = [name for name in self.types if name not in given and name in rows]
        wanted = self._declared.keys() - given.keys() - set(components)
        return [*components, _JSON] if wanted and _JSON in rows and _JSON not in components else components

    def values(self, given: Mapping[str, Any], components: Mapping[str, bytes]) -> list[Any]:
        """The sample's value of each column, those in `components` read.

        Raises:
            UnfitValueError: A value does not fit its column.
        """
        read = [name for name in self.types if name not in given and name in components]
        found = {**given, **self._values({name: [_text(components[name])] for name in read})}
        missing = self._declared.keys() - found.keys()
        if missing and _JSON in components:
            try:
                fields = json_fields(components[_JSON])
            except Rejected as rejected:
                raise UnfitValueError(rejected.reason, rejected.detail) from None
            found |= self._values({name: [fields[name]] for name in self.types if name in missing and name in fields})
        return [found.get(name) for name in self.types]

    def _values(self, cells: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        try:
            return {
                name: column_value(name, self.types[name], each) for name, each in cells.items() if name in self.types
            }
        except Rejected as rejected:
            raise UnfitValueError(rejected.reason, rejected.detail) from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()
