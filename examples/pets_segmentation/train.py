"""A segmentation of pets, on crops of image and trimap that are made anew in every epoch, or on those that are stored.

shardmill run examples/pets_segmentation/defs.yaml
python examples/pets_segmentation/train.py            # crops made where they are read, others in every epoch
python examples/pets_segmentation/train.py --offline  # the stored ones: nothing but decoding is left to do
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shardmill import Loader, ShardStream, load_dataset

DATASET = Path(__file__).with_name("defs.yaml")
CLASSES = 3


def open_stream(offline: bool) -> ShardStream:
    """Images and trimaps of one geometry."""
    dataset = load_dataset(DATASET)
    if offline:
        return ShardStream(dataset.folder("transformed_shards", "all"), shuffle=True, masks=["trimap.png"])
    return ShardStream(dataset.folder("webdataset_shards", "all"), shuffle=True, transform=dataset.transform())


def make_model() -> nn.Module:
    """Uint8 images [batch, 3, height, width] → scores [batch, classes, height, width]. Put yours here."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, CLASSES, 3, padding=1))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> Tensor:
    """The loss of a batch, after one step down it."""
    labels = batch["trimap.png"].long() - 1  # 1 to 3; what else there may be does not count
    labels[(labels < 0) | (labels >= CLASSES)] = -1
    loss = nn.functional.cross_entropy(model(batch["image.jpg"] / 255), labels, ignore_index=-1)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train for some epochs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--offline", action="store_true", help="read what `shardmill run` has cropped")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    loader = Loader(open_stream(options.offline), options.batch_size, workers=options.workers)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for epoch in range(options.epochs):
        loader.set_epoch(epoch)
        losses = [step(model, optimizer, batch) for batch in loader]
        print(f"epoch {epoch}: loss {torch.stack(losses).mean():.3f} over {len(losses)} batches")


if __name__ == "__main__":
    main()
