"""UMAP to two dimensions, for those who ask. The basis is a sample of vectors, never a pickled model."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import ConfigurationError, CorruptionError

if TYPE_CHECKING:
    import pyarrow as pa

REFERENCE_ROWS = 5_000
MINIMUM_ROWS = 50
NEIGHBOURS = 15


@dataclass(frozen=True)
class UmapBasis:
    """Reference vectors and a seed: fitted anew where it is used, so that partitions compare.

    The same basis and the same vectors give the same points on one machine.
    """

    reference: NDArray[np.float32]
    """[m, d], at most `REFERENCE_ROWS`."""
    seed: int = 0

    def project(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """[n, d] → float32 [n, 2]. Takes seconds: the first call fits the reference vectors.

        Raises:
            ConfigurationError: umap-learn is missing, or the vectors are not of the basis's dimension.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.reference.shape[1]:
            raise ConfigurationError(
                f"vectors of shape {list(vectors.shape)} do not fit a basis of "
                f"{self.reference.shape[1]} dimensions; was it fitted for another embedder?"
            )
        if len(vectors) == 0:
            return np.empty((0, 2), np.float32)
        points: NDArray[np.float32] = self._fitted.transform(vectors.astype(np.float32))
        return points.astype(np.float32)

    def to_table(self) -> "pa.Table":
        """A row a reference vector: key, vector (float32), seed."""
        import pyarrow as pa

        vectors = pa.array(list(self.reference), pa.list_(pa.float32()))
        keys = [f"{row:06}" for row in range(len(self.reference))]
        return pa.table({"key": keys, "vector": vectors, "seed": [self.seed] * len(keys)})

    @classmethod
    def from_table(cls, table: "pa.Table") -> "UmapBasis":
        """The basis that `to_table` gave, the same numbers.

        Raises:
            CorruptionError: The table is anything else.
        """
        try:
            rows = table.select(["key", "vector", "seed"]).sort_by("key").to_pylist()
            return cls(np.array([row["vector"] for row in rows], np.float32), int(rows[0]["seed"]))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CorruptionError(f"not a UMAP basis of this version: {type(error).__name__}: {error}") from error

    @cached_property
    def _fitted(self) -> Any:
        _require_umap()
        from umap import UMAP

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap tells that a seed means one thread
            model = UMAP(n_components=2, n_neighbors=NEIGHBOURS, metric="cosine", random_state=self.seed)
            return model.fit(self.reference)


def fit_basis(batches: Iterable[NDArray[np.floating]], seed: int = 0) -> UmapBasis:
    """A seeded sample of at most `REFERENCE_ROWS` rows of the batches [n, d], in their order.

    Holds the sample and one batch. The sample depends on the rows' order, not on their cut into batches.

    Raises:
        ConfigurationError: umap-learn is missing, or there are fewer than `MINIMUM_ROWS` rows.
    """
    _require_umap()
    random = np.random.default_rng(seed)
    kept, ranks = np.empty((0, 0), np.float32), np.empty(0)
    for batch in batches:
        rows = batch.astype(np.float32)
        kept = np.concatenate([kept, rows]) if kept.size else rows
        ranks = np.concatenate([ranks, random.random(len(rows))])
        if len(kept) > REFERENCE_ROWS:
            lowest = np.sort(np.argpartition(ranks, REFERENCE_ROWS)[:REFERENCE_ROWS])
            kept, ranks = kept[lowest], ranks[lowest]
    if len(kept) < MINIMUM_ROWS:
        raise ConfigurationError(
            f"UMAP needs at least {MINIMUM_ROWS} vectors, the table has {len(kept)}; set projection: pca"
        )
    return UmapBasis(kept, seed)


def _require_umap() -> None:
    if find_spec("umap") is None:  # importing it takes seconds
        raise ConfigurationError("projection: umap needs umap-learn: pip install 'shardmill[umap]'")
