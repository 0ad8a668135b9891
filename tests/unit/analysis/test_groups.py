"""Group comparisons against scipy and statsmodels, test by test; bad input; false discovery; bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.multitest import multipletests

from cohort_engine.analysis.groups import METHODS, compare, false_discovery
from cohort_engine.errors import InputError, UnknownNameError

rng = np.random.default_rng(5)
N, TESTS = 60, 7
GROUP = np.repeat([0.0, 1.0, np.nan], [22, 34, 4])
VALUES = 45 + 4 * rng.standard_normal((N, TESTS)) - 2 * np.nan_to_num(GROUP)[:, None]
VALUES[rng.random((N, TESTS)) < 0.1] = np.nan
VALUES[:, 1] = VALUES[:, 1].round()  # ties
SITE = rng.integers(0, 3, N)
COVARIATES = np.column_stack([rng.normal(50, 10, N), rng.integers(0, 2, N), *(s == SITE for s in range(3))]).astype(float)
COVARIATES[7, 0] = np.nan


def sides(test: int) -> tuple[np.ndarray, np.ndarray]:
    x = VALUES[:, test]
    return tuple(x[(g == GROUP) & ~np.isnan(x)] for g in (0, 1))  # type: ignore[return-value]


def near(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("test", range(TESTS))
def test_welch_is_scipys(test: int) -> None:
    zero, one = sides(test)
    found, theirs = compare(VALUES, GROUP), stats.ttest_ind(one, zero, equal_var=False)
    interval = theirs.confidence_interval()
    assert near(found.statistic[test], theirs.statistic)
    assert near(found.p[test], theirs.pvalue)
    assert near(found.df[test], theirs.df)
    assert near(found.low[test], interval.low)
    assert near(found.high[test], interval.high)
    assert near(found.effect[test], one.mean() - zero.mean())
    assert near(found.se[test], np.sqrt(one.var(ddof=1) / len(one) + zero.var(ddof=1) / len(zero)))
    assert found.n[:, test].tolist() == [len(zero), len(one)]


@pytest.mark.parametrize("test", range(TESTS))
def test_hedges_g_is_statsmodels(test: int) -> None:
    zero, one = sides(test)
    found = compare(VALUES, GROUP)
    g, variance = effectsize_smd(one.mean(), one.std(ddof=1), len(one), zero.mean(), zero.std(ddof=1), len(zero))
    assert near(found.size[test], g)
    assert near(found.size_high[test] - found.size_low[test], 2 * stats.norm.ppf(0.975) * np.sqrt(variance))


@pytest.mark.parametrize("test", range(TESTS))
def test_mann_whitney_is_scipys(test: int) -> None:
    zero, one = sides(test)
    found = compare(VALUES, GROUP, method="mann_whitney")
    theirs = stats.mannwhitneyu(one, zero, method="asymptotic" if test == 1 else "exact")
    assert near(found.statistic[test], theirs.statistic)
    assert near(found.p[test], theirs.pvalue)
    assert near(found.size[test], np.mean(np.sign(one[:, None] - zero)))
    assert found.size_low[test] < found.size[test] < found.size_high[test]


@pytest.mark.parametrize(("n0", "n1"), [(1, 1), (3, 2), (2, 9), (15, 30), (50, 50), (60, 50)])
def test_mann_whitney_from_tiny_to_large(n0: int, n1: int) -> None:
    x = np.random.default_rng(n1).standard_normal((n0 + n1, 20)) + np.repeat([[0.0], [1.0]], [n0, n1], axis=0) * np.linspace(-2, 2, 20)
    theirs = stats.mannwhitneyu(x[n0:], x[:n0], method="exact" if n0 + n1 <= 100 else "asymptotic")
    assert compare(x, np.repeat([0, 1], [n0, n1]), method="mann_whitney").p == pytest.approx(theirs.pvalue, rel=1e-10)


@pytest.mark.parametrize("covariates", [None, COVARIATES], ids=["alone", "age, sex, site"])
@pytest.mark.parametrize("test", range(TESTS))
def test_linear_is_statsmodels(test: int, covariates: np.ndarray | None) -> None:
    found = compare(VALUES, GROUP, method="linear", covariates=covariates)
    y = VALUES[:, test]
    design = np.column_stack([GROUP, np.ones(N)] if covariates is None else [GROUP, np.ones(N), covariates[:, :-1]])
    rows = ~np.isnan(np.column_stack([y, design])).any(axis=1)
    theirs = sm.OLS(y[rows], design[rows]).fit()
    interval = theirs.conf_int()[0]
    assert near(found.effect[test], theirs.params[0])
    assert near(found.se[test], theirs.bse[0])
    assert near(found.statistic[test], theirs.tvalues[0])
    assert near(found.p[test], theirs.pvalues[0])
    assert near(found.low[test], interval[0])
    assert near(found.high[test], interval[1])
    assert found.df[test] == theirs.df_resid
    assert found.n[:, test].tolist() == [int((GROUP[rows] == g).sum()) for g in (0, 1)]
    rest = [sm.OLS(v[rows], design[rows, 1:]).fit().resid for v in (y, GROUP)]
    assert near(found.size[test], stats.pearsonr(*rest).statistic)


def test_linear_where_the_covariates_explain_nearly_all() -> None:
    """The residual is a hundred-millionth of the spread, and still exact to ten digits."""
    age = np.random.default_rng(2).normal(50, 10, 60)
    group = np.repeat([0.0, 1.0], 30)
    y = 3 * age + 1e-3 * np.random.default_rng(3).standard_normal(60)
    theirs = sm.OLS(y - 3 * age, np.column_stack([group, np.ones(60), age])).fit()
    found = compare(y[:, None], group, method="linear", covariates=age[:, None])
    assert found.statistic[0] == pytest.approx(theirs.tvalues[0], rel=1e-7)
    assert found.se[0] == pytest.approx(theirs.bse[0], rel=1e-9)


def test_linear_alone_is_students_t() -> None:
    zero, one = sides(0)
    found, theirs = compare(VALUES, GROUP, method="linear"), stats.ttest_ind(one, zero)
    assert near(found.p[0], theirs.pvalue)


def test_false_discovery_is_statsmodels_in_each_family() -> None:
    p = np.where(rng.random((4, 30)) < 0.1, np.nan, rng.random((4, 30)) ** 3)
    family = np.array(["mtr", "csa", "mtr", "fa"])[:, None]
    q = false_discovery(p, family)
    for label in ("mtr", "csa", "fa"):
        inside = (family == label) & ~np.isnan(p)
        assert np.allclose(q[inside], multipletests(p[inside], method="fdr_bh")[1], rtol=0, atol=1e-14)
    assert np.isnan(q).tolist() == np.isnan(p).tolist()
    assert false_discovery([np.nan]).shape == (1,)
    with pytest.raises(InputError, match=r"from 0 to 1, found 1\.5"):
        false_discovery([0.5, 1.5])


def test_false_discovery_under_the_null() -> None:
    """In each family of 43 regions nothing is to be found: one family in twenty may have a finding. 60 studies of 28 families; error 0.5 points."""
    found = []
    for seed in range(60):
        values = np.random.default_rng(seed).standard_normal((40, 28 * 43))
        p = compare(values, np.repeat([0, 1], [16, 24]), method=list(METHODS)[seed % 3]).p
        found.append((false_discovery(p.reshape(28, 43), np.arange(28)[:, None]) <= 0.05).any(axis=1).mean())
    assert 0.03 <= np.mean(found) <= 0.07


@pytest.mark.parametrize("method", METHODS)
def test_resampling_is_the_statistic_of_each_resample(method: str) -> None:
    """Draw counts are subjects repeated: compare with the plain statistic of the repeated rows."""
    from cohort_engine.analysis.arrays import basis, resampling, two_groups
    from cohort_engine.analysis.groups import _Data

    covariates = COVARIATES if METHODS[method][2] else None
    groups = two_groups(GROUP, N, where="groups")
    columns, complete = basis(covariates, N, where="covariates")
    x = np.where((complete & groups.any(axis=0))[:, None], VALUES, np.nan)
    n = np.stack([(~np.isnan(x[g])).sum(axis=0) for g in groups])
    weights = resampling(groups, 5, seed=3)
    effect, size = METHODS[method][1](_Data(x, groups, columns, n), weights)
    for draw, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(N), counts)
        plain = compare(VALUES[rows], GROUP[rows], method=method, covariates=None if covariates is None else covariates[rows], max_missing=1.0)
        assert effect[draw] == pytest.approx(plain.effect, rel=1e-9)
        assert size[draw] == pytest.approx(plain.size, rel=1e-6 if method == "mann_whitney" else 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_bootstrap_has_a_seed_and_agrees_with_theory(method: str) -> None:
    plain, once, again, other = (compare(VALUES, GROUP, method=method, resamples=r, seed=s) for r, s in ((0, 1), (2000, 1), (2000, 1), (2000, 2)))
    assert once.low.tolist() == again.low.tolist()
    assert once.low.tolist() != other.low.tolist()
    assert once.p.tolist() == plain.p.tolist()
    assert np.all(np.abs(once.low - plain.low) < 0.35 * plain.se)
    assert np.all(np.abs(once.size_high - once.size_low) / (plain.size_high - plain.size_low) - 1 < 0.25)


@pytest.mark.parametrize("method", METHODS)
def test_unusable_tests_are_nan_with_n(method: str) -> None:
    """A good test, one with most of a group missing, a group of one, constant values, an empty column: the first is as if it were alone."""
    group = np.repeat([0, 1], 20)
    good = np.random.default_rng(0).normal(40, 3, 40)
    values = np.column_stack([good, good, good, np.full(40, 0.1), np.full(40, np.nan)])
    values[9:20, 1] = np.nan
    values[1:20, 2] = np.nan
    for resamples in (0, 20):
        found = compare(values, group, method=method, resamples=resamples)
        alone = compare(values[:, :1], group, method=method, resamples=resamples)
        assert found.n.tolist() == [[20, 9, 1, 20, 0], [20, 20, 20, 20, 0]]
        for name in ("effect", "se", "low", "high", "statistic", "p", "size", "size_low", "size_high"):
            assert getattr(found, name)[0] == pytest.approx(getattr(alone, name)[0], rel=1e-9), name  # BLAS adds up in another order
        for name in ("statistic", "p", "size", "size_low", "size_high", *(("low", "high") if not resamples else ())):
            assert np.isnan(getattr(found, name)[1:]).all(), name
        assert np.isnan(found.effect[[1, 2, 4]]).all()
        assert found.effect[3] == pytest.approx(0.5 if method == "mann_whitney" else 0, abs=1e-14)
    single = compare(values, group, method=method, max_missing=1.0)
    assert np.isfinite(single.p[1])
    assert np.isnan(single.p[2]) == (method == "welch")
    assert np.isfinite(single.effect[2])
    assert np.isnan(single.p[3:]).all()


def test_both_groups_constant_but_different() -> None:
    for method in ("welch", "linear"):
        found = compare(np.repeat([[0.1], [0.3]], 5, axis=0), np.repeat([0, 1], 5), method=method)
        assert found.effect == pytest.approx([0.2])
        assert np.isnan([found.statistic, found.p, found.size]).all()


def test_covariates_that_decide_the_group_of_a_test() -> None:
    """The two subjects of group 1 at site 0 tell group and site apart; where they are missing nobody can."""
    group = np.repeat([0, 1], 10)
    site = group.copy()
    site[10:12] = 0
    values = np.random.default_rng(0).normal(size=(20, 2))
    values[10:12, 1] = np.nan
    found = compare(values, group, method="linear", covariates=site[:, None], resamples=50)
    assert np.isfinite(found.p[0])
    assert np.isnan([found.effect[1], found.p[1], found.size[1], found.low[1]]).all()
    assert found.n[:, 1].tolist() == [10, 8]
    with pytest.raises(InputError, match="covariates: expected a group that the covariates do not decide"):
        compare(values, group, method="linear", covariates=group[:, None])


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        ([0, 0, 0, 0], {}, "subjects in both groups, found 4 in group 0, 0 in group 1"),
        ([1, 2, 1, 2], {}, "0, 1 or NaN, found shape"),
        (["HC", "DCM", "HC", "DCM"], {}, "groups: expected numbers"),
        ([0, 1, 1], {}, "4 subjects as in the values, found 3"),
        ([0, 0, 1, 1], {"covariates": [[1], [2], [3], [4]]}, "Use method 'linear'"),
        ([0, 0, 1, 1], {"method": "linear", "covariates": [[np.nan]] * 4}, "subjects with all covariates, found none"),
        ([0, 0, 1, 1], {"method": "linear", "covariates": [1, 2, 3, 4]}, "a table"),
    ],
)
def test_one_error_where_nothing_can_be_computed(group: list[object], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(np.arange(8.0).reshape(4, 2), group, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_no_tests_give_no_answers(method: str) -> None:
    assert compare(np.zeros((4, 0)), [0, 0, 1, 1], method=method, resamples=3).p.shape == (0,)


def test_unknown_method() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'welch'"):
        compare(np.zeros((2, 1)), [0, 1], method="welsh")
