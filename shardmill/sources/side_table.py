"""A table of metadata beside a source: its rows are joined to the samples by their keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection

from shardmill.errors import ConfigurationError
from shardmill.sources.manifest import Manifest
from shardmill.sources.names import encode_key, split_name
from shardmill.sources.rows import TableSource
from shardmill.sources.spec import MetadataSpec
from shardmill.sources.table import canonical, gathered, tell_of_missing
from shardmill.storage import Storage

logger = logging.getLogger(__name__)
_PARTITION = "{partition}"


def joined(
    manifest: Manifest, metadata: MetadataSpec, uri: str, storage: Storage, declared: Collection[str]
) -> Manifest:
    """The manifest with the `declared` columns of the table at `uri`.

    A row belongs to the sample whose key stands in the key column, or to that of the object which is named there.

    Raises:
        ConfigurationError: The table is not there or cannot be read, or lacks its key column or a key; or it has a
            column that the source's own table has, too.
    """
    known = dict(manifest.rows("key", "columns"))
    found: dict[str, list[str]] = {}
    number = others = 0
    with TableSource(uri, metadata.delimiter).rows(storage, [metadata.key_column]) as (columns, rows):
        tell_of_missing(uri, columns, declared)
        taken = [name for name in columns if name in declared]
        for row in rows:
            number, cell = row.number, str(row.cells[metadata.key_column])
            key = next((key for key in (encode_key(cell), encode_key(split_name(cell)[0])) if key in known), None)
            if key is None:
                others += 1
            else:
                found.setdefault(key, []).append(canonical({name: row.cells[name] for name in taken}))
    if others and (not found or _PARTITION in metadata.table):  # a table for all has rows of other partitions
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
