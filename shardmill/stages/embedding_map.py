"""Map: embeddings → points in two dimensions, and their picture."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from shardmill.projection import Basis, draw_scatter
from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Suffix
from shardmill.shards.reader import ShardSet
from shardmill.shards.report import ShardReport
from shardmill.sources.columns import CLASS, declared_names
from shardmill.stages.embedding_basis import read_basis
from shardmill.stages.embedding_table import vectors_of
from shardmill.stages.stage import OutputFiles, Stage, Work

logger = logging.getLogger(__name__)
_MOST_DIGITS = 18
"""Of the number of a class that has a name."""


@dataclass(frozen=True)
class TableToMap:
    """A committed partition of embeddings and the basis of its dataset, as a stage's input."""

    table: ShardSet
    basis: ShardSet
    id = "000000"
    start = ""

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self.table.commit.total_samples

    @property
    def size(self) -> int:
        """Size of the table."""
        return self.table.commit.total_bytes

    def identity(self) -> Any:
        """The digests of both."""
        return [self.table.commit.digest, self.basis.commit.digest]


@dataclass(frozen=True)
class MapStage(Stage[TableToMap]):
    """Projects every row of a table on the dataset's basis, and draws the points coloured by class."""

    class_names: tuple[str, ...] = ()
    """Of the classes that `cls` numbers from 0."""

    name: ClassVar[str] = "map"
    version: ClassVar[int] = 2
    suffix: ClassVar[Suffix] = "parquet"

    @override
    def parameters(self) -> dict[str, Any]:
        return {"class_names": list(self.class_names)}

    @override
    def __call__(self, shard: TableToMap, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Columns: key, x, y (float32), cls as the embeddings have it."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        basis = read_basis(shard.basis)
        keys: list[str] = []
        labels: list[Any] = []
        kind = pa.string()
        points = [np.empty((0, 2), np.float32)]
        empty = dict.fromkeys(
            name for name in declared_names(shard.table.commit.cut.get("columns", [])) if name != CLASS
        )
        for batch in shard.table.batches(["key", "embedding", CLASS, *empty]):
            empty = {name: None for name in empty if batch[name].null_count == batch.num_rows}
            keys += batch["key"].to_pylist()
            labels += batch["cls"].to_pylist()
            kind = batch.schema.field("cls").type
            points.append(basis.project(vectors_of(batch)))
            work.advance(batch.num_rows)
        xy = np.concatenate(points)
        columns = {"key": keys, "x": xy[:, 0], "y": xy[:, 1], "cls": labels}
        required = [pa.field("key", pa.string(), nullable=False)] + [
            pa.field(axis, pa.float32(), nullable=False) for axis in ("x", "y")
        ]
        file, picture = work.scratch / "data.parquet", work.scratch / "picture.png"
        pq.write_table(pa.table(columns, schema=pa.schema([*required, ("cls", kind)])), file, compression="zstd")
        picture.write_bytes(draw_scatter(xy, [self._named(label) for label in labels], shard.table.commit.name))
        summary: dict[str, float | str] = {}
        if self.class_names and keys and not any(label is not None for label in labels):
            summary["class_names"] = "apply to nothing: no sample has a class"
            logger.warning("%s: class_names apply to nothing: no sample has a `cls`", shard.table.commit.name)
        if empty and keys:
            summary["columns"] = f"no sample has a value: {', '.join(empty)}"
            logger.warning(
                "%s: no sample has a value of the declared column %s. Is it the name of a component, of a field of "
                "`json`, or of a column of the source's table?",
                shard.table.commit.name,
                ", ".join(empty),
            )
        ratios = basis.explained_variance_ratio if isinstance(basis, Basis) else ()
        report = ShardReport(
            samples_in=shard.samples,
            kept=len(keys),
            samples=len(keys),
            bytes_in=shard.size,
            bytes=file.stat().st_size,
            sha256=file_sha256(file),
            picture=True,
            summary=summary
            | {f"variance_of_axis_{axis}": round(ratio, 4) for axis, ratio in zip("xy", ratios, strict=False)},
        )
        return OutputFiles(file, IndexWriter(), picture), report

    def _named(self, label: Any) -> str | None:
        """The name of a class; its number, or what it is, where it has none."""
        text = None if label is None else str(label)
        known = (
            text is not None and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) < len(self.class_names)
        )
        return self.class_names[int(text)] if known and text is not None else text
