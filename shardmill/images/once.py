"""An image that several are given, decoded once."""

import numpy as np
import numpy.typing as npt

from shardmill.errors import Rejected
from shardmill.images.decode import decode_image


class DecodeOnce:
    """`decode_image` for the images of one sample, which are kept: none is decoded twice. For one thread."""

    def __init__(self, shared: bool) -> None:
        """`shared`: several ask, and none of them may change what the others are given."""
        self._shared = shared
        self._found: dict[tuple[str, int], npt.NDArray[np.uint8] | Rejected] = {}

    def __call__(self, data: bytes, component: str, max_pixels: int) -> npt.NDArray[np.uint8]:
        """The pixels of a component, for all who ask the same array. Where it is shared, it is read-only."""
        asked = component, max_pixels
        if asked not in self._found:
            try:
                pixels = decode_image(data, component, max_pixels)
                pixels.flags.writeable = not self._shared
                self._found[asked] = pixels
            except Rejected as rejected:
                self._found[asked] = rejected
        found = self._found[asked]
        if isinstance(found, Rejected):
            raise found
        return found
