"""The interface of a runtime, and what those that trace a module share."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.protocol import Embedder
from shardmill.errors import ConfigurationError
from shardmill.images import MAX_PIXELS, decode_image

if TYPE_CHECKING:
    import torch


Decode: TypeAlias = Callable[[bytes, str, int], NDArray[np.uint8]]
"""As `decode_image`: a file's bytes, its component's name and the most pixels → uint8 [H, W, 3]."""


class Runtime(ABC):
    """Computes vectors. An image's vector does not depend on the other images or on the number of threads."""

    name: str
    ahead: int
    """Images that it holds while it asks for the next: it computes while the producer decodes."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def prepare(
        self,
        data: bytes,
        component: str,
        max_pixels: int = MAX_PIXELS,
        decode: Decode = decode_image,
        is_sound: bool = False,  # noqa: ARG002 - it is decoded anyway
    ) -> NDArray[np.uint8]:
        """A file's bytes → what `embed` takes of it: the pixels that the model sees, uint8 [h, w, 3].

        Safe to call from several threads at once. It releases the GIL and runs on the calling thread. `decode` may give
        an image that others are given, too. `is_sound`: `verify_image` has let it through, and need not look again.

        Raises:
            Rejected: As `decode_image` and the embedder's `preprocess`.
            ConfigurationError: That gives something else than the embedder says.
        """
        pixels = self.embedder.preprocess(decode(data, component, max_pixels))
        _check_pixels(self.embedder, pixels)
        return pixels

    @abstractmethod
    def embed(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Images as `prepare` gives them → float32 [d] vectors, in order, one for one.

        Lazy and bounded: at most `ahead` images are taken ahead of the one whose vector is yielded. An image is not
        to be changed before its vector is there. Several threads may call it at once.
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


def _check_pixels(embedder: Embedder, pixels: object) -> None:
    shape = (*embedder.input_size, 3)
    if not isinstance(pixels, np.ndarray):
        raise ConfigurationError(f"{embedder.name} preprocesses an image to {type(pixels).__name__}, not to an array")
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ConfigurationError(
            f"{embedder.name} preprocesses an image to {pixels.dtype} {list(pixels.shape)}, not to uint8 {list(shape)}"
        )


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
