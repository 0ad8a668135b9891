"""Agreement: the ratings of Shrout and Fleiss, analysis of variance by statsmodels, and arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from cohort_engine.analysis.agreement import bland_altman, icc, repeatability
from cohort_engine.errors import InputError, UnknownNameError

SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)[..., None]
rng = np.random.default_rng(4)
RATINGS = 40 + 4 * rng.standard_normal((25, 1, 4)) + rng.standard_normal((25, 3, 4)) + np.arange(3)[:, None]
RATINGS[rng.random(RATINGS.shape) < 0.03] = np.nan


@pytest.mark.parametrize(("kind", "value", "interval"), [("ICC(2,1)", 0.29, (0.019, 0.761)), ("ICC(3,1)", 0.71, (0.342, 0.946))])
def test_shrout_and_fleiss(kind: str, value: float, interval: tuple[float, float]) -> None:
    found = icc(SHROUT_FLEISS, kind=kind)
    assert found.icc[0] == pytest.approx(value, abs=0.005)
    assert (found.low[0], found.high[0]) == pytest.approx(interval, abs=0.0006)
    assert found.f[0] == pytest.approx(11.03, abs=0.005)  # mean squares 11.24 and 1.02
    assert found.n.tolist() == [6]


def squares(ratings: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of subjects, repeats and error from statsmodels' two-way table."""
    n, k = ratings.shape
    frame = pd.DataFrame({"y": ratings.ravel(), "who": np.repeat(np.arange(n), k), "when": np.tile(np.arange(k), n)})
    out = anova_lm(smf.ols("y ~ C(who) + C(when)", frame).fit())
    rows, columns, error = (out["sum_sq"] / out["df"]).to_numpy()
    return rows, columns, error


@pytest.mark.parametrize("test", range(4))
def test_mean_squares_are_statsmodels(test: int) -> None:
    ratings = RATINGS[~np.isnan(RATINGS[..., test]).any(axis=1), :, test]
    n, k = ratings.shape
    rows, columns, error = squares(ratings)
    absolute, consistent = icc(RATINGS), icc(RATINGS, kind="ICC(3,1)")
    assert absolute.icc[test] == pytest.approx((rows - error) / (rows + (k - 1) * error + k / n * (columns - error)), rel=1e-10)
    assert consistent.icc[test] == pytest.approx((rows - error) / (rows + (k - 1) * error), rel=1e-10)
    assert consistent.p[test] == pytest.approx(stats.f.sf(rows / error, n - 1, (n - 1) * (k - 1)), rel=1e-9)
    assert repeatability(RATINGS, systematic=False).sem[test] == pytest.approx(np.sqrt(error), rel=1e-10)
    assert repeatability(RATINGS).sem[test] == pytest.approx(np.sqrt(ratings.var(axis=1, ddof=1).mean()), rel=1e-10)
    assert absolute.n[test] == n


@pytest.mark.parametrize(("kind", "truth"), [("ICC(2,1)", 16 / 18), ("ICC(3,1)", 16 / 17)])
def test_icc_intervals_cover(kind: str, truth: float) -> None:
    """Standard deviations 4 between 20 subjects, 1 between 5 raters, 1 of error; 3,000 studies."""
    draw = np.random.default_rng(9).standard_normal
    found = icc(4 * draw((20, 1, 3000)) + draw((1, 5, 3000)) + draw((20, 5, 3000)), kind=kind)
    assert 0.93 <= np.mean((found.low < truth) & (found.high > truth)) <= 0.97


def test_bland_altman_by_hand() -> None:
    """Differences 1, 0, 2, 1, NaN: mean 1, sd sqrt(2 / 3); t of 3 degrees of freedom is 3.182446."""
    first, second = np.array([10, 12, 15, 11, np.nan]), np.array([9.0, 12, 13, 10, 8])
    found = bland_altman(first[:, None], second[:, None])
    sd, z, t = np.sqrt(2 / 3), 1.959963984540054, 3.182446305284263
    step, wide = t * sd / 2, t * sd * np.sqrt(1 / 4 + z**2 / 6)
    assert found.n.tolist() == [4]
    assert found.bias[0] == 1
    assert found.sd[0] == pytest.approx(sd, rel=1e-14)
    assert found.bias_interval[:, 0] == pytest.approx([1 - step, 1 + step], rel=1e-12)
    assert (found.lower[0], found.upper[0]) == pytest.approx((1 - z * sd, 1 + z * sd), rel=1e-12)
    assert found.lower_interval[:, 0] == pytest.approx([1 - z * sd - wide, 1 - z * sd + wide], rel=1e-12)
    assert found.upper_interval[:, 0] == pytest.approx([1 + z * sd - wide, 1 + z * sd + wide], rel=1e-12)


