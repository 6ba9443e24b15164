"""Daft, on its native runner."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.comparison.peers.functions import cropped, features, preprocessed
from benchmarks.comparison.variants import Input

BATCH = 64


def transform(source: Input, target: Path, workers: int) -> None:  # noqa: ARG001
    """Crop in a function on rows; Daft writes no tars, so Parquet."""
    import daft

    @daft.func(return_dtype=daft.DataType.binary())
    def crop(data: bytes) -> bytes:
        return cropped()(data)

    frame = images(source)
    frame.select(frame["key"], crop(frame["jpg"]).alias("jpg")).write_parquet(str(target))


def embed(source: Input, target: Path, workers: int, bfloat16: bool = False) -> None:  # noqa: ARG001
    """Preprocess in a function on rows, infer in a class on batches; Parquet."""
    import daft

    @daft.func(return_dtype=daft.DataType.tensor(daft.DataType.uint8(), (224, 224, 3)))
    def prepare(data: bytes) -> Any:
        return preprocessed(data)

    frame = images(source)
    frame = frame.select(frame["key"], prepare(frame["jpg"]).alias("image"))
    vectors = embedder(bfloat16).run(frame["image"]).alias("embedding")
    frame.select(frame["key"], vectors).write_parquet(str(target))


def images(source: Input) -> Any:
    """Keys and bytes of the files: `read_webdataset` of 0.7.26 never ends over two shards on two cores."""
    import daft
    from daft.functions import download

    frame = daft.from_glob_path(f"{source.files}/*.jpg")
    key = frame["path"].regexp_extract(r"([^/]+)\.jpg$", 1).alias("key")
    return frame.select(key, download(frame["path"]).alias("jpg"))


@cache
def embedder(bfloat16: bool) -> Any:
    """An instance that holds the model."""
    import daft
    import numpy as np

    vector = daft.DataType.fixed_size_list(daft.DataType.float32(), 1280)

    @daft.cls(max_concurrency=1)
    class Embedder:
        def __init__(self, bfloat16: bool) -> None:
            self.features = features(bfloat16=bfloat16)

        @daft.method.batch(return_dtype=vector, batch_size=BATCH)
        def run(self, images: Any) -> Any:
            return list(self.features(np.stack(images.to_pylist())))

    return Embedder(bfloat16)
