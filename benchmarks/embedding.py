"""Images a second of each step towards a vector, and of all steps overlapped.

    python -m benchmarks.embedding FOLDER [--rounds 5] [--threads 2]

Steps take turns within a round, so that a noisy neighbour disturbs all alike; medians over the rounds.
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardmill.concurrency import usable_cores
from shardmill.embedders import EmbedderSpec, Runtime, available_runtimes, build_runtime, load_embedder
from shardmill.images.decode import decode_image
from shardmill.samples import image_format

Image = NDArray[np.uint8]


def main(given: Sequence[str] | None = None) -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--runtimes", nargs="+", default=available_runtimes())
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args(given)

    import torch

    torch.set_num_threads(1)  # the threads below are the parallelism
    paths = sorted(path for path in arguments.folder.iterdir() if image_format(path.suffix[1:]))
    files = [(path.read_bytes(), path.name) for path in paths]
    spec = EmbedderSpec(model=arguments.model, weights=arguments.weights)
    embedder = load_embedder(spec)
    pool = ThreadPoolExecutor(arguments.threads)

    def decode(file: tuple[bytes, str]) -> Image:
        return decode_image(*file)

    def prepare(file: tuple[bytes, str]) -> Image:
        return embedder.preprocess(decode(file))

    decoded = list(pool.map(decode, files))
    inputs = np.stack(list(pool.map(embedder.preprocess, decoded)))
    batches = [inputs[start : start + spec.batch_size] for start in range(0, len(inputs), spec.batch_size)]

    def overlapped(runtime: Runtime) -> None:
        drain(runtime.embed(batched(prefetched(pool, prepare, files, 4 * arguments.threads), spec.batch_size)))

    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: list(pool.map(decode, files)),
        "preprocess": lambda: list(pool.map(embedder.preprocess, decoded)),
    }
    runtimes: list[Runtime] = []
    for name in arguments.runtimes:
        for precision in arguments.precisions:
            chosen = EmbedderSpec.model_validate({"runtime": name, "precision": precision})
            started = time.perf_counter()
            runtime = build_runtime(embedder, chosen, arguments.threads)
            print(f"start of {name} {precision}: {time.perf_counter() - started:.2f} s")
            runtimes.append(runtime)
            steps[f"inference {name} {precision}"] = lambda runtime=runtime: drain(runtime.embed(batches))  # type: ignore[misc]
            steps[f"overlapped {name} {precision}"] = lambda runtime=runtime: overlapped(runtime)  # type: ignore[misc]

    rates: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(arguments.rounds):
        for step, run in steps.items():
            started = time.perf_counter()
            run()
            rates[step].append(len(files) / (time.perf_counter() - started))
    print(f"{len(files)} images, {arguments.threads} threads, images/s: median (least to most)")
    for step, values in rates.items():
        print(f"{step:32} {statistics.median(values):7.0f} ({min(values):.0f} to {max(values):.0f})")
    for runtime in runtimes:
        runtime.close()
    pool.shutdown()


def prefetched(
    pool: ThreadPoolExecutor,
    function: Callable[[tuple[bytes, str]], Image],
    files: Iterable[tuple[bytes, str]],
    ahead: int,
) -> Iterator[Image]:
    """`map` on the pool, in order, at most `ahead` results waiting."""
    pending: deque[Future[Image]] = deque()
    for file in files:
        pending.append(pool.submit(function, file))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def batched(images: Iterator[Image], size: int) -> Iterator[Image]:
    """Stacks of up to `size` images."""
    while group := list(islice(images, size)):
        yield np.stack(group)


def drain(iterator: Iterator[object]) -> None:
    """Run to the end, keep nothing."""
    deque(iterator, maxlen=0)


if __name__ == "__main__":
    main()
