"""clip-retrieval: its reader, its runner and its writer; in between EfficientNet-Lite0 and not CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.comparison.peers.functions import features, fitted
from benchmarks.comparison.variants import Input

BATCH = 64


def embed(source: Input, target: Path, workers: int, bfloat16: bool = False) -> None:
    """Vectors as npy, and keys as Parquet."""
    from clip_retrieval.clip_inference.reader import WebdatasetReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    function = features(bfloat16=bfloat16)
    tars = source.tars()

    def mapper(batch: dict[str, Any]) -> dict[str, Any]:
        return {
            "image_embs": function(batch["image_tensor"]),
            "image_filename": batch["image_filename"],
            "text_embs": None,
            "text": None,
            "metadata": None,
        }

    Runner(
        reader_builder=lambda sampler: WebdatasetReader(
            sampler, fitted, None, tars, BATCH, min(workers, len(tars)), enable_text=False
        ),
        mapper_builder=lambda: mapper,
        writer_builder=lambda number: NumpyWriter(number, str(target), False, True, False, 1),
        logger_builder=lambda _: Silent(),
        output_partition_count=1,
    )(0)


class Silent:
    """Its own logger needs a process and a file system."""

    def start(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def __call__(self, _: object) -> None:
        """Nothing."""


def vectors(target: Path) -> tuple[list[str], Any]:
    """Keys and vectors."""
    import numpy as np
    import pandas as pd

    frames = [pd.read_parquet(file) for file in sorted((target / "metadata").iterdir())]
    arrays = [np.load(file) for file in sorted((target / "img_emb").iterdir())]
    return list(pd.concat(frames)["image_path"]), np.concatenate(arrays)
