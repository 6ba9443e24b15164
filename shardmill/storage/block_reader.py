"""A file over ranged reads: some blocks ahead in parallel, and never more of the object in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

BLOCK_BYTES = 8 << 20
BLOCKS_AHEAD = 4


class BlockReader(io.RawIOBase):
    """A seekable, read-only file of `size` bytes. `fetch(start, stop)` gives a range, and may run in threads."""

    def __init__(self, fetch: Callable[[int, int], Any], size: int) -> None:
        super().__init__()
        self._fetch, self._size = fetch, size
        self._position = 0
        self._blocks: dict[int, Future[Any]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes; a seek costs nothing until the next read."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the block at the position, at most to the block's end; blocks after it are fetched."""
        if self._position >= self._size:
            return 0
        number, offset = divmod(self._position, BLOCK_BYTES)
        block = memoryview(self._block(number))
        part = block[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        """Forget the blocks; what is under way ends unheard."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._blocks.clear()
        super().close()

    def _block(self, number: int) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(BLOCKS_AHEAD, thread_name_prefix="shardmill-read")
        last = (self._size - 1) // BLOCK_BYTES
        # Ahead only of a reader that goes forward block by block: one that jumps about wants no more than it asks for.
        ahead = BLOCKS_AHEAD if number == 0 or number in self._blocks or number - 1 in self._blocks else 1
        wanted = range(number, min(number + ahead, last + 1))
        for at in self._blocks.keys() - set(wanted):
            self._blocks.pop(at).cancel()
        for at in wanted:
            if at not in self._blocks:
                stop = min((at + 1) * BLOCK_BYTES, self._size)
                self._blocks[at] = self._threads.submit(self._fetch, at * BLOCK_BYTES, stop)
        try:
            return self._blocks[number].result()
        except Exception:
            del self._blocks[number]  # the next read asks again
            raise
