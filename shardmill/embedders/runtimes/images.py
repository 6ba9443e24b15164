"""A CPU runtime: one image a request, one core a request, as many requests at once as there are cores.

Faster than batches on a CPU, whose caches hold one image's activations but not sixty-four's; and no image
can touch another's result.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.embedders.runtimes.base import IN_FLIGHT, Runtime


class ImageRuntime(Runtime):
    """Maps `infer` over images on a pool of threads."""

    def __init__(self, dimension: int, threads: int, initializer: Callable[[], None] | None = None) -> None:
        self._dimension = dimension
        self._pool = ThreadPoolExecutor(threads, f"shardmill-{self.name}", initializer)

    @abstractmethod
    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [1, h, w, 3] → float32 [1, d], on the calling thread, the GIL released."""

    @override
    def embed(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        pending: deque[list[Future[NDArray[np.float32]]]] = deque()
        try:
            for batch in batches:
                pending.append([self._pool.submit(self.infer, image[None]) for image in batch])
                if len(pending) > IN_FLIGHT:
                    yield self._gather(pending.popleft())
            while pending:
                yield self._gather(pending.popleft())
        finally:
            for future in (future for futures in pending for future in futures):
                future.cancel()

    @override
    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _gather(self, futures: list[Future[NDArray[np.float32]]]) -> NDArray[np.float32]:
        vectors = np.empty((len(futures), self._dimension), np.float32)
        for row, future in zip(vectors, futures, strict=True):
            row[:] = future.result()[0]
        return vectors
