"""What the stage costs beside its parts: decoding, preprocessing and inference, each alone.

    python -m benchmarks.embed_parts FOLDER [--rounds 5] [--threads 2] [--precisions float32 bfloat16]

The images of FOLDER are packed once. Parts and the stage, from the packed shard to the table, take turns within a round
in one process, so that a noisy neighbour disturbs all alike. Each line is the median over the rounds, in milliseconds
an image: of processor time, and of the clock. The last line of a precision is the stage to the sum of its parts, the
median of each round's own ratio. The first round, in which models load, is not counted.
"""

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.library import declared, make, moved
from shardmill.concurrency import usable_cores
from shardmill.embedders import EmbedderSpec, build_runtime, choose_runtime, load_embedder
from shardmill.images import decode_image
from shardmill.samples import image_format

Image = NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")
PARTS = ("decode", "preprocess", "inference")


class Cost(NamedTuple):
    """Milliseconds an image."""

    cpu: float
    wall: float


def main(given: Sequence[str] | None = None) -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, side by side")
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--weights")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args(given)

    import torch

    torch.set_num_threads(1)  # the threads below are the parallelism
    for precision in arguments.precisions:
        spec = EmbedderSpec.model_validate(
            {
                "model": arguments.model,
                "weights": arguments.weights,
                "runtime": arguments.runtime,
                "precision": precision,
            }
        )
        count, costs = measure(arguments.folder.absolute(), spec, arguments.rounds, arguments.threads)
        print(f"{precision} on {choose_runtime(spec)}, {count} images, {arguments.threads} threads, ms an image")
        print(f"{'':12} {'CPU':>7} {'wall':>7}")
        for name, values in costs.items():
            cpu, wall = (statistics.median(each) for each in zip(*values, strict=True))
            print(f"{name:12} {cpu:7.2f} {wall:7.2f}")
        print(f"{'stage/parts':12} {ratio(costs, 0):7.2f} {ratio(costs, 1):7.2f}", flush=True)


def ratio(costs: dict[str, list[Cost]], of: int) -> float:
    """The stage to the sum of its parts, in CPU (0) or wall time (1)."""
    parts = [sum(costs[part][number][of] for part in PARTS) for number in range(len(costs["stage"]))]
    return statistics.median(cost[of] / part for cost, part in zip(costs["stage"], parts, strict=True))


def measure(folder: Path, spec: EmbedderSpec, rounds: int, threads: int) -> tuple[int, dict[str, list[Cost]]]:
    """Images, and what each part and the stage cost in each round."""
    files = [(file.read_bytes(), file.name) for file in sorted(folder.iterdir()) if image_format(file.suffix[1:])]
    embedder = load_embedder(spec)
    costs: dict[str, list[Cost]] = {}
    with (
        build_runtime(embedder, spec, threads) as runtime,
        ThreadPoolExecutor(threads) as pool,
        tempfile.TemporaryDirectory() as temporary,
    ):
        dataset = declared(described(folder, f"{temporary}/root", spec))
        packed = make(dataset, "pack", "p", make(dataset, "list", "p", None, threads), threads)

        def stage(number: int) -> None:
            make(moved(dataset, f"{temporary}/{number}"), "embed", "p", packed, threads)

        decoded = threaded(pool, lambda file: decode_image(*file), files)
        inputs = threaded(pool, embedder.preprocess, decoded)
        for number in range(rounds + 1):
            steps: dict[str, Callable[[], object]] = {
                "decode": lambda: threaded(pool, lambda file: decode_image(*file), files),
                "preprocess": lambda: threaded(pool, embedder.preprocess, decoded),
                "inference": lambda: drain(runtime.embed(inputs)),
                "stage": lambda number=number: stage(number),  # type: ignore[misc]
            }
            for name, run in steps.items():
                cost = timed(run, len(files))
                if number:
                    costs.setdefault(name, []).append(cost)
    return len(files), costs


def described(folder: Path, root: str, spec: EmbedderSpec) -> dict[str, Any]:
    """A dataset of the folder's images, embedded as they are."""
    embedder = spec.model_dump(include={"model", "weights", "runtime", "precision"})
    source = {"uri": str(folder)}
    return {"name": "embedding", "root": root, "source": source, "partitions": ["p"], "embedder": embedder}


def timed(run: Callable[[], object], images: int) -> Cost:
    """What it cost an image, in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Cost(1000 * (time.process_time() - cpu) / images, 1000 * (time.perf_counter() - wall) / images)


def threaded(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`map` on the pool, some items at a time: what handing over costs is not the part's."""
    some = [items[start : start + 16] for start in range(0, len(items), 16)]
    return [made for each in pool.map(lambda chunk: [function(item) for item in chunk], some) for made in each]


def drain(iterator: Iterator[object] | Iterable[object]) -> None:
    """Run to the end, keep nothing."""
    deque(iterator, maxlen=0)


if __name__ == "__main__":
    main()
