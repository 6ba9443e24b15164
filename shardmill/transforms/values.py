"""A component's bytes to the value that operations work on, and back."""

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import decode_mask, encode_image, open_image
from shardmill.transforms import reasons
from shardmill.transforms.picture import Picture, StoredPicture, as_tensor, interleaved

if TYPE_CHECKING:
    import torch

# Normalised images stay far below it; floats above it are 0…255 by mistake.
_LARGEST_FLOAT = 16.0


def decode_value(data: bytes, component: str, mask: bool, max_pixels: int, is_checked: bool = True) -> Picture:
    """Decode a mask; of an image, read the header: its pixels are decoded when an operation wants them.

    All of its pixels, where nobody has checked yet that they can be.

    An image's memory is that of the decoder; no copy is made. A 16-bit mask becomes int32, which torchvision's
    operations can work on.

    Raises:
        Rejected: As `shardmill.images.decode_image` and `decode_mask`.
    """
    if mask:
        labels = decode_mask(data, component, max_pixels)
        return Picture(labels.astype(np.int32) if labels.dtype == np.uint16 else labels)
    return StoredPicture(open_image(data, component, max_pixels), is_checked)


def encode_value(value: Any, component: str, mask: bool, quality: int) -> bytes:
    """Encode what the operations made of a component.

    - A float image is taken as 0 to 1, scaled to 0…255, rounded, and clamped: what `Normalize` puts outside
      is cut off (normalise in the training loader instead). A bool image is black and white.
    - A mask is written with 8 bits if it is uint8 or bool, with 16 if it is another integer.
    - bytes stay; str is written as UTF-8; an int as decimal digits; any JSON value for a component `json`.

    Raises:
        ConfigurationError: A value of another kind.
        Rejected: Not a number in an image, or a label that 16 bits cannot hold.
    """
    if isinstance(value, Picture):
        if value.pixels.dtype == np.uint8 and value.is_mask == mask:
            return encode_image(value.pixels, component, quality)
        value = as_tensor(value)
    import torch

    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().as_subclass(torch.Tensor)
        array = _labels(plain, component) if mask else _pixels(plain, component)
        return encode_image(array.numpy(), component, quality)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    if component.rpartition(".")[2] == "json":
        try:
            return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"component {component!r} is not JSON: {error}") from error
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value)).encode()
    raise ConfigurationError(
        f"component {component!r} is a {type(value).__name__}: give a tensor for an image, "
        "bytes, str or int for the rest, or name it .json"
    )


def _pixels(value: "torch.Tensor", component: str) -> "torch.Tensor":
    """[1 or 3, height, width] → uint8 [height, width, 1 or 3]."""
    import torch

    if value.ndim != 3 or value.shape[0] not in (1, 3):
        raise ConfigurationError(f"image {component!r} has the shape {list(value.shape)}, not [3 or 1, height, width]")
    if value.is_floating_point():
        largest = float(value.max()) if value.numel() else 0.0  # a NaN anywhere is the largest
        if math.isnan(largest):
            raise Rejected(reasons.TRANSFORM_FAILED, f"{component} is not a number in places")
        if largest > _LARGEST_FLOAT:
            raise ConfigurationError(
                f"image {component!r} has floats up to {largest:g}; 0 to 1 are expected: give ToDtype `scale: true`"
            )
        value = value.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    elif value.dtype == torch.bool:
        value = value.to(torch.uint8) * 255
    elif value.dtype != torch.uint8:
        raise ConfigurationError(f"image {component!r} is {value.dtype}; end with ToDtype to uint8, `scale: true`")
    return interleaved(value)


def _labels(value: "torch.Tensor", component: str) -> "torch.Tensor":
    """[height, width] or [1, height, width] → uint8 or uint16 [height, width]."""
    import torch

    if value.ndim == 3 and value.shape[0] == 1:
        value = value[0]
    if value.ndim != 2 or value.is_floating_point() or value.is_complex():
        raise ConfigurationError(
            f"mask {component!r} is {value.dtype}{list(value.shape)}, not integers [height, width]"
        )
    if value.dtype in (torch.uint8, torch.bool):
        return value.to(torch.uint8)
    wide = value.to(torch.int64)
    if wide.numel() and (int(wide.min()) < 0 or int(wide.max()) > 65535):
        raise Rejected(
            reasons.TRANSFORM_FAILED,
            f"{component} has labels from {int(wide.min())} to {int(wide.max())}; 0…65535 fit",
        )
    return wide.to(torch.uint16)
