"""Tables: Parquet files, read in the calling thread alone, and digests of what tables say.

Arrow's own threads outlive a call and let go of what they read, Python objects included, at a time of their own. A
process that ends meanwhile is aborted, whatever it had done.
"""

from __future__ import annotations

import hashlib
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


def true_rows(mask: pa.ChunkedArray) -> pa.UInt64Array:
    """The numbers of the rows that are true, ascending."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow 25 ends the process where there is no chunk.
    return pc.indices_nonzero(mask) if mask.num_chunks else pa.array([], pa.uint64())


def table_digest(table: pa.Table) -> str:
    """SHA-256, in hexadecimal, over the rows in their order: columns of strings, which may be null, and of integers.

    Neither the columns' names nor how the rows lie in memory or in a file count.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256(np.int64(table.num_rows).astype("<i8"))
    for column in table.columns:
        if not pa.types.is_string(column.type):
            for chunk in column.chunks:
                digest.update(chunk.cast(pa.int64()).to_numpy().astype("<i8"))
            continue
        for chunk in column.chunks:  # the lengths first: they say where each string ends
            lengths = pc.fill_null(pc.binary_length(chunk), -1)
            digest.update(lengths.to_numpy().astype("<i4"))
        for chunk in column.chunks:
            digest.update(_text(pc.fill_null(chunk, "")))
    return digest.hexdigest()


def _text(strings: pa.StringArray) -> pa.Buffer | bytes:
    """All strings, one after the other, in UTF-8."""
    import numpy as np

    _, ends, data = strings.buffers()
    if data is None or not len(strings):
        return b""
    first, last = np.frombuffer(ends, np.int32)[[strings.offset, strings.offset + len(strings)]]
    return data.slice(int(first), int(last - first))


def _open(file: BinaryIO) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, pre_buffer=False)  # noqa: TID251
