"""Cropping the images of shards to 350 px at JPEG quality 75, beside peers.

    python -m benchmarks.transform [FOLDER] [--images 1600] [--rounds 5]

All variants read the shards that Shardmill packs of the folder first. What others wrote is read again: every sample has
to be there, of the same size and, but for the one that normalises, of the same pixels up to rounding. The limit is
libjpeg-turbo alone: decode, and encode the crop. The results are `transform.json` and `transform.png` in
`benchmarks/results`.
"""

from collections.abc import Sequence

from benchmarks.comparison.checks import same_pictures
from benchmarks.comparison.command import compare
from benchmarks.comparison.variants import Variant

PEERS, PICTURES = "benchmarks.comparison.peers", "benchmarks.comparison.peers.outputs:pictures"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    compare("transform", __doc__, variants, same_pictures, given, prepared=["list", "pack"])


def variants(server: str) -> list[Variant]:  # noqa: ARG001
    """Ours, peers, the limit."""
    loop = f"{PEERS}.webdataset_loop:transform"
    return [
        Variant("Shardmill", "ours", "benchmarks.comparison.ours:transform", PICTURES),
        Variant("webdataset, torchvision v1, a loop", "peer", loop, PICTURES, {}, "webdataset"),
        Variant("webdataset, torchvision v1, a DataLoader", "peer", loop, PICTURES, {"loader": True}, "webdataset"),
        Variant(
            "the AIStore article's function, a loop",
            "peer",
            loop,
            PICTURES,
            {"article": True},
            "webdataset",
            note="normalises",
        ),
        Variant("Ray Data", "peer", f"{PEERS}.ray_data:transform", PICTURES, {}, "ray"),
        Variant("Daft", "peer", f"{PEERS}.daft_frames:transform", PICTURES, {}, "daft", note="writes Parquet"),
        Variant("libjpeg-turbo, decode and encode", "limit", "benchmarks.comparison.limits:recode"),
    ]


if __name__ == "__main__":
    main()
