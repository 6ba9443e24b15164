"""From a folder of JPEGs to shards, transformed shards and embeddings, beside a script by hand.

    python -m benchmarks.chain [FOLDER] [--images 1600] [--rounds 5]

Ours is a run of a dataset. The script packs with webdataset's writer what Pillow can decode, crops in a DataLoader's
workers, and embeds with torch; it keeps no digest, no reject and no index, and does all of it again after a change.
Vectors are compared with ours in float32. The results are `chain.json` and `chain.png` in `benchmarks/results`.
"""

from collections.abc import Sequence

from benchmarks.comparison.checks import similar_vectors
from benchmarks.comparison.command import compare
from benchmarks.comparison.variants import Variant

VECTORS = "benchmarks.comparison.peers.outputs:vectors"
OURS, OURS_READ = "benchmarks.comparison.ours:chain", "benchmarks.comparison.ours:read_vectors"
LIMIT = "benchmarks.comparison.limits:chain"
SCRIPT = "benchmarks.comparison.peers.webdataset_loop:chain"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    compare("chain", __doc__, variants, similar_vectors, given)


def variants(server: str) -> list[Variant]:  # noqa: ARG001
    """Ours, the script, the limits."""
    return [
        Variant("Shardmill, float32", "ours", OURS, OURS_READ),
        Variant("Shardmill, bfloat16", "ours", OURS, OURS_READ, {"precision": "bfloat16"}),
        Variant("a script, float32", "peer", SCRIPT, VECTORS, {}, "webdataset"),
        Variant("a script, bfloat16", "peer", SCRIPT, VECTORS, {"bfloat16": True}, "webdataset"),
        Variant("the limits of the stages, float32", "limit", LIMIT, None, {"precision": "float32"}),
        Variant("the limits of the stages, bfloat16", "limit", LIMIT, None, {"precision": "bfloat16"}),
    ]


if __name__ == "__main__":
    main()
