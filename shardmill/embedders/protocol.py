"""What an embedder is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn


class Embedder(Protocol):
    """A model with its weights and its own preprocessing."""

    @property
    def name(self) -> str:
        """The model's name, as in the spec."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels of what `preprocess` returns."""

    @property
    def weights_digest(self) -> str:
        """sha256 (hex) over the weights' names, types, shapes and values, whatever file they came from."""

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB → uint8 [h, w, 3]: the model's own size, crop and interpolation.

        Safe to call from several threads at once. It releases the GIL and runs on the calling thread. The image is not
        changed: other models may be given it, too.

        Raises:
            Rejected: It would take too much memory on the way.
        """

    def module(self) -> "nn.Module":
        """uint8 [n, h, w, 3] → float32 [n, dimension]; normalises inside, so that a runtime fuses it."""

    def head(self) -> "nn.Module | None":
        """float32 [n, dimension] → class logits, for checking the path; None if the model has none."""


@runtime_checkable
class TextEmbedder(Protocol):
    """An embedder that embeds texts, too, in the space of its images."""

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), dimension], not normalised.

        Raises:
            ConfigurationError: What cuts texts into tokens is not to be had here.
        """
