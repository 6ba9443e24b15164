"""What stands beside the components of samples: columns of the dataset's and vectors, out of its tables of embeddings.

A table is copied when reading begins, as far as it is wanted, for it is superseded as shards are. Rows are joined by
key. Columns are those of the packed sample that a sample descends from, so that what a transform has made of one has
its columns, too; a vector is that of the very sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import ConfigurationError, SupersededError
from shardmill.loading.indexes import read_table
from shardmill.shards.commit import read_commit
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.layout import Layout
from shardmill.shards.places import Places
from shardmill.shards.reader import ShardSet
from shardmill.spec import did_you_mean
from shardmill.storage import Storage, join_uri, relative_to
from shardmill.temporary import TemporaryFolder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

Numbers: TypeAlias = NDArray[np.int64]
RowNumbers: TypeAlias = NDArray[np.int32]
Passes: TypeAlias = NDArray[np.bool_]

EMBEDDING = "embedding"
_NUMBER = "__row__"
_TRIES = 20


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the components."""

    columns: Sequence[str] = ()
    filter: pc.Expression | None = None
    vectors: bool = False

    def __bool__(self) -> bool:
        return bool(self.columns) or self.selects

    @property
    def selects(self) -> bool:
        """Whether not all samples are read: a filter may leave some out, and some may have no vector."""
        return self.filter is not None or self.vectors

    @property
    def handed_over(self) -> list[str]:
        """The columns that a sample gets."""
        return list(dict.fromkeys([*self.columns, *([EMBEDDING] if self.vectors else [])]))


@dataclass(frozen=True)
class LocalTable:
    """Columns of a table, in memory that the processes of a machine share. Picklable."""

    shards: ShardSet
    columns: Sequence[str]
    folder: TemporaryFolder = field(repr=False)

    def cells(self, rows: RowNumbers) -> list[dict[str, Any]]:
        """The cells of these rows by column; of row -1, which stands for none, all None. A vector is a tensor [d]."""
        import pyarrow as pa

        batches, starts = self._parts
        there = np.flatnonzero(rows >= 0)
        which = np.searchsorted(starts, rows[there], "right") - 1
        found: list[dict[str, Any]] = [dict.fromkeys(self.columns) for _ in rows]
        for number in np.unique(which):
            places = there[which == number]
            taken = batches[number].take(pa.array(rows[places] - starts[number]))
            for name in self.columns:
                for place, value in zip(places, _values(taken[name]), strict=True):
                    found[place][name] = value
        return found

    def copy(self, filter: pc.Expression | None) -> Passes | None:
        """Read it once and for all, as far as it is wanted. Gives the rows that a filter lets through.

        Raises:
            SupersededError: It is gone because another commit stands by now.
            ConfigurationError: It has no such column.
        """
        import pyarrow as pa

        passes, writer = [np.zeros(0, bool)], None
        with pa.OSFile(str(self.folder.path / self._name), "wb") as file:
            for batch in self._batches(None if filter is not None else self.columns):
                if filter is not None:
                    passes.append(_passing(batch, filter, self.shards.folder))
                part = batch.select([*self.columns])
                writer = writer or pa.ipc.new_file(file, part.schema)
                writer.write_batch(part)
            if writer is not None:
                writer.close()
        return None if filter is None else np.concatenate(passes)

    @cached_property
    def _parts(self) -> tuple[Sequence[pa.RecordBatch], Numbers]:
        """All rows in pieces, and the number of the first of each; on another machine they are read anew."""
        table = read_table(self.folder, self._name)
        batches = list(self._batches(self.columns)) if table is None else table.to_batches()
        return batches, np.cumsum([0, *map(len, batches)])

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        for shard in self.shards.shards:
            yield from shard.batches(self.shards.storage, columns)

    @property
    def _name(self) -> str:
        return fingerprint(table=[self.shards.folder, self.shards.digest, *self.columns])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_parts"}


@dataclass(frozen=True)
class Rows:
    """What a table says of the samples of a shard. Picklable."""

    table: LocalTable
    numbers: RowNumbers
    """Of each sample its row, -1 where there is none."""

    @property
    def without(self) -> int:
        """Samples without a row."""
        return int((self.numbers < 0).sum())


