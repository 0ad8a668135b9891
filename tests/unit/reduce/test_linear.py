"""Maximum likelihood and maximum a posteriori as small sums, and against the recipe written out."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.reduce.linear import Moments, coefficients, fit, standard_error
from cohort_engine.reduce.native import reduce_group

CLUSTERS = [(0, 1, 2), (3, 4), (5,)]
REGIONS = [(0,), (1,), (2,), (3,), (4,), (5,), (0, 1), (0, 1, 2), (3, 4), (1, 3), (0, 1, 2, 3, 4)]


@pytest.fixture
def mixed() -> tuple[np.ndarray, np.ndarray]:
    """Weights (6 labels, 300 voxels) whose sum is at most one, values with noise."""
    rng = np.random.default_rng(5)
    weights = rng.dirichlet([0.3] * 7, 300).T[:6]
    weights[weights < 0.05] = 0
    return weights, np.array([45, 47, 43, 38, 36, 10.0]) @ weights + rng.normal(0, 2, 300)


def recipe(w: np.ndarray, y: np.ndarray, region: tuple[int, ...], *, prior: bool) -> float:
    """The published formula with its design matrix in full."""
    others = [k for k in range(len(w)) if k not in region]
    x = np.c_[w[list(region)].sum(0), w[others].T]
    if not prior:
        return float((np.linalg.pinv(x.T @ x) @ x.T @ y)[0])
    cluster_of = [next(c for c, members in enumerate(CLUSTERS) if k in members) for k in range(len(w))]
    mine = {cluster_of[k] for k in region}
    of = np.array([-1] + [-1 if cluster_of[k] in mine else cluster_of[k] for k in others])
    kinds = sorted(set(of))
    pooled = np.stack([x[:, of == kind].sum(1) for kind in kinds], 1)
    values = np.linalg.pinv(pooled.T @ pooled) @ pooled.T @ y
    start = values[[kinds.index(kind) for kind in of]]
    return float((start + np.linalg.pinv(x.T @ x + np.eye(len(of))) @ x.T @ (y - x @ start))[0])


@pytest.mark.parametrize("prior", [False, True], ids=["ml", "map"])
def test_equal_to_the_recipe_for_labels_and_unions(mixed: tuple[np.ndarray, np.ndarray], prior: bool) -> None:
    w, y = mixed
    expected = [recipe(w, y, r, prior=prior) for r in REGIONS]
    np.testing.assert_allclose(fit(Moments.of(w, y), REGIONS, CLUSTERS, prior=prior).value, expected, rtol=1e-9)


@pytest.mark.parametrize("prior", [False, True], ids=["ml", "map"])
def test_many_at_once_equal_one_at_a_time(mixed: tuple[np.ndarray, np.ndarray], prior: bool) -> None:
    w, y = mixed
    parts = [slice(0, 100), slice(50, 300), slice(0, 300)]
    each = [Moments.of(w[:, p], y[p]) for p in parts]
    stacked = Moments(*(np.stack([getattr(m, name) for m in each]) for name in ("w", "wy", "wyy", "gram", "yy", "count")))
    together = fit(stacked, REGIONS, CLUSTERS, prior=prior)
    errors = standard_error(stacked, together, REGIONS, together.noise[..., None])
    for i, m in enumerate(each):
        alone = fit(m, REGIONS, CLUSTERS, prior=prior)
        np.testing.assert_allclose(together.value[i], alone.value, rtol=1e-10)
        np.testing.assert_allclose(errors[i], standard_error(m, alone, REGIONS, alone.noise[None]), rtol=1e-8)


def test_noise_free_mixture_is_taken_apart() -> None:
    w = np.array([[1, 0.5, 0.2, 0], [0, 0.5, 0.8, 1]])
    out = fit(Moments.of(w, np.array([40, 20]) @ w), [(0,), (1,)], [(0, 1)], prior=False)
    np.testing.assert_allclose(out.value, [40, 20])
    assert out.noise == pytest.approx(0, abs=1e-9)


def test_prior_of_one_value_is_that_value_whatever_the_weights() -> None:
    """Where all labels are alike, shrinking changes nothing."""
    w = np.array([[1, 0.01, 0, 0.5], [0, 0.02, 0.3, 0.1]])
    assert fit(Moments.of(w, 42 * w.sum(0)), [(0,), (1,), (0, 1)], [(0, 1)], prior=True).value == pytest.approx([42] * 3)


def test_a_tiny_label_is_its_tissue_and_says_so() -> None:
    w = np.zeros((3, 41))
    w[0, :20], w[1, 20:40], w[2, 40] = 1, 1, 0.05
    y = np.r_[np.tile([49, 51], 10), np.tile([39, 41], 10), 0.05 * 80].astype(float)
    m = Moments.of(w, y)
    ml, map_ = (fit(m, [(0,), (2,)], [(0, 1, 2)], prior=p) for p in (False, True))
    assert ml.value[1] == pytest.approx(80)
    assert 44 < map_.value[1] < 47  # the tissue is at 45
    se = standard_error(m, map_, [(0,), (2,)], map_.noise[None])
    assert se[1] > 4 > 1 > se[0]  # about the scatter of the tracts of the tissue, not the noise of many voxels


def test_what_cannot_be_told_apart_is_nan_for_ml_only() -> None:
    w = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0, 0, 1.0], [0, 0, 0]])
    m = Moments.of(w, np.array([30.0, 32.0, 10.0]))
    regions = [(0,), (0, 1), (2,), (3,)]
    np.testing.assert_allclose(fit(m, regions, [(0, 1, 2, 3)], prior=False).value, [np.nan, 31, 10, np.nan])
    assert np.isfinite(fit(m, regions, [(0, 1), (2,), (3,)], prior=True).value).tolist() == [True, True, True, False]


def test_no_degrees_of_freedom_no_error() -> None:
    w = np.eye(2)
    m = Moments.of(w, np.array([1.0, 2.0]))
    out = fit(m, [(0,), (1,)], [(0, 1)], prior=False)
    assert out.value.tolist() == [1, 2]
    assert np.isnan(standard_error(m, out, [(0,), (1,)], out.noise[None])).all()


@pytest.mark.parametrize("estimator", ["ml", "map"])
def test_intervals_cover_the_truth(estimator: str) -> None:
    """Tracts scatter about their tissue by 2, voxels by 3: 95 % intervals hold 95 % of 400 x 11 true values (9 in 10 allowed)."""
    rng = np.random.default_rng(11)
    inside = []
    for _ in range(400):
        w = rng.dirichlet([0.3] * 7, 250).T[:6]
        truth = np.array([45, 45, 45, 38, 38, 10]) + np.r_[rng.normal(0, 2, 5), 0]
        cells = reduce_group(truth @ w + rng.normal(0, 3, 250), w, REGIONS, CLUSTERS, estimator=estimator)
        mixed = [w[list(r)].sum(1) @ truth[list(r)] / w[list(r)].sum() for r in REGIONS]
        inside.append(np.abs(cells.value - mixed) < 1.96 * cells.se)
    rate = np.mean(inside)
    print(f"\n{estimator}: {100 * rate:.1f} % of 95 % intervals hold the truth; by region {np.round(100 * np.mean(inside, axis=0)).astype(int)}")
    assert 0.90 <= rate <= 0.98


def test_coefficients_are_linear_in_the_data(mixed: tuple[np.ndarray, np.ndarray]) -> None:
    w, y = mixed
    u = coefficients(w @ w.T, REGIONS, CLUSTERS, prior=True)
    np.testing.assert_allclose(u @ w @ y, fit(Moments.of(w, y), REGIONS, CLUSTERS, prior=True).value)
    np.testing.assert_allclose(u @ w @ (y + 7 * w.sum(0)), u @ w @ y + 7)
