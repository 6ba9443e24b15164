"""What variants have written, in the formats that several of them share: (keys, values)."""

from __future__ import annotations

import hashlib
import io
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

THUMBNAIL = (8, 8)


def digests(target: Path) -> tuple[list[str], list[str]]:
    """Keys, and SHA-256 of each image in tars."""
    keys, images = tar_images(target)
    return keys, [hashlib.sha256(image).hexdigest() for image in images]


def litdata_digests(target: Path) -> tuple[list[str], list[str]]:
    """The same of litData's chunks."""
    return _digests_of("benchmarks.comparison.peers.litdata_chunks", target)


def mosaic_digests(target: Path) -> tuple[list[str], list[str]]:
    """The same of MDS shards."""
    return _digests_of("benchmarks.comparison.peers.mosaic", target)


def _digests_of(module: str, target: Path) -> tuple[list[str], list[str]]:
    keys, images = import_module(module).samples(target)
    return keys, [hashlib.sha256(image).hexdigest() for image in images]


def pictures(target: Path) -> tuple[list[str], list[list[int]]]:
    """Keys, and of each image in tars or Parquet what `picture` tells."""
    keys, images = tar_images(target) if list(target.rglob("*.tar")) else parquet_images(target)
    return keys, [picture(image) for image in images]


def picture(data: bytes) -> list[int]:
    """Width, height, the sum of the quantization tables, the chroma subsampling; then a thumbnail's grey levels."""
    from PIL import Image, JpegImagePlugin

    image = Image.open(io.BytesIO(data))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    quality = sum(sum(table) for table in image.quantization.values())
    return [
        *image.size,
        quality,
        JpegImagePlugin.get_sampling(image),
        *image.convert("L").resize(THUMBNAIL, Image.Resampling.BOX).tobytes(),
    ]


def vectors(target: Path) -> tuple[list[str], list[Any]]:
    """Keys and embeddings of Parquet files."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(sorted(map(str, target.rglob("*.parquet")))).to_table()
    return table["key"].to_pylist(), table["embedding"].to_pylist()


def tar_images(target: Path) -> tuple[list[str], list[bytes]]:
    """Names without suffix, and bytes, of JPEGs in tars."""
    keys, images = [], []
    for file in sorted(target.rglob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    content = tar.extractfile(member)
                    assert content is not None
                    keys.append(member.name.removesuffix(".jpg"))
                    images.append(content.read())
    return keys, images


def parquet_images(target: Path) -> tuple[list[str], list[bytes]]:
    """The columns `key` and `jpg`."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(sorted(map(str, target.rglob("*.parquet")))).to_table()
    return table["key"].to_pylist(), table["jpg"].to_pylist()
