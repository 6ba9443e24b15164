"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TENSORS = "biuf"
"""Kinds of numpy's types of which tensors can be."""


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A dict of what each sample has under a name; None where a sample lacks it.

    Tensors and arrays of one shape are stacked, images and masks as such: `tv_tensors.Image` [batch, 3, height, width],
    whose channels lie side by side where those of its images do (torch's channels_last).
    Numbers become a tensor [batch], int64 or float64. Everything else is a list, also tensors of several shapes.
    """
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {name: _together([sample.get(name) for sample in samples]) for name in names}


def pinned(value: Any) -> Any:
    """A batch with its tensors in pinned memory: images and masks as such, which torch's function makes plain."""
    import torch
    from torch.utils.data._utils.pin_memory import pin_memory

    if isinstance(value, torch.Tensor):
        return _like(value, value.as_subclass(torch.Tensor).pin_memory())
    if type(value) is dict:
        return {name: pinned(each) for name, each in value.items()}
    if type(value) is list:
        return [pinned(each) for each in value]
    return pin_memory(value)  # type: ignore[no-untyped-call]


def _together(values: list[Any]) -> Any:
    import numpy as np
    import torch
    from torch.utils.data import default_collate, get_worker_info

    first = values[0]
    if isinstance(first, np.ndarray | torch.Tensor):
        if any(type(value) is not type(first) for value in values):
            return values
        if any(value.dtype != first.dtype for value in values):
            return values
        if any(value.shape != first.shape for value in values):
            return values if isinstance(first, np.ndarray) or get_worker_info() is None else _in_one_storage(values)
        if isinstance(first, np.ndarray) and first.dtype.kind not in _TENSORS:
            return values
        return default_collate(values) if isinstance(first, np.ndarray) else _like(first, _stacked(values))
    if all(isinstance(value, int | float | np.number) for value in values):
        numbers = np.asarray(values)
        return values if numbers.dtype.kind not in _TENSORS else torch.as_tensor(numbers)  # too large for 64 bits
    return values


def _in_one_storage(tensors: Sequence[Any]) -> list[Any]:
    """The tensors, which go to another process by one file descriptor: it may have only so many open."""
    import torch

    counts = [tensor.numel() for tensor in tensors]
    whole = torch.empty(sum(counts), dtype=tensors[0].dtype).share_memory_()  # type: ignore[no-untyped-call]
    parts = whole.split(counts)
    made = []
    for tensor, part in zip(tensors, parts, strict=True):
        order = _order(tensor)
        laid = tensor.as_subclass(torch.Tensor).permute(order)
        made.append(_like(tensor, part.view(laid.shape).copy_(laid).permute(_inverse(order))))
    return made


def _stacked(tensors: Sequence[Any]) -> Any:
    """A copy of memory as it lies there, which takes a seventh of the time of an image's in other order."""
    import torch
    from torch.utils.data import default_collate

    order = _order(tensors[0])
    stacked = default_collate([tensor.as_subclass(torch.Tensor).permute(order) for tensor in tensors])
    return stacked.permute([0, *(1 + place for place in _inverse(order))])


def _order(tensor: Any) -> list[int]:
    """Of its dimensions in memory."""
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(dimension) for dimension in range(len(order))]


def _like(first: Any, made: Any) -> Any:
    """What was made of images is an image again; boxes, say, mean each their own canvas, and are plain tensors."""
    import torch

    if type(first) is torch.Tensor:
        return made
    from torchvision import tv_tensors

    if isinstance(first, tv_tensors.Image | tv_tensors.Mask | tv_tensors.Video):
        return tv_tensors.wrap(made, like=first)
    return made
