"""Peak memory of packing, transforming and embedding partitions of different sizes, each in a process of its own.

    python -m benchmarks.memory [--sizes 500 5000] [--max-samples 1000] [--workers 2] [--folder /tmp]

The images are the demo's photographs, about 100 KB each, under many names (hard links). Each partition is made, and
then brought up to date with one image more and shards of half the size, so that nearly all is copied. Every partition
has a shard a worker at least, so that as many are at work at once. The last column compares with the smallest
partition: it should stay near 1, whatever the size.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from benchmarks.library import STAGES, declared, made_before, make
from shardmill.demo import make_demo_dataset


def main(given: Sequence[str] | None = None) -> None:
    """Print a line a stage and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--max-samples", type=int, default=1000, help="of a shard")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work; needs 250 KB an image")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)  # what a child process runs
    arguments = parser.parse_args(given)
    if arguments.stage is not None:
        measure(arguments.folder, arguments.stage, arguments.max_samples, arguments.workers)
        return
    print("stage              samples  shards  seconds  images/s  peak MiB  of the smallest")
    smallest: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        base = Path(temporary)
        make_demo_dataset(base / "demo")
        for size in sorted(arguments.sizes):
            folder = base / str(size)
            link_photographs(base / "demo", folder / "raw", size)
            largest = min(arguments.max_samples, size // arguments.workers)
            turns = [(stage, largest) for stage in STAGES]
            for turn, (stage, most) in enumerate([*turns, *((stage, most // 2) for stage, most in turns)]):
                if turn == len(turns):
                    link_photographs(base / "demo", folder / "raw", 1, first=size)
                options = ["--stage", stage, "--folder", str(folder), "--max-samples", str(most)]
                command = [sys.executable, "-m", "benchmarks.memory", *options, "--workers", str(arguments.workers)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                if stage == "list":
                    continue
                samples, shards, seconds, peak = map(float, output.split())
                name = stage if turn < len(turns) else f"{stage}-copied"
                ratio = peak / smallest.setdefault(name, peak)
                print(
                    f"{name:18} {samples:7.0f}  {shards:6.0f}  {seconds:7.1f}  {samples / seconds:8.0f}  {peak:8.0f}"
                    f"  {ratio:.2f}",
                    flush=True,
                )


def link_photographs(demo: Path, folder: Path, count: int, first: int = 0) -> None:
    """`count` samples of image, label and mask, the good ones of the demo again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [file for file in sorted(demo.rglob("*.jpg")) if file.name.partition(".")[0][-3:].isdigit()]
    for number, image in enumerate(islice(cycle(good), count), first):
        for component in ("jpg", "cls", "mask.png"):
            os.link(image.with_suffix(f".{component}"), folder / f"image_{number:06d}.{component}")


def measure(folder: Path, stage: str, max_samples: int, workers: int) -> None:
    """Run one stage here, and print: samples, shards, seconds, peak resident memory in MiB."""
    dataset = declared(
        {
            "name": "memory",
            "root": str(folder),
            "source": {"uri": str(folder / "raw")},
            "partitions": ["p"],
            "shards": {"max_samples": max_samples},
            "embedder": {},
            "transform": {
                "masks": ["mask.png"],
                "operations": [
                    {"operation": "RandomResizedCrop", "arguments": {"size": 224}},
                    {"operation": "RandomHorizontalFlip"},
                ],
            },
        }
    )
    upstream = made_before(dataset, stage, "p")
    started = time.perf_counter()
    made = make(dataset, stage, "p", upstream, workers)
    seconds = time.perf_counter() - started
    # Not `getrusage`: its maximum is that of the process that started this one, if that was larger.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(made.commit.total_samples, len(made.commit.shards), seconds, int(line.split()[1]) / 1024)


if __name__ == "__main__":
    main()
