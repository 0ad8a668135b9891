"""Correlations pair by pair against scipy, with missing values and covariates."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from scipy import stats

from cohort_engine.analysis.correlate import correlate
from cohort_engine.errors import InputError, UnknownNameError

rng = np.random.default_rng(21)
N, A, B = 40, 4, 3
X = rng.standard_normal((N, A))
Y = 0.5 * X[:, :B] + rng.standard_normal((N, B))
Y[:, 1] = (2 * Y[:, 1]).round()  # ties, as a clinical score has
X[rng.random((N, A)) < 0.1] = np.nan
Y[rng.random((N, B)) < 0.1] = np.nan
SITE = np.arange(N) % 3
COVARIATES = np.column_stack([np.exp(rng.standard_normal(N)), *(s == SITE for s in range(3))]).astype(float)
COVARIATES[5, 0] = np.nan
EXACT: dict[str, float] = {"rel": 1e-10}
BY_T: dict[str, float] = {"rel": 0.05, "abs": 2e-4}
"""Of ranks Student's t is near the truth, but for the tails: `test_few_ranks_in_ten_thousand`."""
PAIRS = [(i, j) for i in range(A) for j in range(B)]


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_pairs_are_scipys(method: str, i: int, j: int) -> None:
    found = correlate(X, Y, method=method)
    rows = ~np.isnan(X[:, i] + Y[:, j])
    theirs = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[method](X[rows, i], Y[rows, j])
    assert found.r[i, j] == pytest.approx(theirs.statistic, rel=1e-10)
    assert found.p[i, j] == pytest.approx(theirs.pvalue, **(BY_T if method == "spearman" else EXACT))
    assert found.n[i, j] == rows.sum()
    if method == "pearson":
        assert (found.low[i, j], found.high[i, j]) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-10)
    else:
        step = 1.959963984540054 * np.sqrt((1 + theirs.statistic**2 / 2) / (rows.sum() - 3))
        assert np.arctanh([found.low[i, j], found.high[i, j]]) == pytest.approx(np.arctanh(theirs.statistic) + step * np.array([-1, 1]), rel=1e-10)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_partial_correlation_is_that_of_residuals(method: str, i: int, j: int) -> None:
    """Age and three sites: three independent covariates, the third site follows from the others and the constant."""
    found = correlate(X, Y, method=method, covariates=COVARIATES)
    rows = ~np.isnan(np.column_stack([X[:, i], Y[:, j], COVARIATES])).any(axis=1)
    columns = [X[rows, i], Y[rows, j], *COVARIATES[rows].T]
    if method == "spearman":
        columns = [stats.rankdata(c) for c in columns]
    design = np.column_stack([np.ones(rows.sum()), *columns[2:-1]])
    rest = [c - design @ np.linalg.lstsq(design, c, rcond=None)[0] for c in columns[:2]]
    r, df = np.corrcoef(*rest)[0, 1], rows.sum() - 5
    assert found.r[i, j] == pytest.approx(r, rel=1e-10)
    assert found.df[i, j] == df
    by_t = 2 * stats.t.sf(abs(r) * np.sqrt(df / (1 - r**2)), df)
    assert found.p[i, j] == pytest.approx(by_t, **(BY_T if method == "spearman" else EXACT))
    spread = (1 + r**2 / 2 if method == "spearman" else 1) / (df - 1)
    assert np.arctanh(found.high[i, j]) == pytest.approx(np.arctanh(r) + 1.959963984540054 * np.sqrt(spread), rel=1e-10)


@pytest.mark.parametrize(("method", "r"), [("pearson", 0.6), ("spearman", 6 / np.pi * np.arcsin(0.3))])
def test_intervals_cover(method: str, r: float) -> None:
    """Two normals with correlation 0.6, whose rank correlation is 6 / pi asin(0.3): 1,500 studies of 40."""
    z = np.random.default_rng(1).standard_normal((2, 1500, 40))
    first, second = z[0], 0.6 * z[0] + 0.8 * z[1]
    found = [correlate(a[:, None], b[:, None], method=method) for a, b in zip(first, second, strict=True)]
    assert 0.93 <= np.mean([(f.low < r) & (f.high > r) for f in found]) <= 0.97


def test_unusable_pairs_are_nan_with_n() -> None:
    x = np.column_stack([np.arange(10.0), np.full(10, 0.1), np.arange(10.0), np.full(10, np.nan)])
    x[:6, 2] = np.nan
    y = np.sin(np.arange(10.0))[:, None]
    found = correlate(x, y)
    assert found.n.ravel().tolist() == [10, 10, 4, 0]
    assert np.isfinite(found.r[0])
    assert np.isnan(found.r[1:]).all()
    assert np.isnan(found.p[1:]).all()
    assert np.isfinite(correlate(x, y, max_missing=0.6).r[2])
    assert np.isnan(correlate(x, y, covariates=2 * x[:, :1] + 1).r).all()


