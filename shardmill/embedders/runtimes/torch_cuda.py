"""torch on CUDA: batches of one shape, copies and arithmetic overlapped."""

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import IN_FLIGHT, Runtime

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class CudaRuntime(Runtime):
    """bfloat16 autocast, channels_last, compiled where the compiler works.

    Every batch is padded to `batch_size` (or cut into pieces of it), because another shape may pick another
    kernel and so other low bits. `device="cpu"` runs the same code without a GPU, for tests.
    """

    name = "cuda"

    def __init__(self, embedder: Embedder, bfloat16: bool = True, batch_size: int = 64, device: str = "cuda") -> None:
        import torch

        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._bfloat16 = bfloat16
        self._shape = (batch_size, *embedder.input_size, 3)
        self._dimension = embedder.dimension
        module = copy.deepcopy(embedder.module()).to(self._device)
        # The type stubs know only the overloads without a device.
        self._module: Any = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._cuda:
            self._compile()

    @override
    def embed(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        pending: deque[list[tuple[int, torch.Tensor, Any]]] = deque()
        size = self._shape[0]
        for batch in batches:
            pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
            pending.append([(len(piece), *self._launch(piece)) for piece in pieces])
            if len(pending) > IN_FLIGHT:
                yield self._gather(pending.popleft())
        while pending:
            yield self._gather(pending.popleft())

    @override
    def close(self) -> None:
        import torch

        del self._module
        if self._cuda:
            torch.cuda.empty_cache()

    def _compile(self) -> None:
        import torch

        eager = self._module
        try:
            self._module = torch.compile(eager, dynamic=False)
            self._launch(np.zeros(self._shape, np.uint8))
            torch.cuda.synchronize(self._device)
        except Exception as error:  # no compiler or no Triton here: many kinds of error, one remedy
            logger.warning("torch.compile failed, running uncompiled: %s", error)
            self._module = eager

    def _launch(self, piece: NDArray[np.uint8]) -> "tuple[torch.Tensor, Any]":
        """Queue copy in, arithmetic, copy out; returns the destination and the event of its being filled."""
        import torch

        padded = np.zeros(self._shape, np.uint8)
        padded[: len(piece)] = piece
        images = torch.from_numpy(padded)
        casts = torch.autocast(self._device.type, torch.bfloat16) if self._bfloat16 else nullcontext()
        with (
            torch.inference_mode(),
            casts,
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            if not self._cuda:
                return self._module(images), None
            # Pinned memory comes from torch's cache, which waits for the copy before it is used again.
            vectors = self._module(images.pin_memory().to(self._device, non_blocking=True))
            host = torch.empty((self._shape[0], self._dimension), dtype=torch.float32, pin_memory=True)
            host.copy_(vectors, non_blocking=True)
            done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            return host, done

    def _gather(self, pieces: "list[tuple[int, torch.Tensor, Any]]") -> NDArray[np.float32]:
        vectors = [np.empty((0, self._dimension), np.float32)]
        for count, tensor, done in pieces:
            if done is not None:
                done.synchronize()
            vectors.append(tensor[:count].numpy())
        return np.concatenate(vectors)
