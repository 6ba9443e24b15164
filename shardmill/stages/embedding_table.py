"""The embedding table: its columns, and how its rows are written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from shardmill.embedders import EmbedderSpec
from shardmill.shards.earlier import Former
from shardmill.shards.gathered import GatheredRows
from shardmill.shards.index import IndexRow
from shardmill.shards.stored import StoredShard
from shardmill.sources.columns import LINEAGE, OWN_COLUMNS
from shardmill.stages.columns import SampleColumns
from shardmill.stages.outputs import Cell, TableOutput
from shardmill.stages.stage import Work

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Row(NamedTuple):
    """Of the table, but for its vector."""

    key: str
    columns: Sequence[Any]
    """The declared ones."""
    origin: IndexRow
    """Of the image that is embedded."""
    fingerprint: str
    former: Former | None
    """Has the vector, where it is copied."""


Embedded: TypeAlias = "tuple[Row, np.ndarray[Any, Any] | None]"
"""A row, and its vector where it is not copied."""


def open_table(work: Work, schema: pa.Schema) -> TableOutput:
    """Vectors neither repeat nor compress, and nobody filters by their smallest element."""
    paths = [path for field in schema for path in _leaves(field) if field.name != "embedding"]
    compression = {**dict.fromkeys(paths, "zstd"), "embedding.list.element": "none"}
    return TableOutput(work, schema, use_dictionary=paths, write_statistics=paths, compression=compression)


def _leaves(field: pa.Field) -> list[str]:
    """What Parquet calls the column that holds a field's values."""
    import pyarrow as pa

    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name]


def table_arrays(
    embedded: list[Embedded],
    known: GatheredRows,
    shard: StoredShard,
    spec: EmbedderSpec,
    schema: pa.Schema,
) -> tuple[dict[str, Any], str, list[Cell]]:
    """The columns of some rows, which of them the index is of, and what it says of them."""
    import numpy as np
    import pyarrow as pa

    kind = schema.field("embedding").type
    declared = [field.name for field in schema if field.name not in OWN_COLUMNS]
    rows = [row for row, _ in embedded]
    computed = [vector for _, vector in embedded if vector is not None]
    fresh = iter(spec.finish(np.stack(computed)) if computed else ())
    vectors = np.empty((len(rows), kind.list_size), spec.dtype)
    cells = []
    for vector, row in zip(vectors, rows, strict=True):
        vector[:] = next(fresh) if row.former is None else vectors_of(known.row(row.former))[0]
        cells.append(Cell(vector.nbytes, hashlib.sha256(vector).hexdigest(), row.origin, row.fingerprint))
    columns = {
        "key": [row.key for row in rows],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind),
        **{name: [row.columns[number] for row in rows] for number, name in enumerate(declared)},
        "model": [spec.model] * len(rows),
        "component": [row.origin.component for row in rows],
        "component_sha256": [row.origin.sha256 for row in rows],
        "shard": [shard.file_name] * len(rows),
        "shard_sha256": [shard.entry.sha256] * len(rows),
        "source_uri": [row.origin.source_uri for row in rows],
        "source_version": [row.origin.source_version for row in rows],
        "source_sha256": [row.origin.source_sha256 for row in rows],
    }
    return columns, "embedding", cells


def vectors_of(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """The embedding column of a table's batch, [n, d]."""
    import numpy as np

    column = batch["embedding"]
    return np.asarray(column.flatten()).reshape(batch.num_rows, column.type.list_size)


def embedding_schema(dimension: int, dtype: str, columns: SampleColumns) -> pa.Schema:
    """The columns of an embedding table: key, vector, class, those that are declared, the way to the raw object."""
    import pyarrow as pa

    element = pa.field("element", pa.type_for_alias(dtype), nullable=False)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(element, dimension), nullable=False),
            *columns.fields(),
            *(pa.field(name, pa.string(), nullable=False) for name in LINEAGE),
        ]
    )
