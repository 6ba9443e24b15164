"""torchvision's operations on pictures: the draws and the pixels of its own, at less cost.

Its kernels are called on plain tensors, in the layout that suits each: geometry with channels side by side, as decoder
and encoder have them, arithmetic in planes. Only what draws does so under `SeededRandomness`. Operations and arguments
that are not here, and images that might become too large, are left to torchvision itself.

The module is torch through and through: import it inside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID253

from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms.colours import adjusted
from shardmill.transforms.picture import Picture, as_picture, is_mask, size_of
from shardmill.transforms.randomness import SeededRandomness

tv_tensors = import_torchvision().tv_tensors
from torchvision.transforms import v2  # noqa: E402, TID253
from torchvision.transforms.v2 import functional as F  # noqa: E402, TID253

_Size = tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """How an operation is done here.

    Attributes:
        run: Operation, images and masks that it sees, generator → what it makes of each; None, before anything is
            drawn, for arguments that it does not know.
        makes: Operation, height, width → the largest height and width that it may make of an image of this size.
    """

    run: Callable[[Any, Sequence[Any], torch.Generator], Sequence[Any] | None]
    makes: Callable[[Any, int, int], tuple[float, float]]

    def __call__(
        self, operation: Any, values: Sequence[Any], generator: torch.Generator, max_pixels: int
    ) -> Sequence[Any] | None:
        """What it makes of each image or mask; None for what is left to torchvision, as boxes and plain tensors are."""
        if not all(isinstance(value, Picture | tv_tensors.Image | tv_tensors.Mask) for value in values):
            return None
        for value in values:
            height, width = self.makes(operation, *size_of(value))
            if height * width > max_pixels:
                return None
        return self.run(operation, values, generator)


def kernel_of(operation: Any) -> Kernel | None:
    """How this operation of torchvision is done here; None where torchvision does it."""
    return _KERNELS.get(type(operation).__name__)


def _drawn(operation: Any, values: Sequence[Any], generator: torch.Generator) -> dict[str, Any]:
    """The parameters that torchvision itself draws for images of these sizes."""
    sized = [torch.empty(size_of(value), device="meta") for value in values]
    with SeededRandomness(generator):
        parameters: dict[str, Any] = operation.make_params(sized)
    return parameters


# Geometry


def _on_pictures(
    run: Callable[[Any, Sequence[Picture], torch.Generator], Sequence[Any]],
) -> Callable[[Any, Sequence[Any], torch.Generator], Sequence[Any] | None]:
    def on_values(operation: Any, values: Sequence[Any], generator: torch.Generator) -> Sequence[Any] | None:
        pictures = [picture for picture in map(as_picture, values) if picture is not None]
        return run(operation, pictures, generator) if len(pictures) == len(values) else None

    return on_values


@_on_pictures
def _center_crop(operation: Any, pictures: Sequence[Picture], _: torch.Generator) -> Sequence[Any]:
    return [_centred(picture, *operation.size) for picture in pictures]


def _centred(picture: Picture, height: int, width: int) -> Picture:
    """Cropped where it is larger, with black around it where it is smaller."""
    down, right = min(height, picture.size[0]), min(width, picture.size[1])
    part = picture.crop(round((picture.size[0] - down) / 2), round((picture.size[1] - right) / 2), down, right)
    if (down, right) == (height, width):
        return part
    padded = np.zeros((height, width, *part.pixels.shape[2:]), part.pixels.dtype)
    top, left = (height - down) // 2, (width - right) // 2
    padded[top : top + down, left : left + right] = part.pixels
    return Picture(padded)


def _random_crop(operation: Any, values: Sequence[Any], generator: torch.Generator) -> Sequence[Any] | None:
    if operation.padding is not None or operation.pad_if_needed:
        return None
    return _cropped_at_random(operation, values, generator)


@_on_pictures
def _cropped_at_random(operation: Any, pictures: Sequence[Picture], generator: torch.Generator) -> Sequence[Any]:
    drawn = _drawn(operation, pictures, generator)
    return [picture.crop(drawn["top"], drawn["left"], *operation.size) for picture in pictures]


@_on_pictures
def _random_resized_crop(operation: Any, pictures: Sequence[Picture], generator: torch.Generator) -> Sequence[Any]:
    box = _drawn(operation, pictures, generator)
    return [_resized(picture.crop(**box), operation, mask_interpolation="nearest") for picture in pictures]


@_on_pictures
def _resize(operation: Any, pictures: Sequence[Picture], _: torch.Generator) -> Sequence[Any]:
    return [_resized(picture, operation, operation.interpolation, operation.max_size) for picture in pictures]


def _resized(picture: Picture, operation: Any, mask_interpolation: Any, max_size: int | None = None) -> Picture:
    pixels = torch.from_numpy(np.ascontiguousarray(picture.pixels))
    if picture.is_mask:
        return Picture(F.resize_mask(pixels, operation.size, mask_interpolation, max_size).numpy())
    image = pixels.permute(2, 0, 1)
    image = F.resize_image(image, operation.size, operation.interpolation, max_size, operation.antialias)
    return Picture(image.permute(1, 2, 0).numpy())


def _random_flip(dimension: int) -> Callable[[Any, Sequence[Any], torch.Generator], Sequence[Any] | None]:
    @_on_pictures
    def flip(operation: Any, pictures: Sequence[Picture], generator: torch.Generator) -> Sequence[Any]:
        if torch.rand(1, generator=generator) >= operation.p:
            return pictures
        return [Picture(torch.from_numpy(picture.pixels).flip(dimension).numpy()) for picture in pictures]

    return flip


# Arithmetic


def _in_planes(operation: Any, values: Sequence[Any], generator: torch.Generator) -> Sequence[Any] | None:
    """What leaves masks alone, and whose kernel draws nothing itself."""
    if not isinstance(getattr(operation, "dtype", torch.uint8), torch.dtype):  # another one for masks
        return None
    draws = type(operation).make_params is not v2.Transform.make_params
    parameters = _drawn(operation, values, generator) if draws else {}
    return [value if is_mask(value) else _computed(operation, value, parameters) for value in values]


def _color_jitter(operation: Any, values: Sequence[Any], generator: torch.Generator) -> Sequence[Any]:
    drawn = _drawn(operation, values, generator)
    factors = [drawn[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")]
    order = [(number, factors[number]) for number in drawn["fn_idx"].tolist()]
    made: list[Any] = []
    for value in values:
        picture = None if is_mask(value) else as_picture(value)
        if picture is not None:
            made.append(Picture(adjusted(picture.pixels, order)))
        else:
            made.append(value if is_mask(value) else _computed(operation, value, drawn))
    return made


def _computed(operation: Any, value: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(value, Picture):
        planes = torch.from_numpy(value.pixels).permute(2, 0, 1)
    else:
        planes = value.as_subclass(torch.Tensor)
    return tv_tensors.Image(operation.transform(planes.contiguous(), parameters))


# What they make


def _of_its_size(operation: Any, *_: int) -> _Size:
    height, width = operation.size
    return height, width


def _by_its_shorter_side(operation: Any, height: int, width: int) -> tuple[float, float]:
    if operation.size is None:
        return operation.max_size, operation.max_size
    if len(operation.size) == 2:
        return _of_its_size(operation)
    (shorter,) = operation.size
    return shorter, shorter * max(height, width) / max(1, min(height, width))


def _as_large(_: Any, height: int, width: int) -> _Size:
    return height, width


def _with_borders(operation: Any, height: int, width: int) -> _Size:
    across, down = operation.kernel_size
    return height + down, width + across


_KERNELS: Mapping[str, Kernel] = {
    "CenterCrop": Kernel(_center_crop, _of_its_size),
    "RandomCrop": Kernel(_random_crop, _of_its_size),
    "RandomHorizontalFlip": Kernel(_random_flip(1), _as_large),
    "RandomResizedCrop": Kernel(_random_resized_crop, _of_its_size),
    "RandomVerticalFlip": Kernel(_random_flip(0), _as_large),
    "Resize": Kernel(_resize, _by_its_shorter_side),
    "GaussianBlur": Kernel(_in_planes, _with_borders),
    "ColorJitter": Kernel(_color_jitter, _as_large),
    **dict.fromkeys(("Grayscale", "Normalize", "ToDtype"), Kernel(_in_planes, _as_large)),
}
