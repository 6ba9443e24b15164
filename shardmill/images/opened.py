"""An image whose header was read, and what Pillow raises on bad bytes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.memory import lacks_memory

_UNSUPPORTED = re.compile(r"unsupported|not (yet )?supported|unknown .*mode|cannot handle", re.I)
"""What Pillow says of files that are sound."""
_LIMIT = re.compile("security limit", re.I)
"""What libheif says of files that ask for too much; it calls that a lack of memory."""


@dataclass(frozen=True)
class Opened:
    """An image of which no pixel was decoded yet.

    Attributes:
        width: As stored, before EXIF's orientation.
        height: As stored.
        load: Decodes all pixels, as stored; raises `Rejected`.
        orientation: EXIF's, 1 to 8.
        profile: The ICC profile that its colours are meant in; None for sRGB.
        bits: Of a stored value or index of a palette. Pillow stretches fewer than 8 to 0…255.
    """

    width: int
    height: int
    load: Callable[[], Image.Image]
    orientation: int = 1
    profile: bytes | None = None
    bits: int = 8
    load_pixels: Callable[[], npt.NDArray[np.uint8]] | None = None
    """Decodes straight to RGB, uint8 [height, width, 3], writable, where there is a fast way."""
    load_rows: Callable[[int], npt.NDArray[np.uint8]] | None = None
    """As `load_pixels`, so many rows from the top, or more, where that takes less than all."""
    convert: Callable[[npt.NDArray[np.uint8]], None] | None = None
    """Converts what `load_pixels` gave, or any part of it, to sRGB in place; None where it is."""
    check: Callable[[], object] | None = None
    """Finds out at the least cost whether the pixels decode, where that is less than decoding them."""


@contextmanager
def corrupt() -> Iterator[None]:
    """Turn what Pillow raises on bad bytes into `Rejected`; nothing but calls of Pillow belongs in its scope.

    Its readers parse with struct, zlib, int(), dictionaries and asserts, so that hostile bytes raise nearly
    anything.
    """
    try:
        yield
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected(reasons.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:
        if lacks_memory(error) and not _LIMIT.search(str(error)):
            raise MemoryError(str(error)) from error
        reason = reasons.UNSUPPORTED_PIXELS if _UNSUPPORTED.search(str(error)) else reasons.CORRUPT_IMAGE
        raise Rejected(reason, f"{type(error).__name__}: {error}") from error
