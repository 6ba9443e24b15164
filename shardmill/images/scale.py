"""From more bits, or fewer, to eight: rounded, the largest value white."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def wide_values(image: Image.Image) -> npt.NDArray[np.uint16]:
    """The values of an image of more than 8 bits, of whatever byte order."""
    return np.array(image).astype(np.uint16)


def scaled(values: npt.NDArray[np.uint16], bits: int) -> Image.Image:
    """Values of 0 to 2^bits - 1 as a grey image."""
    largest = (1 << bits) - 1
    return Image.fromarray(((values.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8))


def widened(values: npt.NDArray[np.uint16], bits: int) -> Image.Image:
    """Values of 0 to 2^bits - 1 as a grey image of 16 bits, mode `I;16`."""
    largest = (1 << bits) - 1
    return Image.fromarray(((values.astype(np.uint32) * 65535 + largest // 2) // largest).astype(np.uint16))


def eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """A loaded image of one band as mode `L`."""
    return scaled(wide_values(image), bits) if image.mode.startswith("I") else image.convert("L")
