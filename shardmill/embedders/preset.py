"""Presets: the preprocessing that a library publishes with a model's weights, as data."""

from dataclasses import dataclass
from typing import Literal

from shardmill.embedders.framing import Box, Framing
from shardmill.embedders.modules import Interpolation
from shardmill.errors import ConfigurationError


@dataclass(frozen=True)
class Preset:
    """An image is resized, its centre is what the model sees, and that is normalised to `(x / 255 - mean) / std`.

    `mode` says how it is resized. `shortest`: the smallest with its aspect that covers `resize`. `longest`: the largest
    with its aspect that fits into it. `squash`: to `resize`, whatever its aspect.
    """

    resize: tuple[int, int]
    """Height and width in pixels."""
    crop: tuple[int, int]
    """Height and width in pixels of what the model sees."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mode: Literal["shortest", "longest", "squash"] = "shortest"
    interpolation: Interpolation = "bicubic"
    fill: tuple[int, int, int] = (0, 0, 0)
    """The colour, 0 to 255, where the resized image does not reach."""

    def framing(self, height: int, width: int) -> Framing:
        """Of an image of this size. Sides and corners are rounded as torchvision, timm and open_clip do."""
        size = self._resized(height, width)
        top, left = (
            round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
            for length, crop in zip(size, self.crop, strict=True)
        )
        return Framing(Box(0, 0, height, width), size, Box(top, left, *self.crop), self.fill)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        to_height, to_width = self.resize
        if self.mode == "squash":
            return self.resize
        if self.mode == "shortest" and to_height == to_width:
            short, long = sorted((height, width))
            longer = int(to_height * long / short)
            return (to_height, longer) if height <= width else (longer, to_height)
        choose = min if self.mode == "shortest" else max
        ratio = choose(height / to_height, width / to_width)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def __str__(self) -> str:
        """In words that change when the pixels do."""
        filled = f", filled with {self.fill}" if any(self.fill) else ""
        return (
            f"resize {self.mode} to {self.resize}, crop {self.crop}{filled}, {self.interpolation}, "
            f"mean {self.mean}, std {self.std}"
        )


def checked_interpolation(name: str) -> Interpolation:
    """An interpolation by the name that libraries give it.

    Raises:
        ConfigurationError: It is one that is not supported.
    """
    if name == "bilinear":
        return "bilinear"
    if name == "bicubic":
        return "bicubic"
    raise ConfigurationError(f"a preset with {name} interpolation is not supported")
