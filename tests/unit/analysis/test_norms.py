"""Deviations from healthy people: the t distribution of one more person, and centiles as ranks."""

import numpy as np
import pytest
from scipy import stats

from cohort_engine.analysis.norms import centile_curves, deviation, fit_norm, rank_centile
from cohort_engine.errors import InputError, UnknownNameError


def test_mean_and_sd_are_crawford_and_howell() -> None:
    reference = np.array([70.0, 72, 74, 76, 78])[:, None]
    out = deviation(fit_norm(reference), [[65.0]])
    t = (65 - 74) / (np.std(reference, ddof=1) * np.sqrt(6 / 5))
    assert out.z.item() == pytest.approx(-9 / np.sqrt(10))
    assert out.centile.item() == pytest.approx(100 * stats.t.cdf(t, 4))
    half = stats.t.ppf(0.975, 4) * np.sqrt(10) * np.sqrt(6 / 5)
    assert (out.lower.item(), out.upper.item()) == pytest.approx((74 - half, 74 + half))


@pytest.mark.parametrize("n", [5, 20, 200])
def test_interval_holds_one_more_healthy_person_whatever_the_size(n) -> None:
    rng = np.random.default_rng(n)
    reference, people = rng.normal(70, 8, (n, 4000)), rng.normal(70, 8, (1, 4000))
    out = deviation(fit_norm(reference), people, level=0.9)
    inside = ((people > out.lower) & (people < out.upper)).mean()
    assert inside == pytest.approx(0.9, abs=0.015)
    assert (out.centile < 5).mean() == pytest.approx(0.05, abs=0.012)


def test_regression_is_the_textbook_prediction() -> None:
    rng = np.random.default_rng(1)
    age, sex = rng.uniform(20, 70, 40), np.where(rng.random(40) < 0.5, "F", "M")
    y = 80 - 0.2 * age + 3 * (sex == "M") + rng.normal(0, 4, 40)
    x, new = np.c_[np.ones(40), age, sex == "M"], np.array([1, 90.0, 1])
    beta, rss = np.linalg.lstsq(x, y)[:2]
    s = np.sqrt(rss[0] / 37)
    spread = s * np.sqrt(1 + new @ np.linalg.inv(x.T @ x) @ new)
    out = deviation(fit_norm(y[:, None], {"age": age, "sex": sex}), [[55.0]], {"age": [90.0], "sex": ["M"]})
    assert out.expected.item() == pytest.approx(new @ beta)
    assert out.z.item() == pytest.approx((55 - new @ beta) / s)
    assert out.upper.item() - out.expected.item() == pytest.approx(stats.t.ppf(0.975, 37) * spread)
    assert out.centile.item() == pytest.approx(100 * stats.t.cdf((55 - new @ beta) / spread, 37))


def test_profiles_with_holes_are_each_slice_alone() -> None:
    rng = np.random.default_rng(2)
    reference = rng.normal(70, 5, (12, 3, 7))
    reference[rng.random(reference.shape) < 0.3] = np.nan
    people = rng.normal(60, 5, (4, 3, 7))
    people[0, 1, 2] = np.nan
    out = deviation(fit_norm(reference), people)
    assert out.z.shape == (4, 3, 7)
    assert out.n.shape == (3, 7)
    for i, j in np.ndindex(3, 7):
        healthy = reference[:, i, j][np.isfinite(reference[:, i, j])]
        assert out.n[i, j] == len(healthy)
        np.testing.assert_allclose(out.z[:, i, j], (people[:, i, j] - healthy.mean()) / healthy.std(ddof=1))


@pytest.mark.parametrize(
    ("reference", "n", "expected"), [([[70.0], [np.nan]], 1, np.nan), ([[np.nan], [np.nan]], 0, np.nan), ([[70.0], [70.0], [70.0]], 3, 70.0)]
)
def test_too_few_people_or_no_variance_is_nan_with_n(reference, n, expected) -> None:
    out = deviation(fit_norm(reference), [[60.0]])
    assert out.n.item() == n
    assert np.isnan(out.z.item())
    assert np.isnan(out.centile.item())
    np.testing.assert_equal(out.expected.item(), expected)


def test_people_without_age_are_nan_and_not_in_the_norm() -> None:
    age = [30.0, 40, 50, 60, np.nan]
    norm = fit_norm([[70.0], [68], [67], [64], [1000]], {"age": age})
    assert norm.n.item() == 4
    out = deviation(norm, [[60.0], [60.0]], {"age": [45, np.nan]})
    assert np.isfinite(out.z[0, 0])
    assert np.isnan(out.z[1, 0])


def test_a_covariate_that_does_not_vary_determines_nothing() -> None:
    assert np.isnan(fit_norm([[1.0], [2], [3], [4]], {"age": [30, 30, 30, 30]}).sd).all()


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda norm: deviation(norm, [[1.0, 2.0]], {"age": [3]}), InputError, r"values of shape \(1,\) a subject, as the reference, found \(2,\)"),
        (lambda norm: deviation(norm, [1.0], {"age": [3]}), InputError, r"expected values \(subject, ...\)"),
        (lambda norm: deviation(norm, [[1.0]]), UnknownNameError, "known covariate, found 'age'"),
        (lambda norm: deviation(norm, [[1.0]], {"age": [3]}, level=95), InputError, "level between 0 and 1, found 95"),
        (lambda norm: fit_norm(np.empty((0, 4))), InputError, "reference: expected a table"),
        (lambda norm: fit_norm([[np.inf]]), InputError, "1 infinite"),
        (lambda norm: centile_curves([[1.0]], [0, 50]), InputError, "above 0 and below 100"),
        (lambda norm: rank_centile([[1.0]], [[1.0, 2.0]]), InputError, "as the reference"),
    ],
)
def test_bad_input(call, kind, match) -> None:
    with pytest.raises(kind, match=match):
        call(fit_norm([[1.0], [3], [2], [5]], {"age": [1, 2, 3, 4]}))


def test_rank_is_uniform_for_one_more_healthy_person() -> None:
    """Whatever the distribution: skewed here."""
    rng = np.random.default_rng(0)
    centile, n = rank_centile(rng.exponential(size=(19, 6000)), rng.exponential(size=(1, 6000)))
    assert (n == 19).all()
    ranks, counts = np.unique(centile.round(6), return_counts=True)
    np.testing.assert_allclose(ranks, 2.5 + 5 * np.arange(20))
    np.testing.assert_allclose(counts / 6000, 0.05, atol=0.01)


def test_rank_of_equal_values_is_the_middle_one() -> None:
    centile, _ = rank_centile([[1.0], [2], [2], [3], [np.nan]], [[2.0], [0.0], [9.0], [np.nan]])
    np.testing.assert_allclose(centile.ravel(), [50, 10, 90, np.nan])
    centile, n = rank_centile([[np.nan]], [[1.0]])
    assert np.isnan(centile.item())
    assert n.item() == 0


def test_curves_are_numpys_weibull_where_the_reference_reaches() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(30, 8))
    reference[rng.random(reference.shape) < 0.2] = np.nan
    found = centile_curves(reference, [1, 10, 50, 90, 99])
    expected = np.nanquantile(reference, [0.01, 0.1, 0.5, 0.9, 0.99], axis=0, method="weibull")
    assert np.isnan(found[[0, 4]]).all()
    np.testing.assert_allclose(found[1:4], expected[1:4])
    assert np.isnan(centile_curves([[np.nan], [np.nan]], [50])).all()
    np.testing.assert_allclose(centile_curves(np.arange(1.0, 100)[:, None], [1, 99]).ravel(), [1, 99])
