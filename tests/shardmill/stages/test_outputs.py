"""The files that stages of samples write."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shardmill.shards.index import IndexRow
from shardmill.stages.outputs import Cell, TableOutput
from shardmill.stages.stage import Work
from shardmill.storage import Storage


def test_row_groups_are_of_one_size_whatever_the_sizes_that_rows_come_in(tmp_path: Path) -> None:
    row = IndexRow("key", "row", 0, 1, "digest", "mem://x", "1", "digest", "key")
    work = Work(Storage(), tmp_path, 1, lambda _: None)
    with TableOutput(work, pa.schema([("key", pa.string())])) as output:
        for first in (0, 600, 1200, 1800):
            keys = [f"{number:04}" for number in range(first, first + 600)]
            output.add({"key": keys}, "row", [Cell(0, "", row, "")] * 600)
    file = pq.ParquetFile(tmp_path / "data.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [1024, 1024, 352]
    assert file.read()["key"].to_pylist() == [f"{number:04}" for number in range(2400)]
