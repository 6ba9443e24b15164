"""Pipelines of operations over JPEGs, CPU milliseconds an image: Shardmill beside what people write by hand.

    python -m benchmarks.transform_parts FOLDER [--rounds 5] [--quality 75] [--json FILE]

From the bytes of a JPEG to those of another, in one thread. The peers run torchvision's operations at their defaults,
v1 on Pillow's images and v2 on tensors, and write with Pillow; the article's function is that of AIStore's ImageNet
ETL, which goes by way of normalised floats. The floor is decoding and encoding alone, of the same images, with
libjpeg-turbo. The variants take turns, round by round, so that a noisy machine is noisy to all; medians over the
rounds, of which the first is not counted.
"""

import argparse
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from shardmill.images import decode_image, encode_image
from shardmill.samples import EncodedSample
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms import TransformSpec, build_transform

import_torchvision()
from torchvision import transforms as v1  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

Run = Callable[[bytes], Any]
Operation = tuple[str, Mapping[str, Any]]

NORMALIZE: Operation = ("Normalize", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
TO_FLOAT: Operation = ("ToDtype", {"dtype": "float32", "scale": True})
BACK: Operation = ("ToDtype", {"dtype": "uint8", "scale": True})
RESIZE: Operation = ("Resize", {"size": 256})
CENTER: Operation = ("CenterCrop", {"size": 224})
RANDOM: Operation = ("RandomResizedCrop", {"size": 224})
FLIP: Operation = ("RandomHorizontalFlip", {})
JITTER: Operation = ("ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4})
HUE: Operation = ("ColorJitter", {"hue": 0.1})
BLUR: Operation = ("GaussianBlur", {"kernel_size": 9})

PIPELINES: Mapping[str, Sequence[Operation]] = {
    "centre crop 350": [("CenterCrop", {"size": 350})],
    "resize, centre crop": [RESIZE, CENTER],
    "random crop, flip": [RANDOM, FLIP],
    "resize, crop, normalise": [RESIZE, CENTER, TO_FLOAT, NORMALIZE, BACK],
    "random crop, flip, colours": [RANDOM, FLIP, JITTER],
    "random crop, hue": [RANDOM, HUE],
    "centre crop, grey": [CENTER, ("Grayscale", {"num_output_channels": 3})],
    "centre crop, blur": [CENTER, BLUR],
}
MASKED: Sequence[Operation] = [RANDOM, FLIP]


def shardmill(operations: Sequence[Operation], quality: int, masked: bool = False) -> Callable[..., Any]:
    """Bytes to bytes, through a spec of these operations."""
    spec = {
        "operations": [{"operation": name, "arguments": arguments} for name, arguments in operations],
        "jpeg_quality": quality,
        "masks": ["mask.png"] if masked else [],
    }
    transform = build_transform(TransformSpec.model_validate(spec))

    keys = itertools.count()  # the draws depend on it

    def run(data: bytes, mask: bytes | None = None) -> Any:
        components = {"jpg": data} if mask is None else {"jpg": data, "mask.png": mask}
        return transform(EncodedSample(str(next(keys)), components))

    return run


def on_pillow(operations: Sequence[Operation], quality: int) -> Run:
    """As with torchvision v1; floats by way of `ToTensor` and `ToPILImage`, as its users go."""
    names = {TO_FLOAT[0]: v1.ToTensor}
    compose = v1.Compose(
        [
            v1.ToPILImage()
            if operation is BACK
            else names[operation[0]]()
            if operation[0] in names
            else getattr(v1, operation[0])(**operation[1])
            for operation in operations
        ]
    )
    return lambda data: _saved(compose(Image.open(io.BytesIO(data)).convert("RGB")), quality)


def on_tensors(operations: Sequence[Operation], quality: int) -> Run:
    """As with torchvision v2, from `ToImage` to `ToPILImage`."""
    dtypes = {"float32": torch.float32, "uint8": torch.uint8}
    made = [
        getattr(v2, name)(**{n: dtypes[value] if n == "dtype" else value for n, value in arguments.items()})
        for name, arguments in operations
    ]
    compose = v2.Compose([v2.ToImage(), *made, v2.ToPILImage()])
    return lambda data: _saved(compose(Image.open(io.BytesIO(data)).convert("RGB")), quality)


def article(operations: Sequence[Operation], quality: int) -> Run:
    """The same, and to normalised floats and back at the end, whether it is wanted or not."""
    plain = [operation for operation in operations if operation not in (TO_FLOAT, NORMALIZE, BACK)]
    return on_pillow([*plain, TO_FLOAT, NORMALIZE, BACK], quality)


def pillow_with_mask(data: bytes, mask: bytes, quality: int) -> tuple[bytes, bytes]:
    """`MASKED`, with v1's own functions: the draws of one geometry, applied to both."""
    size = RANDOM[1]["size"]
    image, labels = Image.open(io.BytesIO(data)).convert("RGB"), Image.open(io.BytesIO(mask))
    box = v1.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    image = v1.functional.resized_crop(image, *box, size=[size, size])
    labels = v1.functional.resized_crop(labels, *box, size=[size, size], interpolation=v1.InterpolationMode.NEAREST)
    if torch.rand(1) < 0.5:
        image, labels = v1.functional.hflip(image), v1.functional.hflip(labels)
    return _saved(image, quality), _saved(labels, None)


def tensors_with_mask(data: bytes, mask: bytes, quality: int) -> tuple[bytes, bytes]:
    """`MASKED`, with v2, which crops both alike."""
    image = v2.functional.to_image(Image.open(io.BytesIO(data)).convert("RGB"))
    labels = tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(io.BytesIO(mask))))
    image, labels = _MASKED(image, labels)
    return _saved(v2.functional.to_pil_image(image), quality), _saved(v2.functional.to_pil_image(labels), None)


