"""Images a second of each stage over a folder of samples, beside what people write by hand.

    python -m benchmarks.stages FOLDER [--rounds 5] [--workers 2]

FOLDER is searched deep; samples need a `jpg`, and what else they have is packed too. Stages and their peers take turns
within a round, so that a noisy neighbour disturbs all alike; medians over the rounds. The first round, in which models
load and files come into the cache, is not counted. Peers run in one thread, as the loops that they stand for do; so
each is also compared with ours in one thread.
"""

import argparse
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.library import STAGES, Dataset, declared, make
from shardmill.shards.reader import ShardSet
from shardmill.torchvision_compat import import_torchvision

SIZE = 224


def main(given: Sequence[str] | None = None) -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="threads in all; default: one a core")
    arguments = parser.parse_args(given)

    import torch

    torch.set_num_threads(1)  # the threads of the engine, or the loop, are the parallelism
    source = arguments.folder.absolute()
    names = sorted(file for file in source.rglob("*") if file.is_file())
    rates: dict[str, list[float]] = {}
    images = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.rounds + 1):
            base = Path(temporary) / str(number)
            for name, images, seconds in a_round(source, names, base, arguments.workers):
                if number:
                    rates.setdefault(name, []).append(images / seconds)
            shutil.rmtree(base)
    print(f"{images} images, {arguments.rounds} rounds, images/s: median (least to most)")
    for name, values in rates.items():
        print(f"{name:52} {statistics.median(values):8.0f} ({min(values):.0f} to {max(values):.0f})")
    for ours, theirs in RATIOS:
        ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))
        print(f"{ours} : {theirs} = {ratio:.2f}")


TAR = "pack peer: webdataset.TarWriter"
TAR_DECODED = "pack peer: webdataset.TarWriter, each image decoded"
CROP = "transform peer: webdataset, Pillow, torchvision v1"
RATIOS = (
    ("pack", TAR),
    ("pack, one thread", TAR),
    ("pack, one thread", TAR_DECODED),
    ("transform", CROP),
    ("transform, one thread", CROP),
)


def a_round(source: Path, names: list[Path], base: Path, workers: int | None) -> list[tuple[str, int, float]]:
    """Name, images and seconds of each stage and peer."""
    taken: list[tuple[str, int, float]] = []

    def timed(name: str, work: Callable[[], int]) -> None:
        started = time.perf_counter()
        count = work()
        taken.append((name, count, time.perf_counter() - started))

    for threads, suffix in ((workers, ""), (1, ", one thread")):
        dataset = declared(spec_of(source, base / f"root{suffix}"))
        upstream: ShardSet | None = None
        for stage in STAGES:
            if suffix and stage == "embed":
                break

            def run(stage: str = stage, dataset: Dataset = dataset, threads: int | None = threads) -> int:
                nonlocal upstream
                upstream = make(dataset, stage, "p", upstream, threads)
                return upstream.commit.total_samples_in

            timed(stage + suffix, run)
            if stage == "pack":
                assert upstream is not None
                shards = upstream.urls
    timed(TAR, lambda: pack_peer(names, base / "peer.tar", decode=False))
    timed(TAR_DECODED, lambda: pack_peer(names, base / "peer-decoded.tar", decode=True))
    timed(CROP, lambda: transform_peer(shards, base / "peer-transformed.tar"))
    return taken


def spec_of(source: Path, root: Path) -> dict[str, Any]:
    """The dataset that is measured: packed, centre-cropped with its masks, embedded by the default model."""
    masks = sorted({file.name.partition(".")[2] for file in source.rglob("*.mask.png")})
    return {
        "name": "stages",
        "root": str(root),
        "source": {"uri": str(source)},
        "partitions": ["p"],
        "embedder": {},
        "transform": {"masks": masks, "operations": [{"operation": "CenterCrop", "arguments": {"size": SIZE}}]},
        "max_reject_ratio": 0.1,
    }


def pack_peer(names: list[Path], target: Path, *, decode: bool) -> int:
    """Read files into samples by name, write them with webdataset's own writer. Returns the number of images."""
    import webdataset

    target.parent.mkdir(parents=True, exist_ok=True)
    samples: dict[str, dict[str, Path]] = {}
    for name in names:
        key, _, component = name.name.partition(".")
        samples.setdefault(key, {})[component] = name
    with webdataset.TarWriter(str(target)) as tar:
        for key, components in samples.items():
            sample = {component: file.read_bytes() for component, file in components.items()}
            if decode:
                for component, data in sample.items():
                    decode_anything(component, data)
            tar.write({"__key__": key, **sample})
    return len(samples)


def decode_anything(component: str, data: bytes) -> None:
    """What a careful loop does to find broken images."""
    if component.endswith(("jpg", "png")):
        try:
            Image.open(io.BytesIO(data)).load()
        except (OSError, Image.DecompressionBombError):
            return


def transform_peer(shards: list[str], target: Path) -> int:
    """The centre crop of images and masks as the webdataset and torchvision tutorials write it."""
    import webdataset

    import_torchvision()
    from torchvision import transforms

    crop = transforms.CenterCrop(SIZE)
    count = 0
    with webdataset.TarWriter(str(target)) as tar:
        urls = [f"file:{url.removeprefix('file://')}" for url in shards]
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            made = {"__key__": sample["__key__"]}
            for component, data in sample.items():
                if component.startswith("__"):
                    continue
                if component.endswith(("jpg", "png")):
                    image = Image.open(io.BytesIO(data))
                    mask = component == "mask.png"
                    cropped = crop(image if mask else image.convert("RGB"))
                    file = io.BytesIO()
                    cropped.save(file, "PNG" if component.endswith("png") else "JPEG", quality=95)
                    data = file.getvalue()
                made[component] = data
            tar.write(made)
            count += 1
    return count


if __name__ == "__main__":
    main()
