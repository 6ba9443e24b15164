"""ICC profiles of colour spaces that are given in numbers: by PNG's chunks, or by a name."""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

_SRGB_POINTS = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PRIMARIES: Mapping[int, tuple[float, ...]] = {
    1: _SRGB_POINTS,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""x and y of white, red, green and blue by the code of H.273: BT.709 and sRGB, BT.2020, Display P3."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# What writers of sRGB say where a single exponent is asked for.
_SRGB_GAMMAS = (0.450, 0.460)


def measured_profile(gamma: float, points: Sequence[float] | None = None) -> bytes | None:
    """The profile of a space by its numbers, as PNG's gAMA and cHRM have them.

    Args:
        gamma: The exponent of the camera: 1 / 2.2 and nearby stand for sRGB's curve.
        points: x and y of white, red, green and blue; sRGB's by default.

    Returns:
        None for sRGB, and for numbers that are no space.
    """
    points = tuple(points) if points is not None else _SRGB_POINTS
    is_srgb_curve = _SRGB_GAMMAS[0] <= gamma <= _SRGB_GAMMAS[1]
    if (is_srgb_curve and np.allclose(points, _SRGB_POINTS, atol=0.002)) or not 0.1 <= gamma <= 10:
        return None
    return _profile(None if is_srgb_curve else 1 / gamma, tuple(points))


@lru_cache(maxsize=16)
def _profile(exponent: float | None, points: tuple[float, ...]) -> bytes | None:
    columns = _adapted(points)
    if columns is None:
        return None
    if exponent is None:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, _SRGB_CURVE))
    else:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(exponent)
    tags = {b"desc": _text("colours by numbers"), b"cprt": _text("none"), b"wtpt": _xyz(_D50)}
    tags |= {name + b"XYZ": _xyz(columns[:, i]) for i, name in enumerate((b"r", b"g", b"b"))}
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    body, table, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _adapted(points: tuple[float, ...]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None":
    """XYZ of red, green and blue as columns, under D50; None where the points are no space."""
    x, y = np.array(points[::2]), np.array(points[1::2])
    if (y <= 0).any() or (x < 0).any() or (x + y > 1.5).any():
        return None
    colours = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    white, primaries = colours[:, 0], colours[:, 1:]
    if abs(np.linalg.det(primaries)) < 1e-4:
        return None
    scaled = primaries * np.linalg.solve(primaries, white)
    cone = _BRADFORD @ white
    if (cone <= 0.01).any():
        return None
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / cone) @ _BRADFORD
    columns = adapt @ scaled
    return columns if np.abs(columns).max() < 100 else None


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(float(value) * 65536))


def _xyz(values: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _text(text: str) -> bytes:
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", 2 * len(text), 28) + text.encode("utf-16-be")


_ADOBE = _profile(563 / 256, (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06))
assert _ADOBE is not None
ADOBE_RGB: bytes = _ADOBE
"""Adobe RGB (1998)."""
