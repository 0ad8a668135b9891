"""Change over time against paired t-tests, a mixed model, and simulations that say how often chance is taken for change."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cohort_engine.analysis.change import changed, compare_change, fit_change
from cohort_engine.errors import InputError


def simulate(people: int, rng: np.random.Generator, *, slope: float = 0.0, between: float = 0.0, sem: float = 1.0, tests: int = 1, sessions=(2, 4)):
    """Sessions of people (session, test), who, when."""
    count = rng.integers(*sessions, people)
    who = np.repeat(np.arange(people), count)
    time = 2.0 * np.concatenate([np.arange(k) for k in count]) + rng.uniform(0, 1.5, len(who))
    own = rng.normal(slope, between, (people, tests)) if between else np.full((people, tests), slope)
    return rng.normal(70, 6, (people, tests))[who] + own[who] * time[:, None] + rng.normal(0, sem, (len(who), tests)), who, time


def test_two_sessions_are_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(70, 5, (12, 3))
    after = before + rng.normal(-1, 2, (12, 3))
    after[3, 1] = np.nan
    found = fit_change(np.concatenate([before, after]), np.tile(np.arange(12), 2), np.repeat([0.0, 2.0], 12))
    for test in range(3):
        known = np.isfinite(after[:, test])
        theirs = stats.ttest_rel(after[known, test], before[known, test])
        interval = theirs.confidence_interval()
        assert found.p[test] == pytest.approx(theirs.pvalue, abs=1e-12)
        assert (found.low[test], found.high[test]) == pytest.approx((interval.low / 2, interval.high / 2), abs=1e-10)
    assert found.n.tolist() == [12, 11, 12]
    np.testing.assert_allclose(found.df, [11, 10, 11])


def test_two_groups_of_two_sessions_are_welchs_test_of_the_differences() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (9, 1)), rng.normal(1, 2, (14, 1))
    parts = [fit_change(np.concatenate([0 * d, d]), np.tile(np.arange(len(d)), 2), np.repeat([0, 1], len(d))) for d in (a, b)]
    found, theirs = compare_change(*parts), stats.ttest_ind(b, a, equal_var=False)
    assert (found.p[0], found.df[0]) == pytest.approx((theirs.pvalue[0], theirs.df[0]), abs=1e-9)


def test_is_the_mixed_model_with_a_free_intercept_and_a_random_slope() -> None:
    import statsmodels.formula.api as smf

    y, who, time = simulate(16, np.random.default_rng(3), slope=-0.5, between=0.6, sessions=(2, 6))
    found = fit_change(y, who, time)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.DataFrame({"y": y[:, 0], "t": time, "w": who})
        theirs = smf.mixedlm("y ~ C(w) + t", frame, groups="w", re_formula="0+t").fit(reml=True)
    assert found.slope[0] == pytest.approx(theirs.params["t"], abs=1e-4)
    assert found.se[0] == pytest.approx(theirs.bse["t"], rel=0.25)  # theirs takes the variances for known
    assert found.between[0] == pytest.approx(theirs.cov_re.iloc[0, 0] ** 0.5, rel=1e-3)
    assert found.sem[0] == pytest.approx(theirs.scale**0.5, rel=1e-3)


def test_what_is_known_is_found() -> None:
    y, who, time = simulate(400, np.random.default_rng(5), slope=-0.3, between=0.2, sem=1.5, tests=5)
    found = fit_change(y, who, time)
    assert np.abs(found.slope + 0.3).max() < 0.08
    assert found.between.mean() == pytest.approx(0.2, abs=0.07)
    assert found.sem.mean() == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("between", [0.0, 0.5])
def test_people_who_do_not_change(between) -> None:
    """Findings in 5 % of tests of none, intervals that hold in 95 %; also of groups whose people change differently, but alike on average."""
    false, held = [], []
    for seed in range(6):  # of the times at which people come
        rng = np.random.default_rng(seed)
        one, two = (fit_change(*simulate(n, rng, between=between, tests=40)) for n in (12, 20))
        for found in (one, two, compare_change(one, two)):
            false.append(found.p < 0.05)
            held.append((found.low < 0) & (found.high > 0))
    assert np.mean(np.reshape(false, (6, 3, -1)), axis=(0, 2)) == pytest.approx([0.05] * 3, abs=0.035)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("own", [True, False])
def test_one_in_twenty_seems_to_change(own) -> None:
    """Of the reference itself, each against the others, and of new people like them."""
    rng = np.random.default_rng(9)
    like = {"slope": -0.4, "between": 0.3, "tests": 250}
    reference, new = simulate(15, rng, **like), simulate(15, rng, **like)
    y, who, time = reference if own else (new[0], new[1] + 100, new[2])
    found = changed(fit_change(*reference), y, who, time)
    known = np.isfinite(found.change)
    assert found.beyond[known].mean() == pytest.approx(0.05, abs=0.02)
    assert (found.p[known] < 0.05).mean() == found.beyond[known].mean()


def test_detectable_change_is_that_of_the_textbook() -> None:
    y, who, time = simulate(600, np.random.default_rng(11), sem=1.0, sessions=(3, 4))
    reference = fit_change(y, who, time)
    found = changed(reference, y, who, time)
    assert found.mdc[0] == pytest.approx(1.96 * np.sqrt(2), rel=0.1)


def test_what_tells_nothing_is_missing() -> None:
    found = fit_change([[1.0], [2.0], [3.0], [np.nan], [4.0]], ["a", "a", "b", "b", "c"], [0, 1, 0, 1, 0])
    assert (found.n.tolist(), np.isnan(found.slope).tolist()) == ([1], [True])
    same_time = fit_change([[1.0], [2.0]] * 4, np.repeat(list("abcd"), 2), [3.0, 3.0] * 4)
    assert same_time.n.tolist() == [0]
    with pytest.raises(InputError, match="people"):
        fit_change([[1.0]], ["a", "b"], [0])


def test_no_noise_at_all() -> None:
    found = fit_change([[1.0], [2.0]] * 4, np.repeat(list("abcd"), 2), [0.0, 1.0] * 4)
    assert (found.slope[0], found.se[0]) == (1.0, 0.0)
