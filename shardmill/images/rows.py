"""The first rows of a JPEG: its data are read no further than they reach."""

import re

import numpy as np
import numpy.typing as npt

_HEIGHT = 2
"""Bytes of it in a frame; the width, as many, follows."""
_CONTEXT = 2
"""Rows below a row that its colours are interpolated with."""
_WORTH = 16
"""Fewer rows below are not worth the trouble: a block and its colours have as many."""
_REST_PASSED_OVER = re.compile(r"\d+ extraneous bytes before marker 0xd9")


def first_rows(data: bytes, height_at: int, rows: int) -> npt.NDArray[np.uint8] | None:
    """So many rows, and perhaps more, of a sequential JPEG in one scan without restart markers.

    It is decoded as if it had no others. libjpeg then passes over the rest of the data up to their end and warns of
    it. As it tells the first warning only, there was none in these rows; nor was the file cut off. Bad codes that it
    notices further down alone are not found: the file has to have been decoded whole before.

    Args:
        data: The file.
        height_at: Where its height stands.
        rows: From the top.

    Returns:
        uint8 [rows or more, width, 3]; None where they have to be taken from the whole.
    """
    import simplejpeg

    after = height_at + _HEIGHT
    wanted = rows + _CONTEXT
    if wanted + _WORTH > int.from_bytes(data[height_at:after], "big"):
        return None
    width = int.from_bytes(data[after : after + 2], "big")
    pixels = np.empty((wanted, width, 3), np.uint8)
    shortened = b"".join([data[:height_at], wanted.to_bytes(_HEIGHT, "big"), data[after:]])
    try:
        simplejpeg.decode_jpeg(shortened, "RGB", buffer=pixels)
    except ValueError as error:
        return pixels if _REST_PASSED_OVER.search(str(error)) else None
    return None
