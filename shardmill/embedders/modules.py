"""Pieces that models share: normalisation in front, the classifier cut off behind, resizing before."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import MAX_PIXELS, reasons

if TYPE_CHECKING:
    from torch import Tensor, nn

Interpolation = Literal["bilinear", "bicubic"]


def split_classifier(net: "nn.Module") -> "tuple[str, nn.Module]":
    """Replace the classifier of `net` by the identity, in place; returns its name and itself.

    The classifier is the last Linear in the order of modules, or the last convolution if there is none.

    Raises:
        ConfigurationError: There is neither.
    """
    from torch import nn

    modules = list(net.named_modules())
    for kind in (nn.Linear, nn.Conv2d):
        found = [(name, module) for name, module in modules if isinstance(module, kind)]
        if found:
            name, classifier = found[-1]
            net.set_submodule(name, nn.Identity())
            return name, classifier
    raise ConfigurationError(f"{type(net).__name__} has no classifier to cut off")


def on_pixels(net: "nn.Module", mean: Sequence[float], std: Sequence[float]) -> "nn.Module":
    """`net` behind its normalisation: uint8 [n, h, w, 3] → `net((x - mean) / std)`, in eval mode.

    `mean` and `std` are a channel's, on the scale 0 to 255.
    """
    import torch
    from torch import nn

    class OnPixels(nn.Module):
        mean: "Tensor"
        std: "Tensor"

        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

        def forward(self, images: "Tensor") -> "Tensor":
            pixels = images.permute(0, 3, 1, 2).float()
            features: Tensor = self.net((pixels - self.mean) / self.std)
            return features.float()

    return OnPixels().eval().requires_grad_(False)


def check_size(size: tuple[int, int]) -> None:
    """Refuse what is larger than an image may be.

    Raises:
        Rejected: It is.
    """
    height, width = size
    if height * width > MAX_PIXELS:
        detail = f"the embedder would resize it to {width} x {height}, the limit is {MAX_PIXELS}"
        raise Rejected(reasons.TOO_MANY_PIXELS, detail)


def resize(image: NDArray[np.uint8], size: tuple[int, int], interpolation: Interpolation) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] → uint8 [*size, 3], antialiased, contiguous, on the calling thread's share of torch's threads.

    torch's uint8 kernel: Pillow's filters to within two grey levels, in a third of Pillow's time.

    Raises:
        Rejected: That would be too many pixels.
    """
    import torch

    check_size(size)
    if not image.flags.writeable or min(image.strides) < 0:
        image = image.copy(order="C")  # torch takes no others
    resized = np.empty((*size, 3), np.uint8)
    # What `interpolate` calls. Given the place for its result, it writes pixel by pixel, not plane by plane.
    kernels: Any = torch.ops.aten
    kernel = kernels._upsample_bicubic2d_aa if interpolation == "bicubic" else kernels._upsample_bilinear2d_aa
    pixels, to = (torch.from_numpy(array).permute(2, 0, 1)[None] for array in (image, resized))
    kernel.out(pixels, size, False, None, None, out=to)
    return resized
