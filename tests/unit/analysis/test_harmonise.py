"""ComBat against the published steps written out, planted effects, missing values, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cohort_engine.analysis.harmonise import Model, apply, learn
from cohort_engine.analysis.site_check import tell_site
from cohort_engine.errors import CohortError, InputError, UnknownNameError

SHIFT, SCALE = np.array([0.0, 6.0, -4.0]), np.array([1.0, 1.6, 0.6])
AGE_EFFECT = -0.1


@pytest.fixture
def batches():
    """Three sites of 60, 40, 50 people; 30 features about 50 with SD 2; age -0.1 a year; planted shift (SD 2) and scale of each site."""
    rng = np.random.default_rng(3)
    site = np.repeat([0, 1, 2], [60, 40, 50])
    age = rng.uniform(20, 70, len(site)) + 10 * site  # site and age go together
    sex = np.where(rng.random(len(site)) < 0.5, "F", "M")
    noise = rng.normal(0, 2, (len(site), 30))
    values = 50 + rng.normal(0, 5, 30) + AGE_EFFECT * age[:, None] + 1.5 * (sex == "M")[:, None] + SHIFT[site][:, None] + SCALE[site][:, None] * noise
    return values, np.array(["a", "b", "c"])[site], {"age": age, "sex": sex}


def combat(values, site, age, sex, *, shrink):
    """Johnson et al. 2007, one feature and one site at a time, each feature from the people it is known of."""
    sites = np.unique(site)
    features = values.shape[1]
    x = np.c_[age, sex == "M"]
    z, fitted, sigma = np.full_like(values, np.nan), np.empty_like(values), np.empty(features)
    for f in range(features):
        have = np.isfinite(values[:, f])
        design = np.c_[(site[:, None] == sites).astype(float), x]
        b = np.linalg.lstsq(design[have], values[have, f])[0]
        grand = sum(np.mean(site[have] == s) * b[i] for i, s in enumerate(sites))
        fitted[:, f] = grand + x @ b[len(sites) :]
        sigma[f] = np.sqrt(np.sum((values[have, f] - design[have] @ b) ** 2) / (have.sum() - len(sites)))  # published: over have.sum()
        z[:, f] = (values[:, f] - fitted[:, f]) / sigma[f]
    out = np.full_like(values, np.nan)
    for s in sites:
        mine = [z[(site == s) & np.isfinite(z[:, f]), f] for f in range(features)]
        gamma, delta = np.array([v.mean() for v in mine]), np.array([v.var(ddof=1) for v in mine])
        m, v = delta.mean(), delta.var(ddof=1)
        a, b = (2 * v + m**2) / v, (m * v + m**3) / v
        for f, column in enumerate(mine):
            g, d = gamma[f], delta[f]
            for _ in range(200 if shrink else 0):
                n, t = len(column), gamma.var(ddof=1)
                g = (n * t * gamma[f] + d * gamma.mean()) / (n * t + d)
                d = (b + 0.5 * ((column - g) ** 2).sum()) / (n / 2 + a - 1)
            out[site == s, f] = sigma[f] * (z[site == s, f] - g) / np.sqrt(d) + fitted[site == s, f]
    return out


@pytest.fixture(params=[0.0, 0.15], ids=["complete", "missing"])
def holes(request, batches):
    values, site, covariates = batches
    values = values.copy()
    values[np.random.default_rng(7).random(values.shape) < request.param] = np.nan
    return values, site, covariates


@pytest.mark.parametrize("shrink", [True, False])
def test_equal_to_the_published_steps(holes, shrink) -> None:
    values, site, covariates = holes
    expected = combat(values, site, covariates["age"], covariates["sex"], shrink=shrink)
    found = learn(values, site, covariates, shrink=shrink)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, equal_nan=True)
    assert found.model.warnings == ()
    assert found.model.n.sum() == np.isfinite(values).sum()


def test_sites_that_are_alike_keep_their_spread() -> None:
    """Values of two sites of 3 people with SD 1 about 7 and 17 have SD 1 afterwards; over n, as published, it would be 0.82."""
    found = learn([[6.0], [7.0], [8.0], [16.0], [17.0], [18.0]], ["a"] * 3 + ["b"] * 3, shrink=False)
    np.testing.assert_allclose(found.values.ravel(), [11.0, 12.0, 13.0] * 2)
    np.testing.assert_allclose(found.model.scale, 1)


def test_missing_values_leave_each_feature_to_those_who_have_it(batches) -> None:
    """Without shrinkage a feature with holes is that feature alone, its people complete."""
    values, site, covariates = batches
    holed = values.copy()
    holed[::3, 4] = np.nan
    have = np.isfinite(holed[:, 4])
    alone = learn(values[have][:, [4]], site[have], {k: v[have] for k, v in covariates.items()}, shrink=False)
    together = learn(holed, site, covariates, shrink=False)
    np.testing.assert_allclose(together.values[have, 4], alone.values[:, 0], rtol=1e-10)
    assert np.isnan(together.values[~have, 4]).all()
    np.testing.assert_allclose(np.delete(together.values, 4, 1), np.delete(learn(values, site, covariates, shrink=False).values, 4, 1), rtol=1e-10)


def test_planted_shift_scale_and_age_are_found(batches) -> None:
    values, site, covariates = batches
    model = learn(values, site, covariates).model
    weights = np.array([60, 40, 50]) / 150
    np.testing.assert_allclose((model.shift * model.sd).mean(axis=1), SHIFT - weights @ SHIFT, atol=0.25)
    pooled = np.sqrt(weights @ SCALE**2)
    np.testing.assert_allclose(model.scale.mean(axis=1), SCALE / pooled, rtol=0.05)
    np.testing.assert_allclose(model.effects.mean(axis=1), [AGE_EFFECT, 1.5], atol=0.1)


def test_a_site_of_people_who_are_left_out_alone_is_no_site() -> None:
    """Somebody without an age, alone at a site, was answered with a site that was not learnt."""
    out = learn([[1.0], [3.0], [11.0], [13.0], [5.0]], ["A", "A", "B", "B", "C"], {"age": [1.0, 2.0, 1.0, 2.0, np.nan]})
    assert out.model.sites == ("A", "B")
    assert np.isnan(out.values.ravel()).tolist() == [False] * 4 + [True]


def test_folds_are_counted_after_people_are_left_out() -> None:
    """Four were promised, one of them had no value, and the smallest site was said to have 0."""
    values = np.arange(13.0)[:, None] % 7
    values[0] = np.nan
    site = ["A"] * 4 + ["B"] * 5 + ["", "C", "", ""]
    check = tell_site(values, site)
    assert (check.n, check.folds, check.left_out) == (8, 3, 5)
    with pytest.raises(InputError, match="found 2 sites of 3 people or more with values, the smallest of 3, and 4 folds"):
        tell_site(values, site, folds=4)
    with pytest.raises(InputError, match="found 1 sites of 3 people or more with values, the smallest of 5, and 5 folds"):
        tell_site(values[4:], site[4:])


def test_age_is_kept_and_lost_where_it_is_not_named(batches) -> None:
    values, site, covariates = batches

    def slope(table):
        return np.polyfit(covariates["age"], table.mean(axis=1), 1)[0]

    assert slope(learn(values, site, covariates).values) == pytest.approx(AGE_EFFECT, abs=0.015)
    assert abs(slope(learn(values, site).values)) < 0.85 * abs(AGE_EFFECT)  # site took some of it: they go together


def test_site_can_be_told_before_and_not_after(batches) -> None:
    values, site, covariates = batches
    before, after = (tell_site(values, site, harmonise=h, covariates=covariates, permutations=19) for h in (False, True))
    assert (before.accuracy > 0.9, before.p) == (True, 0.05)
    assert after.low <= after.accuracy <= after.high
    assert (before.n, before.folds) == (150, 5)
    assert before.chance == pytest.approx(1 / 3, abs=0.05)
    assert tell_site(values, site, covariates=covariates, permutations=19) == before  # seeded


def test_what_is_left_of_sites_is_that_of_chance() -> None:
    """20 studies of three sites of 8 people, half with a scanner effect: harmonised with the held-out people, 4 % were told where chance is 33 %."""
    site, found = np.repeat(["a", "b", "c"], 8), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((24, 6)) + rng.standard_normal((24, 1)) + (seed % 2) * np.repeat([0, 3, -2], 8)[:, None]
        found.append(tell_site(values, site, harmonise=True, permutations=19, seed=seed))
    told = np.array([f.accuracy for f in found])
    assert told.mean() == pytest.approx(np.mean([f.chance for f in found]), abs=3 * told.std() / np.sqrt(20))
    assert np.mean([f.p <= 0.05 for f in found]) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 20)


def test_a_scanner_that_harmonisation_cannot_remove_is_told() -> None:
    """Sites differ in how two features go together: their means after harmonisation are alike, and stay so; a shift of their product is told."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((60, 2))
    z[30:, 1] = z[30:, 0] + 0.1 * z[30:, 1]
    values = np.column_stack([z, np.sign(z[:, :1] * z[:, 1:])])
    site = np.repeat(["a", "b"], 30)
    assert tell_site(values, site).p <= 0.05
    assert tell_site(values[:, :2], site).p > 0.05


