"""An embedder for tests in which any vectors will do: the mean colours of sixteen fields of an image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shardmill.embedders import EMBEDDERS
from shardmill.embedders.modules import resize
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.storage import Storage

SMALL = {"model": "small", "runtime": "torch"}
"""For a dataset file, once `small_embedder.__name__` stands in `EMBEDDERS`: in the test's own process alone."""


class SmallEmbedder:
    """See `shardmill.embedders.protocol.Embedder`."""

    name = "small"
    input_size = (8, 8)
    dimension = 48
    weights_digest = "none"

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize(image, self.input_size, "bicubic")

    def module(self) -> Any:
        from torch import Tensor, nn

        class Fields(nn.Module):
            def forward(self, pixels: Tensor) -> Tensor:
                return nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), 2).flatten(1)

        return Fields().eval()

    def head(self) -> None:
        return None


def load(spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
    return SmallEmbedder()


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    return SmallEmbedder.weights_digest


def preprocessing(spec: EmbedderSpec) -> str:
    return "resize to 8"


@pytest.fixture(scope="session")
def embedder_of_tests() -> Iterator[dict[str, str]]:
    """What to declare as `embedder` in this process: its vectors cost next to nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EMBEDDERS, SMALL["model"], __name__)
        yield SMALL
