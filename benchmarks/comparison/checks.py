"""Whether variants did the same work: what they wrote, compared with the source or with what Shardmill wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Found = Mapping[str, Any]
"""What is in a variant's output: by key the digest, the picture or the vector."""

Check = Callable[[Found, Found, Mapping[str, object]], str]
"""(what is right, what a variant wrote, the variant's options) → what was found equal; raises `Incomparable`."""

CROPPED = (350, 350)
GREY_LEVELS = 4
"""How far thumbnails may be apart: decoders round, and upsample chroma, in their own ways."""
OTHER_COLOURS, OTHER_LEVELS = 0.2, 40
"""Of how many images thumbnails may be further apart, and how far: ours converts a colour profile, peers drop it."""


class Incomparable(Exception):
    """A variant did not do the same work; its times say nothing."""


def same_bytes(right: Found, found: Found, _: Mapping[str, object]) -> str:
    """Every image of the source, byte for byte; names may differ, as some formats number their samples."""
    if sorted(right.values()) != sorted(found.values()):
        shared = len(set(right.values()) & set(found.values()))
        raise Incomparable(f"{len(found)} images of {len(right)}, {shared} of them byte for byte those of the source")
    return f"{len(found):,} images, byte for byte the source's"


def same_pictures(right: Found, found: Found, options: Mapping[str, object]) -> str:
    """An image a sample, of the same size, quality and subsampling; unless the variant normalises, of equal pixels."""
    same_keys(right, found)
    sizes = {tuple(map(int, picture[:2])) for picture in found.values()}
    if sizes != {CROPPED}:
        raise Incomparable(f"images are of the sizes {sorted(sizes)[:5]} and not {CROPPED}")
    if any(list(right[key][:4]) != list(found[key][:4]) for key in right):
        raise Incomparable("images have other quantization tables or another chroma subsampling than ours")
    if options.get("article"):
        return f"{len(found):,} images of {CROPPED[0]} px, normalised"
    close = _close({key: (right[key][4:], found[key][4:]) for key in right})
    return f"{len(found):,} images of {CROPPED[0]} px, {close}"


def same_tensors(right: Found, found: Found, _: Mapping[str, object]) -> str:
    """An image a sample, of the same size and of equal pixels."""
    same_keys(right, found)
    if any(list(right[key][:2]) != list(found[key][:2]) for key in right):
        raise Incomparable("images are of other sizes than ours")
    return f"{len(found):,} images, {_close({key: (right[key][2:], found[key][2:]) for key in right})}"


def _close(levels: Mapping[str, tuple[Any, Any]]) -> str:
    """Of pairs of thumbnails."""
    apart = [float(np.abs(_array(ours) - _array(theirs)).max()) for ours, theirs in levels.values()]
    far = sum(distance > GREY_LEVELS for distance in apart)
    if far > OTHER_COLOURS * len(apart):
        raise Incomparable(f"{far} of {len(apart)} thumbnails are more than {GREY_LEVELS} grey levels from ours")
    if max(apart) > OTHER_LEVELS:
        raise Incomparable(f"a thumbnail is {max(apart):.0f} grey levels from ours")
    return f"thumbnails within {GREY_LEVELS} grey levels, {far} within {max(apart):.0f}"


def same_vectors(right: Found, found: Found, options: Mapping[str, object]) -> str:
    """A vector a sample, in the direction of ours in float32."""
    same_keys(right, found)
    cosine = min(_cosine(_array(right[key]), _array(found[key])) for key in right)
    least = 0.98 if options.get("bfloat16") or options.get("precision") == "bfloat16" else 0.998
    if cosine < least:
        raise Incomparable(f"a vector's cosine to ours is {cosine:.4f}, below {least}")
    return f"{len(found):,} vectors, cosine at least {cosine:.4f}"


def similar_vectors(right: Found, found: Found, options: Mapping[str, object]) -> str:
    """The same of vectors of crops of the variant's own, which keeps the colours of a profile and encodes by itself."""
    same_keys(right, found)
    cosines = sorted(_cosine(_array(right[key]), _array(found[key])) for key in right)
    middle, least = cosines[len(cosines) // 2], 0.98 if options.get("bfloat16") else 0.99
    if middle < least or cosines[0] < 0.9:
        raise Incomparable(f"vectors' cosines to ours are {middle:.4f} at the median, {cosines[0]:.4f} at the least")
    return f"{len(found):,} vectors, cosine {middle:.4f} at the median"


def same_keys(right: Found, found: Found) -> None:
    """Raise where a sample is missing or new."""
    if right.keys() != found.keys():
        raise Incomparable(f"{len(found)} samples of {len(right)}, {len(right.keys() & found.keys())} of them expected")


def _array(value: Any) -> NDArray[np.float64]:
    return np.asarray(value, np.float64)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
