"""What one image added to a partition costs, beside a run from nothing and a copy of the shards that hold it.

    python -m benchmarks.change FOLDER [--images 1000 10000] [--rounds 5] [--embedder MODEL]

The partition's images are the photographs in FOLDER, over and over, each with a comment of its own in the file, so that
no two are equal. A round adds one and runs each asset, and copies the shards that this makes anew as they stood before:
once as `cp` does, once with the two SHA-256 that a copy needs which is compared with what was committed (of the bytes
that are read, and of the file that is written). Medians over the rounds; CPU is that of this process and its children.
"""

import argparse
import hashlib
import io
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from benchmarks.library import STAGES, Dataset, declared, make
from shardmill.shards.reader import ShardSet


class Cost(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def main(given: Sequence[str] | None = None) -> None:
    """Print a table for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--embedder", default="efficientnet-lite0")
    arguments = parser.parse_args(given)
    photographs = [file.read_bytes() for file in sorted(arguments.folder.glob("*.jpg"))]
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as temporary:
            measure(Path(temporary), photographs, images, arguments.rounds, arguments.embedder)


def measure(base: Path, photographs: Sequence[bytes], images: int, rounds: int, embedder: str) -> None:
    """Print what one added costs a partition of so many."""
    raw = base / "raw"
    raw.mkdir()
    for number in range(images):
        (raw / f"{number:07}.jpg").write_bytes(commented(photographs[number % len(photographs)], number))
    dataset = declared(
        {
            "name": "change",
            "root": str(base / "root"),
            "source": {"uri": str(raw)},
            "partitions": ["p"],
            "transform": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 350}}], "jpeg_quality": 75},
            "embedder": {"model": embedder},
        }
    )
    costs, sets = run(dataset)
    print(f"{images:,} images from nothing")
    for name, cost in costs.items():
        show(name, [cost])
    taken: dict[str, list[Cost]] = {}
    for number in range(rounds):
        (raw / f"new{number}.jpg").write_bytes(negative(photographs[number % len(photographs)]))
        before, (costs, sets) = sets, run(dataset)
        for stage, cost in costs.items():
            taken.setdefault(stage, []).append(cost)
            for kind, cost in copied(before[stage], sets[stage], base / "copy").items():
                taken.setdefault(f"{stage}: {kind}", []).append(cost)
    print("  one added, medians")
    for name, each in taken.items():
        show(name, each)
    counts = ", ".join(f"{stage} {shards.computed} and {shards.copied:,}" for stage, shards in sets.items())
    print(f"  samples computed and copied: {counts}", flush=True)


def run(dataset: Dataset) -> tuple[dict[str, Cost], dict[str, ShardSet]]:
    """Each asset's cost, and what stands of it then."""
    costs: dict[str, Cost] = {}
    sets: dict[str, ShardSet] = {}
    upstream: ShardSet | None = None
    for stage in STAGES:
        with measured(costs, stage):
            upstream = make(dataset, stage, "p", upstream, None)
        sets[stage] = upstream
    return costs, sets


def copied(before: ShardSet, after: ShardSet, target: Path) -> dict[str, Cost]:
    """What copies of the shards cost that are new."""
    costs: dict[str, Cost] = {}
    stood = {shard.file_name for shard in before.shards}
    files = [
        Path(after.layout.data(s.file_name).removeprefix("file://")) for s in after.shards if s.file_name not in stood
    ]
    with measured(costs, "a copy"):
        for file in files:
            shutil.copyfile(file, target)
    with measured(costs, "a copy with two digests"):
        for file in files:
            read, written = hashlib.sha256(), hashlib.sha256()
            with file.open("rb") as source, target.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    read.update(chunk)
                    written.update(chunk)
                    sink.write(chunk)
    return costs


@contextmanager
def measured(costs: dict[str, Cost], name: str) -> Iterator[None]:
    """Note the cost of the block under `name`."""
    started, used = time.perf_counter(), cpu_seconds()
    yield
    costs[name] = Cost(time.perf_counter() - started, cpu_seconds() - used)


def cpu_seconds() -> float:
    """Of this process and those of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def commented(photograph: bytes, number: int) -> bytes:
    """The JPEG with a comment after its first marker (ITU-T T.81, B.2.4.5): other bytes, the same pixels."""
    comment = str(number).encode()
    return photograph[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photograph[2:]


def negative(photograph: bytes) -> bytes:
    """Another photograph, of other pixels."""
    with Image.open(io.BytesIO(photograph)) as image:
        buffer = io.BytesIO()
        ImageOps.invert(image.convert("RGB")).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def show(name: str, costs: Sequence[Cost]) -> None:
    """A line of the table."""
    wall, cpu = (statistics.median(each) for each in zip(*costs, strict=True))
    print(f"    {name:36} {wall:8.2f} s {cpu:8.2f} s CPU", flush=True)


if __name__ == "__main__":
    main()