def test_a_column_with_itself() -> None:
    x = np.arange(10.0)[:, None]
    found = correlate(x, np.hstack([x, -x, x**3]))
    assert found.r.ravel().tolist() == pytest.approx([1, -1, 1])
    assert found.p.ravel().tolist() == pytest.approx([2 / factorial(10)] * 3, abs=1e-6)  # one order and its reverse
    lower = np.tanh(np.arctanh(1 - 6 / 990) - 1.959963984540054 * np.sqrt((1 + (1 - 6 / 990) ** 2 / 2) / 7))
    assert found.low.ravel().tolist() == pytest.approx([lower, -1, lower])
    assert found.high.ravel().tolist() == pytest.approx([1, -lower, 1])


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_four_people_in_order_are_no_finding(method: str) -> None:
    """The headline was r = 1.00 with q < 0.001."""
    found = correlate(np.arange(4.0)[:, None], np.array([[1.0], [2.0], [3.0], [4.0]]), method=method)
    assert found.p.item() == pytest.approx(2 / 24)
    assert (found.low.item() < 0, found.high.item()) == (True, 1)


@pytest.mark.parametrize("n", [5, 7])
@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_p_of_few_people_counts_all_orders(n: int, method: str) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal(n), rng.integers(0, 4, n).astype(float)
    ranked = [stats.rankdata(v) if method == "spearman" else v for v in (x, y)]
    every = [abs(np.corrcoef(ranked[0], order)[0, 1]) for order in permutations(ranked[1])]
    found = correlate(x[:, None], y[:, None], method=method)
    assert found.p.item() == pytest.approx(np.mean(np.array(every) >= abs(found.r.item()) - 1e-9))


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_p_of_a_dozen_people_is_that_of_permutations(method: str) -> None:
    rng = np.random.default_rng(3)
    y = rng.standard_normal(12)
    x = rng.standard_normal((12, 40)) + 0.7 * y[:, None]
    found = correlate(x, y[:, None], method=method)
    ranked = [stats.rankdata(v, axis=0) if method == "spearman" else v for v in (x, y)]
    drawn = rng.permuted(np.tile(ranked[1], (20_000, 1)), axis=1)
    z = [(v - v.mean(axis=-1, keepdims=True)) / v.std(axis=-1, keepdims=True) for v in (drawn, ranked[0].T)]
    true = (np.abs(z[0] @ z[1].T / 12) >= np.abs(found.r.ravel()) - 1e-9).mean(axis=0)
    clear = true > 0.005
    assert clear.sum() >= 10
    np.testing.assert_allclose(found.p.ravel()[clear], true[clear], rtol=0.35)


@pytest.mark.parametrize(("n", "k"), [(6, 0), (7, 1), (10, 0), (12, 2)])
def test_few_people_without_relation_are_seldom_called_related(n: int, k: int) -> None:
    """2,000 pairs, one side in whole numbers as a score."""
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, 200)), (2 * rng.standard_normal((n, 10))).round()
    covariates = rng.standard_normal((n, k)) if k else None
    p = correlate(x, y, covariates=covariates).p
    p = p[np.isfinite(p)]
    assert (p <= 0.05).mean() <= 0.05 + 0.02
    assert (p <= 0.005).mean() <= 0.005 + 0.006


@pytest.mark.parametrize("columns", [1, 4])
def test_no_correlation_has_p_1_whatever_is_computed_beside_it(columns: int) -> None:
    one_differs, of_mean_0 = np.eye(10)[:, [1]], np.array([-3.0, 0, 0, 1, 1, 0, 0, 0, 0, 1])  # r is 0, and -9e-20 or 2e-17 as computed
    found = correlate(one_differs, np.outer(of_mean_0, np.eye(columns)[-1]), method="pearson")
    assert (found.r[0, -1], found.p[0, -1]) == (0.0, 1.0)


@pytest.mark.parametrize("columns", [1, 4])
def test_of_eight_the_one_that_differs_on_both_sides_is_the_same_by_chance_in_one_of_eight(columns: int) -> None:
    one_differs = np.zeros(8)
    one_differs[0] = -3.0  # r is 1, and 1 - 2e-16 as computed
    found = correlate(1 + one_differs[:, None] / 3, np.outer(one_differs, np.eye(columns)[0]), method="pearson")
    assert (found.r[0, 0], found.p[0, 0]) == (1.0, pytest.approx(1 / 8, rel=1e-12))


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="10 subjects as in the values, found 9"):
        correlate(np.zeros((10, 1)), np.zeros((9, 1)))
    with pytest.raises(UnknownNameError, match="Did you mean 'spearman'"):
        correlate(np.zeros((3, 1)), np.zeros((3, 1)), method="spearmann")


def test_few_ranks_in_ten_thousand() -> None:
    """Of 28 people, 160,000 pairs of ranks with a score of whole numbers: p by t at most 0.001 in 1.24 of a thousand, ours in 1.1."""
    own = np.random.default_rng(3)
    x, y = own.standard_normal((28, 400)), np.rint(14 + 2 * own.standard_normal((28, 400)))
    found = correlate(x, y)
    by_t = 2 * stats.t.sf(np.abs(found.t), found.df)
    small, theirs = ((p <= 0.001).mean() / 0.001 for p in (found.p, by_t))
    assert 0.9 < small < 1.15 < theirs
    assert (found.p <= 0.05).mean() == pytest.approx(0.05, abs=0.002)
