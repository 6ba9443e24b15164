"""The index of a shard: a row a component, with the place of its bytes and the raw object that they come from."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shardmill.errors import CorruptionError
from shardmill.shards.report import ShardReport
from shardmill.tables import iterate_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_OWNER = b"shardmill.shard"
_REPORT = b"shardmill.report"

ModelT = TypeVar("ModelT", bound=BaseModel)


class Owner(BaseModel):
    """Which shard an index is of, and where that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: str
    """Six hexadecimal digits."""
    start: str
    """Where its range of positions begins; `Commit.position` says what they are."""
    fingerprint: str
    data: str | None
    """Name of the data file; None if no sample was left."""
    picture: str | None = None
    """Name of the picture, where there is one."""


@dataclass(frozen=True)
class Source:
    """The raw object that a component comes from."""

    uri: str
    version: str
    sha256: str
    """Of the raw object's bytes."""


class IndexRow(NamedTuple):
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
    origin: str
    """Key of the packed sample that this one descends from."""
    fingerprint: str = ""
    """Of the sample: digest of all that determined what was made of it, whatever shard it is in. Empty: not known."""

    @property
    def source(self) -> Source:
        """The raw object."""
        return Source(self.source_uri, self.source_version, self.source_sha256)


class IndexWriter:
    """Collects rows and writes them; the file's metadata say whose they are, and hold the shard's report."""

    def __init__(self) -> None:
        self._columns: dict[str, list[object]] = {name: [] for name in IndexRow._fields}

    def add(
        self,
        key: str,
        component: str,
        offset: int,
        size: int,
        sha256: str,
        source: Source,
        origin: str | None = None,
        fingerprint: str = "",
    ) -> None:
        """Append one row. `origin` is the key of the packed sample behind it, by default its own."""
        lineage = (source.uri, source.version, source.sha256, key if origin is None else origin)
        values = (key, component, offset, size, sha256, *lineage, fingerprint)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def write(self, file: Path, report: ShardReport, owner: Owner) -> None:
        """Write the Parquet file. Equal rows give equal bytes: what the report says for the record is left out."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        stable = report.model_copy(update={"seconds": 0.0, "runtime": "", "copied": 0})
        said = {_REPORT: stable, _OWNER: owner}
        schema = index_schema().with_metadata({name: model.model_dump_json().encode() for name, model in said.items()})
        pq.write_table(pa.table(self._columns, schema=schema), file, compression="zstd")


def read_index(data: bytes, where: str) -> Iterator[IndexRow]:
    """The rows of an index file, in its order.

    Raises:
        CorruptionError: It is damaged, or no index; names `where`.
    """
    try:
        for batch in read_index_batches(data, where):
            yield from rows_of(batch)
    except UnicodeDecodeError as error:
        raise CorruptionError(f"{where} is damaged: {error}") from error


def rows_of(batch: pa.RecordBatch | pa.Table) -> Iterator[IndexRow]:
    """The rows in a part of an index."""
    return map(IndexRow._make, zip(*(batch[name].to_pylist() for name in IndexRow._fields), strict=True))


def read_index_batches(data: bytes, where: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Like `read_index`, some thousand rows at a time, with all columns or these."""
    import pyarrow as pa

    schema = _schema_in(data, where)
    if not schema.equals(index_schema()):
        raise CorruptionError(f"{where} is not a shard's index: its columns are {', '.join(schema.names)}")
    try:
        yield from iterate_parquet(io.BytesIO(data), columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{where} is damaged: {error}") from error


def read_report(data: bytes, where: str) -> ShardReport:
    """The report in an index file.

    Raises:
        CorruptionError: It is damaged, or no index; names `where`.
    """
    return _said(data, where, _REPORT, ShardReport)


def read_owner(data: bytes, where: str) -> Owner:
    """Whose index it is.

    Raises:
        CorruptionError: It is damaged, or no index; names `where`.
    """
    return _said(data, where, _OWNER, Owner)


def _said(data: bytes, where: str, name: bytes, kind: type[ModelT]) -> ModelT:
    metadata = _schema_in(data, where).metadata or {}
    try:
        return kind.model_validate_json(metadata[name])
    except (KeyError, ValidationError) as error:
        raise CorruptionError(f"{where} does not say of which shard it is the index: {error}") from error


def _schema_in(data: bytes, where: str) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{where} is not a shard's index: {error}") from error


def index_schema() -> pa.Schema:
    """The columns of an index."""
    import pyarrow as pa

    types = {"offset": pa.int64(), "size": pa.int64()}
    return pa.schema([pa.field(f, types.get(f, pa.string()), nullable=False) for f in IndexRow._fields])
