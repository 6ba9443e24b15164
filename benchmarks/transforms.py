"""Transforms of JPEGs, images per CPU second on one core: Shardmill beside torchvision on Pillow images.

    python -m benchmarks.transforms FOLDER [--rounds 5]

The variants take turns, round by round, so that a noisy machine is noisy to all; the median round counts.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from shardmill.images import verify_image
from shardmill.samples import EncodedSample
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms import TransformSpec, build_transform

import_torchvision()
from torchvision.transforms import v2  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shardmill(*operations: Mapping[str, object]) -> Callable[[bytes], object]:
    """JPEG bytes to JPEG bytes through a spec of these operations."""
    transform = build_transform(TransformSpec.model_validate({"operations": operations}))
    return lambda data: transform(EncodedSample("key", {"jpg": data}))


def pillow(*operations: Callable[..., object]) -> Callable[[bytes], object]:
    """JPEG bytes to JPEG bytes the plain way."""
    compose = v2.Compose(operations)

    def run(data: bytes) -> bytes:
        file = io.BytesIO()
        compose(Image.open(io.BytesIO(data)).convert("RGB")).save(file, "JPEG", quality=95)
        return file.getvalue()

    return run


def main(given: Sequence[str] | None = None) -> None:
    """Measure all variants and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    images = [path.read_bytes() for path in sorted(arguments.folder.glob("*.jpg"))]
    to_float = {"operation": "ToDtype", "arguments": {"dtype": "float32", "scale": True}}
    variants: dict[str, Callable[[bytes], object]] = {
        "centre crop, Shardmill": shardmill({"operation": "CenterCrop", "arguments": {"size": 224}}),
        "centre crop, Pillow": pillow(v2.CenterCrop(224)),
        "centre crop + normalise, Shardmill": shardmill(
            {"operation": "CenterCrop", "arguments": {"size": 224}},
            to_float,
            {"operation": "Normalize", "arguments": {"mean": MEAN, "std": STD}},
        ),
        "centre crop + normalise, Pillow": pillow(
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.ToPILImage(),
        ),
        "random crop + flip, Shardmill": shardmill(
            {"operation": "RandomResizedCrop", "arguments": {"size": 224}},
            {"operation": "RandomHorizontalFlip"},
        ),
        "random crop + flip, Pillow": pillow(v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()),
        "verify, Shardmill": lambda data: verify_image(data, "jpg"),
        "verify, Pillow": lambda data: Image.open(io.BytesIO(data)).load(),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds + 1):  # the first warms up
        for name, run in variants.items():
            start = time.process_time()
            for data in images:
                run(data)
            rates[name].append(len(images) / (time.process_time() - start))
    for name, measured in rates.items():
        print(f"{name:36} {statistics.median(measured[1:]):6.0f} images/s")


if __name__ == "__main__":
    main()
