"""Classes of images: crops made anew in every epoch where they are read, on one process or many, resumed in mid-epoch.

In place of: `ImageFolder`, `DistributedSampler` and `DataLoader`. These ask the store for each image by itself, repeat
some so that ranks are equal without a word, crop differently with another number of workers, and after an interruption
begin the epoch anew. Here a rank reads its part of the tars in large pieces, every sample is on one rank once, its crop
depends on seed, key and epoch alone, and training goes on at the next batch, also with fewer or more ranks than before.

    shardmill run examples/imagenet_train_val/defs.yaml
    torchrun --nproc-per-node 2 examples/imagenet_train_val/train.py --checkpoint data/imagenet.pt

Run the last line again, with `--epochs 2`, to go on where it ended. The same crops, made by a server next to the
storage:

    shardmill serve examples/imagenet_train_val/defs.yaml --port 8000
    torchrun --nproc-per-node 2 examples/imagenet_train_val/train.py --server http://127.0.0.1:8000
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shardmill import Loader, ShardStream, ThroughServer, TransformSpec, load_dataset

DATASET = Path(__file__).with_name("defs.yaml")
DEVICE = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
CENTRE = {
    "operations": [
        {"operation": "Resize", "arguments": {"size": 256}, "components": ["jpg"]},
        {"operation": "CenterCrop", "arguments": {"size": 224}, "components": ["jpg"]},
    ]
}


def make_model() -> nn.Module:
    """Uint8 images [batch, 3, 224, 224] / 255 → scores [batch, 1000]. Put yours here."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000)
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    """One step down the loss of a batch."""
    loss = nn.functional.cross_entropy(model(batch["jpg"].to(DEVICE) / 255), batch["cls"].to(DEVICE))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader) -> float:
    """The share of all ranks' samples whose class is right."""
    counts = torch.zeros(2, device=DEVICE)
    for batch in loader:
        right = model(batch["jpg"].to(DEVICE) / 255).argmax(1) == batch["cls"].to(DEVICE)
        counts += torch.tensor([right.sum(), len(right)], device=DEVICE)
    if dist.is_initialized():
        dist.all_reduce(counts)
    return float(counts[0] / counts[1])


def save(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader) -> None:
    """Write a checkpoint, whole or not at all. Ranks move in step: where one's loader is says where all are."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        part = file.with_suffix(".part")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
        torch.save(state, part)
        part.replace(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate, from the checkpoint on if there is one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--save-every", type=int, default=5, help="batches")
    parser.add_argument("--server", help="a `shardmill serve` that makes the crops")
    options = parser.parse_args(arguments)
    if "RANK" in os.environ:
        dist.init_process_group("gloo" if DEVICE.type == "cpu" else "nccl")

    dataset = load_dataset(DATASET)
    crops = ThroughServer(options.server) if options.server else dataset.transform()
    centre = TransformSpec.model_validate(CENTRE)
    train = ShardStream(
        dataset.folder("webdataset_shards", "train"), transform=crops, components=["jpg", "cls"], shuffle=True
    )
    val = ShardStream(dataset.folder("webdataset_shards", "val"), transform=centre, components=["jpg", "cls"])
    # Equal numbers a rank: DistributedDataParallel waits for all of them at every step.
    loader = Loader(train, options.batch_size, workers=options.workers, equal=True, pin_memory=DEVICE.type == "cuda")
    held_out = Loader(val, options.batch_size, workers=options.workers)

    model = make_model().to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if options.checkpoint and options.checkpoint.exists():
        saved = torch.load(options.checkpoint, map_location=DEVICE, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    parallel = DistributedDataParallel(model) if dist.is_initialized() else model

    for epoch in range(loader.epoch, options.epochs):
        loader.set_epoch(epoch)
        for number, batch in enumerate(loader, 1):
            step(parallel, optimizer, batch)
            if options.checkpoint and number % options.save_every == 0:
                save(options.checkpoint, model, optimizer, loader)
        accuracy = evaluate(model, held_out)
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(f"epoch {epoch}: accuracy {accuracy:.3f}")
    if options.checkpoint:
        save(options.checkpoint, model, optimizer, loader)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
