"""Whether an embedder's vectors are those of the library that its model is of."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shardmill.embedders import Embedder, EmbedderSpec, available_runtimes, build_runtime
from shardmill.embedders.runtimes.torch_cuda import CudaRuntime

Forward = Callable[[torch.Tensor], torch.Tensor]


def cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def agrees(embedder: Embedder, images: list[NDArray[np.uint8]], transform: Any, forward: Forward) -> None:
    """On every runtime that there is here, from a file's bytes on: cosine of at least 0.9999, and lengths to 1 %."""
    pictures = [Image.fromarray(image) for image in images]
    with torch.inference_mode():
        expected = [forward(transform(picture)[None])[0].numpy() for picture in pictures]
    assert cosine(*expected[:2]) < 0.9998  # else any image would do
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        files.append(file.getvalue())
    runtimes = [
        build_runtime(embedder, EmbedderSpec.model_validate({"runtime": name, "precision": "float32"}), 1)
        for name in available_runtimes()
    ]
    for running in [*runtimes, CudaRuntime(embedder, bfloat16=False, batch_size=2, device="cpu")]:
        with running:
            vectors = list(running.embed(running.prepare(data, "png") for data in files))
        for vector, like in zip(vectors, expected, strict=True):
            assert vector.shape == (embedder.dimension,)
            assert cosine(vector, like) >= 0.9999, running.name
            assert abs(np.linalg.norm(vector) / np.linalg.norm(like) - 1) < 0.01, running.name
