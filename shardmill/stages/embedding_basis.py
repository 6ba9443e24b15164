"""Basis: the tables of embeddings of a dataset → what all of them are projected on, fitted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from typing_extensions import override

from shardmill.errors import CorruptionError
from shardmill.projection import Basis, UmapBasis, fit_pca, fit_umap
from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Suffix
from shardmill.shards.reader import ShardSet
from shardmill.shards.report import ShardReport
from shardmill.stages.embed import EmbedStage
from shardmill.stages.embedding_table import vectors_of
from shardmill.stages.stage import OutputFiles, Stage, Work
from shardmill.storage import Storage

if TYPE_CHECKING:
    import numpy as np

Projection = Literal["pca", "umap"]

FIT_ROWS = 50_000
"""Rows that a basis is fitted on; more would not move the axes, and the first map would wait for them."""


@dataclass(frozen=True)
class TablesToFit:
    """Tables of one embedder, as a stage's input."""

    find: Callable[[], Sequence[ShardSet]]
    """Reads which they are: that is not asked where a basis stands."""
    settled: bool
    """Whether the basis stays, whatever becomes of the tables; one of tables that are not final is fitted again."""
    id = "000000"
    start = ""

    @cached_property
    def tables(self) -> Sequence[ShardSet]:
        """The tables."""
        return self.find()

    @property
    def samples(self) -> int:
        """Rows that are read at most."""
        return min(FIT_ROWS, sum(table.commit.total_samples for table in self.tables))

    @property
    def size(self) -> int:
        """Size of the tables."""
        return sum(table.commit.total_bytes for table in self.tables)

    def identity(self) -> Any:
        """Nothing, once it is settled: which tables were there first must not move any map."""
        return "settled" if self.settled else sorted(table.commit.digest for table in self.tables)

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels with the tables that were found: what finds them knows the whole dataset."""
        return TablesToFit, (partial(tuple, self.tables), self.settled)


@dataclass(frozen=True)
class BasisStage(Stage[TablesToFit]):
    """Fits a projection to two dimensions on the vectors of one embedder."""

    projection: Projection
    embed: EmbedStage
    """What made the tables."""

    name: ClassVar[str] = "basis"
    suffix: ClassVar[Suffix] = "parquet"

    @override
    def parameters(self) -> dict[str, Any]:
        return {"projection": self.projection, "embedder": self.embed.identity()}

    @override
    def declared(self) -> dict[str, Any]:
        return {"projection": self.projection}

    @override
    def resolve(self, storage: Storage) -> Self:
        return replace(self, embed=self.embed.resolve(storage))

    @override
    def __call__(self, shard: TablesToFit, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Columns: key, vector, weight, as `Basis.to_table` and `UmapBasis.to_table` say.

        Raises:
            ConfigurationError: There are too few vectors, one is not finite, or umap-learn is missing.
        """
        import pyarrow.parquet as pq

        vectors = _counted(_first_vectors(shard.tables), work)
        fitted = fit_pca(vectors) if self.projection == "pca" else fit_umap(vectors)
        file, table = work.scratch / "data.parquet", fitted.to_table()
        pq.write_table(table, file, compression="zstd")
        return OutputFiles(file, IndexWriter()), ShardReport(
            samples_in=shard.samples,
            kept=shard.samples,
            samples=table.num_rows,
            bytes_in=shard.size,
            bytes=file.stat().st_size,
            sha256=file_sha256(file),
            summary={"fitted on": ", ".join(table.commit.name.rpartition("/")[2] for table in shard.tables[:20])},
        )


def read_basis(basis: ShardSet) -> Basis | UmapBasis:
    """The basis in a committed set.

    Raises:
        CorruptionError: It is damaged.
    """
    kind = Basis if basis.commit.parameters["projection"] == "pca" else UmapBasis
    try:
        return kind.from_table(basis.table())
    except CorruptionError as error:
        raise CorruptionError(
            f"{basis.folder} is damaged: {error}. Delete it and run again: if it was fitted on other tables, every map "
            "is made anew"
        ) from error


def tables_of(embed: EmbedStage, tables: Iterable[ShardSet]) -> Iterator[ShardSet]:
    """The tables that this stage made and that have rows."""
    for table in tables:
        commit = table.commit
        if commit.total_samples and (commit.stage_version, commit.parameters) == (embed.version, embed.parameters()):
            yield table


def tables_to_fit(tables: Iterable[ShardSet]) -> list[ShardSet]:
    """The first of these tables whose rows are enough: of the final ones, or of all where none is final."""
    final, every = _Enough(), _Enough()
    for table in tables:
        every.take(table)
        if table.commit.is_final:
            final.take(table)
        if final.rows >= FIT_ROWS:
            break
    return final.tables or every.tables


@dataclass
class _Enough:
    """Tables, as long as their rows are too few."""

    tables: list[ShardSet] = field(default_factory=list)
    rows: int = 0

    def take(self, table: ShardSet) -> None:
        if self.rows < FIT_ROWS:
            self.tables.append(table)
            self.rows += table.commit.total_samples


def _first_vectors(tables: Sequence[ShardSet]) -> Iterator[np.ndarray[Any, Any]]:
    rows = 0
    for table in tables:
        for batch in table.pinned_here().batches(["embedding"]):
            yield vectors_of(batch)[: FIT_ROWS - rows]
            rows += batch.num_rows
            if rows >= FIT_ROWS:
                return


def _counted(batches: Iterator[np.ndarray[Any, Any]], work: Work) -> Iterator[np.ndarray[Any, Any]]:
    for batch in batches:
        yield batch
        work.advance(len(batch))
