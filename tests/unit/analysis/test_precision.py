"""Values that count by their uncertainty: against statsmodels and a likelihood that is searched; what is without effect stays without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize_scalar

from cohort_engine.analysis.arrays import resampling
from cohort_engine.analysis.groups import LINEAR, MANN_WHITNEY, WELCH, compare
from cohort_engine.analysis.precision import LEAST_VARIANCE, weigh, weights_of
from cohort_engine.errors import InputError

rng = np.random.default_rng(3)
SIZES = (14, 22)
GROUP = np.repeat([0.0, 1.0], SIZES)
AGE = rng.normal(50, 10, len(GROUP))[:, None]
ERRORS = np.exp(0.6 * rng.standard_normal((len(GROUP), 5)))
VALUES = 40 - GROUP[:, None] + rng.standard_normal(ERRORS.shape) * np.sqrt(1 + ERRORS**2)
VALUES[rng.random(VALUES.shape) < 0.1] = np.nan
GROUPS = np.stack([GROUP == 0, GROUP == 1])


@pytest.mark.parametrize("method", [WELCH, LINEAR])
@pytest.mark.parametrize("errors", [None, np.full(VALUES.shape, np.nan), np.full(VALUES.shape, 0.7)], ids=["none", "unknown", "alike"])
def test_errors_that_tell_nothing_change_nothing(method: str, errors: Any) -> None:
    plain, found = (compare(VALUES, GROUP, method=method, errors=e, trust=None if e is None else np.ones(len(GROUP))) for e in (None, errors))
    for name in ("effect", "se", "low", "high", "statistic", "df", "p", "size", "size_low", "se_even"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-12)
    assert (plain.se == plain.se_even).all()


def test_weighted_effect_and_its_robust_error_are_those_of_statsmodels() -> None:
    columns = np.column_stack([np.ones(len(GROUP)), AGE, GROUP])
    weights = weights_of(VALUES - np.nanmean(VALUES, axis=0), ERRORS, GROUPS)
    ours = weigh(VALUES, columns, weights)
    for test in range(VALUES.shape[1]):
        known = np.isfinite(VALUES[:, test])
        theirs = sm.WLS(VALUES[known, test], columns[known], weights=weights[known, test]).fit(cov_type="HC3")
        assert ours.effect[test] == pytest.approx(theirs.params[2], rel=1e-9)
        assert ours.variance[test] == pytest.approx(theirs.bse[2] ** 2, rel=1e-9)


def test_weights_are_of_the_likeliest_variance_between_people() -> None:
    residual = VALUES - np.nanmean(VALUES, axis=0)
    weights = weights_of(residual, ERRORS, GROUPS)
    for members in GROUPS:
        for test in range(VALUES.shape[1]):
            known = members & np.isfinite(VALUES[:, test])
            y, square = VALUES[known, test], ERRORS[known, test] ** 2

            def loss(between: float, y: Any = y, square: Any = square) -> float:
                w = 1 / (between + square)
                return float(-np.log(w).sum() + np.log(w.sum()) + (w * (y - (w @ y) / w.sum()) ** 2).sum())

            v = minimize_scalar(loss, bounds=(0, 20), method="bounded", options={"xatol": 1e-10}).x + square
            v = np.maximum(v, LEAST_VARIANCE * v.mean())
            np.testing.assert_allclose(weights[known, test], (1 / v) / (1 / v).mean(), rtol=2e-3)


def test_who_is_half_usable_counts_half_and_nobody_counts_for_all() -> None:
    y = np.array([[-1.0], [1.0], [-1.0], [1.0], [0.0], [0.0]])
    groups = np.repeat([[True], [False]], 3, axis=1).reshape(2, 3).repeat(2, axis=1)
    half = weights_of(y, np.full(y.shape, np.nan), groups, np.array([0.5, 1, 1, np.nan, 1, 1]))
    assert half[0] / half[1] == pytest.approx(0.5)
    assert half[1:4].std() == 0
    assert half.mean() == pytest.approx(1)
    sure = weights_of(y, np.array([[0.0], [9], [9], [9], [9], [9]]), groups)
    assert sure[0] / sure[1] < 1.2 / LEAST_VARIANCE


@pytest.mark.parametrize(("method", "covariates"), [(WELCH, None), (LINEAR, AGE)])
@pytest.mark.parametrize("right", [True, False], ids=["errors as they are", "errors of somebody else"])
def test_nothing_is_found_where_nothing_is(method: str, covariates: Any, right: bool) -> None:
    rng = np.random.default_rng(8)
    true = np.exp(1.2 * rng.standard_normal((len(GROUP), 3000)))
    values = rng.standard_normal(true.shape) * np.sqrt(1 + true)
    given = true if right else rng.permuted(true, axis=0)
    found = compare(values, GROUP, method=method, covariates=covariates, errors=np.sqrt(given))
    assert (found.p <= 0.05).mean() == pytest.approx(0.05, abs=0.012)
    held = (found.low <= 0) & (found.high >= 0)
    assert held.mean() == pytest.approx(0.95, abs=0.012)
    assert (np.median(found.se / found.se_even) < 0.92) == right


@pytest.mark.parametrize("method", [WELCH, LINEAR])
def test_resamples_are_of_the_weighted_effect(method: str) -> None:
    covariates = AGE if method == LINEAR else None
    columns = np.column_stack([np.ones(len(GROUP)), *([] if covariates is None else [AGE]), GROUP])
    residual = np.where(np.isnan(VALUES), np.nan, weigh(np.where(np.isnan(VALUES), np.nan, VALUES - 40), columns).residual)
    weights = weights_of(residual, ERRORS, GROUPS)
    found = compare(VALUES, GROUP, method=method, covariates=covariates, errors=ERRORS, resamples=30, seed=4)
    for test in range(2):
        known = np.isfinite(VALUES[:, test])
        draws = resampling(GROUPS, 30, 4) * weights[:, test]
        effects = [sm.WLS(VALUES[known, test], columns[known], weights=d[known]).fit().params[-1] for d in draws]
        assert (found.low[test], found.high[test]) == pytest.approx(tuple(np.percentile(effects, [2.5, 97.5])), rel=1e-6)


def test_ranks_take_no_weights_and_shapes_must_fit() -> None:
    assert (compare(VALUES, GROUP, method=MANN_WHITNEY, errors=ERRORS).p == compare(VALUES, GROUP, method=MANN_WHITNEY).p).all()
    with pytest.raises(InputError, match="errors"):
        compare(VALUES, GROUP, errors=ERRORS[:, :2])
