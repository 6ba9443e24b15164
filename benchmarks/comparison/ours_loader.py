"""Shardmill's loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.comparison.loaders import BATCH, BUFFER, crop_arguments, flip_probability
from benchmarks.comparison.variants import Input
from shardmill.loading.loader import Loader
from shardmill.loading.stream import ShardStream
from shardmill.transforms import TransformSpec


def batches(source: Input, workers: int, what: str, looked_at: bool) -> Iterator[tuple[list[str], Any]]:
    """Of the committed shards."""
    operations = [
        {"operation": "RandomResizedCrop", "arguments": crop_arguments(looked_at)},
        {"operation": "RandomHorizontalFlip", "arguments": {"p": flip_probability(looked_at)}},
    ]
    stream = ShardStream(
        str(source.shards),
        shuffle=True,
        buffer=BUFFER,
        components=["jpg"],
        decode=what != "raw",
        transform=TransformSpec.model_validate({"operations": operations}) if what == "crops" else None,
    )
    for batch in Loader(stream, BATCH, workers=workers):
        yield batch["__key__"], batch["jpg"]
