"""The examples that train, on a few small pictures."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from examples.imagenet_train_val import train as imagenet
from examples.pets_segmentation import train as pets
from shardmill import load_dataset
from tests.shardmill.serving.conftest import Serve, serve  # noqa: F401

Batches = list[dict[str, Any]]


class StoppedError(Exception):
    """As if somebody had."""


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Batches]:
    """`record(module, stop=2)`: the batches of which it makes a step; before that of one number it ends."""

    originals = {module: module.step for module in (imagenet, pets)}

    def watch(module: Any, stop: int = -1) -> Batches:
        seen: Batches = []
        learn = originals[module]

        def step(model: Any, optimizer: Any, batch: dict[str, Any]) -> Any:
            if len(seen) == stop:
                raise StoppedError
            seen.append(batch)
            return learn(model, optimizer, batch)

        monkeypatch.setattr(module, "step", step)
        return seen

    return watch


def keys(batches: Batches) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


@pytest.fixture
def made(tmp_path: Path, images, call_command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of ImageNet's dataset, made of ten pictures for training and four to be held out."""
    images(tmp_path / "raw/train", 10)
    images(tmp_path / "raw/val", 4, first=100)
    monkeypatch.setenv("IMAGENET", str(tmp_path / "raw"))
    monkeypatch.setenv("SHARDMILL_ROOT", str(tmp_path / "root"))
    assert call_command("run", imagenet.DATASET).returncode == 0
    return tmp_path


EVERY = [f"image_{number:05}" for number in range(10)]
HERE = ["--workers", "0", "--batch-size", "3"]


def test_training_goes_on_at_the_next_batch(made: Path, record, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*HERE, "--checkpoint", str(made / "state.pt"), "--save-every", "1"]
    before = record(imagenet, stop=2)
    with pytest.raises(StoppedError):
        imagenet.main(arguments)
    assert len(keys(before)) == 6
    after = record(imagenet)
    imagenet.main(arguments)
    assert sorted(keys(before) + keys(after)) == EVERY
    assert "epoch 0: accuracy" in capsys.readouterr().out
    imagenet.main(arguments)
    assert len(after) == 2  # the epoch is over


def test_crops_are_others_in_every_epoch(made: Path, record) -> None:
    seen = record(imagenet)
    imagenet.main([*HERE, "--epochs", "2"])
    crops = [
        {key: image for batch in part for key, image in zip(batch["__key__"], batch["jpg"], strict=True)}
        for part in (seen[:4], seen[4:])
    ]
    assert sorted(crops[0]) == sorted(crops[1]) == EVERY
    assert not any(torch.equal(crops[0][key], crops[1][key]) for key in EVERY)


def test_a_server_makes_the_same_crops(made: Path, record, serve: Serve) -> None:  # noqa: F811
    def crops(batches: Batches) -> dict[str, torch.Tensor]:
        return {key: image.float() for each in batches for key, image in zip(each["__key__"], each["jpg"], strict=True)}

    here = record(imagenet)
    imagenet.main(HERE)
    with serve(load_dataset(imagenet.DATASET)) as serving:
        there = record(imagenet)
        imagenet.main([*HERE, "--server", serving.url])
    mine, others = crops(here), crops(there)
    assert sorted(mine) == sorted(others) == EVERY
    for key in EVERY:  # they were encoded once more on their way
        assert (mine[key] - others[key]).abs().mean() < 4


@pytest.mark.slow
def test_two_ranks_train_under_torchrun_and_one_goes_on(made: Path, record) -> None:
    state = made / "state.pt"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", imagenet.__file__]
    arguments = [*HERE, "--checkpoint", str(state)]
    done = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 0: accuracy") == 1
    seen = record(imagenet)
    imagenet.main([*arguments, "--epochs", "2"])
    assert sorted(keys(seen)) == EVERY


# Pets


@pytest.fixture
def drawn(tmp_path: Path, call_command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of pets, made of pictures from which their trimaps can be told."""
    for folder in ("images", "annotations/trimaps"):
        (tmp_path / "pets" / folder).mkdir(parents=True)
    for number in range(6):
        labels = np.random.default_rng(number).integers(1, 4, (4, 5), np.uint8).repeat(40, 0).repeat(40, 1)
        Image.fromarray(labels).save(tmp_path / f"pets/annotations/trimaps/pet_{number}.png")
        Image.fromarray(np.stack([labels * 80] * 3, 2)).save(tmp_path / f"pets/images/pet_{number}.jpg", quality=95)
    monkeypatch.setenv("PETS", str(tmp_path / "pets"))
    monkeypatch.setenv("SHARDMILL_ROOT", str(tmp_path / "root"))
    assert call_command("run", pets.DATASET).returncode == 0


def check_that_labels_fit(image: torch.Tensor, labels: torch.Tensor) -> None:
    grey = image.float().mean(0)
    means = torch.stack(
        [grey[labels == label].mean() if (labels == label).any() else torch.tensor(1e9) for label in (1, 2, 3)]
    )
    told = (grey[..., None] - means).abs().argmin(2) + 1
    assert (told == labels).float().mean() > 0.95  # but for edges


@pytest.mark.parametrize("where", [[], ["--offline"]], ids=["inline", "offline"])
def test_image_and_trimap_have_one_geometry(drawn: None, record, where: list[str]) -> None:
    seen = record(pets)
    pets.main([*where, "--workers", "0", "--batch-size", "4", "--epochs", "2"])
    epochs = [
        {
            key: (image, labels)
            for batch in batches
            for key, image, labels in zip(batch["__key__"], batch["image.jpg"], batch["trimap.png"], strict=True)
        }
        for batches in (seen[:2], seen[2:])
    ]
    for samples in epochs:
        assert sorted(samples) == [f"pet_{number}" for number in range(6)]
        for image, labels in samples.values():
            assert image.shape == (3, 128, 128)
            check_that_labels_fit(image, labels)
    same = [torch.equal(epochs[0][key][1], epochs[1][key][1]) for key in epochs[0]]
    assert all(same) if where else not any(same)
