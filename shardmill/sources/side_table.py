"""A table of metadata beside a source: its rows are joined to the samples by their keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator

from shardmill.errors import ConfigurationError
from shardmill.sources.listing import SampleNames
from shardmill.sources.manifest import Manifest
from shardmill.sources.names import encode_key, spellings
from shardmill.sources.rows import TableSource
from shardmill.sources.spec import MetadataSpec, SourceSpec
from shardmill.sources.table import canonical, gathered, tell_of_missing
from shardmill.storage import Storage

logger = logging.getLogger(__name__)
_PARTITION = "{partition}"


def joined(
    manifest: Manifest,
    source: SourceSpec,
    metadata: MetadataSpec,
    uri: str,
    storage: Storage,
    declared: Collection[str],
) -> Manifest:
    """The manifest of a partition of `source`, with the `declared` columns of the table at `uri`.

    A row belongs to the sample whose key stands in the key column, or to that of the object which is named there.

    Raises:
        ConfigurationError: The table is not there or cannot be read, or lacks its key column or a key; or it has a
            column that the source's own table has, too.
    """
    names, column = SampleNames(source), metadata.key_column
    known = dict(manifest.rows("key", "columns"))
    found: dict[str, list[str]] = {}
    number = others = 0
    example = ""
    with TableSource(uri, metadata.delimiter).rows(storage, [column]) as (columns, rows):
        tell_of_missing(uri, columns, declared)
        taken = [name for name in columns if name in declared]
        for row in rows:
            number, cell = row.number, str(row.cells[column])
            key = next((key for key in _keys(cell, names) if key in known), None)
            if key is None:
                others, example = others + 1, example or cell
            else:
                found.setdefault(key, []).append(canonical({name: row.cells[name] for name in taken}))
    if others and known and not found:
        logger.warning(
            "none of the %d rows of %s belongs to a sample of the partition: its column %s says %r, for example, and a "
            "sample's key is %r. It has to hold keys, or names of objects below the source's folder",
            *(number, uri, column, example, next(iter(known))),
        )
    elif others and _PARTITION in metadata.table:  # a table for all has rows of other partitions
        logger.warning("%d of the %d rows of %s have the key of no sample of the partition", others, number, uri)
    merged = {}
    for key, own in known.items():
        beside = json.loads(gathered(found.get(key, ())) or "{}")
        mine = json.loads(own or "{}")
        if twice := mine.keys() & beside.keys():
            raise ConfigurationError(f"{uri} and the source's own table both have the column {min(twice)}: rename one")
        if mine or beside:
            merged[key] = canonical({**mine, **beside})
    return manifest.with_columns(merged)


def _keys(cell: str, names: SampleNames) -> Iterator[str]:
    """The keys that a cell can mean: as it stands, and as another system writes the same letters."""
    for text in spellings(cell):
        yield encode_key(text)
        split = names.split(text)
        if split is not None:
            yield encode_key(split[0])
        else:  # of an object that is named without its folder
            yield encode_key(text.rpartition(".")[0])
