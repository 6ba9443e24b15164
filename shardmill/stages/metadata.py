"""The table of what a `FileStage` knows of the files that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from shardmill.errors import ConfigurationError
from shardmill.samples import EncodedSample
from shardmill.shards.stored import Rows, StoredShard
from shardmill.sources.columns import LINEAGE, arrow_type, checked_type, column_value, declared, json_fields
from shardmill.stages.files import METADATA
from shardmill.stages.samples import RowStage
from shardmill.stages.stored_samples import Fingerprints

if TYPE_CHECKING:
    import pyarrow as pa

_LINEAGE = tuple(name for name in LINEAGE if name != "model")


@dataclass(frozen=True)
class MetadataStage(RowStage):
    """Makes a row of each sample's metadata, with the way to its raw object."""

    columns: Mapping[str, str]
    """Column → type."""

    name: ClassVar[str] = "metadata"

    @override
    def parameters(self) -> dict[str, Any]:
        return {"columns": declared(self.columns)}

    @override
    def schema(self) -> pa.Schema:
        import pyarrow as pa

        typed = (pa.field(name, arrow_type(kind)) for name, kind in self.columns.items())
        return pa.schema([*typed, *(pa.field(name, pa.string(), nullable=False) for name in _LINEAGE)])

    @override
    def reads(self, component: str) -> bool:
        return component == METADATA

    @override
    def fingerprints(self, computation: str, key: str, rows: Rows) -> Fingerprints:
        """Its key is no part of a row's cells."""
        return super().fingerprints(computation, "", rows)

    @override
    def row(self, sample: EncodedSample) -> dict[str, Any]:
        fields = json_fields(sample.components[METADATA])
        given = [name for name in self.columns if name in fields]
        return {name: column_value(name, self.columns[name], [fields[name]]) for name in given}

    @override
    def lineage(self, shard: StoredShard, rows: Rows) -> Mapping[str, Any]:
        row = next(row for name, row in rows.items() if name != METADATA)
        cells = (row.component, row.sha256, shard.file_name, shard.entry.sha256)
        return dict(zip(_LINEAGE, (*cells, row.source_uri, row.source_version, row.source_sha256), strict=True))


def check_columns(columns: Mapping[str, str]) -> None:
    """Check the columns that a stage declares.

    Raises:
        ConfigurationError: One has a name or a type that a table's column cannot have.
    """
    if not isinstance(columns, Mapping):
        raise ConfigurationError(f"give a type for each column by its name, and no {type(columns).__name__}")
    for name, kind in columns.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{name!r} is no name of a column")
        if name in ("key", *_LINEAGE):
            raise ConfigurationError(f"{name}: the table has a column of its own that is called so")
        try:
            checked_type(str(kind))
        except ValueError as error:
            raise ConfigurationError(f"{name}: {error}") from error
