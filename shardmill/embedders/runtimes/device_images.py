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
        # It writes at once, by a stream of its own, into memory that is free only when this stream has come so far.
        torch.cuda.current_stream().synchronize()
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

    def takes(self, data: bytes, component: str, max_pixels: int, is_sound: bool) -> bool:
        """Whether the device decodes this image, which was checked to its end: now, or before where it `is_sound`.

        Raises:
            Rejected: As `decode_image`, and as the embedder's `preprocess`.
        """
        size = plain_jpeg_size(data, component, max_pixels, is_sound)
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

        alike: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
        for place, pixels in zip(files, self._decoded(list(files.values())), strict=True):
            if pixels is None:
                self._refused += 1
                data = files[place].tobytes()
                framed = self._embedder.preprocess(decode_image(data, "jpg"))
                images[place].copy_(torch.from_numpy(framed))
            else:
                alike.setdefault(pixels.shape, []).append((place, pixels))
        for shape, some in alike.items():  # one after the other, the device would wait for Python
            framing = self._embedder.framing(*shape[1:])
            for start in range(0, len(some), most := max(1, _MOST_PIXELS // shape[1:].numel())):
                places, stack = zip(*some[start : start + most], strict=True)
                write_framed(torch.stack(stack), framing, self._embedder.interpolation, images, places)

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


def write_framed(
    pixels: "torch.Tensor",
    framing: Framing,
    interpolation: Interpolation,
    images: "torch.Tensor",
    places: Sequence[int],
) -> None:
    """uint8 [k, 3, H, W] → these places of `images`, uint8 [n, window, 3]: the CPU's pixels to within a grey level.

    Nothing in it waits for the device.
    """
    import torch
    from torch.nn import functional

    part, window = framing.part, framing.window
    resized = pixels[:, :, part.rows, part.columns].float()
    for size in ((part.height, framing.size[1]), framing.size):  # rounded after each, as the kernel for uint8 does
        resized = functional.interpolate(resized, size, mode=interpolation, antialias=True, align_corners=False)
        resized = resized.round_().clamp_(0, 255)
    seen = resized[:, :, window.rows, window.columns].permute(0, 2, 3, 1).to(images.dtype)
    whole = seen
    if seen.shape[1:] != images.shape[1:]:
        whole = torch.empty((len(seen), *images.shape[1:]), dtype=images.dtype, device=images.device)
        for channel, value in enumerate(framing.fill):
            whole[..., channel] = value
        whole[:, *window.place(*seen.shape[1:3])] = seen
    for place, each in zip(places, whole.unbind(), strict=True):
        images[place].copy_(each)


def _smallest() -> "torch.Tensor":
    """A JPEG to try a decoder with."""
    import torch

    from shardmill.images import encode_image

    return torch.frombuffer(bytearray(encode_image(np.zeros((8, 8, 3), np.uint8), "jpg", 75)), dtype=torch.uint8)
