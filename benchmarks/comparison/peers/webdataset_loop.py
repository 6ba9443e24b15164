"""webdataset as its documentation shows it: a writer in a loop, and torch's DataLoader where workers help."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.comparison.peers.functions import cropped, features, preprocessed
from benchmarks.comparison.variants import Input

SHARD_BYTES = 256_000_000
BATCH = 64


def pack(source: Input, target: Path, workers: int, decode: bool = False) -> None:  # noqa: ARG001
    """Write every file with `ShardWriter`; with `decode`, only if Pillow can decode it."""
    import webdataset
    from PIL import Image

    target.mkdir(parents=True)
    with webdataset.ShardWriter(str(target / "%06d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for file in sorted(source.files.iterdir()):
            data = file.read_bytes()
            if decode:
                Image.open(io.BytesIO(data)).load()
            writer.write({"__key__": file.stem, "jpg": data})


def transform(source: Input, target: Path, workers: int, loader: bool = False, article: bool = False) -> None:
    """Crop every image, in one loop or in a DataLoader's workers, and write with `ShardWriter`."""
    import webdataset

    function = cropped(article=article)

    def made(sample: dict[str, Any]) -> dict[str, Any]:
        return {"__key__": sample["__key__"], "jpg": function(sample["jpg"])}

    target.mkdir(parents=True)
    with webdataset.ShardWriter(str(target / "%06d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for sample in samples(source, made, workers if loader else 0, None):
            writer.write(sample)


def embed(source: Input, target: Path, workers: int, bfloat16: bool = False) -> None:
    """Batches from a DataLoader's workers, torch's inference here, one Parquet file."""
    import numpy as np
    import pandas as pd

    function = features(bfloat16=bfloat16)
    keys: list[str] = []
    vectors: list[Any] = []

    def made(sample: dict[str, Any]) -> tuple[str, Any]:
        return sample["__key__"], preprocessed(sample["jpg"])

    for names, images in samples(source, made, workers, BATCH):
        keys += names
        vectors.append(function(images))
    target.mkdir(parents=True)
    frame = pd.DataFrame({"key": keys, "embedding": list(np.concatenate(vectors))})
    frame.to_parquet(target / "embeddings.parquet")


def chain(source: Input, target: Path, workers: int, bfloat16: bool = False) -> None:
    """A script by hand: pack what decodes, crop in a DataLoader's workers, embed."""
    pack(source, target / "shards", workers, decode=True)
    transform(Input(source.files, target / "shards"), target / "transformed", workers, loader=True)
    embed(Input(source.files, target / "transformed"), target / "embeddings", workers, bfloat16=bfloat16)


def samples(source: Input, made: Callable[[dict[str, Any]], Any], workers: int, batch: int | None) -> Iterator[Any]:
    """What `made` makes of each sample of the shards."""
    import webdataset
    from torch.utils.data import DataLoader

    tars = [f"file:{file}" for file in source.tars()]
    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).map(made)
    if not workers:
        yield from dataset
    else:
        yield from DataLoader(dataset, batch_size=batch, num_workers=min(workers, len(tars)))
