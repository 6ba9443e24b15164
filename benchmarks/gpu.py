"""Images a second from JPEG shards on a local disk to Parquet, on one CUDA device.

    python -m benchmarks.gpu FOLDER [--images 20000] [--models efficientnet-lite0 torchvision/resnet50]

The images of FOLDER are packed, each as often as it takes to come to `--images`, in shards of `--shard` images. Then
each model embeds them, decoded on the CPU (`decode: cpu`) and on the device (`decode: cuda`). A line says the rate from
start to end, with the start of the workers and the compilation of the model, and the rates of `--rounds` more with the
same workers, as the second partition of a run has them, from the packed shards to the committed table. Below it are the
parts of that, each alone in this process: what the threads make of the files, and what the runtime makes of that, the
median of `--rounds`. Models of torchvision's get random weights, which cost the same. Without a CUDA device it says so,
and measures nothing.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle, islice
from pathlib import Path

from benchmarks.library import Dataset, LocalEngine, declared, make, moved
from shardmill import ShardSet
from shardmill.concurrency import usable_cores
from shardmill.embedders import EmbedderSpec, build_runtime, load_embedder
from shardmill.errors import ShardmillError
from shardmill.library_threads import limit_this_thread
from shardmill.samples import image_format
from shardmill.torchvision_compat import import_torchvision


def main(given: Sequence[str] | None = None) -> None:
    """Print a line a model and decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, side by side")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=1_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=["efficientnet-lite0", "torchvision/resnet50"])
    parser.add_argument("--decoders", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads in all; default: one a core")
    parser.add_argument("--rounds", type=int, default=3, help="of what is measured several times")
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
                embedder |= random_weights(model, Path(temporary))
                dataset = described(raw, f"{temporary}/root", arguments.shard, embedder)
                if packed is None:
                    listed = make(dataset, "list", "p", None, arguments.workers)
                    packed = make(dataset, "pack", "p", listed, arguments.workers)
                try:
                    rates = measured(dataset, packed, arguments.workers, arguments.rounds)
                    print(f"{model}, decode: {decoder}: {rates}", flush=True)
                    spec = EmbedderSpec.model_validate({**embedder, "runtime": "cuda"})
                    print(f"  {parts(spec, arguments.folder, arguments.workers, arguments.rounds)}", flush=True)
                except ShardmillError as error:
                    print(f"{model}, decode: {decoder}: {error}", flush=True)


def random_weights(model: str, folder: Path) -> dict[str, object]:
    """Where the weights are, of a model whose own would be downloaded."""
    import torch

    library, _, name = model.partition("/")
    if library != "torchvision":
        return {}
    file = folder / f"{name}.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(import_torchvision().models.get_model(name, weights=None).state_dict(), file)
    return {"weights": str(file)}


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


def measured(dataset: Dataset, packed: ShardSet, workers: int, rounds: int) -> str:
    """The rates of embedding it, several times."""
    rates = []
    with LocalEngine(workers) as engine:
        for number in range(rounds + 1):
            started = time.perf_counter()
            made = make(moved(dataset, f"{dataset.spec.root}/{number}"), "embed", "p", packed, engine)
            rates.append(made.commit.total_samples / (time.perf_counter() - started))
    later = ", ".join(f"{rate:.0f}" for rate in rates[1:])
    return f"{rates[0]:.0f} images/s from start to end, then {later}"


def parts(spec: EmbedderSpec, folder: Path, workers: int, rounds: int) -> str:
    """Rates of the parts: what the threads do to an image, and what is done to a batch of them."""
    files = [(file.read_bytes(), file.suffix[1:]) for file in sorted(folder.iterdir()) if image_format(file.suffix[1:])]
    with (
        build_runtime(load_embedder(spec), spec, workers) as runtime,
        ThreadPoolExecutor(workers, initializer=limit_this_thread) as pool,
    ):
        several = [files[start : start + 8] for start in range(0, len(files), 8)]
        images = []
        rates: dict[str, list[float]] = {"prepare": [], "embed": []}
        for _ in range(rounds):
            some = several * max(1, 4000 // len(files))
            started = time.perf_counter()
            images = list(pool.map(lambda each: [runtime.prepare(*file) for file in each], some))
            rates["prepare"].append(sum(map(len, images)) / (time.perf_counter() - started))
            started = time.perf_counter()
            deque(runtime.embed(chain.from_iterable(images)), maxlen=0)
            rates["embed"].append(sum(map(len, images)) / (time.perf_counter() - started))
    return ", ".join(f"{part} alone {statistics.median(each):.0f} images/s" for part, each in rates.items())


if __name__ == "__main__":
    main()
