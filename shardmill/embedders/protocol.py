"""What an embedder is, and which ones there are. Another one is a module like `efficientnet_lite0`."""

import difflib
import importlib
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage

if TYPE_CHECKING:
    from torch import nn

EMBEDDERS = {
    "efficientnet-lite0": "shardmill.embedders.efficientnet_lite0",
    "torchvision": "shardmill.embedders.torchvision_models",
}
"""First part of a model's name → the module that provides it (see `EmbedderModule`)."""


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

        Safe to call from several threads at once. It releases the GIL and runs on the calling thread.
        """

    def module(self) -> "nn.Module":
        """uint8 [n, h, w, 3] → float32 [n, dimension]; normalises inside, so that a runtime fuses it."""

    def head(self) -> "nn.Module | None":
        """float32 [n, dimension] → class logits, for checking the path; None if the model has none."""


class EmbedderModule(Protocol):
    """What a module named in `EMBEDDERS` provides."""

    def load(self, spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
        """The embedder, its weights in memory; see `load_embedder`."""

    def weights_identity(self, spec: EmbedderSpec, storage: Storage) -> str:
        """Changes whenever the weights do; needs no model in memory."""


def load_embedder(spec: EmbedderSpec, weights: str | None = None, storage: Storage | None = None) -> Embedder:
    """The embedder that `spec` names, its weights in memory.

    Args:
        spec: Names the model and its weights.
        weights: Their identity, as `weights_identity` gave it. None: whatever they are.
        storage: Where they are, if the spec names a URI.

    Raises:
        ConfigurationError: The model is unknown, or its weights are missing or do not fit it.
        ConflictError: The bytes that were read are not those of the identity.
    """
    return _module(spec.model).load(spec, weights, storage or Storage())


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    """A short string that changes whenever the weights that `spec` names do.

    Raises:
        ConfigurationError: The model is unknown, or its weights cannot be read.
    """
    return _module(spec.model).weights_identity(spec, storage)


def unknown_model(model: str, known: list[str]) -> ConfigurationError:
    """The error for a model that is not in `known`, with the names that come close."""
    close = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known)[:20])}"
    return ConfigurationError(f"embedder {model!r} is unknown; {hint}")


def _module(model: str) -> EmbedderModule:
    family = model.partition("/")[0]
    if family not in EMBEDDERS:
        raise unknown_model(model, [name + "/<name>" * (name == "torchvision") for name in EMBEDDERS])
    return cast(EmbedderModule, importlib.import_module(EMBEDDERS[family]))