@dataclass(frozen=True)
class Joined:
    """A table as samples are joined with it."""

    table: LocalTable
    keys: pa.StringArray
    origins: pa.StringArray
    passes: Passes | None
    """The rows that a filter lets through."""
    vectors: bool

    def rows(self, shards: Sequence[Places]) -> list[Rows]:
        """Of the samples of shards their rows: those with their keys, or else, but for vectors, of their origins."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not shards:
            return []
        rows = pc.index_in(pa.concat_arrays([places.keys for places in shards]), value_set=self.keys)
        if not self.vectors and rows.null_count:
            origins = pa.concat_arrays([places.origins for places in shards])
            rows = pc.coalesce(rows, pc.index_in(origins, value_set=self.origins))
        numbers = rows.fill_null(-1).to_numpy(zero_copy_only=False)
        ends = np.cumsum([len(places) for places in shards])
        return [Rows(self.table, part) for part in np.split(numbers, ends[:-1])]

    def selected(self, rows: Rows) -> Numbers:
        """The samples of a shard that are read, where not all are."""
        chosen = rows.numbers >= 0
        return np.flatnonzero(chosen if self.passes is None else chosen & np.append(self.passes, False)[rows.numbers])


def joined(table: ShardSet, wanted: Wanted, folder: TemporaryFolder) -> Joined:
    """The table as it stands now, copied as far as it is wanted.

    Raises:
        ConfigurationError: It lacks a column.
        SupersededError: It is committed faster than it can be read.
    """
    for _ in range(_TRIES):
        try:
            return _joined(LocalTable(table, wanted.handed_over, folder), wanted)
        except SupersededError:
            if table.pinned:
                raise
            table = table.newest()
    raise SupersededError(f"{table.layout.name} is committed faster than it can be read")


def _joined(table: LocalTable, wanted: Wanted) -> Joined:
    import pyarrow as pa

    shards, storage = table.shards.shards, table.shards.storage
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("key", "origin")])
    index = pa.concat_tables([schema.empty_table(), *(shard.index_table(storage, schema.names) for shard in shards)])
    passes = table.copy(wanted.filter)
    keys, origins = (index[name].combine_chunks() for name in schema.names)
    return Joined(table, keys, origins, passes, wanted.vectors)


def _passing(batch: pa.RecordBatch, filter: pc.Expression, where: str) -> Passes:
    """Of every row whether the expression is true of it. It may name all columns but the vectors."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pa.Table.from_batches([batch]).drop_columns([EMBEDDING])
    if not isinstance(filter, pc.Expression):
        raise ConfigurationError(
            f"filter is a {type(filter).__name__}: it is an expression, such as pyarrow.compute.field('cls') == '3'"
        )
    numbered = cells.append_column(_NUMBER, pa.array(np.arange(len(batch))))
    try:
        rows = numbered.filter(filter)[_NUMBER]
    except (pa.ArrowException, TypeError, ValueError) as error:
        columns, words = ", ".join(cells.column_names), str(error).partition("\n")[0]  # a schema follows
        if unknown := re.match(r"No match for FieldRef\.Name\((.*)\) in ", words):
            words = f"there is no {unknown[1]}{did_you_mean(unknown[1], cells.column_names)}"
        raise ConfigurationError(
            f"filter {filter} does not fit {where}, whose columns are {columns}: {words}"
        ) from error
    passes = np.zeros(len(batch), bool)
    passes[rows.to_numpy()] = True
    return passes


def table_beside(shards: ShardSet) -> ShardSet:
    """A table of embeddings of the same dataset and partition: each has the dataset's columns.

    Raises:
        ConfigurationError: None is committed.
    """
    storage, layout = shards.storage, shards.layout
    partition = layout.name.partition("/")[2]
    for asset in _tables(storage, layout):
        beside = Layout.at(join_uri(layout.home, f"{asset}/{partition}"))
        commit, _ = read_commit(storage, beside)
        if commit is not None and commit.stage == "embed":
            return ShardSet(storage, beside, commit)
    raise ConfigurationError(
        f"columns are read from a table of embeddings, and none of {partition} is committed in {layout.home}: "
        "materialize `embeddings`, or say by `embeddings=` which table it is"
    )


def _tables(storage: Storage, layout: Layout) -> list[str]:
    """The assets of a dataset that are called as tables of embeddings are."""
    side = layout.side_of_all
    found = storage.list(side, first_of=lambda uri: join_uri(side, relative_to(side, uri).partition("/")[0]))
    names = {relative_to(side, info.uri).partition("/")[0] for info in found}
    return sorted(name for name in names if name == "embeddings" or name.startswith("embeddings_"))


def _values(column: pa.Array) -> Sequence[Any]:
    """As Python has them; vectors as tensors."""
    import pyarrow as pa
    import torch

    if not pa.types.is_fixed_size_list(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    matrix = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return torch.from_numpy(matrix.copy()).unbind()
