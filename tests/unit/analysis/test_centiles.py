"""Centile curves against distributions that are known, and against numbers worked out from their formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import ndtr, ndtri

from cohort_engine.analysis.centiles import Centiles, _Part, fit_centiles, place_site, position, value_at
from cohort_engine.errors import InputError, UnknownNameError

CENTILES = np.array([3.0, 10, 50, 90, 97])


def healthy(n: int, seed: int, *, site: float = 0.0, low: float = 20.0) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Values (n, 1) that bend and spread with age, skewed, larger in men; and the true centile of each."""
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(low, 80, n), rng.choice(["F", "M"], n)
    z = rng.standard_normal(n)
    q = np.sinh((np.arcsinh(z) + 0.3) / 0.9)
    location = 4.2 + site + 0.08 * (sex == "M") - 0.00006 * (age - 30).clip(0) ** 2
    return np.exp(location + 0.08 * (1 + 0.006 * (age - 50)) * q)[:, None], {"age": age, "sex": sex}, 100 * ndtr(z)


def test_curves_of_a_known_distribution() -> None:
    values, people, _ = healthy(4000, 0)
    curves = fit_centiles(values, people)
    new, there, truth = healthy(4000, 1)
    found = position(curves, new, there)
    assert np.abs(found.centile[:, 0] - truth).mean() < 2
    assert np.abs((found.centile < CENTILES).mean(axis=0) - CENTILES / 100).max() < 0.025
    np.testing.assert_allclose(100 * ndtr(found.z), found.centile, atol=1e-9)
    at = value_at(curves, CENTILES, {"age": np.array([30.0, 75]), "sex": np.array(["F", "M"])})
    np.testing.assert_allclose(position(curves, at[:, 1], {"age": np.full(5, 75.0), "sex": np.full(5, "M")}).centile[:, 0], CENTILES, atol=1e-8)
    np.testing.assert_allclose(at[2], found_median(curves, [30.0, 75], ["F", "M"]), rtol=1e-12)


def found_median(curves: Centiles, age: list[float], sex: list[str]) -> np.ndarray:
    return position(curves, np.ones((2, 1)), {"age": np.array(age), "sex": np.array(sex)}).median


def test_sessions_of_a_person_count_once() -> None:
    values, people, _ = healthy(200, 2)
    plain = fit_centiles(values, people)
    five = {k: np.repeat(v, 5) for k, v in people.items()}
    often = fit_centiles(np.repeat(values, 5, axis=0), five, person=np.repeat(np.arange(200), 5))
    assert often.n.tolist() == [200]
    np.testing.assert_allclose(often.location, plain.location, atol=1e-4)
    np.testing.assert_allclose(often.shape, plain.shape, atol=1e-3)


def test_a_site_is_placed_by_its_controls() -> None:
    """On average over the controls that a site happens to have, its people lie where they should."""
    parts = [healthy(300, 3), healthy(300, 4, site=0.1)]
    both = {k: np.concatenate([p[1][k] for p in parts]) for k in ("age", "sex")}
    curves = fit_centiles(np.concatenate([p[0] for p in parts]), both, site=np.repeat(["a", "b"], 300))
    assert (curves.shift[0, 1] - curves.shift[0, 0]) == pytest.approx(0.1, abs=0.02)
    below = []
    for seed in range(60):
        controls, who, _ = healthy(12, 100 + seed, site=0.3)
        new, there, _ = healthy(400, 200 + seed, site=0.3)
        below.append((position(place_site(curves, controls, who), new, there).centile < CENTILES).mean(axis=0))
    assert np.abs(np.mean(below, axis=0) - CENTILES / 100).max() < 0.035
    assert np.mean(below, axis=0)[[0, 4]] == pytest.approx(CENTILES[[0, 4]] / 100, abs=0.02)


def test_one_bad_control_does_not_move_a_site() -> None:
    curves = fit_centiles(*healthy(300, 5)[:2])
    values, people, _ = healthy(15, 6)
    spoilt = values.copy()
    spoilt[0] = 15.0
    apart = place_site(curves, spoilt, people).shift / place_site(curves, values, people).shift
    assert np.abs(np.log(apart)).max() < 0.02


