import sys

import numpy as np
import pytest

from shardmill.errors import ConfigurationError
from shardmill.projection.umap_map import REFERENCE_ROWS, UmapBasis, fit_basis


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigurationError, match=r"shardmill\[umap\]"):
        fit_basis([np.zeros((100, 4))])


class TestWithUmap:
    @pytest.fixture(autouse=True)
    def _umap(self):
        pytest.importorskip("umap")

    def test_a_small_table_is_refused(self):
        with pytest.raises(ConfigurationError, match="projection: pca"):
            fit_basis([np.zeros((20, 4)), np.zeros((20, 4))])

    def test_the_sample_is_bounded_and_does_not_depend_on_the_cut_into_batches(self):
        rows = np.arange(REFERENCE_ROWS * 2, dtype=np.float32)[:, None]
        one = fit_basis([rows])
        many = fit_basis(np.array_split(rows, 13))
        assert len(one.reference) == REFERENCE_ROWS
        assert one.to_table() == many.to_table()
        assert (np.diff(one.reference[:, 0]) > 0).all()
        assert one.reference.mean() == pytest.approx(REFERENCE_ROWS, rel=0.05)
        assert fit_basis([rows], seed=1).to_table() != one.to_table()

    @pytest.mark.slow  # numba compiles for ten seconds, the first time for forty
    def test_a_basis_read_again_gives_the_same_points(self):
        random = np.random.default_rng(0)
        centres = random.normal(size=(3, 16)) * 5
        vectors = np.concatenate([centre + random.normal(size=(40, 16)) for centre in centres])
        basis = fit_basis([vectors])
        points = basis.project(vectors)
        assert points.shape == (120, 2)
        assert points.dtype == np.float32
        assert np.isfinite(points).all()
        groups = points.reshape(3, 40, 2)
        spread = np.linalg.norm(groups - groups.mean(1, keepdims=True), axis=2).mean()
        assert np.linalg.norm(groups.mean(1)[0] - groups.mean(1)[1]) > 2 * spread
        again = UmapBasis.from_table(basis.to_table())
        assert again.project(vectors).tobytes() == points.tobytes()
        assert again.project(vectors[:0]).shape == (0, 2)
