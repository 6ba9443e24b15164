"""Texts as vectors, in the space of the images that the same model embeds."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.protocol import Embedder, TextEmbedder
from shardmill.embedders.registry import load_embedder, weights_identity
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage


def embed_text(spec: EmbedderSpec, texts: Sequence[str], storage: Storage) -> NDArray[np.float32 | np.float16]:
    """[len(texts), d], normalised and typed as the spec has the vectors of images. The model stays loaded.

    Raises:
        ConfigurationError: The model embeds no text, or cannot be loaded; a text is empty.
    """
    if any(not text.strip() for text in texts):
        raise ConfigurationError("an empty text has no vector")
    embedder = _loaded(spec, weights_identity(spec, storage), storage)
    if not isinstance(embedder, TextEmbedder):
        raise ConfigurationError(f"{spec.model} embeds no text: the models of open_clip do (model: open_clip/<arch>)")
    return spec.finish(embedder.embed_text(texts))


@lru_cache(maxsize=1)
def _loaded(spec: EmbedderSpec, weights: str, storage: Storage) -> Embedder:
    return load_embedder(spec, weights, storage)