def test_a_level_of_the_young_ages_like_the_others() -> None:
    values, people, _ = healthy(600, 7)
    second = 1.2 * healthy(600, 8)[0]
    rng = np.random.default_rng(9)
    second = 1.2 * values * np.exp(rng.normal(0, 0.02, values.shape))
    old = people["age"] > 45
    second[old] = np.nan
    curves = fit_centiles(np.column_stack([values, second]), people, family=["area", "area"])
    at = {"age": np.array([25.0, 75]), "sex": np.array(["F", "F"])}
    median = value_at(curves, [50], at)[0]
    assert np.log(median[1, 1] / median[0, 1]) == pytest.approx(np.log(median[1, 0] / median[0, 0]), abs=0.03)
    alone = fit_centiles(second, people)
    assert np.isnan(position(alone, np.full((2, 1), 80.0), at).centile).ravel().tolist() == [False, True]


def test_gradient() -> None:
    rng = np.random.default_rng(0)
    x, z, sites = rng.normal(size=(40, 2)), np.column_stack([np.ones(40), rng.normal(size=40)]), np.eye(2)[rng.integers(0, 2, 40)]
    part = _Part.of(rng.normal(4, 0.1, 40), sites, x, z, rng.uniform(0.2, 1, 40))
    p = rng.normal(0, 0.2, 8)
    _, by_place, by_rest = part.loss(p[:2], p[2:])
    numeric = approx_fprime(p, lambda v: part.loss(v[:2], v[2:])[0], 1e-7)
    np.testing.assert_allclose(np.concatenate([by_place, by_rest]), numeric, rtol=1e-4, atol=1e-4)


def test_written_and_read() -> None:
    values, people, _ = healthy(150, 1)
    curves = fit_centiles(np.column_stack([values, np.where(np.arange(150) < 30, values[:, 0], np.nan)]), people, site=np.repeat(["a", "b"], 75))
    again = Centiles.of(json.loads(json.dumps(curves.describe())))
    where = np.repeat(["b"], 150)
    both = np.column_stack([values, values])
    np.testing.assert_allclose(position(again, both, people, site=where).z, position(curves, both, people, site=where).z, atol=1e-6)
    assert np.isnan(position(again, both, people, site=where).z[:, 1]).all()  # thirty people are too few
    with pytest.raises(InputError, match="file of centile curves"):
        Centiles.of({"coding": {}})


def test_what_cannot_be_said_is_missing_or_an_error() -> None:
    values, people, _ = healthy(150, 1, low=40)
    curves = fit_centiles(values, people, site=np.repeat(["a", "b"], 75))
    who = {"age": np.array([20.0, np.nan, 60, 60]), "sex": np.array(["F", "F", "", "M"])}
    found = position(curves, np.full((4, 1), 70.0), who, site=["a"] * 4)
    assert np.isnan(found.centile).ravel().tolist() == [True, True, True, False]
    with pytest.raises(InputError, match="the site of each person"):
        position(curves, values, people)
    with pytest.raises(InputError, match="one of a, b"):
        position(curves, values, people, site=["c"] * 150)
    with pytest.raises(UnknownNameError):
        position(curves, values, {"age": people["age"]}, site=["a"] * 150)
    with pytest.raises(InputError, match="above 0"):
        fit_centiles(-values, people)
    with pytest.raises(InputError, match="10 controls"):
        place_site(curves, values[:9], {k: v[:9] for k, v in people.items()})


def test_without_covariates_the_curves_are_quantiles() -> None:
    rng = np.random.default_rng(3)
    values = np.exp(rng.normal(3, 0.2, (3000, 1)))
    at = value_at(fit_centiles(values, {}), CENTILES, {}, people=1)[:, 0, 0]
    np.testing.assert_allclose(np.log(at), 3 + 0.2 * ndtri(CENTILES / 100), atol=0.02)
