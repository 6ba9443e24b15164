"""Plain torch on a CPU: always there."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import trace
from shardmill.embedders.runtimes.images import ImageRuntime


class TorchRuntime(ImageRuntime):
    """A frozen TorchScript module, shared by threads that each run it on one core."""

    name = "torch"

    def __init__(self, embedder: Embedder, bfloat16: bool = False, threads: int | None = None) -> None:
        self._module = trace(embedder, bfloat16)
        super().__init__(embedder.dimension, threads or usable_cores(), _one_core)

    @override
    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            vector: NDArray[np.float32] = self._module(torch.from_numpy(np.array(image))).numpy()
        return vector

    @override
    def close(self) -> None:
        super().close()
        del self._module


def _one_core() -> None:
    """Operations on this thread use this thread alone. (Threads started later inherit it.)"""
    import torch

    torch.set_num_threads(1)
