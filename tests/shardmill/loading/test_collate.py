"""What a batch is made of."""

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from shardmill.loading.collate import collate
from shardmill.loading.workers import Batch
from shardmill.torchvision_compat import import_torchvision

tv_tensors = import_torchvision().tv_tensors


def test_values_of_one_shape_are_stacked_as_what_they_are() -> None:
    image, mask = tv_tensors.Image(torch.zeros(3, 4, 5, dtype=torch.uint8)), tv_tensors.Mask(torch.ones(4, 5))
    sample = {"jpg": image, "mask.png": mask, "embedding": torch.ones(7), "array": np.ones(2, np.int32)}
    batch = collate([sample] * 3)
    assert type(batch["jpg"]) is tv_tensors.Image
    assert type(batch["mask.png"]) is tv_tensors.Mask
    assert type(batch["embedding"]) is type(batch["array"]) is torch.Tensor
    assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()} == {
        "jpg": (torch.uint8, (3, 3, 4, 5)),
        "mask.png": (torch.float32, (3, 4, 5)),
        "embedding": (torch.float32, (3, 7)),
        "array": (torch.int32, (3, 2)),
    }


def test_a_batch_of_images_lies_in_memory_as_they_do() -> None:
    pixels = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    beside = [tv_tensors.Image(each.permute(2, 0, 1)) for each in pixels]
    batch = collate([{"jpg": image} for image in beside])["jpg"]
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, pixels.permute(0, 3, 1, 2))
    planes = [beside[0], tv_tensors.Image(beside[1].contiguous())]
    for images in (planes, planes[::-1]):
        batch = collate([{"jpg": image} for image in images])["jpg"]
        assert all(torch.equal(one, other) for one, other in zip(batch, images, strict=True))
    assert collate([{"loss": torch.tensor(value)} for value in (1, 2)])["loss"].tolist() == [1, 2]


def test_boxes_are_stacked_as_plain_tensors() -> None:
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(4, 4))
    assert type(collate([{"boxes": boxes}] * 2)["boxes"]) is torch.Tensor


def test_numbers_become_a_tensor() -> None:
    batch = collate([{"cls": 1, "weight": 0.5, "npy": np.float32(2)}, {"cls": 2, "weight": 1, "npy": np.float32(3)}])
    assert batch["cls"].tolist() == [1, 2]
    assert (batch["cls"].dtype, batch["weight"].dtype) == (torch.int64, torch.float64)
    assert (batch["npy"].dtype, batch["npy"].tolist()) == (torch.float32, [2, 3])
    assert collate([{"huge": 2**70}, {"huge": 1}])["huge"] == [2**70, 1]


def test_everything_else_is_a_list() -> None:
    small, large = torch.zeros(3, 2, 2), torch.zeros(3, 4, 4)
    samples = [
        {"__key__": "a", "jpg": small, "json": {"x": 1}, "bin": b"1", "cls": 1, "only": 3, "kind": small},
        {"__key__": "b", "jpg": large, "json": {"x": 2}, "bin": b"2", "cls": None, "kind": tv_tensors.Image(small)},
    ]
    batch = collate(samples)
    assert batch["__key__"] == ["a", "b"]
    assert batch["jpg"] == [small, large]
    assert batch["json"] == [{"x": 1}, {"x": 2}]
    assert batch["bin"] == [b"1", b"2"]
    assert batch["cls"] == [1, None]
    assert batch["only"] == [3, None]
    assert isinstance(batch["kind"], list)


def test_pinned_batches_hold_what_they_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's function pins them, where there is CUDA."""
    asked = []

    def remember(tensor: torch.Tensor, *_: object) -> torch.Tensor:
        asked.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", remember)
    image = tv_tensors.Image(torch.zeros(2, 3, 4, 5, dtype=torch.uint8))
    data = {"jpg": image, "png": [image[0]], "cls": torch.ones(2), "__key__": ["a", "b"], "pair": (torch.ones(1), 3)}
    batch = pin_memory(Batch(data, 1, [(2, 0)], {"broken image": 1}, 0))
    assert (batch.lane, batch.positions, batch.skipped) == (1, [(2, 0)], {"broken image": 1})
    assert type(batch.data["jpg"]) is tv_tensors.Image
    assert batch.data["__key__"] == ["a", "b"]
    assert len(asked) == 4
    assert all(type(tensor) is torch.Tensor for tensor in asked)
