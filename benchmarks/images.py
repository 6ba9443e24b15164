"""What it costs to decode and to verify images, in CPU microseconds each: by format, and by profile.

    python -m benchmarks.images FOLDER [--rounds 5]

The photographs of the folder are written anew without metadata, in each format; JPEGs also with a profile that is
sRGB, and with one that is not. The variants take turns, round by round; the fastest round of each counts.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from shardmill.images import decode_image, verify_image
from shardmill.images.primaries import ADOBE_RGB

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}


def main(given: Sequence[str] | None = None) -> None:
    """Measure all variants and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(given)
    photographs = [Image.open(path).convert("RGB") for path in sorted(arguments.folder.glob("*.jpg"))]
    for image in photographs:
        image.info.clear()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    variants: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {}
    for suffix, name in FORMATS.items():
        files = [_saved(image, name) for image in photographs]
        variants[f"{suffix}, decode"] = partial(decode_image, component=suffix), files
        variants[f"{suffix}, verify"] = partial(verify_image, component=suffix), files
    for profile, icc in (("sRGB", srgb), ("Adobe RGB", ADOBE_RGB)):
        files = [_saved(image, "JPEG", icc) for image in photographs]
        variants[f"jpg with {profile}, decode"] = partial(decode_image, component="jpg"), files
    jpegs = variants["jpg, decode"][1]
    variants["jpg, Pillow"] = (lambda data: np.array(Image.open(io.BytesIO(data)).convert("RGB"))), jpegs
    took: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds + 1):  # the first warms up
        for name, (run, files) in variants.items():
            start = time.process_time()
            for data in files:
                run(data)
            took[name].append((time.process_time() - start) / len(files))
    for name, measured in took.items():
        print(f"{name:28} {min(measured[1:]) * 1e6:7.0f} µs an image")


def _saved(image: Image.Image, name: str, profile: bytes | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, name, icc_profile=profile)
    return file.getvalue()


if __name__ == "__main__":
    main()
