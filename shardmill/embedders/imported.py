"""Embedders of the user's own: `package.module:load`, a function `load(spec, storage) -> Embedder`.

Which vectors it gives is known by the weights, and by `load.code_version`, which the user raises when the code changes.
"""

import re
from typing import Any

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.weights import file_identity
from shardmill.errors import ConfigurationError, ConflictError, ShardmillError
from shardmill.importing import as_an_error, import_path, line_of
from shardmill.memory import lacks_memory
from shardmill.storage import Storage

_NEEDED = ("name", "dimension", "input_size", "weights_digest", "preprocess", "module", "head")


def is_import_path(model: str) -> bool:
    """Whether a model's name is one."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", model) is not None


def load(spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
    """What the function returns. Its weights are those that were planned with."""
    embedder = _loaded(spec, storage)
    if weights is not None and _identity(spec, embedder, storage) != weights:
        raise ConflictError(
            f"{spec.model} loads other weights than those that the run was planned with: they were replaced, or it "
            "makes others each time, such as random ones without a seed"
        )
    return embedder


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    """The digest of the file at `spec.weights`; without one, that of the weights in memory, once they are loaded."""
    return _identity(spec, None, storage)


def preprocessing(spec: EmbedderSpec) -> str:
    """The function's `code_version`."""
    return f"code_version {getattr(_function(spec), 'code_version', None)}"


def _identity(spec: EmbedderSpec, embedder: Embedder | None, storage: Storage) -> str:
    if spec.weights is not None:
        return file_identity(spec.weights, storage)
    return f"digest:{(embedder or _loaded(spec, storage)).weights_digest}"


def _function(spec: EmbedderSpec) -> Any:
    function = import_path(spec.model)
    if not callable(function):
        kind = type(function).__name__
        raise ConfigurationError(f"the embedder {spec.model!r} is a {kind}, not a function load(spec, storage)")
    return function


def _loaded(spec: EmbedderSpec, storage: Storage) -> Embedder:
    function = _function(spec)
    try:
        with as_an_error("loading it"):
            embedder: Any = function(spec, storage)
            missing = [name for name in _NEEDED if not hasattr(embedder, name)]
    except ShardmillError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        why = f"{type(error).__name__}: {error}{line_of(error)}"
        raise ConfigurationError(f"the embedder {spec.model} does not load: {why}") from error
    if missing:
        raise ConfigurationError(
            f"{spec.model} gives a {type(embedder).__name__} without {', '.join(missing)}; shardmill.Embedder says "
            "what an embedder has, and shardmill.NetEmbedder makes one of a network"
        )
    dimension, digest = embedder.dimension, embedder.weights_digest
    if not isinstance(dimension, int) or dimension < 1:
        raise ConfigurationError(f"{spec.model} gives dimension {dimension!r}: it is to be a number from 1 on")
    if not isinstance(digest, str) or not digest:
        raise ConfigurationError(
            f"{spec.model} gives weights_digest {digest!r}: it is to be text that tells weights apart"
        )
    checked: Embedder = embedder
    return checked
