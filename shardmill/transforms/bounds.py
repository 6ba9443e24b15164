"""How large an image an operation may make: told by the arguments of torch's functions, before they allocate it.

The module is torch through and through: import it inside functions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253

from shardmill.errors import Rejected
from shardmill.images import reasons

_Size = tuple[int, ...]
_SCRATCH = 2.5
"""An operation may work on so many times the pixels of the largest image: borders that it cuts off again, grids."""


class PixelBounds:
    """Refuses calls of torch's functions that would make more than `max_pixels`, for the operation that calls them."""

    def __init__(self, operation: str, max_pixels: int) -> None:
        self._operation = operation
        self._max_pixels = max_pixels

    def check(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at a call that is about to be made.

        Raises:
            Rejected: Its result would have too many pixels.
        """
        size_of = _SIZES.get(func)
        if size_of is None:
            return
        try:
            height, width = size_of(*args, **kwargs)
        except (TypeError, ValueError, IndexError, AttributeError):  # not for an image; or torch will say what is wrong
            return
        most = self._max_pixels if func is F.interpolate else _SCRATCH * self._max_pixels
        if height * width > most:
            raise self._refused(f"would make {width} x {height}" if width > 1 else f"would make {height} pixels")

    def check_result(self, value: Any) -> None:
        """Look at what the operation made of an image.

        Raises:
            Rejected: It has too many pixels.
        """
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            height, width = value.shape[-2:]
            if height * width > self._max_pixels:
                raise self._refused(f"makes {width} x {height}")

    def _refused(self, what: str) -> Rejected:
        return Rejected(reasons.TOO_MANY_PIXELS, f"{self._operation} {what}, the limit is {self._max_pixels}")


def _interpolated(input: torch.Tensor, size: Any = None, scale_factor: Any = None, *_: Any, **__: Any) -> _Size:
    height, width = input.shape[-2:]
    if size is None:
        down, right = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor, scale_factor)
        return math.floor(height * down), math.floor(width * right)
    down, right = size if isinstance(size, Sequence) else (size, size)
    return int(down), int(right)


def _padded(input: torch.Tensor, pad: Sequence[int], *_: Any, **__: Any) -> _Size:
    height, width = input.shape[-2:]
    return height + sum(pad[2:4]), width + sum(pad[:2])


def _repeated(input: torch.Tensor, *times: Any, **__: Any) -> _Size:
    height, width = input.shape[-2:]
    down, right = _sizes(times)[-2:]
    return height * down, width * right


def _made(*size: Any, **kwargs: Any) -> _Size:
    """Of a tensor that holds three values a pixel, as a grid or an image does."""
    return math.prod(_sizes(size or (kwargs["size"],))) // 3, 1


def _made_like(_: torch.Tensor, *size: Any, **kwargs: Any) -> _Size:
    return _made(*size, **kwargs)


def _sizes(size: Sequence[Any]) -> _Size:
    return tuple(size[0]) if isinstance(size[0], Sequence) else tuple(each for each in size if isinstance(each, int))


_SIZES: Mapping[Callable[..., Any], Callable[..., _Size]] = {
    F.interpolate: _interpolated,
    F.pad: _padded,
    torch.Tensor.repeat: _repeated,
    torch.tile: _repeated,
    torch.Tensor.tile: _repeated,
    **dict.fromkeys((torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn), _made),
    **dict.fromkeys((torch.Tensor.new_empty, torch.Tensor.new_zeros, torch.Tensor.new_ones), _made_like),
    **dict.fromkeys((torch.full, torch.Tensor.new_full), lambda *args, **kwargs: _made(_first_size(args), **kwargs)),
}


def _first_size(args: Sequence[Any]) -> Any:
    return next(each for each in args if isinstance(each, Sequence))
