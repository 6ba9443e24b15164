"""PCA to two dimensions, fitted in one pass over a table that need not fit in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import ConfigurationError, CorruptionError

if TYPE_CHECKING:
    import pyarrow as pa

COMPONENTS = 2
_ROWS = ("mean", "x", "y")


@dataclass(frozen=True)
class Basis:
    """A fitted PCA. Kept once a dataset, so that its partitions' maps compare."""

    mean: NDArray[np.float64]
    """[d]"""
    components: NDArray[np.float64]
    """[2, d], unit length; zeros where the vectors do not vary in another direction."""
    explained_variance_ratio: tuple[float, ...]
    """Share of the total variance along each component; zeros if there is none."""

    def project(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """[n, d] → float32 [n, 2].

        Raises:
            ConfigurationError: The vectors are not of the basis's dimension.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ConfigurationError(
                f"vectors of shape {list(vectors.shape)} do not fit a basis of {len(self.mean)} dimensions; "
                "was it fitted for another embedder?"
            )
        points = (vectors.astype(np.float64) - self.mean) @ self.components.T
        return points.astype(np.float32)

    def to_table(self) -> "pa.Table":
        """Rows `mean`, `x` and `y`: key, vector (float64), weight (the share of the variance; none of the mean)."""
        import pyarrow as pa

        vectors = pa.array([self.mean, *self.components], pa.list_(pa.float64()))
        weights = pa.array([None, *self.explained_variance_ratio], pa.float64())
        return pa.table({"key": list(_ROWS), "vector": vectors, "weight": weights})

    @classmethod
    def from_table(cls, table: "pa.Table") -> "Basis":
        """The basis that `to_table` gave, the same numbers.

        Raises:
            CorruptionError: The table is anything else.
        """
        try:
            rows = {row["key"]: row for row in table.to_pylist()}
            mean, *axes = (np.array(rows[key]["vector"], np.float64) for key in _ROWS)
            ratios = tuple(float(rows[key]["weight"]) for key in _ROWS[1:])
            if any(axis.shape != mean.shape for axis in axes):
                raise ValueError("its vectors are of several lengths")
            return cls(mean, np.array(axes), ratios)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(f"not a PCA basis of this version: {type(error).__name__}: {error}") from error


def fit_basis(batches: Iterable[NDArray[np.floating]]) -> Basis:
    """Fit on batches of vectors [n, d], in float64, holding one batch and a [d, d] matrix.

    Works from one row up. A component's sign is fixed by making its largest entry positive.

    Raises:
        ConfigurationError: There is no vector, or one is not finite.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for batch in batches:
        if len(batch) == 0:
            continue
        rows = batch.astype(np.float64)
        if count == 0:
            mean, scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        # Merging means and centred products (Chan et al.) loses no digits, as sums of squares would.
        batch_mean = rows.mean(axis=0)
        centred = rows - batch_mean
        delta = batch_mean - mean
        total = count + len(rows)
        scatter += centred.T @ centred + np.outer(delta, delta) * (count * len(rows) / total)
        mean += delta * (len(rows) / total)
        count = total
    if count == 0:
        raise ConfigurationError("a projection needs at least one vector")
    if not np.isfinite(scatter).all():
        raise ConfigurationError("a projection needs finite vectors; the table holds NaN or infinity")
    return _principal(mean, scatter)


def _principal(mean: NDArray[np.float64], scatter: NDArray[np.float64]) -> Basis:
    values, vectors = np.linalg.eigh(scatter)  # ascending
    total = float(values.clip(min=0).sum())
    components = np.zeros((COMPONENTS, len(mean)))
    ratios = [0.0] * COMPONENTS
    # Rounding leaves variance where there is none: relative to the total, and to the size of the vectors.
    noise = len(mean) * np.finfo(np.float64).eps * max(total, float(mean @ mean) * np.finfo(np.float64).eps)
    for i, value in enumerate(values[::-1][:COMPONENTS]):
        if value > noise:
            component = vectors[:, -1 - i]
            components[i] = component * np.sign(component[np.abs(component).argmax()])
            ratios[i] = float(value) / total
    return Basis(mean, components, tuple(ratios))