def test_limits_and_error_cover() -> None:
    """Error of sd 1 in each of two sessions of 30 subjects: differences have sd sqrt(2). 3,000 studies."""
    ratings = 40 + np.random.default_rng(3).standard_normal((30, 2, 3000))
    limits, error = bland_altman(ratings[:, 0], ratings[:, 1]), repeatability(ratings)
    truth = 1.959963984540054 * np.sqrt(2)
    found = (
        (limits.bias_interval, 0),
        (limits.lower_interval, -truth),
        (limits.upper_interval, truth),
        (error.sem_interval, 1),
        (error.mdc_interval, truth),
    )
    for (low, high), value in found:
        assert 0.93 <= np.mean((low < value) & (high > value)) <= 0.97


def test_repeatability_by_hand() -> None:
    """Two sessions; the second is 2 higher for everybody, and the differences of three subjects are 2, 1, 3."""
    ratings = np.array([[10.0, 12.0], [20.0, 21.0], [30.0, 33.0]])[..., None]
    within = (4 + 1 + 9) / 2 / 3
    found, without = repeatability(ratings), repeatability(ratings, systematic=False)
    assert found.sem[0] == pytest.approx(np.sqrt(within))
    assert without.sem[0] == pytest.approx(np.sqrt(0.5))  # differences have variance 1, twice that of one session
    assert found.mdc[0] == pytest.approx(1.959963984540054 * np.sqrt(2 * within))
    assert found.cv[0] == pytest.approx(np.sqrt((2 / 11**2 + 0.5 / 20.5**2 + 4.5 / 31.5**2) / 3))
    assert found.sem_interval[:, 0] == pytest.approx(np.sqrt(within * 3 / stats.chi2.ppf([0.975, 0.025], 3)))


def test_unusable_tests_are_nan_with_n() -> None:
    """Fine; most missing; one subject; constant; no error; no values."""
    x = np.repeat(RATINGS[:10, :2, :1], 6, axis=2)
    x = np.where(np.isnan(x), 40.0, x)
    x[4:, 0, 1], x[1:, 1, 2], x[..., 3], x[:, 1, 4], x[..., 5] = np.nan, np.nan, 0.1, x[:, 0, 4], np.nan
    for kind in ("ICC(2,1)", "ICC(3,1)"):
        found = icc(x, kind=kind)
        assert found.n.tolist() == [10, 4, 1, 10, 10, 0]
        assert np.isfinite([found.icc[0], found.low[0], found.high[0]]).all()
        assert found.icc[4] == 1
        assert np.isnan(found.low[4])
        assert np.isnan([found.icc[[1, 2, 3, 5]], found.low[[1, 2, 3, 5]], found.p[[1, 2, 3, 5]]]).all()
        assert np.isnan(icc(x, kind=kind, max_missing=1.0).icc[2])
    error, limits = repeatability(x), bland_altman(x[:, 0], x[:, 1])
    assert error.sem[[3, 4]].tolist() == [0, 0]
    assert np.isnan([error.sem[[1, 2, 5]], error.cv[[1, 2, 5]], limits.bias[[1, 2, 5]], limits.sd[[1, 2, 5]]]).all()
    assert limits.n.tolist() == error.n.tolist() == [10, 4, 1, 10, 10, 0]
    single = bland_altman(x[:, 0], x[:, 1], max_missing=1.0)
    assert np.isfinite(single.bias[2])
    assert np.isnan(single.sd[2])
    assert np.isnan(repeatability(x - 40).cv[0])


def test_far_below_zero_there_is_no_interval() -> None:
    """Three people whose repeats are opposite: the degrees of freedom of the interval are next to none, its quantile infinite."""
    found = icc(np.array([[-0.3, 0.7], [-0.6, 1.2], [1.0, -0.6]])[..., None])
    assert found.icc[0] == pytest.approx(-2.269, abs=0.001)
    assert np.isnan([found.low[0], found.high[0]]).all()


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="two repeats or more"):
        icc(np.zeros((5, 1, 2)))
    with pytest.raises(InputError, match="subject, repeat, test"):
        repeatability(np.zeros((5, 2)))
    with pytest.raises(InputError, match="second measurement"):
        bland_altman(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(UnknownNameError, match=r"ICC\(2,1\)"):
        icc(SHROUT_FLEISS, kind="ICC(2,k)")
