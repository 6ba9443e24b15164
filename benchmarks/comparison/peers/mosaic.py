"""MosaicML streaming: `MDSWriter`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.comparison.variants import Input


def pack(source: Input, target: Path, workers: int) -> None:  # noqa: ARG001
    """A key and raw bytes a sample, neither compressed nor hashed: its defaults."""
    from streaming import MDSWriter

    with MDSWriter(out=str(target), columns={"key": "str", "jpg": "bytes"}) as writer:
        for file in sorted(source.files.iterdir()):
            writer.write({"key": file.stem, "jpg": file.read_bytes()})


def samples(target: Path) -> tuple[list[str], list[bytes]]:
    """Keys and images of the shards."""
    from streaming import LocalDataset

    dataset = LocalDataset(str(target))
    found = [dataset[number] for number in range(dataset.num_samples)]
    return [sample["key"] for sample in found], [sample["jpg"] for sample in found]
