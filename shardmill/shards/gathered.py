"""Rows of stored tables, gathered on the disk: any of them is then at hand, however many there are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shardmill.shards.earlier import Former
from shardmill.shards.parts import OUT_OF_REACH
from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa


class GatheredRows:
    """The row that an earlier table holds of each of some samples, in a file that is mapped into memory.

    Each table is read once, and compared with its digest; rows of one that is damaged or gone are not there.
    """

    def __init__(
        self, storage: Storage, scratch: Path, formers: Iterable[Former], columns: Sequence[str] | None = None
    ) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        wanted: dict[str, tuple[StoredShard, set[int]]] = {}
        for former in formers:
            if former.rows:
                _, numbers = wanted.setdefault(former.shard.file_name, (former.shard, set()))
                numbers.add(former.rows[0].offset)
        for shard, numbers in wanted.values():
            with suppress(*OUT_OF_REACH):
                self._gather(_selected(shard, storage, numbers, columns), shard, scratch / shard.file_name)

    def has(self, former: Former) -> bool:
        """Whether its row is there."""
        return bool(former.rows) and (former.shard.file_name, former.rows[0].offset) in self._places

    def row(self, former: Former) -> pa.RecordBatch:
        """What was made of a sample: of equal ones, the first."""
        batch, place = self._places[former.shard.file_name, former.rows[0].offset]
        return self._batches[batch].slice(place, 1)

    @property
    def dimension(self) -> int | None:
        """Of the vectors in the column `embedding`, if there are rows."""
        return self._batches[0].schema.field("embedding").type.list_size if self._batches else None

    def _gather(self, selected: Iterator[tuple[list[int], pa.RecordBatch]], shard: StoredShard, file: Path) -> None:
        import pyarrow as pa

        numbers: list[list[int]] = []
        writer = None
        try:
            for rows, batch in selected:
                writer = writer or pa.ipc.new_file(str(file), batch.schema)
                writer.write_batch(batch)
                numbers.append(rows)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            return
        mapped = pa.ipc.open_file(pa.memory_map(str(file)))
        for number, rows in enumerate(numbers):
            for place, row in enumerate(rows):
                self._places[shard.file_name, row] = len(self._batches), place
            self._batches.append(mapped.get_batch(number))


def _selected(
    shard: StoredShard, storage: Storage, numbers: Collection[int], columns: Sequence[str] | None
) -> Iterator[tuple[list[int], pa.RecordBatch]]:
    """The wanted rows of a table, some at a time, with their numbers in it."""
    first = 0
    for batch in shard.batches(storage, columns):
        rows = [row for row in range(first, first + batch.num_rows) if row in numbers]
        if rows:
            yield rows, batch.take([row - first for row in rows])
        first += batch.num_rows
