"""A CPU runtime: one image a request, one core a request, as many requests at once as there are cores.

Faster than batches on a CPU, whose caches hold one image's activations but not sixty-four's; and no image
can touch another's result.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import Runtime

Finish: TypeAlias = Callable[[], NDArray[np.float32]]
"""Waits for the vector of an image that was started."""


class ImageRuntime(Runtime):
    """Starts each image by itself, and keeps two a core under way, so that no core waits for the next image."""

    def __init__(self, embedder: Embedder, threads: int) -> None:
        super().__init__(embedder)
        self.ahead = 2 * threads

    @abstractmethod
    def start(self, image: NDArray[np.uint8]) -> Finish:
        """Start uint8 [h, w, 3], contiguous; returns at once. At most `ahead` are under way."""

    @override
    def embed(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        started: deque[Finish] = deque()
        try:
            for image in images:
                if len(started) == self.ahead:
                    yield started.popleft()()
                started.append(self.start(np.ascontiguousarray(image)))
            while started:
                yield started.popleft()()
        finally:
            for finish in started:
                with suppress(Exception):  # nobody asks for these
                    finish()
