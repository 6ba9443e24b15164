"""Packing a folder of JPEGs into shards, beside peers.

    python -m benchmarks.pack [FOLDER] [--images 1600] [--rounds 5]

Shardmill lists, reads, hashes, decodes once to see that the image is whole, writes tars and an index, and commits. What
others wrote is read again: every image has to be there byte for byte. The limit reads, hashes, checks and writes the
same files, and nothing else. The results are `pack.json` and `pack.png` in `benchmarks/results`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparison.checks import Found, same_bytes
from benchmarks.comparison.command import compare
from benchmarks.comparison.variants import Variant

PEERS, TARS = "benchmarks.comparison.peers", "benchmarks.comparison.peers.outputs:digests"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    compare("pack", __doc__, variants, same_bytes, given, right=source_digests)


def variants(server: str) -> list[Variant]:
    """Ours, peers, the limit."""
    writer, urls = f"{PEERS}.webdataset_loop:pack", f"{PEERS}.img2dataset_urls:pack"
    decoded = {"decode": True}
    less = "checks no image"
    return [
        Variant("Shardmill", "ours", "benchmarks.comparison.ours:pack", TARS),
        Variant(
            "webdataset ShardWriter, Pillow decodes",
            "peer",
            writer,
            TARS,
            decoded,
            "webdataset",
            note="one process, no digests",
        ),
        Variant(
            "img2dataset, skip_reencode",
            "peer",
            urls,
            TARS,
            {"server": server, **decoded},
            "img2dataset",
            note="over HTTP",
        ),
        Variant(
            "img2dataset, disable_all_reencoding",
            "peer",
            urls,
            TARS,
            {"server": server},
            "img2dataset",
            same_work=False,
            note=f"over HTTP, {less}",
        ),
        Variant(
            "webdataset ShardWriter",
            "peer",
            writer,
            TARS,
            {},
            "webdataset",
            same_work=False,
            note=f"one process, {less}",
        ),
        Variant(
            "litData optimize",
            "peer",
            f"{PEERS}.litdata_chunks:pack",
            f"{PEERS}.outputs:litdata_digests",
            {},
            "litdata",
            same_work=False,
            note=less,
        ),
        Variant(
            "Mosaic MDSWriter",
            "peer",
            f"{PEERS}.mosaic:pack",
            f"{PEERS}.outputs:mosaic_digests",
            {},
            "mosaicml-streaming",
            same_work=False,
            note=f"one process, {less}",
        ),
        Variant("copy, SHA-256, JPEG check", "limit", "benchmarks.comparison.limits:copy"),
    ]


def source_digests(files: Path) -> Found:
    """SHA-256 of every image."""
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files.iterdir()}


if __name__ == "__main__":
    main()
