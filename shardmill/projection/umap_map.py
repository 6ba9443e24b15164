"""UMAP to two dimensions, for those who ask. The basis is a sample of vectors, never a pickled model."""

import hashlib
import io
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import ConfigurationError, CorruptionError

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

    def to_bytes(self) -> bytes:
        """An npz file without pickles; the same basis gives the same bytes."""
        file = io.BytesIO()
        np.savez(file, reference=self.reference, seed=np.int64(self.seed), allow_pickle=False)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "UmapBasis":
        """The basis that `to_bytes` wrote.

        Raises:
            CorruptionError: These bytes are anything else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["reference"], int(arrays["seed"]))
        except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, BadZipFile, zlib.error) as error:
            raise CorruptionError(f"not a UMAP basis of this version: {type(error).__name__}: {error}") from error

    @property
    def digest(self) -> str:
        """sha256 (hex) of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

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
