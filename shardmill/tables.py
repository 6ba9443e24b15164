"""Parquet files, read in the calling thread alone.

Arrow's own threads outlive a call and let go of what they read, Python objects included, at a time of their own. A
process that ends meanwhile is aborted, whatever it had done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 4096


def read_parquet(file: BinaryIO, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows, with all columns or these.

    Raises:
        ValueError: It is no Parquet file; the error may be arrow's subclass.
        OSError: Likewise, or it cannot be read.
    """
    return _open(file).read(columns, use_threads=False)


def iterate_parquet(file: BinaryIO, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows in their order, 4,096 at a time, so that memory stays bounded.

    Raises:
        ValueError: It is no Parquet file; the error may be arrow's subclass.
        OSError: Likewise, or it cannot be read.
    """
    yield from _open(file).iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)


def _open(file: BinaryIO) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, pre_buffer=False)  # noqa: TID251
