"""A check of embeddings that needs no model: do neighbours belong to the same class?"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAXIMUM_ROWS = 20_000
BLOCK_ROWS = 512


def same_class_rate(vectors: NDArray[np.floating], labels: Sequence[str | None]) -> float:
    """Share of rows of [n, d] whose nearest other row, by cosine, has the same label.

    Rows without a label are left out; of more than 20,000, a fixed sample is taken. Holds the sample as
    float32 and a block of 512 rows of similarities. NaN if fewer than two rows are left.

    Raises:
        ValueError: There is not one label a row.
    """
    if len(vectors) != len(labels):
        raise ValueError(f"{len(vectors)} vectors, {len(labels)} labels")
    rows = np.array([row for row, label in enumerate(labels) if label is not None], dtype=np.int64)
    if len(rows) > MAXIMUM_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAXIMUM_ROWS, replace=False))
    if len(rows) < 2:
        return math.nan
    _, classes = np.unique([str(labels[row]) for row in rows], return_inverse=True)
    unit = vectors[rows].astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    agreeing = 0
    for start in range(0, len(unit), BLOCK_ROWS):
        block = unit[start : start + BLOCK_ROWS] @ unit.T
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        agreeing += int((classes[block.argmax(axis=1)] == classes[start + own]).sum())
    return agreeing / len(unit)
