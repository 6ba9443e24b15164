"""What is left out of a partition: objects that were listed and belong to no sample, each by a named rule."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from shardmill.tables import read_parquet, table_digest

if TYPE_CHECKING:
    import pyarrow as pa

_TOGETHER = 1000
"""Objects that are handled together."""


class LeftOutObject(NamedTuple):
    """One object that is left out."""

    uri: str
    size: int
    """Bytes."""
    rule: str
    """`default: ._*`, `exclude: *.txt`, `no pattern` …"""


class LeftOut:
    """The objects of a partition that are left out: columns `uri`, `size` (int64, bytes) and `rule`."""

    def __init__(self, table: pa.Table, listed: int) -> None:
        """`listed` is the number of objects that were found in all, these among them."""
        self.table = table
        self.listed = listed

    @property
    def objects(self) -> int:
        """Number of objects."""
        return int(self.table.num_rows)

    @cached_property
    def by_rule(self) -> dict[str, int]:
        """How many objects each rule leaves out, the most frequent first."""
        counts = self.table["rule"].combine_chunks().value_counts().to_pylist() if self.objects else []
        pairs = ((each["values"], each["counts"]) for each in counts)
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what the rows say, in any order, and not over how a version of Parquet writes them."""
        return table_digest(self.table.sort_by("uri"))

    def examples(self, rule: str, most: int) -> list[str]:
        """URIs of the first objects that a rule leaves out."""
        import pyarrow.compute as pc

        found: list[str] = self.table.filter(pc.equal(self.table["rule"], rule))["uri"].slice(0, most).to_pylist()
        return found

    def to_bytes(self) -> bytes:
        """As a Parquet file."""
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(self.table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> LeftOut:
        """Of the bytes that `to_bytes` gave; they say nothing of how many objects were listed in all.

        Raises:
            ValueError: They are others.
        """
        import pyarrow as pa

        try:
            table = read_parquet(io.BytesIO(data)).cast(_schema())
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"not a table of objects that were left out: {error}") from error
        return cls(table, table.num_rows)


class LeftOutWriter:
    """Takes objects one after the other, in the order of a listing; of most it holds no more than a table does."""

    def __init__(self, listed: int = 0) -> None:
        self.listed = listed
        """Objects that were found in all: whoever lists counts them."""
        self._batches: list[pa.RecordBatch] = []
        self._waiting: list[LeftOutObject] = []

    def add(self, uri: str, size: int, rule: str) -> None:
        """Take an object that is left out by `rule`."""
        self._waiting.append(LeftOutObject(printable(uri), size, rule))
        if len(self._waiting) == _TOGETHER:
            self._flush()

    def done(self) -> LeftOut:
        """What was taken."""
        import pyarrow as pa

        self._flush()
        return LeftOut(pa.Table.from_batches(self._batches, schema=_schema()), self.listed)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            columns = zip(LeftOutObject._fields, zip(*self._waiting, strict=True), strict=True)
            self._batches.append(pa.RecordBatch.from_pydict(dict(columns), schema=_schema()))
            self._waiting.clear()


def described(by_rule: Mapping[str, int]) -> str:
    """Counts by rule, for people: `18 left out (15 default: ._*, 3 no pattern)`."""
    total = sum(by_rule.values())
    rules = ", ".join(f"{count:,} {rule}" for rule, count in by_rule.items())
    return f"{total:,} left out ({rules})" if total else "0 left out"


def is_utf8(uri: str) -> bool:
    """Whether a name on a disk is UTF-8: no table can hold another."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(uri: str) -> str:
    """The URI; of a name that is no UTF-8 what can stand in a table, which is the name of nothing."""
    return uri if uri.isascii() else uri.encode("utf-8", "backslashreplace").decode()


def _schema() -> pa.Schema:
    import pyarrow as pa

    names: Iterable[tuple[str, pa.DataType]] = (("uri", pa.string()), ("size", pa.int64()), ("rule", pa.string()))
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in names])
