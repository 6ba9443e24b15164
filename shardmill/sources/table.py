"""From a table of URIs to raw objects: a row an object, the other columns its metadata."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from shardmill.errors import ConfigurationError
from shardmill.sources.manifest import MISSING, RawObject
from shardmill.sources.names import encode_component, encode_key, split_name
from shardmill.sources.spec import SourceSpec
from shardmill.storage import Storage, absolute_uri, join_uri, relative_to
from shardmill.tables import read_parquet


def table_objects(source: SourceSpec, uri: str, storage: Storage) -> Iterator[RawObject]:
    """The objects that the rows of the source's table name, in their order.

    Raises:
        ConfigurationError: The table is not there or cannot be read, or a row or column of it is missing.
    """
    folder = uri.rpartition("/")[0]
    special = [column for column in (source.uri_column, source.key_column) if column]
    columns, rows = _read_table(uri, storage, special)
    for column in special:
        if column not in columns:
            raise ConfigurationError(f"{uri} has no column {column!r}; its columns are {', '.join(columns)}")
    other = [column for column in columns if column not in special]
    for number, row in enumerate(rows, 1):
        for column in special:
            if row[column] in (None, ""):
                raise ConfigurationError(f"{uri}: row {number} has no {column}")
        location = str(row[source.uri_column])
        target = location if "://" in location or location.startswith("/") else join_uri(folder, location)
        target = absolute_uri(target)
        key, component = split_name(_name_of(target, folder))
        if source.key_column:
            key = str(row[source.key_column])
        metadata = json.dumps({column: _plain(row[column]) for column in other}, sort_keys=True, ensure_ascii=False)
        info = storage.stat(target)
        yield RawObject(
            encode_key(key),
            encode_component(component),
            target,
            info.size if info else 0,
            info.version if info else MISSING,
            info.modified if info else 0.0,
            metadata if other else None,
        )


def _name_of(uri: str, folder: str) -> str:
    """The path below the table's folder, or else the whole path: names must not collide because folders differ."""
    if uri.startswith(f"{folder}/"):
        return relative_to(folder, uri)
    return uri.partition("://")[2].lstrip("/")


def _read_table(uri: str, storage: Storage, text: Collection[str]) -> tuple[Sequence[str], Iterable[Mapping[str, Any]]]:
    """Columns and rows. In a CSV file, cells of the columns `text` are text and others may be numbers.

    What a cell becomes depends on that cell alone: a row that is added never changes the type of the others.
    """
    import pyarrow as pa

    try:
        stream, _ = storage.open(uri)
    except FileNotFoundError:
        raise ConfigurationError(f"the source's table {uri} does not exist") from None
    with stream:
        try:
            return _read_parquet(stream) if uri.endswith(".parquet") else _read_csv(stream, text)
        except (ValueError, OSError, csv.Error, pa.ArrowException) as error:
            raise ConfigurationError(f"{uri} is not a table that can be read: {error}") from error


def _read_parquet(stream: BinaryIO) -> tuple[Sequence[str], Iterable[Mapping[str, Any]]]:
    table = read_parquet(stream)
    return table.column_names, (row for batch in table.to_batches(max_chunksize=10_000) for row in batch.to_pylist())


def _read_csv(stream: BinaryIO, text: Collection[str]) -> tuple[Sequence[str], Iterable[Mapping[str, Any]]]:
    reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), strict=True)
    columns = next(reader, [])
    if len(set(columns)) < len(columns):
        raise ValueError(f"two columns have the same name: {', '.join(columns)}")
    rows = []
    for cells in reader:
        if cells and len(cells) != len(columns):
            raise ValueError(f"line {reader.line_num} has {len(cells)} cells, the header {len(columns)}")
        if cells:
            pairs = zip(columns, cells, strict=True)
            rows.append({column: cell if column in text else _number_or_text(cell) for column, cell in pairs})
    return columns, rows


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _number_or_text(cell: str) -> int | float | str | None:
    """A CSV cell; None if it is empty. `007` is text: as a number it would not be itself any more."""
    match = _NUMBER.fullmatch(cell)
    if not match:
        return cell or None
    number = float(cell) if match[2] or match[3] else int(cell)
    return number if math.isfinite(number) else cell


def _plain(value: Any) -> Any:
    """A cell as JSON holds it: NaN as null; what JSON does not know as text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
