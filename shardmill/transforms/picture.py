"""An image or a mask between decoder and encoder, as the decoder laid it out, until an operation wants a tensor."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from typing_extensions import override

from shardmill.images import StoredImage
from shardmill.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[Any]


class Picture:
    """Pixels with their channels side by side; rows may have gaps between them. Nothing changes it.

    Args:
        pixels: Of an image, uint8 [height, width, 3]; of a mask, labels [height, width], uint8 or int32.
        convert: Converts pixels to sRGB in place, where they are in other colours.
    """

    __slots__ = ("_convert", "_pixels")

    def __init__(self, pixels: Pixels, convert: Callable[[Pixels], None] | None = None) -> None:
        self._pixels = pixels
        self._convert = convert

    @property
    def pixels(self) -> Pixels:
        """The labels, or colours of sRGB."""
        if self._convert is not None:
            self._convert(self._pixels)
            self._convert = None
        return self._pixels

    @property
    def is_mask(self) -> bool:
        """Whether it has labels, not colours."""
        return self._pixels.ndim == 2

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._pixels.shape[:2]
        return height, width

    def crop(self, top: int, left: int, height: int, width: int) -> "Picture":
        """A part that lies within it. Colours are converted once it is clear which are wanted."""
        part = self._pixels[top : top + height, left : left + width]
        if part.shape == self._pixels.shape:
            return self
        return Picture(part if self._convert is None else part.copy(), self._convert)


class StoredPicture(Picture):
    """An image that is decoded when its pixels are wanted; where a crop comes first and it is checked, that part alone.

    Its pixels, and its crops, raise `Rejected`.
    """

    __slots__ = ("_image", "_is_checked")

    def __init__(self, image: StoredImage, is_checked: bool) -> None:
        self._image: StoredImage | None = image
        self._is_checked = is_checked

    @property
    @override
    def pixels(self) -> Pixels:
        self._decode()
        return super().pixels

    @property
    @override
    def is_mask(self) -> bool:
        return False

    @property
    @override
    def size(self) -> tuple[int, int]:
        return super().size if self._image is None else self._image.size

    @override
    def crop(self, top: int, left: int, height: int, width: int) -> Picture:
        if not self._is_checked:
            self._decode()
        if self._image is None:
            return super().crop(top, left, height, width)
        if (height, width) == self._image.size:
            return self
        return Picture(*self._image.decode(top, left, height, width))

    def _decode(self) -> None:
        if self._image is not None:
            self._pixels, self._convert = self._image.decode(0, 0, *self._image.size)
            self._image = None


def size_of(value: Any) -> tuple[int, int]:
    """Height and width of a picture, or of a tensor [..., height, width]."""
    return value.size if isinstance(value, Picture) else tuple(value.shape[-2:])


def is_mask(value: Any) -> bool:
    """Whether a picture or tensor is of labels."""
    return value.is_mask if isinstance(value, Picture) else isinstance(value, import_torchvision().tv_tensors.Mask)


def as_tensor(value: Any) -> Any:
    """A picture as `tv_tensors.Image` [3, height, width] or `tv_tensors.Mask` [height, width] in the same memory."""
    if not isinstance(value, Picture):
        return value
    import torch

    tv_tensors = import_torchvision().tv_tensors
    tensor = torch.from_numpy(value.pixels)
    return tv_tensors.Mask(tensor) if value.is_mask else tv_tensors.Image(tensor.permute(2, 0, 1))


def as_picture(value: Any) -> Picture | None:
    """What has the form of a picture, as one, in the same memory where that is possible; None for all else."""
    if isinstance(value, Picture):
        return value
    import torch

    tv_tensors = import_torchvision().tv_tensors
    plain = value.detach().as_subclass(torch.Tensor)
    if plain.device.type != "cpu":
        return None
    if isinstance(value, tv_tensors.Mask):
        fits = plain.ndim == 2 and plain.dtype in (torch.uint8, torch.int32)
        return Picture(plain.numpy()) if fits else None
    if plain.ndim != 3 or plain.shape[0] != 3 or plain.dtype != torch.uint8:
        return None
    return Picture(interleaved(plain).numpy())


def interleaved(value: "torch.Tensor") -> "torch.Tensor":
    """[channels, height, width] → [height, width, channels], a view where that keeps the channels side by side."""
    import torch

    if value.stride(2) == 1:  # plane after plane: four times faster than a permuted copy
        return torch.stack(value.unbind(0), dim=-1)
    return value.permute(1, 2, 0)
