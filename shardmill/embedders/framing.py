"""Preprocessing as data: which part of an image is resized to which size, and which window of that is taken."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.modules import Interpolation, check_size, resize
from shardmill.embedders.protocol import Embedder


class Box(NamedTuple):
    """Pixels of an image. A window may begin before it and end after it."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Those that are in the image."""
        return slice(max(0, self.top), max(0, self.top + self.height))

    @property
    def columns(self) -> slice:
        """Those that are in the image."""
        return slice(max(0, self.left), max(0, self.left + self.width))

    def place(self, height: int, width: int) -> tuple[slice, slice]:
        """Where in it what it sees of the image goes, which has this size."""
        top, left = max(0, -self.top), max(0, -self.left)
        return slice(top, top + height), slice(left, left + width)


class Framing(NamedTuple):
    """What becomes of an image of one size."""

    part: Box
    """Of the image."""
    size: tuple[int, int]
    """Height and width that the part is resized to, antialiased."""
    window: Box
    """Of the resized part: what the model sees."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """The colour where the window goes beyond the resized part."""


@runtime_checkable
class Framed(Embedder, Protocol):
    """An embedder whose preprocessing is a framing: a device can do it as well."""

    interpolation: Interpolation

    def framing(self, height: int, width: int) -> Framing:
        """Of an image of this size."""


def framed(image: NDArray[np.uint8], framing: Framing, interpolation: Interpolation) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] → uint8 [window, 3], contiguous.

    Raises:
        Rejected: The part would be resized to too many pixels.
    """
    check_size(framing.size)
    part, window = framing.part, framing.window
    resized = resize(image[part.rows, part.columns], framing.size, interpolation)
    if window == (0, 0, *framing.size):
        return resized
    seen = resized[window.rows, window.columns]
    made = np.empty((window.height, window.width, 3), np.uint8)
    made[...] = framing.fill
    made[window.place(*seen.shape[:2])] = seen
    return made
