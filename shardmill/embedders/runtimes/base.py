"""The interface of a runtime, and what those that trace a module share."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.protocol import Embedder
from shardmill.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

IN_FLIGHT = 2
"""Batches that a runtime holds while it asks for the next: it computes while the producer decodes."""


class Runtime(ABC):
    """Computes vectors. An image's vector does not depend on the other images or on the number of threads."""

    name: str

    @abstractmethod
    def embed(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """uint8 [n, h, w, 3] batches → float32 [n, d] batches, in order, one for one.

        Lazy and bounded: at most `IN_FLIGHT` batches are taken from `batches` ahead of the one yielded.
        One call at a time.
        """

    @abstractmethod
    def close(self) -> None:
        """Free threads and memory. The runtime cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def trace(embedder: Embedder, bfloat16: bool = False) -> "torch.jit.ScriptModule":
    """The embedder's module as TorchScript for batches of one image, constants folded.

    Raises:
        ConfigurationError: The module's output is not float32 [1, dimension].
    """
    import torch

    example = torch.zeros(1, *embedder.input_size, 3, dtype=torch.uint8)
    # A cache of casts would be recorded as constants of the first trace.
    casts = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if bfloat16 else nullcontext()
    with torch.no_grad(), casts, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; torch.export takes seven times as long
        module = embedder.module()
        traced: torch.jit.ScriptModule = torch.jit.freeze(
            torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        )
        output = module(example)
    if output.shape != (1, embedder.dimension) or output.dtype != torch.float32:
        raise ConfigurationError(
            f"{embedder.name} gives {output.dtype} {list(output.shape)} for an image, "
            f"not float32 [1, {embedder.dimension}]"
        )
    return traced
