"""Images a second from JPEG shards on a local disk to Parquet, on one CUDA device.

    python -m benchmarks.gpu FOLDER [--images 20000] [--models efficientnet-lite0 torchvision/resnet50]

The images of FOLDER are packed, each as often as it takes to come to `--images`, in shards of `--shard` images. Then
each model embeds them, decoded on the CPU (`decode: cpu`) and on the device (`decode: cuda`). A line says the rate from
start to end, with the start of the worker and the compilation of the model, and that of a shard: the median over all
but the slowest. Without a CUDA device it says so, and measures nothing.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from benchmarks.library import Dataset, declared, make
from shardmill import ShardSet
from shardmill.errors import ShardmillError
from shardmill.samples import image_format


def main(given: Sequence[str] | None = None) -> None:
    """Print a line a model and decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, side by side")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=2_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=["efficientnet-lite0", "torchvision/resnet50"])
    parser.add_argument("--decoders", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--workers", type=int, help="threads in all; default: one a core")
    arguments = parser.parse_args(given)

    import torch

    if not torch.cuda.is_available():
        print("there is no CUDA device here (or torch is a build without CUDA): nothing is measured")
        return
    print(f"{torch.cuda.get_device_name()}, {arguments.images} images, batches of {arguments.batch_size}")
    with tempfile.TemporaryDirectory() as temporary:
        raw = repeated(arguments.folder, Path(temporary, "raw"), arguments.images)
        packed: ShardSet | None = None
        for model in arguments.models:
            for decoder in arguments.decoders:
                embedder = {"model": model, "decode": decoder, "batch_size": arguments.batch_size}
                dataset = described(raw, f"{temporary}/root", arguments.shard, embedder)
                if packed is None:
                    listed = make(dataset, "list", "p", None, arguments.workers)
                    packed = make(dataset, "pack", "p", listed, arguments.workers)
                try:
                    print(f"{model}, decode: {decoder}: {measured(dataset, packed, arguments.workers)}", flush=True)
                except ShardmillError as error:
                    print(f"{model}, decode: {decoder}: {error}", flush=True)


def repeated(folder: Path, target: Path, images: int) -> Path:
    """`images` links to the images of a folder."""
    target.mkdir()
    files = sorted(file for file in folder.iterdir() if image_format(file.suffix[1:]))
    for number, file in enumerate(islice(cycle(files), images)):
        try:
            os.link(file, target / f"{number:07d}{file.suffix}")
        except OSError:  # of another disk
            shutil.copyfile(file, target / f"{number:07d}{file.suffix}")
    return target


def described(raw: Path, root: str, shard: int, embedder: dict[str, object]) -> Dataset:
    """A dataset of the images, embedded on a device."""
    return declared(
        {
            "name": "gpu",
            "root": root,
            "source": {"uri": str(raw)},
            "partitions": ["p"],
            "shards": {"max_samples": shard, "max_bytes": 1 << 40},
            "gpu": True,
            "embedder": embedder,
        }
    )


def measured(dataset: Dataset, packed: ShardSet, workers: int | None) -> str:
    """The rates of embedding it."""
    started = time.perf_counter()
    made = make(dataset, "embed", "p", packed, workers)
    taken = time.perf_counter() - started
    rates = sorted(entry.samples_in / entry.seconds for entry in made.commit.shards)
    steady = statistics.median(rates[1:] or rates)
    return f"{made.commit.total_samples / taken:.0f} images/s from start to end, {steady:.0f} of a shard"


if __name__ == "__main__":
    main()