_MASKED = v2.Compose([getattr(v2, name)(**arguments) for name, arguments in MASKED])


def floor(made: Sequence[Mapping[str, bytes]], quality: int) -> Callable[..., Any]:
    """Decode an image, and encode what a pipeline made of one; masks, too."""
    results = itertools.cycle([{name: _decoded(data) for name, data in each.items()} for each in made])

    def run(data: bytes, mask: bytes | None = None) -> None:
        simplejpeg.decode_jpeg(data, "RGB")
        result = next(results)
        simplejpeg.encode_jpeg(result["jpg"], quality, "RGB", "420")
        if mask is not None:
            Image.open(io.BytesIO(mask)).load()
            _saved(Image.fromarray(result["mask.png"][:, :, 0]), None)

    return run


def labels(pixels: Any) -> Any:
    """A mask of patches, as segmentations have them."""
    height, width = pixels.shape[:2]
    return (pixels[::16, ::16, 0] >> 6).repeat(16, 0).repeat(16, 1)[:height, :width]


def _decoded(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _saved(image: Image.Image, quality: int | None) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG" if quality is None else "JPEG", **({} if quality is None else {"quality": quality}))
    return file.getvalue()


OURS, PILLOW, TENSORS, ARTICLE, FLOOR = "Shardmill", "v1, Pillow", "v2, tensors", "article", "floor"


def variants(images: Sequence[bytes], quality: int) -> dict[str, dict[str, tuple[Callable[..., Any], list[Any]]]]:
    """Pipeline → variant → what runs it, and the arguments of each call."""
    alone = [(data,) for data in images]
    every: dict[str, dict[str, tuple[Callable[..., Any], list[Any]]]] = {}
    for name, operations in PIPELINES.items():
        ours = shardmill(operations, quality)
        every[name] = {
            OURS: (ours, alone),
            PILLOW: (on_pillow(operations, quality), alone),
            TENSORS: (on_tensors(operations, quality), alone),
            ARTICLE: (article(operations, quality), alone),
            FLOOR: (floor([ours(data)[0].components for data in images], quality), alone),
        }
    both = [(data, encode_image(labels(decode_image(data, "jpg")), "mask.png")) for data in images]
    ours = shardmill(MASKED, quality, masked=True)
    every["random crop, flip, of image and mask"] = {
        OURS: (ours, both),
        PILLOW: (lambda data, mask: pillow_with_mask(data, mask, quality), both),
        TENSORS: (lambda data, mask: tensors_with_mask(data, mask, quality), both),
        FLOOR: (floor([ours(*each)[0].components for each in both], quality), both),
    }
    return every


def main(given: Sequence[str] | None = None) -> None:
    """Measure all pipelines and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--only", help="pipelines of which the name has this in it")
    parser.add_argument("--json", type=Path, help="where to write the medians")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    images = [path.read_bytes() for path in sorted(arguments.folder.glob("*.jpg"))]
    every = variants(images, arguments.quality)
    every = {name: runs for name, runs in every.items() if (arguments.only or "") in name}
    took: dict[str, dict[str, list[float]]] = {name: {each: [] for each in runs} for name, runs in every.items()}
    for _ in range(arguments.rounds + 1):
        for name, runs in every.items():
            for variant, (run, calls) in runs.items():
                start = time.process_time()
                for call in calls:
                    run(*call)
                took[name][variant].append((time.process_time() - start) / len(calls) * 1e3)
    medians = {
        name: {each: statistics.median(measured[1:]) for each, measured in runs.items()} for name, runs in took.items()
    }
    print(f"{len(images)} images, {arguments.rounds} rounds, CPU ms an image; in brackets that many times Shardmill's")
    for name, values in medians.items():
        print(f"{name:38}" + "  ".join(f"{each} {ms:5.2f} ({ms / values[OURS]:.2f})" for each, ms in values.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
