"""Rows of a table as people have it: CSV with any usual delimiter, or Parquet; streamed, so that memory stays bounded.

In a CSV every cell is text as it stands there, an empty one null: what `02139` or `4417e120` is, nobody can tell from
one cell. Parquet says itself what its columns are.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.tables import iterate_parquet

DELIMITERS = ",\t;|"
"""Those that a header is tried with."""
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, which begins alike
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""By the mark that a text begins with."""
_OTHERS = {b"\x1f\x8b": "compressed with gzip: unpack it", b"PK\x03\x04": "a workbook or a ZIP file: save it as CSV"}


class Row(NamedTuple):
    """One row of a table."""

    number: int
    """From 1, header and blank lines not counted."""
    place: str
    """Where it stands, for people."""
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class TableSource:
    """A table that can be read."""

    uri: str
    delimiter: str | None = None
    """Of a CSV; where not given, the one that gives the columns that are asked for."""

    @contextmanager
    def rows(self, storage: Storage, needed: Collection[str]) -> Iterator[tuple[Sequence[str], Iterator[Row]]]:
        """The table's columns and its rows, one after the other. Every row has a value in each column of `needed`.

        Text there has no blanks around it, and bytes are UTF-8.

        Raises:
            ConfigurationError: Also while the rows are read: the table is not there or cannot be read, or lacks a
                column or a value that is needed.
        """
        import pyarrow as pa

        try:
            stream, _ = storage.open(self.uri)
        except FileNotFoundError:
            raise ConfigurationError(f"the table {self.uri} does not exist") from None
        with stream:
            try:
                start = stream.read(4)
                stream.seek(0)
                is_parquet = start == b"PAR1" or self.uri.endswith(".parquet")
                columns, rows = _parquet(stream) if is_parquet else _csv(stream, start, self.delimiter, needed)
                if twice := [name for name, count in Counter(columns).items() if count > 1]:
                    raise ValueError(f"it has two columns called {twice[0]!r}")
                for name in needed:
                    if name not in columns:
                        raise ConfigurationError(
                            f"{self.uri} has no column {name!r}; its columns are {', '.join(columns)}"
                        )
                yield columns, self._complete(rows, needed)
            except (ValueError, OSError, csv.Error, pa.ArrowException) as error:
                raise ConfigurationError(f"{self.uri} is not a table that can be read: {error}") from error

    def _complete(self, rows: Iterator[Row], needed: Collection[str]) -> Iterator[Row]:
        for row in rows:
            said = {name: self._said(row, name) for name in needed}
            yield row._replace(cells={**row.cells, **said})

    def _said(self, row: Row, name: str) -> Any:
        """What a row says in a column that is needed."""
        cell = row.cells[name]
        if isinstance(cell, bytes):
            try:
                cell = cell.decode()
            except UnicodeDecodeError:
                raise ConfigurationError(
                    f"{self.uri}: {row.place}: the column {name} holds bytes that are not UTF-8: give it as text"
                ) from None
        cell = cell.strip() if isinstance(cell, str) else cell
        if cell in (None, ""):
            raise ConfigurationError(f"{self.uri}: {row.place} has no {name}")
        return cell


def _parquet(stream: BinaryIO) -> tuple[Sequence[str], Iterator[Row]]:
    import pyarrow.parquet as pq

    columns = pq.read_schema(stream).names
    stream.seek(0)
    cells = (row for batch in iterate_parquet(stream) for row in batch.to_pylist())
    return columns, (Row(number, f"row {number}", each) for number, each in enumerate(cells, 1))


def _csv(
    stream: BinaryIO, start: bytes, delimiter: str | None, needed: Collection[str]
) -> tuple[Sequence[str], Iterator[Row]]:
    """The header, and the rows of which a cell says something. Names have no blanks around them.

    A column without a name is called `column_<number>`, and is there only in rows where it says something: spreadsheets
    leave empty ones behind the last, pandas writes its index as the first.
    """
    csv.field_size_limit(sys.maxsize)  # of the process: Python's own limit is 128 KB
    if (what := next((what for mark, what in _OTHERS.items() if start.startswith(mark)), None)) is not None:
        raise ValueError(f"it is {what}")
    encoding = next((name for mark, name in _ENCODINGS if start.startswith(mark)), "utf-8")
    lines = _Lines(stream, encoding)
    first = next((line for line in lines if line.strip()), "")
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == len("sep=,"):  # Excel's way to say it
        delimiter, first = delimiter or first[len("sep=")], next(lines, "")
    if "\0" in first:
        raise ValueError("line 1 has zero bytes: it may be UTF-16 without a mark at its beginning. Save it as UTF-8")
    delimiter = delimiter or _sniffed(first, needed)
    before = lines.number - 1
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    records = _records(reader, before)
    _, header = next(records, (0, []))
    names = [name.strip() for name in header]
    columns = [name or f"column_{number}" for number, name in enumerate(names, 1)]

    def rows() -> Iterator[Row]:
        number = 0
        for line, cells in records:
            if not any(map(str.strip, cells)):
                continue
            number += 1
            if len(cells) < len(columns) or any(cells[len(columns) :]):
                raise ValueError(f"line {line} has {len(cells)} cells, the header {len(columns)}")
            pairs = zip(columns, names, cells, strict=False)
            said = {column: cell or None for column, name, cell in pairs if name or cell}
            yield Row(number, f"row {number} (line {line})", said)

    return [column for column, name in zip(columns, names, strict=True) if name], rows()


def _records(reader: Any, before: int) -> Iterator[tuple[int, list[str]]]:
    """Each record with the number of the line on which it begins; `before` are the lines ahead of the reader's."""
    while True:
        line = before + reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"the record that begins on line {line}: {error}") from error


def _sniffed(header: str, needed: Collection[str]) -> str:
    """The delimiter that gives the columns that are needed; of several, and of none, the one that gives the most."""

    def columns(delimiter: str) -> tuple[int, int]:
        names = {name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])}
        return len(names & set(needed)), len(names)

    return max(DELIMITERS, key=columns)


class _Lines:
    """Lines of a text, which end as they end. What is no text in this encoding is refused by its place."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding
        self._text = io.TextIOWrapper(stream, encoding, newline="")
        self.number = 0
        """Of the line that was read last."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._text)
        except UnicodeDecodeError:
            raise ValueError(self._where()) from None
        self.number += 1
        return line

    def _where(self) -> str:
        """Where it first goes wrong, by another look at it."""
        self._text.detach()
        self._stream.seek(0)
        decoder = codecs.getincrementaldecoder(self._encoding)()
        line, offset = 1, 0
        for chunk in chain(iter(lambda: self._stream.read(1 << 20), b""), [b""]):
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                sound = error.object[: error.start]
                place = offset + len(chunk) - len(error.object) + error.start
                line += sound.count(b"\n")
                value = error.object[error.start]
                said = self._encoding.removesuffix("-sig").upper()
                return f"line {line} is not {said}: byte {place} is 0x{value:02x}. Save it as UTF-8"
            line += text.count("\n")
            offset += len(chunk)
        return f"it is not {self._encoding}. Save it as UTF-8"
