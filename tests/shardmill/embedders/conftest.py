from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.registry import load_embedder
from shardmill.embedders.spec import EmbedderSpec


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return load_embedder(EmbedderSpec())


@pytest.fixture(scope="session")
def photographs() -> list[NDArray[np.uint8]]:
    """Four photographs in scikit-image's wheel, and crops of them: small, tall and wide."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    names = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]
    whole = [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]
    return [*whole, whole[0][:150, 100:250], whole[1][:, 100:260], whole[2][200:330]]


@pytest.fixture(scope="session")
def inputs(embedder: Embedder, photographs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """uint8 [7, 224, 224, 3]"""
    return np.stack([embedder.preprocess(image) for image in photographs])
