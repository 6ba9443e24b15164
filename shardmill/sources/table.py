"""From a table of URIs to raw objects: a row an object, the other columns its metadata."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import Rejected, UnreadableError
from shardmill.progress import ProgressMeter, ProgressSink, silent
from shardmill.sources.allowed import AllowedPlaces
from shardmill.sources.columns import CLASS
from shardmill.sources.manifest import MISSING, NOT_A_FILE, UNREADABLE, RawObject
from shardmill.sources.names import encode_component, encode_key, spellings, split_name
from shardmill.sources.rows import TableSource
from shardmill.sources.spec import SourceSpec
from shardmill.storage import ObjectInfo, Storage, relative_to

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
_TOGETHER = 1000
"""Rows that are handled together."""


class _Named(NamedTuple):
    """An object that rows of the table name."""

    key: str
    component: str
    uri: str
    refused: str | None
    """Why nobody may ask for it: the version that it is listed with."""
    metadata: str | None
    columns: str | None
    rows: int = 1
    """How many name it and say the same of it."""


def table_objects(
    source: SourceSpec,
    uri: str,
    storage: Storage,
    declared: Collection[str] = (),
    progress: ProgressSink = silent,
) -> Iterator[RawObject]:
    """The objects that the rows of the source's table name, key by key; rows that say the same are one object.

    `declared` are the dataset's columns. Objects in a bucket are looked up some at a time; those where the table must
    not lead are not looked up at all.

    Raises:
        ConfigurationError: The table is not there or cannot be read, or a row or column of it is missing.
    """
    rows = _in_order(_named(source, uri, storage, declared))
    meter = ProgressMeter(f"look up the objects of {uri}", rows.num_rows, progress, unit="objects")

    def look_up(each: _Named) -> tuple[_Named, RawObject]:
        found = each.refused or _look_up(each.uri, storage)
        uri, size, version, modified = (each.uri, 0, found, 0.0) if isinstance(found, str) else found
        return each, RawObject(each.key, each.component, uri, size, version, modified, each.metadata, each.columns)

    for each, item in bounded_map(look_up, _gathered(rows, source.rows == "list"), REQUESTS_AT_ONCE, _is_quick):
        meter.advance(each.rows)
        yield item


def _look_up(uri: str, storage: Storage) -> ObjectInfo | str:
    """The object, also where the store has another spelling of its name; or the version of one that is not there."""
    try:
        for each in spellings(uri):
            if (info := storage.stat(each)) is not None:
                return info
    except UnreadableError:
        return UNREADABLE
    with suppress(OSError):  # a name that is too long, say
        if uri.startswith("file://") and Path(uri.removeprefix("file://")).exists():
            return NOT_A_FILE
    return MISSING


def _named(source: SourceSpec, uri: str, storage: Storage, declared: Collection[str]) -> Iterator[_Named]:
    """What each row says. The class is taken out of the row in any case, and stays in it unless it is declared."""
    special = [column for column in (source.uri_column, source.key_column) if column]
    places, taken = AllowedPlaces(uri, source.allow), {*declared, CLASS}
    with TableSource(uri, source.delimiter).rows(storage, special) as (columns, rows):
        tell_of_missing(uri, columns, declared)
        for row in rows:
            target, refused = places.target(str(row.cells[source.uri_column]))
            key, component = split_name(_name_of(target, places.folder))
            packed = {name: cell for name, cell in row.cells.items() if name not in declared and name not in special}
            beside = {name: cell for name, cell in row.cells.items() if name in taken}
            yield _Named(
                encode_key(str(row.cells[source.key_column]) if source.key_column else key),
                encode_component(component),
                target,
                refused,
                canonical(packed) if packed else None,
                canonical(beside) if beside else None,
            )


def _in_order(rows: Iterator[_Named]) -> pa.Table:
    """The rows by their keys, those of a key as they stand in the table."""
    import pyarrow as pa

    text = {name: pa.large_string() for name in ("key", "component", "uri", "refused", "metadata", "columns")}
    schema = pa.schema({"number": pa.int64(), **text})
    batches, number = [], 0
    while some := list(islice(rows, _TOGETHER)):
        columns: dict[str, Sequence[Any]] = dict(zip(_Named._fields, zip(*some, strict=True), strict=True))
        columns["number"] = range(number, number := number + len(some))
        batches.append(pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema))
    table = pa.Table.from_batches(batches, schema)
    return table.sort_by([("key", "ascending"), ("number", "ascending")])


def _gathered(rows: pa.Table, as_lists: bool) -> Iterator[_Named]:
    """Of each key the objects, each with the declared columns of all its rows; `as_lists` with the others, too."""
    fields = ("key", "component", "uri", "refused", "metadata", "columns")
    stream = (
        _Named(*row)
        for batch in rows.to_batches(max_chunksize=_TOGETHER)
        for row in zip(*(batch[name].to_pylist() for name in fields), strict=True)
    )
    for _, group in groupby(stream, itemgetter(0)):
        same = list(group)
        columns = gathered(row.columns for row in same if row.columns is not None)
        if as_lists:
            metadata = gathered(row.metadata for row in same if row.metadata is not None)
            same = [row._replace(metadata=metadata) for row in same]
        if len(same) == 1:
            yield same[0]._replace(columns=columns)
            continue
        for each, count in Counter(row._replace(columns=columns) for row in same).items():
            yield each._replace(rows=count)


def gathered(rows: Iterable[str]) -> str | None:
    """The cells of all rows of a sample by column, as canonical JSON; None if there are no rows."""
    cells: dict[str, list[Any]] = {}
    for row in rows:
        for name, cell in json.loads(row).items():
            cells.setdefault(name, []).append(cell)
    return canonical(cells) if cells else None


def check_rows(group: Sequence[RawObject]) -> None:
    """Refuse rows of a table that say different things of one sample: one of them would be lost.

    Raises:
        Rejected: They do.
    """
    first = group[0]
    for item in group:
        if item.metadata != first.metadata:
            one, two = (json.loads(each.metadata or "{}") for each in (first, item))
            column = min(name for name in {**one, **two} if one.get(name) != two.get(name))
            rows = (
                f"two rows name {item.uri}"
                if item.uri == first.uri
                else f"the rows of {first.uri} and {item.uri} have one key"
            )
            raise Rejected(
                "rows of one sample differ",
                f"{rows} and differ in {column}: {one.get(column)!r} and {two.get(column)!r}. Name a `key_column` that "
                "gives each row a key of its own, or give `rows: list` to have all of them as lists",
            )


def tell_of_missing(uri: str, columns: Collection[str], declared: Collection[str]) -> None:
    """Say in the log which declared columns a table lacks: they may come from elsewhere, or be misspelled."""
    if missing := [name for name in declared if name not in columns]:
        logger.warning("%s has no column %s; its columns are %s", uri, ", ".join(missing), ", ".join(columns))


def canonical(value: Any) -> str:
    """As JSON, the same for equal values: NaN as null, what JSON does not know as text."""
    return _CANONICAL.encode(_plain(value))


_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
"""Made once: `json.dumps` would make another for each row."""


def _is_quick(each: _Named) -> bool:
    return each.refused is not None or each.uri.startswith("file://")


def _name_of(uri: str, folder: str) -> str:
    """The path below the table's folder, or else the whole path: names must not collide because folders differ."""
    if uri.startswith(f"{folder}/"):
        return relative_to(folder, uri)
    return uri.partition("://")[2].lstrip("/")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [item if isinstance(item, str) else _plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): item if isinstance(item, str) else _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
