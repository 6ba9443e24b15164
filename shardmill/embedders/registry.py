"""Which embedders there are, by the first part of a model's name; those of the user's own by their import path."""

import importlib
from typing import Protocol, cast

from shardmill.embedders.imported import is_import_path
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.unknown import unknown_model
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage

EMBEDDERS = {
    "efficientnet-lite0": "shardmill.embedders.efficientnet_lite0",
    "torchvision": "shardmill.embedders.torchvision_models",
    "timm": "shardmill.embedders.timm_models",
    "open_clip": "shardmill.embedders.open_clip_models",
}
"""First part of a model's name → the module that provides it (see `EmbedderModule`)."""


_LIBRARIES = ("torchvision", "timm", "open_clip")
"""Those with many models, whose names follow a slash."""
_IMPORTED = "shardmill.embedders.imported"


class EmbedderModule(Protocol):
    """What a module named in `EMBEDDERS` provides."""

    def load(self, spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
        """The embedder, its weights in memory; see `load_embedder`."""

    def weights_identity(self, spec: EmbedderSpec, storage: Storage) -> str:
        """Changes whenever the weights do; needs no model in memory."""

    def preprocessing(self, spec: EmbedderSpec) -> str:
        """Changes whenever what is done to an image before the network does; needs no model in memory."""


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


def preprocessing(spec: EmbedderSpec) -> str:
    """What the model that `spec` names does to an image before its network, in words that change when that does.

    Raises:
        ConfigurationError: The model is unknown.
    """
    return _module(spec.model).preprocessing(spec)


def check_model(model: str) -> None:
    """Refuse a name that is of no embedder, as far as that shows without importing its library.

    One that lacks its library's is looked for in those that are installed.

    Raises:
        ConfigurationError: It is none.
    """
    if _home(model) is None:
        if found := [name for name in (f"{first}/{model}" for first in _LIBRARIES) if _is_known(name)]:
            raise ConfigurationError(f"embedder {model!r} is unknown; did you mean {' or '.join(found)}?")
        known = {"efficientnet-lite0": "", "torchvision": "/<name>", "timm": "/<name>", "open_clip": "/<arch>"}
        raise unknown_model(model, [*(name + known.get(name, "") for name in EMBEDDERS), "package.module:load"])


def _is_known(model: str) -> bool:
    try:
        preprocessing(EmbedderSpec(model=model))
    except ConfigurationError:  # or its library is not installed
        return False
    return True


def _home(model: str) -> str | None:
    first, slash, _ = model.partition("/")
    if is_import_path(model):
        return _IMPORTED
    return EMBEDDERS.get(first) if bool(slash) == (first in _LIBRARIES) else None


def _module(model: str) -> EmbedderModule:
    check_model(model)
    return cast(EmbedderModule, importlib.import_module(_home(model) or ""))
