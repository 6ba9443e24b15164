import numpy as np
import pytest

from shardmill.errors import ConfigurationError, CorruptionError
from shardmill.projection.pca import Basis, fit_basis


def table(rows: int = 500, dimension: int = 32) -> np.ndarray:
    random = np.random.default_rng(1)
    axes = np.linalg.qr(random.normal(size=(dimension, dimension)))[0]
    return (random.normal(size=(rows, dimension)) * np.geomspace(10, 0.1, dimension)) @ axes + 1000


def test_the_basis_is_that_of_a_whole_singular_value_decomposition():
    vectors = table()
    basis = fit_basis(np.array_split(vectors.astype(np.float32), 7))
    centred = vectors.astype(np.float32) - vectors.astype(np.float32).mean(0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs((basis.components * axes[:2]).sum(1)), 1, atol=1e-6)
    np.testing.assert_allclose(basis.explained_variance_ratio, (values**2 / (values**2).sum())[:2], rtol=1e-6)
    assert (basis.components[[0, 1], np.abs(basis.components).argmax(1)] > 0).all()


def test_the_basis_does_not_depend_on_the_cut_into_batches():
    vectors = table()
    one = fit_basis([vectors])
    many = fit_basis(vectors[start : start + 3] for start in range(0, len(vectors), 3))
    np.testing.assert_allclose(one.project(vectors), many.project(vectors), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dimension", [1, 2, 64])
def test_few_rows(rows: int, dimension: int):
    vectors = np.random.default_rng(0).normal(size=(rows, dimension)).astype(np.float32)
    basis = fit_basis([vectors])
    points = basis.project(vectors)
    assert points.shape == (rows, 2)
    assert points.dtype == np.float32
    assert (points[:, 1] == 0).all()
    if rows == 1:
        assert not points.any()
    else:
        assert np.abs(points[1] - points[0]).sum() == pytest.approx(np.linalg.norm(vectors[1] - vectors[0]), rel=1e-5)
        assert basis.explained_variance_ratio == pytest.approx((1, 0))


def test_constant_vectors_lie_at_the_origin():
    vectors = np.full((300, 64), 0.1, np.float32)
    basis = fit_basis([vectors[:7], vectors[7:]])
    assert not basis.project(vectors).any()
    assert basis.explained_variance_ratio == (0, 0)


def test_a_table_gives_the_same_numbers_again():
    vectors = table()
    basis = fit_basis([vectors])
    again = Basis.from_table(basis.to_table())
    assert again.project(vectors).tobytes() == basis.project(vectors).tobytes()
    assert again.explained_variance_ratio == basis.explained_variance_ratio
    assert fit_basis([vectors[:100]]).to_table() != basis.to_table()


def test_what_cannot_be_projected_is_refused():
    with pytest.raises(ConfigurationError, match="at least one"):
        fit_basis([np.zeros((0, 8))])
    with pytest.raises(ConfigurationError, match="finite"):
        fit_basis([np.array([[1.0, np.nan]])])
    with pytest.raises(ConfigurationError, match="another embedder"):
        fit_basis([np.zeros((2, 8))]).project(np.zeros((2, 9)))
    with pytest.raises(CorruptionError, match="not a PCA basis"):
        Basis.from_table(fit_basis([table()]).to_table().slice(1))
    with pytest.raises(CorruptionError, match="not a PCA basis"):
        Basis.from_table(fit_basis([table()]).to_table().drop(["vector"]))
