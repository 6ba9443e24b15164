"""The files that stages of samples write: a tar, or a part of a table, each with its index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexRow, IndexWriter, Source
from shardmill.shards.ustar import TarWriter
from shardmill.stages.counts import Counts
from shardmill.stages.stage import OutputFiles, Work

if TYPE_CHECKING:
    import pyarrow as pa

    from shardmill.shards.report import ShardReport

_ROW_GROUP = 1024
_SETS = 20
"""Sets of components that a report tells apart."""


class TarOutput:
    """A tar shard that is being written, with its index."""

    def __init__(self, work: Work) -> None:
        self._file = work.scratch / "data.tar"
        self._stream = self._file.open("wb")
        self._tar = TarWriter(self._stream)
        self.index = IndexWriter()
        self.samples = 0
        self._key: str | None = None
        self._names: list[str] = []
        self._sets = Counter[str]()

    def add(
        self,
        key: str,
        component: str,
        data: bytes,
        sha256: str,
        source: Source,
        origin: str | None = None,
        fingerprint: str = "",
    ) -> None:
        """Append a component; those of a sample one after the other, sorted."""
        if key != self._key:
            self._count_components()
            self._key = key
        self._names.append(component)
        offset = self._tar.write(key, component, data)
        self.index.add(key, component, offset, len(data), sha256, source, origin, fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sha256 = self._tar.close()
        self._stream.close()

    def result(self, counts: Counts) -> tuple[OutputFiles, ShardReport]:
        """What the stage returns, once the file is closed."""
        self._count_components()
        file = self._file if self.samples else None
        report = counts.report(self.samples, file, self._sha256, components=self._most_frequent())
        return OutputFiles(file, self.index), report

    def _count_components(self) -> None:
        if self._names:
            self._sets[" ".join(self._names)] += 1
            self._names.clear()

    def _most_frequent(self) -> dict[str, int]:
        ranked = sorted(self._sets.items(), key=lambda each: (-each[1], each[0]))
        rare = sum(count for _, count in ranked[_SETS:])
        return dict(ranked[:_SETS]) | ({"other": rare} if rare else {})


class Cell(NamedTuple):
    """What the index says of a row of a table."""

    size: int
    """Bytes of what was computed for it."""
    sha256: str
    """Of these bytes."""
    origin: IndexRow
    """What it was computed from."""
    fingerprint: str


class TableOutput:
    """A part of a table that is being written, with its index. Memory does not grow with the shard."""

    def __init__(self, work: Work, schema: pa.Schema, **options: Any) -> None:
        """`options` are those of `pyarrow.parquet.ParquetWriter`."""
        import pyarrow.parquet as pq

        self._schema = schema
        self._file = work.scratch / "data.parquet"
        self._writer = pq.ParquetWriter(self._file, schema, **{"compression": "zstd", **options})
        self._waiting: list[pa.Table] = []
        self.index = IndexWriter()
        self.rows = 0

    def add(self, columns: dict[str, Any], component: str, cells: Sequence[Cell]) -> None:
        """Append rows, with what the index says of each."""
        import pyarrow as pa

        for key, cell in zip(columns["key"], cells, strict=True):
            row = cell.origin
            self.index.add(key, component, self.rows, cell.size, cell.sha256, row.source, row.origin, cell.fingerprint)
            self.rows += 1
        self._waiting.append(pa.table(columns, schema=self._schema))
        if sum(part.num_rows for part in self._waiting) >= _ROW_GROUP:
            self._flush(_ROW_GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._flush(1)
        self._writer.close()

    def result(self, counts: Counts, **figures: Any) -> tuple[OutputFiles, ShardReport]:
        """What the stage returns, once the file is closed."""
        file = self._file if self.rows else None
        return OutputFiles(file, self.index), counts.report(self.rows, file, file_sha256(self._file), **figures)

    def _flush(self, least: int) -> None:
        """Write row groups of one size, whatever the sizes that rows come in, as long as `least` rows wait."""
        import pyarrow as pa

        waiting = pa.concat_tables(self._waiting).combine_chunks()
        while waiting.num_rows >= least:
            self._writer.write_table(waiting.slice(0, _ROW_GROUP))
            waiting = waiting.slice(_ROW_GROUP)
        self._waiting = [waiting] if waiting.num_rows else []
