"""JPEGs decoded and framed on the device that computes their vectors.

Which images these are is decided by each image alone, never by load: another decoder gives other pixels by rounding,
and the same input is to give the same bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.framing import Framed, Framing
from shardmill.embedders.modules import Interpolation, check_size
from shardmill.embedders.protocol import Embedder
from shardmill.errors import ConfigurationError
from shardmill.images import decode_image, plain_jpeg_size
from shardmill.memory import lacks_memory
from shardmill.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    import torch

Decoder: TypeAlias = "Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]"
"""uint8 [bytes] JPEGs in the host's memory → uint8 [3, height, width] RGB on the device.

Raises:
    RuntimeError: It cannot decode one of them.
"""

_MOST_PIXELS = 1 << 24
"""Of an image on a device: a batch of them has to fit in its memory. Larger ones are the CPU's."""


def nvjpeg() -> "Decoder":
    """The batched decoder of torchvision.

    Raises:
        ConfigurationError: This torchvision is not a build for CUDA.
    """
    import torch

    try:
        io = import_torchvision().io
        decode, rgb = io.decode_jpeg, io.ImageReadMode.RGB
        decode([_smallest()], mode=rgb, device="cuda")
    except (AttributeError, RuntimeError) as error:
        raise ConfigurationError(
            f"decode: cuda needs a build of torchvision with nvJPEG, and a device: {error}. Leave it out to decode on "
            "the CPU"
        ) from error

    def decode_all(files: "Sequence[torch.Tensor]") -> "Sequence[torch.Tensor]":
        decoded: Sequence[torch.Tensor] = decode(list(files), mode=rgb, device=torch.device("cuda"))
        return decoded

    return decode_all


class DeviceImages:
    """Takes JPEGs of which any decoder makes the same picture, and writes what the model sees of each."""

    def __init__(self, embedder: Embedder, decoder: "Decoder") -> None:
        if not isinstance(embedder, Framed):
            raise ConfigurationError(f"{embedder.name} does its own preprocessing, on the CPU: leave decode: cuda out")
        self._embedder: Framed = embedder
        self._decoder = decoder
        self._refused = 0

    def takes(self, data: bytes, component: str, max_pixels: int) -> bool:
        """Whether the device decodes this image. It was checked to its end, as `decode_image` would have.

        Raises:
            Rejected: As `decode_image`, and as the embedder's `preprocess`.
        """
        size = plain_jpeg_size(data, component, max_pixels)
        if size is None or size[0] * size[1] > _MOST_PIXELS:
            return False
        check_size(self._embedder.framing(*size).size)
        return True

    def take_refused(self) -> int:
        """How many images the decoder refused, so that the CPU decoded them, since it was last asked."""
        refused, self._refused = self._refused, 0
        return refused

    def write(self, files: Mapping[int, NDArray[np.uint8]], images: "torch.Tensor") -> None:
        """What the model sees of each JPEG into its place in `images`, uint8 [n, h, w, 3] on the device."""
        import torch

        for place, pixels in zip(files, self._decoded(list(files.values())), strict=True):
            if pixels is None:
                self._refused += 1
                data = files[place].tobytes()
                framed = self._embedder.preprocess(decode_image(data, "jpg"))
                images[place].copy_(torch.from_numpy(framed))
            else:
                framing = self._embedder.framing(*pixels.shape[1:])
                write_framed(pixels, framing, self._embedder.interpolation, images[place])

    def _decoded(self, files: Sequence[NDArray[np.uint8]]) -> "Sequence[torch.Tensor | None]":
        """All of them at once; where that fails, each for itself, and None for those that are refused.

        Raises:
            RuntimeError: The device lacks memory: that says nothing of an image, and must not choose its decoder.
        """
        import torch

        tensors = [torch.from_numpy(file.copy()) for file in files]  # torch wants writable memory
        try:
            return self._decoder(tensors)
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            if len(files) == 1:
                return [None]
        return [self._decoded([file])[0] for file in files]


def write_framed(pixels: "torch.Tensor", framing: Framing, interpolation: Interpolation, into: "torch.Tensor") -> None:
    """uint8 [3, H, W] → `into`, uint8 [window, 3], on their device: the CPU's pixels to within a grey level."""
    import torch
    from torch.nn import functional

    part, window = framing.part, framing.window
    resized = pixels[None, :, part.rows, part.columns].float()
    for size in ((part.height, framing.size[1]), framing.size):  # rounded after each, as the kernel for uint8 does
        resized = functional.interpolate(resized, size, mode=interpolation, antialias=True, align_corners=False)
        resized = resized.round().clamp(0, 255)
    seen = resized[0, :, window.rows, window.columns].permute(1, 2, 0)
    into.copy_(torch.tensor(framing.fill, dtype=into.dtype, device=into.device))
    into[window.place(*seen.shape[:2])] = seen.to(into.dtype)


def _smallest() -> "torch.Tensor":
    """A JPEG to try a decoder with."""
    import torch

    from shardmill.images import encode_image

    return torch.frombuffer(bytearray(encode_image(np.zeros((8, 8, 3), np.uint8), "jpg", 75)), dtype=torch.uint8)
