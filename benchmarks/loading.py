"""Batches for a training loop, beside webdataset, `ImageFolder`, litData and Mosaic.

    python -m benchmarks.loading [FOLDER] [--images 1600] [--rounds 3]

Three comparisons: `raw`, the stored bytes; `decoded`, tensors of the images; `crops`, RandomResizedCrop to 224 and
RandomHorizontalFlip of torchvision v2, stacked. All shuffle, in batches of 64, without worker processes and with
`--workers`. Ours and webdataset read the shards that Shardmill packs; litData and Mosaic what their own tools write of
the same files, `ImageFolder` links to them. What a variant hands over is compared once: every sample once, the bytes
those of the file, the pixels those of ours up to rounding. For that, crops are not at random: the largest square. The
results are `loading-raw`, `loading-decoded` and `loading-crops`, each `.json` and `.png`, in `benchmarks/results`.
"""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.comparison.checks import Check, same_bytes, same_tensors
from benchmarks.comparison.command import compare
from benchmarks.comparison.loaders import BATCH
from benchmarks.comparison.variants import Variant

WHAT: dict[str, Check] = {"raw": same_bytes, "decoded": same_tensors, "crops": same_tensors}
FEW = 4 * BATCH
"""Two batches for each of two workers: what a call takes beyond them is the time to the first batch."""
LOADERS = "benchmarks.comparison.loaders"
PEERS = "benchmarks.comparison.peers.loaders"
LIMITS = {
    "raw": "files read in threads",
    "decoded": "files read, libjpeg-turbo decodes, in threads",
    "crops": "files read, libjpeg-turbo decodes, torch crops, in threads",
}


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    for what, check in WHAT.items():
        compare(f"loading-{what}", __doc__, variants_of(what), check, given, prepared=["list", "pack"], few=FEW)


def variants_of(what: str) -> Callable[[str], list[Variant]]:
    """Those of a comparison."""
    return partial(variants, what=what)


def variants(server: str, what: str) -> list[Variant]:  # noqa: ARG001
    """Ours, peers, the limit: each with worker processes and without."""
    found = [
        _variant("Shardmill", "ours", "benchmarks.comparison.ours_loader:batches", what, processes)
        for processes in (True, False)
    ]
    for name, loader, needs, prepare in (
        ("webdataset", "from_tars", "webdataset", None),
        ("ImageFolder", "from_folder", "torchvision", "link_folder"),
        ("litData", "from_chunks", "litdata", "write_chunks"),
        ("Mosaic", "from_mds", "mosaicml-streaming", "write_mds"),
    ):
        for processes in (True, False):
            found.append(_variant(name, "peer", f"{PEERS}:{loader}", what, processes, needs, prepare))
    return [*found, Variant(LIMITS[what], "limit", "benchmarks.comparison.limits:load", options={"what": what})]


def _variant(
    name: str,
    kind: str,
    loader: str,
    what: str,
    processes: bool,
    needs: str | None = None,
    prepare: str | None = None,
) -> Variant:
    return Variant(
        f"{name}, {'workers' if processes else 'one process'}",
        "ours" if kind == "ours" else "peer",
        f"{LOADERS}:run",
        f"{LOADERS}:look",
        {"loader": loader, "what": what, "processes": processes},
        needs,
        prepare=f"{PEERS}:{prepare}" if prepare else None,
    )


if __name__ == "__main__":
    main()
