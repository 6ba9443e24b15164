"""Other tools' loaders, each as its documentation has it, with torch's DataLoader where it brings none.

Pillow decodes and crops: of what their documentation shows it costs least. torch computes in one thread, as in its own
worker processes: crops of single images only wait for each other in several.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.comparison.loaders import BATCH, BUFFER, crop_arguments, flip_probability
from benchmarks.comparison.peers import litdata_chunks, mosaic
from benchmarks.comparison.variants import Input

Batches: TypeAlias = Any
"""Iterable of keys and values."""


def from_tars(source: Input, workers: int, what: str, looked_at: bool) -> Batches:
    """webdataset: batches are made in the workers."""
    import webdataset

    tars = source.tars()
    value = value_of(what, looked_at)
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), nodesplitter=None, empty_check=False)
        .shuffle(BUFFER)
        .map(partial(of_sample, value))
        .batched(BATCH, collation_fn=collated)
    )
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=min(workers, len(tars)))


def from_folder(source: Input, workers: int, what: str, looked_at: bool) -> Batches:
    """Torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    dataset = Named(ImageFolder(str(folder(source, "folder")), loader=partial(of_file, value_of(what, looked_at))))
    return _loader()(dataset, batch_size=BATCH, shuffle=True, num_workers=workers, collate_fn=collated)


def link_folder(source: Input, workers: int) -> None:  # noqa: ARG001
    """One class, as nothing here looks at it."""
    target = folder(source, "folder") / "class"
    if not target.exists():
        target.mkdir(parents=True)
        for file in source.files.iterdir():
            os.link(file, target / file.name)


def from_chunks(source: Input, workers: int, what: str, looked_at: bool) -> Batches:
    """LitData's own dataset and loader."""
    from litdata import StreamingDataLoader, StreamingDataset

    value = value_of(what, looked_at)
    dataset = StreamingDataset(str(folder(source, "litdata")), shuffle=True, transform=partial(of_record, value))
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collated)


def write_chunks(source: Input, workers: int) -> None:
    """By `optimize`."""
    if not folder(source, "litdata").exists():
        litdata_chunks.pack(source, folder(source, "litdata"), workers)


def from_mds(source: Input, workers: int, what: str, looked_at: bool) -> Batches:
    """Mosaic's StreamingDataset."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    value = value_of(what, looked_at)
    dataset = StreamingDataset(local=str(folder(source, "mosaic")), shuffle=True, batch_size=BATCH)
    return _loader()(dataset, batch_size=BATCH, num_workers=workers, collate_fn=partial(collated_records, value))


def write_mds(source: Input, workers: int) -> None:
    """By `MDSWriter`."""
    if not folder(source, "mosaic").exists():
        mosaic.pack(source, folder(source, "mosaic"), workers)


def folder(source: Input, name: str) -> Path:
    """Where another form of the samples is."""
    assert source.root is not None, "this benchmark made no shards"
    return source.root / name


class Named:
    """Samples with the names of their files."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> tuple[str, Any]:
        return Path(self._images.samples[number][0]).stem, self._images[number][0]


def of_sample(value: Callable[[bytes], Any], sample: dict[str, Any]) -> tuple[str, Any]:
    """Webdataset's."""
    return sample["__key__"], value(sample["jpg"])


def of_file(value: Callable[[bytes], Any], path: str) -> Any:
    """`ImageFolder`'s."""
    return value(Path(path).read_bytes())


def of_record(value: Callable[[bytes], Any], record: dict[str, Any]) -> tuple[str, Any]:
    """LitData's."""
    return record["key"], value(record["jpg"])


def collated_records(value: Callable[[bytes], Any], records: Sequence[dict[str, Any]]) -> tuple[list[str], Any]:
    """Mosaic's, whose dataset takes no transform: in the workers too."""
    return collated([of_record(value, record) for record in records])


def collated(samples: Sequence[tuple[str, Any]]) -> tuple[list[str], Any]:
    """Images of one size are stacked."""
    import torch

    keys, values = zip(*samples, strict=True)
    same = isinstance(values[0], torch.Tensor) and len({value.shape for value in values}) == 1
    return list(keys), torch.utils.data.default_collate(list(values)) if same else list(values)


def value_of(what: str, looked_at: bool) -> Callable[[bytes], Any]:
    """What is made of a file."""
    import torch

    torch.set_num_threads(1)
    if what == "raw":
        return bytes
    if what == "decoded":
        return decoded
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(**crop_arguments(looked_at)), v2.RandomHorizontalFlip(flip_probability(looked_at))]
    return partial(cropped, v2.Compose([*steps, v2.PILToTensor()]))


def opened(data: bytes) -> Any:
    """With Pillow."""
    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def decoded(data: bytes) -> Any:
    """uint8 [3, height, width]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(opened(data))).permute(2, 0, 1)


def cropped(steps: Callable[[Any], Any], data: bytes) -> Any:
    """uint8 [3, side, side]."""
    return steps(opened(data))


def _loader() -> Any:
    from torch.utils.data import DataLoader

    return DataLoader
