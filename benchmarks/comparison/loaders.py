"""What loaders are asked to do, ours and peers' alike: batches of samples with their keys, counted; or looked at.

A loader is a function (source, worker processes, what, whether it is looked at) → batches, each the keys and the
values: bytes, or uint8 tensors [3, height, width]. Imports nothing but the standard library, because peers'
environments load it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.comparison.variants import Input

BATCH, BUFFER, SIDE = 64, 1000, 224
THUMBNAIL = 8


def run(source: Input, target: Path, workers: int, loader: str, what: str, processes: bool) -> None:
    """One epoch. What it takes to look at it is left in the folder."""
    workers = workers if processes else 0
    count = sum(len(keys) for keys, _ in _batches(source, workers, loader, what, False))
    target.mkdir(parents=True)
    call = {"source": source.to_json(), "workers": workers, "loader": loader, "what": what, "count": count}
    (target / "call.json").write_text(json.dumps(call))


def look(target: Path) -> tuple[list[str], list[Any]]:
    """Keys, and of each sample its digest, or its size and a thumbnail's grey levels, of an epoch of its own."""
    call = json.loads((target / "call.json").read_text())
    found: dict[str, Any] = {}
    count = 0
    source = Input.from_json(call["source"])
    for keys, values in _batches(source, call["workers"], call["loader"], call["what"], True):
        count += len(keys)
        found.update(zip(keys, map(seen, values), strict=True))
    if not len(found) == count == call["count"]:
        raise AssertionError(
            f"{call['count']} samples in one epoch, {count} in another, {len(found)} of them different"
        )
    return list(found), list(found.values())


def seen(value: Any) -> Any:
    """What is compared of a sample."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    import torch

    plain = value.as_subclass(torch.Tensor)
    grey = torch.nn.functional.adaptive_avg_pool2d(plain.float().mean(0)[None], THUMBNAIL)
    return [*plain.shape[1:], *grey.flatten().tolist()]


def crop_arguments(looked_at: bool) -> dict[str, Any]:
    """Of RandomResizedCrop: as it is by default; or the largest square in the middle, which no draw changes."""
    return {"size": SIDE, **({"scale": [1.0, 1.0], "ratio": [1.0, 1.0]} if looked_at else {})}


def flip_probability(looked_at: bool) -> float:
    """Of RandomHorizontalFlip."""
    return 0.0 if looked_at else 0.5


def _batches(
    source: Input, workers: int, loader: str, what: str, looked_at: bool
) -> Iterable[tuple[list[str], Iterable[Any]]]:
    module, _, name = loader.partition(":")
    batches: Iterable[tuple[list[str], Iterable[Any]]] = getattr(import_module(module), name)(
        source, workers, what, looked_at
    )
    return batches
