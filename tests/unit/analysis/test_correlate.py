"""Correlations pair by pair against scipy, with missing values and covariates."""

from __future__ import annotations

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
PAIRS = [(i, j) for i in range(A) for j in range(B)]


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_pairs_are_scipys(method: str, i: int, j: int) -> None:
    found = correlate(X, Y, method=method)
    rows = ~np.isnan(X[:, i] + Y[:, j])
    theirs = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[method](X[rows, i], Y[rows, j])
    assert found.r[i, j] == pytest.approx(theirs.statistic, rel=1e-10)
    assert found.p[i, j] == pytest.approx(theirs.pvalue, rel=1e-10)
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
    assert found.p[i, j] == pytest.approx(2 * stats.t.sf(abs(r) * np.sqrt(df / (1 - r**2)), df), rel=1e-10)
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
    assert found.p.ravel().tolist() == pytest.approx([0, 0, 0], abs=1e-50)
    assert np.isnan(found.low).all()


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="10 subjects as in the values, found 9"):
        correlate(np.zeros((10, 1)), np.zeros((9, 1)))
    with pytest.raises(UnknownNameError, match="Did you mean 'spearman'"):
        correlate(np.zeros((3, 1)), np.zeros((3, 1)), method="spearmann")
