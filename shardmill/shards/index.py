"""The index of a shard: a row a component, with the place of its bytes and the raw object that they come from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from shardmill.errors import CorruptionError
from shardmill.shards.report import ShardReport
from shardmill.tables import iterate_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_REPORT = b"shardmill.report"


@dataclass(frozen=True)
class Source:
    """The raw object that a component comes from."""

    uri: str
    version: str
    sha256: str
    """Of the raw object's bytes."""


@dataclass(frozen=True)
class IndexRow:
    """One component of one sample."""

    key: str
    component: str
    offset: int
    """In a tar, of the first byte of the data; in a table, the row."""
    size: int
    """Bytes."""
    sha256: str
    source_uri: str
    source_version: str
    source_sha256: str

    @property
    def source(self) -> Source:
        """The raw object."""
        return Source(self.source_uri, self.source_version, self.source_sha256)


class IndexWriter:
    """Collects rows and writes them, with the shard's report in the file's metadata."""

    def __init__(self) -> None:
        self._columns: dict[str, list[object]] = {field.name: [] for field in fields(IndexRow)}

    def add(self, key: str, component: str, offset: int, size: int, sha256: str, source: Source) -> None:
        """Append one row."""
        values = (key, component, offset, size, sha256, source.uri, source.version, source.sha256)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def write(self, file: Path, report: ShardReport) -> None:
        """Write the Parquet file. Equal rows give equal bytes: the report's `seconds` and `runtime` are left out."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        stable = report.model_copy(update={"seconds": 0.0, "runtime": ""})
        schema = _schema().with_metadata({_REPORT: stable.model_dump_json().encode()})
        pq.write_table(pa.table(self._columns, schema=schema), file, compression="zstd")


def read_index(data: bytes, where: str) -> Iterator[IndexRow]:
    """The rows of an index file, in its order. Raises CorruptionError, naming `where`."""
    import pyarrow as pa

    schema = _schema_in(data, where)
    if not schema.equals(_schema()):
        raise CorruptionError(f"{where} is not a shard's index: its columns are {', '.join(schema.names)}")
    try:
        for batch in iterate_parquet(io.BytesIO(data)):
            for row in batch.to_pylist():
                yield IndexRow(**row)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{where} is damaged: {error}") from error


def read_report(data: bytes, where: str) -> ShardReport:
    """The report in an index file. Raises CorruptionError, naming `where`."""
    metadata = _schema_in(data, where).metadata or {}
    try:
        return ShardReport.model_validate_json(metadata[_REPORT])
    except (KeyError, ValueError) as error:
        raise CorruptionError(f"{where} holds no report of its shard: {error}") from error


def _schema_in(data: bytes, where: str) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{where} is not a shard's index: {error}") from error


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {"offset": pa.int64(), "size": pa.int64()}
    return pa.schema([pa.field(f.name, types.get(f.name, pa.string()), nullable=False) for f in fields(IndexRow)])
