"""The least that a stage can cost: its necessary parts alone, on as many threads, with nothing around them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.loaders import SIDE
from benchmarks.comparison.ours import CROP, QUALITY
from benchmarks.comparison.variants import Input

Item = TypeVar("Item")
Result = TypeVar("Result")


def copy(source: Input, target: Path, workers: int) -> None:
    """Read each file, hash it, see that it decodes, append it to one file a thread."""
    from shardmill.images import verify_image

    target.mkdir(parents=True)

    def part(number: int, files: list[Path]) -> None:
        with (target / str(number)).open("wb") as sink:
            for file in files:
                data = file.read_bytes()
                hashlib.sha256(data).digest()
                verify_image(data, "jpg")
                sink.write(data)

    spread(part, sorted(source.files.iterdir()), workers)


def recode(source: Input, target: Path, workers: int) -> None:  # noqa: ARG001
    """libjpeg-turbo decodes, and encodes the crop: nothing is written."""
    import simplejpeg

    def part(_: int, files: list[Path]) -> None:
        for file in files:
            pixels = simplejpeg.decode_jpeg(file.read_bytes(), "RGB")
            top, left = (max(0, (size - CROP) // 2) for size in pixels.shape[:2])
            crop = np.ascontiguousarray(pixels[top : top + CROP, left : left + CROP])
            simplejpeg.encode_jpeg(crop, QUALITY, "RGB", "420")

    spread(part, sorted(source.files.iterdir()), workers)


def load(source: Input, target: Path, workers: int, what: str) -> None:  # noqa: ARG001
    """Read; decode; crop by torchvision's draws. Nothing is shuffled or put into batches."""
    import simplejpeg
    import torch

    from shardmill.torchvision_compat import import_torchvision

    import_torchvision()
    from torchvision.transforms import v2

    torch.set_num_threads(1)  # the threads here are the parallelism
    crop = v2.RandomResizedCrop(SIDE)

    def part(_: int, files: list[Path]) -> None:
        for file in files:
            data = file.read_bytes()
            if what == "raw":
                continue
            pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)
            if what == "crops":
                box = crop.make_params([pixels])
                chosen = pixels[:, box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
                v2.functional.resize_image(chosen, [SIDE, SIDE], antialias=True)

    spread(part, sorted(source.files.iterdir()), workers)


def infer(source: Input, target: Path, workers: int, precision: str = "float32") -> None:  # noqa: ARG001
    """Decode and preprocess in threads ahead of OpenVINO's requests: no vector is kept."""
    from shardmill.images import decode_image

    runtime, embedder = model(workers, precision)

    def prepared(file: Path) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = embedder.preprocess(decode_image(file.read_bytes(), "jpg"))
        return pixels

    with ThreadPoolExecutor(workers) as pool:
        images = ahead(pool, prepared, sorted(source.files.iterdir()), 4 * workers)
        deque(runtime.embed(images), maxlen=0)


def chain(source: Input, target: Path, workers: int, precision: str = "float32") -> None:
    """The limits of the stages, one after the other, all on the original images."""
    copy(source, target, workers)
    recode(source, target, workers)
    infer(source, target, workers, precision)


@cache
def model(workers: int, precision: str) -> tuple[Any, Any]:
    """The runtime that a CPU has, and the embedder: built once a process."""
    import torch

    from shardmill.embedders import EmbedderSpec, build_runtime, load_embedder

    torch.set_num_threads(1)  # the threads here are the parallelism
    spec = EmbedderSpec.model_validate({"precision": precision})
    embedder = load_embedder(spec)
    return build_runtime(embedder, spec, workers), embedder


def spread(part: Callable[[int, list[Path]], None], files: list[Path], workers: int) -> None:
    """Each thread takes every so manieth file."""
    with ThreadPoolExecutor(workers) as pool:
        deque(pool.map(part, range(workers), (files[number::workers] for number in range(workers))), maxlen=0)


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], waiting: int
) -> Iterator[Result]:
    """`map` in order, with at most so many results waiting."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > waiting:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
