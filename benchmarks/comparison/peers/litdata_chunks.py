"""litData: `optimize` writes binary chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.comparison.variants import Input


def pack(source: Input, target: Path, workers: int) -> None:
    """Raw bytes into chunks of 64 MB."""
    from litdata import optimize

    optimize(
        read,
        [str(file) for file in sorted(source.files.iterdir())],
        str(target),
        chunk_bytes="64MB",
        num_workers=workers,
        verbose=False,
    )


def read(file: str) -> dict[str, Any]:
    """One sample."""
    path = Path(file)
    return {"key": path.stem, "jpg": path.read_bytes()}


def samples(target: Path) -> tuple[list[str], list[bytes]]:
    """Keys and images of the chunks."""
    from litdata import StreamingDataset

    dataset = StreamingDataset(str(target), shuffle=False)
    found = [dataset[number] for number in range(len(dataset))]
    return [sample["key"] for sample in found], [sample["jpg"] for sample in found]
