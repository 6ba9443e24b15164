"""Ray Data, on a cluster of this machine's cores."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.comparison.peers.functions import cropped, features, preprocessed
from benchmarks.comparison.variants import Input
from shardmill.torchvision_compat import import_torchvision

BATCH = 64


def transform(source: Input, target: Path, workers: int) -> None:
    """Crop in tasks; `write_webdataset`."""
    shards(source, workers).map(crop).write_webdataset(str(target), encoder=None)


def embed(source: Input, target: Path, workers: int, bfloat16: bool = False) -> None:
    """Preprocess in tasks, infer in one actor with the model; `write_parquet`."""
    (
        shards(source, workers)
        .map(prepare)
        .map_batches(Embedder, fn_constructor_kwargs={"bfloat16": bfloat16}, batch_size=BATCH, concurrency=1)
        .write_parquet(str(target))
    )


def shards(source: Input, workers: int) -> Any:
    """The samples, as bytes."""
    start(workers)
    import ray

    return ray.data.read_webdataset(source.tars(), decoder=None)


@cache
def start(workers: int) -> None:
    """A cluster, once a process."""
    import ray

    ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False


def crop(row: dict[str, Any]) -> dict[str, Any]:
    """One sample."""
    import_torchvision()
    return {"__key__": row["__key__"], "jpg": cropped()(row["jpg"])}


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """One sample."""
    return {"key": row["__key__"], "image": preprocessed(row["jpg"])}


class Embedder:
    """An actor that holds the model."""

    def __init__(self, bfloat16: bool) -> None:
        import_torchvision()
        self.features = features(bfloat16=bfloat16)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch."""
        return {"key": batch["key"], "embedding": self.features(batch["image"])}
