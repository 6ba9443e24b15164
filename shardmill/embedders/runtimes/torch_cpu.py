"""Plain torch on a CPU: always there."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import trace
from shardmill.embedders.runtimes.images import Finish, ImageRuntime


class TorchRuntime(ImageRuntime):
    """A frozen TorchScript module, shared by threads that each run it on one core."""

    name = "torch"

    def __init__(self, embedder: Embedder, bfloat16: bool = False, threads: int | None = None) -> None:
        self._module = trace(embedder, bfloat16)
        threads = threads or usable_cores()
        super().__init__(embedder, threads)
        self._pool = ThreadPoolExecutor(threads, "shardmill-torch", _one_core)

    @override
    def start(self, image: NDArray[np.uint8]) -> Finish:
        return self._pool.submit(self.infer, image).result

    @override
    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        del self._module

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [h, w, 3] → float32 [d], on the calling thread, the GIL released."""
        import torch

        with torch.inference_mode():
            vector: NDArray[np.float32] = self._module(torch.from_numpy(image[None]))[0].numpy()
        return vector


def _one_core() -> None:
    """Operations on this thread use this thread alone. (Threads started later inherit it.)"""
    import torch

    torch.set_num_threads(1)
