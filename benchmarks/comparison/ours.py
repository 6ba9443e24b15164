"""Shardmill's own stages, as a run makes them: planned, written, published and committed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.comparison.variants import Input
from benchmarks.library import STAGES, Dataset, declared
from shardmill import Planner, graph, open_shards, run
from shardmill.engines import Engine, choose_engine

CROP, QUALITY = 350, 75
"""The transform that all variants make."""


def pack(source: Input, target: Path, workers: int) -> None:
    """List and pack."""
    made(dataset(source, target), ["list", "pack"], workers)


def transform(source: Input, target: Path, workers: int) -> None:
    """Transform what stands below the source's root."""
    made(dataset(source, target), ["transform"], workers, source.root)


def embed(source: Input, target: Path, workers: int, precision: str = "float32", on: str = "local") -> None:
    """Embed what stands below the source's root."""
    made(dataset(source, target, precision), ["embed"], workers, source.root, on)


def chain(source: Input, target: Path, workers: int, precision: str = "float32") -> None:
    """A run, up to the embeddings."""
    for asset, _ in run(dataset(source, target, precision), "all", engine(workers)):
        if asset == STAGES["embed"]:
            return


def prepare(files: Path, target: Path, stages: list[str], workers: int) -> Input:
    """What these stages make of a folder of images, for variants to read: as tars, and each image as a file."""
    asset = made(dataset(Input(files), target), stages, workers)
    images = target / "images"
    images.mkdir()
    for sample in open_shards(str(target / "benchmark" / asset / "all")).samples():
        (images / f"{sample.key}.jpg").write_bytes(sample.components["jpg"])
    return Input(images, target / "benchmark" / asset / "all", target)


def dataset(source: Input, target: Path, precision: str = "float32") -> Dataset:
    """The dataset of every benchmark here."""
    images = sum(1 for _ in source.files.iterdir())
    return declared(
        {
            "name": "benchmark",
            "root": str(target),
            "source": {"uri": str(source.files)},
            "partitions": ["all"],
            "shards": {"max_samples": max(1, images // 4)},  # enough shards to share among a loader's workers
            "transform": {
                "jpeg_quality": QUALITY,
                "operations": [{"operation": "CenterCrop", "arguments": {"size": CROP}}],
            },
            "embedder": {"component": "jpg", "precision": precision},
        }
    )


def made(dataset: Dataset, stages: list[str], workers: int, root: Path | None = None, on: str = "local") -> str:
    """Run the stages, over what `root` holds of the one before. Returns the name of the last asset."""
    planner = Planner(dataset)
    upstream = None
    for stage in stages:
        asset = planner.graph[STAGES[stage]]
        if root is not None:
            upstream = open_shards(str(root / "benchmark" / asset.inputs[0] / "all"))
        sets = {} if upstream is None else {asset.inputs[0]: upstream}
        upstream = graph.make(planner, asset, "all", sets, engine(workers, on))
    return STAGES[stages[-1]]


@cache
def engine(workers: int, on: str = "local") -> Engine:
    """One for the process, open until it ends: processes and models last from the warm-up on."""
    return choose_engine(on, workers).__enter__()


def read_vectors(target: Path) -> tuple[list[str], list[Any]]:
    """Keys and vectors of the table."""
    table = open_shards(str(target / "benchmark" / STAGES["embed"] / "all")).table(["key", "embedding"])
    return table["key"].to_pylist(), table["embedding"].to_pylist()
