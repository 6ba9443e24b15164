"""Top-1 accuracy of the whole path: decode, preprocess, runtime, the model's own classifier.

    python -m benchmarks.top1 FOLDER [--model torchvision/resnet50]

FOLDER holds images and `labels.csv` with the columns `file` and `imagenet_class` (0 to 999).
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders import Embedder, EmbedderSpec, available_runtimes, build_runtime, load_embedder
from shardmill.images.decode import decode_image


def main(given: Sequence[str] | None = None) -> None:
    """Print one line a runtime and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--weights")
    parser.add_argument("--runtimes", nargs="+", default=available_runtimes())
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args(given)

    with (arguments.folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = np.array([int(row["imagenet_class"]) for row in rows])
    embedder = load_embedder(EmbedderSpec(model=arguments.model, weights=arguments.weights))
    images = np.stack(
        [embedder.preprocess(decode_image((arguments.folder / row["file"]).read_bytes(), row["file"])) for row in rows]
    )
    print(f"{'runtime':10} {'precision':10} {'stored as':10} top-1 of {len(rows)}")
    for runtime in arguments.runtimes:
        for precision in arguments.precisions:
            spec = EmbedderSpec.model_validate({"runtime": runtime, "precision": precision})
            with build_runtime(embedder, spec) as running:
                vectors = np.stack(list(running.embed(images)))
            for dtype in ("float32", "float16"):
                hits = predict(embedder, vectors.astype(dtype)) == classes
                print(f"{runtime:10} {precision:10} {dtype:10} {hits.mean():.1%} ({hits.sum()})")


def predict(embedder: Embedder, vectors: NDArray[np.floating]) -> NDArray[np.int64]:
    """The class that the model's own classifier gives each vector."""
    import torch

    head = embedder.head()
    if head is None:
        raise SystemExit(f"{embedder.name} has no classifier to check with")
    with torch.inference_mode():
        predicted: NDArray[np.int64] = head(torch.from_numpy(vectors.astype(np.float32))).argmax(1).numpy()
    return predicted


if __name__ == "__main__":
    main()