def test_patients_of_one_scanner_are_no_trace_of_it() -> None:
    """Site a scanned the patients, who differ; sites are permuted within the groups, so that chance tells as well."""
    group = np.r_[np.repeat([0, 1], [5, 25]), np.repeat([0, 1], [25, 5])]
    values = np.random.default_rng(2).standard_normal((60, 5)) + 2 * group[:, None]
    site = np.repeat(["a", "b"], 30)
    assert tell_site(values, site).p <= 0.05
    assert tell_site(values, site, strata=group).p > 0.05


def test_saved_parameters_do_the_same(holes) -> None:
    values, site, covariates = holes
    out = learn(values, site, covariates)
    again = Model.from_mapping(json.loads(json.dumps(out.model.to_mapping())))
    np.testing.assert_array_equal(apply(again, values, site, covariates), out.values)
    np.testing.assert_array_equal(apply(out.model, values[5:9], site[5:9], {k: v[5:9] for k, v in covariates.items()}), out.values[5:9])


def test_parameters_without_covariates_and_with_nan_survive_json() -> None:
    values = np.random.default_rng(0).normal(size=(8, 3))
    values[:3, 1] = np.nan
    model = learn(values, list("aaaabbbb")).model
    again = Model.from_mapping(json.loads(json.dumps(model.to_mapping())))
    for name in ("mean", "effects", "sd", "shift", "scale", "n"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert np.isnan(again.shift[0, 1])


def test_a_constant_feature_is_passed_on_and_said(batches) -> None:
    values, site, covariates = batches
    values = values.copy()
    values[:, 3] = 0.1
    out = learn(values, site, covariates)
    np.testing.assert_array_equal(out.values[:, 3], values[:, 3])
    assert out.model.warnings == ("1 features are constant (feature 3): passed on as they are",)
    others = learn(np.delete(values, 3, 1), site, covariates).values
    np.testing.assert_allclose(np.delete(out.values, 3, 1), others, rtol=1e-10)


def test_a_site_without_the_feature_is_nan_there_and_said(batches) -> None:
    values, site, covariates = batches
    values = values.copy()
    at_b = np.flatnonzero(site == "b")
    values[at_b[1:], 2] = np.nan
    out = learn(values, site, covariates)
    assert np.isnan(out.values[site == "b", 2]).all()
    assert np.isfinite(out.values[site != "b", 2]).all()
    assert out.model.warnings == ("1 of 90 cells (site, feature) have fewer than 2 values: NaN",)


def test_a_feature_of_one_site_is_nan_and_said(batches) -> None:
    values, site, covariates = batches
    values = values.copy()
    values[site != "a", 2] = np.nan
    out = learn(values, site, covariates)
    assert np.isnan(out.values[:, 2]).all()
    assert any("1 features are known at fewer than two sites" in w for w in out.model.warnings)


def test_people_without_a_covariate_are_left_out_and_said(batches) -> None:
    values, site, covariates = batches
    age = covariates["age"].copy()
    age[:2] = np.nan
    out = learn(values, site, {**covariates, "age": age})
    assert np.isnan(out.values[:2]).all()
    assert out.model.warnings == ("2 subjects without a site or covariate are left out",)
    np.testing.assert_allclose(out.values[2:], learn(values[2:], site[2:], {k: v[2:] for k, v in covariates.items()}).values, rtol=1e-10)


def test_a_single_feature_has_nothing_to_borrow(batches) -> None:
    values, site, covariates = batches
    out = learn(values[:, :1], site, covariates)
    np.testing.assert_array_equal(out.values, learn(values[:, :1], site, covariates, shrink=False).values)
    assert sum("nothing to borrow" in w for w in out.model.warnings) == 3


def test_a_feature_without_variance_at_one_site() -> None:
    values = np.random.default_rng(0).normal(size=(10, 4))
    values[:5, 0] = 7
    out = learn(values, list("aaaaabbbbb"), shrink=False)
    assert np.isnan(out.values[:5, 0]).all()
    assert np.isfinite(out.values[5:]).all()
    assert "1 cells (site, feature) have no variance: NaN" in out.model.warnings
    assert np.isfinite(learn(values, list("aaaaabbbbb")).values).all()  # the other features lend one


def test_the_same_feature_twice_is_no_division_by_zero() -> None:
    column = np.random.default_rng(0).normal(size=(12, 1))
    out = learn(np.c_[column, column], list("aaaaaabbbbbb"))
    np.testing.assert_allclose(out.values, learn(column, list("aaaaaabbbbbb"), shrink=False).values.repeat(2, 1), rtol=1e-6)


def test_a_site_that_is_one_diagnosis_is_refused(batches) -> None:
    values, site, _ = batches
    with pytest.raises(InputError, match=r"told apart \(rank 4\), found rank 3. A covariate follows the site"):
        learn(values, site, {"diagnosis": np.where(site == "b", "patient", "control")})


@pytest.mark.parametrize(
    ("site", "match"),
    [(["a"] * 6, "two sites or more, found 1"), (list("aaaaab"), "found one subject at b"), (list("aaabb"), "expected 6 sites, found 5")],
)
def test_sites_that_cannot_be_harmonised(site, match) -> None:
    with pytest.raises(InputError, match=match):
        learn(np.random.default_rng(0).normal(size=(6, 3)), site)


def test_what_was_not_learnt_is_refused(batches) -> None:
    values, site, covariates = batches
    model = learn(values, site, covariates).model
    with pytest.raises(UnknownNameError, match="site that was not learnt: expected a known site, found 'd'"):
        apply(model, values[:1], ["d"], {"age": [30], "sex": ["F"]})
    with pytest.raises(InputError, match="expected 30 features, found 29"):
        apply(model, values[:1, 1:], ["a"], {"age": [30], "sex": ["F"]})
    with pytest.raises(UnknownNameError, match="known covariate, found 'age'"):
        apply(model, values[:1], ["a"])


@pytest.mark.parametrize("damage", [{"sd": [1.0]}, {"sites": ["a"]}, {"mean": "x"}, {"levels": 3}, {"shift": None}])
def test_damaged_parameters_are_refused(batches, damage) -> None:
    values, site, _ = batches
    saved = learn(values, site).model.to_mapping()
    with pytest.raises(InputError, match="harmonise: expected saved parameters"):
        Model.from_mapping({**saved, **damage})
    with pytest.raises(InputError):
        Model.from_mapping({k: v for k, v in saved.items() if k not in damage})


@pytest.mark.parametrize(
    ("values", "site"), [(np.full((6, 2), np.nan), list("aaabbb")), (np.ones((6, 2)), list("aaaaaa")), (np.ones((6, 2)), list("aaaabb"))]
)
def test_sites_that_cannot_be_told(values, site) -> None:
    with pytest.raises(CohortError, match="at least as many subjects as folds, found"):
        tell_site(values, site, folds=3)
