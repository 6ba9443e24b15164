"""Map: embeddings → points in two dimensions, and their picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from shardmill.errors import ConflictError, CorruptionError
from shardmill.projection import Basis, UmapBasis, draw_scatter, fit_pca, fit_umap
from shardmill.shards.fingerprint import file_sha256, fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import SIDE, Suffix
from shardmill.shards.reader import ShardSet
from shardmill.shards.report import ShardReport
from shardmill.stages.lazy_shard_set import LazyShardSet
from shardmill.stages.stage import OutputFiles, Work
from shardmill.storage import Storage, join_uri

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Projection = Literal["pca", "umap"]

_FIT_ROWS = 50_000
"""Rows that a basis is fitted on; more would not move the axes, and the first map would wait for them."""


@dataclass(frozen=True)
class EmbeddingTable:
    """A committed partition of embeddings, as a stage's input."""

    table: ShardSet
    id = "000000"
    start = ""

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self.table.commit.total_samples

    def identity(self) -> Any:
        """The partition's digest."""
        return self.table.commit.digest


@dataclass(frozen=True)
class MapStage:
    """Projects every row of a table on the dataset's basis, and draws the points coloured by class."""

    projection: Projection
    basis: Basis | UmapBasis
    class_names: tuple[str, ...] = ()
    """Of the classes that `cls` numbers from 0."""

    name = "map"
    version = 1
    suffix: Suffix = "parquet"
    exclusive = True
    gpu = None

    def parameters(self) -> dict[str, Any]:
        """See `Stage`."""
        return {"projection": self.projection, "basis": self.basis.digest, "class_names": list(self.class_names)}

    def __call__(self, shard: EmbeddingTable, work: Work) -> tuple[OutputFiles, ShardReport]:
        """See `Stage`. Columns: key, x, y (float32), cls."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        keys: list[str] = []
        labels: list[str | None] = []
        points = [np.empty((0, 2), np.float32)]
        for batch in shard.table.batches(["key", "embedding", "cls"]):
            keys += batch["key"].to_pylist()
            labels += batch["cls"].to_pylist()
            points.append(self.basis.project(vectors_of(batch)))
            work.advance(batch.num_rows)
        xy = np.concatenate(points)
        columns = {"key": keys, "x": xy[:, 0], "y": xy[:, 1], "cls": labels}
        required = [pa.field("key", pa.string(), nullable=False)] + [
            pa.field(axis, pa.float32(), nullable=False) for axis in ("x", "y")
        ]
        file, picture = work.scratch / "data.parquet", work.scratch / "picture.png"
        pq.write_table(pa.table(columns, schema=pa.schema([*required, ("cls", pa.string())])), file, compression="zstd")
        picture.write_bytes(draw_scatter(xy, [self._named(label) for label in labels], shard.table.commit.name))
        ratios = self.basis.explained_variance_ratio if isinstance(self.basis, Basis) else ()
        report = ShardReport(
            samples_in=shard.samples,
            kept=len(keys),
            samples=len(keys),
            bytes_in=shard.table.commit.total_bytes,
            bytes=file.stat().st_size,
            sha256=file_sha256(file),
            picture=True,
            summary={f"variance_of_axis_{axis}": round(ratio, 4) for axis, ratio in zip("xy", ratios, strict=False)},
        )
        return OutputFiles(file, IndexWriter(), picture), report

    def _named(self, label: str | None) -> str | None:
        known = label is not None and label.isdecimal() and int(label) < len(self.class_names)
        return self.class_names[int(label)] if known and label is not None else label


def map_of(
    table: ShardSet,
    others: Callable[[], Iterator[ShardSet]],
    projection: Projection,
    home: str,
    class_names: Sequence[str] = (),
) -> LazyShardSet:
    """The map of an embedding table on the basis of its dataset, whose folder is `home`.

    The basis is fitted once for each embedder, on the tables that are there at that time (`table`, then `others`), and
    kept in `<home>/_shardmill/basis/`. One that is fitted while samples of the table are still to be tried again is not
    kept.
    """
    if not table.commit.total_samples:
        return LazyShardSet.of(MapStage(projection, _no_basis(), tuple(class_names)), table, [])
    basis = _read_basis(table.storage, _basis_uri(table, projection, home), projection)
    if basis is None:
        basis = _fit_basis(table, others(), projection, home)
    inputs = [EmbeddingTable(table.pinned_here())]
    return LazyShardSet.of(MapStage(projection, basis, tuple(class_names)), table, inputs)


def has_basis(table: ShardSet, projection: Projection, home: str) -> bool:
    """Whether the basis that the table would be projected on has been fitted; an empty table needs none."""
    return not table.commit.total_samples or table.storage.stat(_basis_uri(table, projection, home)) is not None


def _basis_uri(table: ShardSet, projection: Projection, home: str) -> str:
    commit = table.commit
    embedder = fingerprint(stage=commit.stage, version=commit.stage_version, parameters=commit.parameters)
    suffix = "json" if projection == "pca" else "npz"
    return join_uri(home, f"{SIDE}/basis/{projection}-{embedder[:12]}.{suffix}")


def _fit_basis(table: ShardSet, others: Iterator[ShardSet], projection: Projection, home: str) -> Basis | UmapBasis:
    parameters = table.commit.parameters
    final = (other for other in others if other.commit.is_final and other.folder != table.folder)
    same = (other for other in final if other.commit.parameters == parameters)
    vectors = _first_vectors(chain([table], same))
    fitted = fit_pca(vectors) if projection == "pca" else fit_umap(vectors)
    uri = _basis_uri(table, projection, home)
    if not table.commit.is_final:
        return fitted
    try:
        table.storage.replace(uri, fitted.to_bytes(), expected=None)
    except ConflictError:  # another partition's run was first: its basis is the dataset's
        return _read_basis(table.storage, uri, projection) or fitted
    return fitted


def _read_basis(storage: Storage, uri: str, projection: Projection) -> Basis | UmapBasis | None:
    try:
        data = storage.read(uri)
    except FileNotFoundError:
        return None
    try:
        return Basis.from_bytes(data) if projection == "pca" else UmapBasis.from_bytes(data)
    except CorruptionError as error:
        raise CorruptionError(
            f"{uri} is damaged: {error}. Restore it; or delete it, and run every partition again: their maps get a new "
            "basis"
        ) from error


def _no_basis() -> Basis:
    import numpy as np

    return Basis(np.zeros(0), np.zeros((2, 0)), (0.0, 0.0))


def _first_vectors(tables: Iterable[ShardSet]) -> Iterator[np.ndarray[Any, Any]]:
    rows = 0
    for table in tables:
        for batch in table.batches(["embedding"]):
            yield vectors_of(batch)
            rows += batch.num_rows
            if rows >= _FIT_ROWS:
                return


def vectors_of(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """The embedding column, [n, d]."""
    import numpy as np

    column = batch["embedding"]
    return np.asarray(column.flatten()).reshape(batch.num_rows, column.type.list_size)
