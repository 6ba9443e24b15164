"""A network behind a preset: what most embedders are."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.framing import Framing, framed
from shardmill.embedders.modules import Interpolation, on_pixels
from shardmill.embedders.preset import Preset
from shardmill.embedders.weights import digest_state_dict

if TYPE_CHECKING:
    from torch import nn


class NetEmbedder:
    """A network and the preset of its weights, as `shardmill.Embedder` describes.

    Example:
        NetEmbedder("mine", net, dimension=512, preset=Preset(resize=(256, 256), crop=(224, 224)))
    """

    def __init__(
        self, name: str, net: "nn.Module", dimension: int, preset: Preset, head: "nn.Module | None" = None
    ) -> None:
        """`net` takes float32 [n, 3, *preset.crop], normalised, and gives [n, dimension]. `head` gives its logits."""
        self.name = name
        self.dimension = dimension
        self.input_size = preset.crop
        self.interpolation: Interpolation = preset.interpolation
        self._preset = preset
        self._net = net
        self._head = head.eval().requires_grad_(False) if head is not None else None
        self._module = on_pixels(net, [255 * x for x in preset.mean], [255 * x for x in preset.std])

    @cached_property
    def weights_digest(self) -> str:
        """sha256 over the network's weights."""
        return digest_state_dict(self._net.state_dict())

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the preset does, short of normalising."""
        return framed(image, self.framing(*image.shape[:2]), self.interpolation)

    def framing(self, height: int, width: int) -> Framing:
        """The preset's."""
        return self._preset.framing(height, width)

    def module(self) -> "nn.Module":
        """uint8 [n, h, w, 3] → float32 [n, dimension]."""
        return self._module

    def head(self) -> "nn.Module | None":
        """float32 [n, dimension] → logits, where the model has a classifier of one layer."""
        return self._head
