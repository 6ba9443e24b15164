"""Embedding the images of transformed shards with EfficientNet-Lite0, beside peers with the same weights.

    python -m benchmarks.embed [FOLDER] [--images 1600] [--rounds 5]

All variants read the shards that Shardmill packs and crops first, and write keys and vectors. Every vector has to be
there, and to point where ours in float32 does. The limit decodes and preprocesses ahead of OpenVINO's requests, and
keeps nothing. The results are `embed.json` and `embed.png` in `benchmarks/results`.
"""

from collections.abc import Sequence

from benchmarks.comparison.checks import same_vectors
from benchmarks.comparison.command import compare
from benchmarks.comparison.variants import Variant

PEERS, VECTORS = "benchmarks.comparison.peers", "benchmarks.comparison.peers.outputs:vectors"
OURS, OURS_READ = "benchmarks.comparison.ours:embed", "benchmarks.comparison.ours:read_vectors"
LIMIT = "benchmarks.comparison.limits:infer"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    compare("embed", __doc__, variants, same_vectors, given, prepared=["list", "pack", "transform"])


def variants(server: str) -> list[Variant]:  # noqa: ARG001
    """Ours, peers, the limits."""
    loop, half = f"{PEERS}.webdataset_loop:embed", {"bfloat16": True}
    clip, clip_read = f"{PEERS}.clip_retrieval_runner:embed", f"{PEERS}.clip_retrieval_runner:vectors"
    return [
        Variant("Shardmill, float32", "ours", OURS, OURS_READ),
        Variant("Shardmill, bfloat16", "ours", OURS, OURS_READ, {"precision": "bfloat16"}),
        Variant("Shardmill on Ray, bfloat16", "ours", OURS, OURS_READ, {"precision": "bfloat16", "on": "ray"}),
        Variant("torch float32, a DataLoader", "peer", loop, VECTORS, {}, "webdataset"),
        Variant("torch bfloat16, a DataLoader", "peer", loop, VECTORS, half, "webdataset"),
        Variant("Ray Data, bfloat16", "peer", f"{PEERS}.ray_data:embed", VECTORS, half, "ray"),
        Variant("Daft, bfloat16", "peer", f"{PEERS}.daft_frames:embed", VECTORS, half, "daft"),
        Variant("clip-retrieval, bfloat16", "peer", clip, clip_read, half, "clip-retrieval", note="writes npy"),
        Variant("decode, preprocess, OpenVINO float32", "limit", LIMIT, None, {"precision": "float32"}),
        Variant("decode, preprocess, OpenVINO bfloat16", "limit", LIMIT, None, {"precision": "bfloat16"}),
    ]


if __name__ == "__main__":
    main()
