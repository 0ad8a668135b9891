"""The cross-validated classifier: as scikit-learn's, without leaks, with whole people and sites in the folds, and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cohort_engine.analysis import classify
from cohort_engine.analysis.classify import LEFT_OUT, CrossValidated, _choose, _deal, cross_validate
from cohort_engine.analysis.cluster import adjusted_rand, cluster
from cohort_engine.analysis.harmonise import apply, learn
from cohort_engine.analysis.roc import auc
from cohort_engine.errors import InputError, MissingPackageError, NotEnoughError

ONE = (0.1,)
"""A grid of one strength: no inner folds."""


def study(seed: int = 0, *, sizes: tuple[int, int] = (30, 15), features: int = 4, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features that go together; the first differs between the groups by `effect` standard deviations."""
    rng = np.random.default_rng(seed)
    group = np.repeat([0.0, 1.0], sizes)
    values = rng.standard_normal((len(group), features)) + 0.7 * rng.standard_normal((len(group), 1))
    values[:, 0] += effect * group
    return values, group


def holed(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    return np.where(np.random.default_rng(5).random(values.shape) < share, np.nan, values)


def two_sites(seed: int, shift: float = 2.0, size: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """No effect of the disease; at site A, which is `shift` higher, 80 % are patients, at site B 20 %."""
    group = np.concatenate([np.arange(size) < 0.8 * size, np.arange(size) < 0.2 * size]).astype(float)
    site = np.repeat(["A", "B"], size)
    return np.random.default_rng(seed).standard_normal((2 * size, 4)) + shift * (site == "A")[:, None], group, site


def sklearn_model(strength: float) -> Any:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-12, max_iter=500),
    )


def same(first: CrossValidated, second: CrossValidated) -> None:
    for name in ("score", "probability", "fold", "fold_auc", "coefficients", "strength"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_probabilities_are_scikit_learns() -> None:
    values, group = study(effect=1.0)
    values = holed(values)
    found = cross_validate(values, group, grid=ONE)
    expected = cross_val_predict(sklearn_model(0.1), values, group, cv=PredefinedSplit(found.fold[0]), method="predict_proba")[:, 1]
    np.testing.assert_allclose(found.probability, expected, rtol=0, atol=1e-10)
    for k in range(5):
        out = found.fold[0] == k
        model = sklearn_model(0.1).fit(values[~out], group[~out])
        logit = model.decision_function(values[out]) - model[-1].intercept_
        np.testing.assert_allclose(found.score[out], logit / model.decision_function(values[~out]).std(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.coefficients[0, k], model[-1].coef_[0], rtol=0, atol=1e-10)
        assert found.fold_auc[0, k] == pytest.approx(roc_auc_score(group[out], logit), abs=1e-12)
    assert found.auc == pytest.approx(roc_auc_score(group, found.score), abs=1e-12)
    of = auc(found.score[:, None], group)
    assert (found.se, found.low, found.high, found.n.tolist()) == (of.se[0], of.low[0], of.high[0], [30, 15])
    assert found.warnings == ()


@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_is_the_one_of_a_grid_search(seed: int) -> None:
    values, group = study(seed, effect=0.8)
    grid = [0.003, 0.03, 0.3, 3.0]
    chosen = _choose(values, group == 1, np.arange(45), grid, 5, np.random.default_rng(seed), [])
    parts = _deal(np.stack([group == 0, group == 1], axis=1), np.arange(45), 5, np.random.default_rng(seed))
    search = GridSearchCV(sklearn_model(1.0), {"logisticregression__C": grid}, scoring="neg_log_loss", cv=PredefinedSplit(parts)).fit(values, group)
    assert chosen == search.best_params_["logisticregression__C"]


def test_harmonised_scores_are_those_of_the_steps_one_by_one() -> None:
    values, group, site = two_sites(1)
    values = holed(values)
    covariates = {"age": np.random.default_rng(2).uniform(20, 70, 40), "sex": np.where(np.arange(40) % 3, "F", "M")}
    found = cross_validate(values, group, site=site, covariates=covariates, grid=ONE)
    for k in range(5):
        out = found.fold[0] == k
        fitted = learn(values[~out], site[~out], {name: column[~out] for name, column in covariates.items()})
        model = sklearn_model(0.1).fit(fitted.values, group[~out])
        held = apply(fitted.model, values[out], site[out], {name: column[out] for name, column in covariates.items()})
        np.testing.assert_allclose(found.probability[out], model.predict_proba(held)[:, 1], rtol=0, atol=1e-10)


def test_a_held_out_diagnosis_changes_no_score_and_no_value_of_others_does() -> None:
    """With the same folds, what is held out does not enter the model: neither its diagnosis nor, for its neighbours, its values."""
    values, group, site = two_sites(3)
    part = cross_validate(values, group, site=site, grid=ONE).fold[0]
    people = classify._people(values, group, None, site, None, 0.5)[0]
    out = part == 2
    fit = classify._fit(people, out, [0.01, 1.0], 5, np.random.default_rng(0), [])
    other = classify._people(
        np.where(out[:, None] & (np.cumsum(out) > 1)[:, None], 99.0, values), np.where(out, 1 - group, group), None, site, None, 0.5
    )
    again = classify._fit(other[0], out, [0.01, 1.0], 5, np.random.default_rng(0), [])
    assert (again.score[0], again.logit[0], again.strength) == (fit.score[0], fit.logit[0], fit.strength)
    np.testing.assert_array_equal(again.coefficients, fit.coefficients)


def test_labels_that_mean_nothing_are_told_as_by_chance() -> None:
    """Sites, gaps and permuted labels; 20 studies, whose mean has a standard error of 0.02."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        site = rng.permutation(np.repeat(["A", "B", "C"], 20))
        values = holed(rng.standard_normal((60, 5)) + 3 * (site == "B")[:, None])
        found.append(cross_validate(values, rng.permutation(np.repeat([0, 1], 30)), site=site, grid=ONE, seed=seed).auc)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_a_site_that_scanned_more_patients_does_not_leak() -> None:
    plain, harmonised = [], []
    for seed in range(20):
        values, group, site = two_sites(seed)
        plain.append(cross_validate(values, group, grid=ONE, seed=seed).auc)
        harmonised.append(cross_validate(values, group, site=site, grid=ONE, seed=seed).auc)
    assert np.mean(plain) > 0.7
    assert np.mean(harmonised) == pytest.approx(0.5, abs=0.07)


def test_site_is_removed_where_it_hides_the_difference() -> None:
    """One marker, two sites 8 apart: between them it says nothing of the group, within each it does."""
    values, group = study(sizes=(30, 30), features=1, effect=2.0)
    site = np.where(np.arange(60) % 2, "A", "B")
    values += 8 * (site == "A")[:, None]
    assert cross_validate(values, group, grid=ONE).auc < 0.75
    assert cross_validate(values, group, site=site, grid=ONE).auc > 0.85


def test_how_sure_a_fold_is_does_not_enter_the_score() -> None:
    """One person held out at a time, little but the constant left: each constant speaks against the person, and the score is free of it."""
    probability, score = [], []
    for seed in range(25):
        values, group = study(seed, sizes=(6, 6))
        found = cross_validate(values, group, fold_by=np.arange(12), folds=None, grid=(1e-6,), seed=seed)
        probability.append(roc_auc_score(group, found.probability))
        score.append(found.auc)
    assert max(probability) < 0.01
    assert np.mean(score) == pytest.approx(0.5, abs=0.15)
    assert np.isnan(found.fold_auc).all()
    assert found.warnings == ("12 of 12 folds hold out one group only: no area of their own",)


def test_coefficients_say_which_feature_carries_the_difference() -> None:
    values, group = study(4, sizes=(60, 60), effect=2.0)
    found = cross_validate(values, group, repeats=2)
    assert np.argmax(np.abs(found.mean_coefficient)) == 0
    assert found.mean_coefficient[0] > 0
    assert found.sign_stability[0] == 1
    assert found.coefficients.shape == (2, 5, 4)
    np.testing.assert_allclose(found.coefficients.mean(axis=(0, 1)), found.mean_coefficient)
    assert 0.5 <= found.sign_stability.min() <= 1
    assert set(np.unique(found.strength)) <= set(classify.GRID)


def test_repeats_average_scores_and_the_seed_decides() -> None:
    values, group = study(effect=1.0)
    both = cross_validate(values, group, repeats=2, grid=ONE)
    first = cross_validate(values, group, grid=ONE)
    np.testing.assert_array_equal(both.fold[0], first.fold[0])
    assert (both.fold[1] != first.fold[0]).any()
    assert not np.allclose(both.score, first.score)
    assert both.auc == pytest.approx(roc_auc_score(group, both.score), abs=1e-12)
    same(both, cross_validate(values, group, repeats=2, grid=ONE))
    assert (cross_validate(values, group, grid=ONE, seed=1).fold != first.fold).any()


def test_units_do_not_matter_and_exchanged_groups_turn_the_score() -> None:
    values, group = study(effect=1.0)
    other_units = values * [1, 1e3, 0.01, 7] + 5
    found, scaled, turned = (cross_validate(v, g, grid=(0.01, 1.0)) for v, g in ((values, group), (other_units, group), (values, 1 - group)))
    np.testing.assert_allclose(scaled.score, found.score, atol=1e-8)
    np.testing.assert_array_equal(rankdata(scaled.score), rankdata(found.score))
    np.testing.assert_allclose(turned.score, -found.score, atol=1e-6)
    assert turned.auc == pytest.approx(found.auc, abs=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.lists(st.integers(0, 2), min_size=8, max_size=60), st.integers(0, 99))
def test_folds_share_out_every_stratum_and_keep_units_whole(folds: int, strata: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    which = np.array(strata)
    member = which[:, None] == np.unique(which)
    part = _deal(member, np.arange(len(which)), folds, rng)
    for column in member.T:
        held = np.bincount(part[column], minlength=folds)
        assert held.max() - held.min() <= 1
    unit = rng.integers(0, max(folds, len(which) // 3), len(which))
    whole = _deal(member, unit, folds, rng)
    for label in np.unique(unit):
        assert len(np.unique(whole[unit == label])) == 1


def test_groups_at_sites_are_shared_out() -> None:
    values, group, site = two_sites(0, size=25)
    part = cross_validate(values, group, site=site, grid=ONE).fold[0]
    for g in (0, 1):
        for name in "AB":
            held = np.bincount(part[(group == g) & (site == name)], minlength=5)
            assert held.max() - held.min() <= 1


def test_sessions_of_a_person_stay_together_and_would_leak_otherwise() -> None:
    """Three rows a person, alike; a label of each person that means nothing is told by rows, not by people."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(30), 3)
    group = np.repeat(rng.permutation(np.repeat([0, 1], 15)), 3)
    values = rng.standard_normal((30, 25))[person] + 0.05 * rng.standard_normal((90, 25))
    split = cross_validate(values, group, grid=(10.0,))
    whole = cross_validate(values, group, grid=(10.0,), fold_by=person)
    assert all(len(set(whole.fold[0, person == p])) == 1 for p in range(30))
    assert split.auc > 0.9
    assert whole.auc < 0.75
    assert "average the score of each" in whole.warnings[0]


def test_whole_sites_are_left_out() -> None:
    values, group = study(1, sizes=(30, 30), effect=2.0)
    site = np.array(list("ABCD"))[np.arange(60) % 4]
    found = cross_validate(values, group, fold_by=site, folds=None)
    assert sorted(set(zip(site.tolist(), found.fold[0].tolist(), strict=True))) == sorted({(s, int(found.fold[0, i])) for i, s in enumerate("ABCD")})
    assert found.fold_auc.shape == (1, 4)
    assert found.auc > 0.75
    scanner = np.where(site < "C", "1", "2")
    one_each = cross_validate(values, group, fold_by=np.char.add(np.where(group == 1, "P", "C"), scanner), folds=4)
    assert np.isnan(one_each.fold_auc).all()
    assert np.isfinite(one_each.auc)


def test_inner_folds_keep_labels_where_they_can() -> None:
    values, group = study(1, sizes=(30, 30), effect=1.0)
    two = np.where(np.arange(60) % 2, "A", "B")
    assert "chosen between their rows" in cross_validate(values, group, fold_by=two, folds=2).warnings[-1]
    four = np.array(list("ABCD"))[np.arange(60) % 4]
    assert not any("between their rows" in w for w in cross_validate(values, group, fold_by=four, folds=4).warnings)


def test_who_is_left_out_is_said_and_has_no_score() -> None:
    values, group = study(effect=1.0)
    group[0], values[1] = np.nan, np.nan
    site = np.where(np.arange(45) % 2, "A", "B").astype(object)
    site[2] = None
    age = np.linspace(20, 60, 45)[np.random.default_rng(0).permutation(45)]
    age[44] = np.nan
    found = cross_validate(values, group, site=site, covariates={"age": age}, grid=ONE)
    out = np.isnan(found.score)
    assert np.flatnonzero(out).tolist() == [0, 1, 2, 44]
    np.testing.assert_array_equal(found.fold[0] == LEFT_OUT, out)
    np.testing.assert_array_equal(np.isnan(found.probability), out)
    assert found.warnings[:3] == tuple(f"1 subjects without {what} are left out" for what in ("any value", "a site", "a covariate"))
    assert found.n.tolist() == [27, 14]


def _sites(*first: str) -> np.ndarray:
    return np.array([*first, *(("A", "B") * 30)])[:45]


BASE = dict(zip(("values", "group"), study(), strict=True))
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "one group": ({"group": np.ones(45)}, "both groups"),
    "a group of one": ({"group": np.arange(45) == 3}, "3 subjects or more in each group, found 44 in group 0 and 1 in group 1.*Add people"),
    "words": ({"group": np.array(["HC"] * 45)}, "numbers"),
    "more folds than cases": ({"folds": 16}, "16 folds and 15 subjects in the smaller group.*fewer folds"),
    "one fold": ({"folds": 1}, "two folds or more"),
    "no number of folds": ({"folds": None}, "give 5 or 10"),
    "more folds than labels": ({"fold_by": np.arange(45) % 3, "folds": 4}, "4 folds and 3 labels.*folds=None"),
    "a label that holds all cases": ({"fold_by": np.where(BASE["group"] == 1, "P", np.arange(45) % 3)}, "Use more folds|no more than"),
    "constant": ({"values": np.c_[BASE["values"], np.ones(45)]}, "features that vary, found 1 constant: feature 4. Leave it out"),
    "mostly missing": (
        {"values": np.c_[np.where(np.arange(45) % 3, np.nan, 1.0 * np.arange(45)), BASE["values"]]},
        "known of 50% of each group or more, found 1 known of fewer: feature 0. Leave it out, or raise max_missing",
    ),
    "infinite": ({"values": np.full((45, 2), np.inf)}, "infinite"),
    "short group": ({"group": np.repeat([0, 1], 20)}, "45 subjects"),
    "short site": ({"site": ["A", "B"]}, "45 labels, found 2"),
    "one site": ({"site": ["A"] * 45}, "two sites or more"),
    "a site of one": ({"site": _sites("C")}, "people of each site in every training part|site C wholly in fold"),
    "a site of two": ({"site": _sites("C", "C")}, "one of site C without fold .*Leave the site out"),
    "sites of one group": ({"site": np.where(BASE["group"] == 1, "A", "B")}, "sites of one group each"),
    "held-out sites": ({"site": _sites(), "fold_by": _sites(), "folds": 2}, "wholly in fold .*leave out site to see what a new scanner gives"),
    "the diagnosis kept": ({"site": _sites(), "covariates": {"diagnosis": np.where(BASE["group"] == 1, "MS", "HC")}}, "Leave out the diagnosis"),
    "its subtype kept": (
        {"site": _sites(), "covariates": {"kind": np.where(BASE["group"] == 1, np.where(np.arange(45) % 3, "RR", "PP"), "HC")}}, "Leave out the diag",
    ),
    "a rare category": ({"site": _sites(), "covariates": {"sex": np.where(np.arange(45) == 7, "X", "F")}}, "'X' in one fold only.*Join rare"),
    "covariates alone": ({"covariates": {"age": np.arange(45)}}, "give site"),
    "no strength": ({"grid": ()}, "a grid above 0"),
    "a strength of 0": ({"grid": (0.0, 1.0)}, "a grid above 0"),
    "no repeat": ({"repeats": 0}, "0 repeats"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES)
def test_what_is_refused_says_what_to_do(change: dict[str, Any], message: str) -> None:
    call = {**BASE, "grid": ONE, **change}
    with pytest.raises(InputError, match=message):
        cross_validate(call.pop("values"), call.pop("group"), **call)


def test_sites_of_one_group_are_named() -> None:
    site = np.where(BASE["group"] == 0, np.where(np.arange(45) % 3, "A", "C"), np.where(np.arange(45) % 2, "A", "B"))
    assert any("takes away: B, C" in w for w in cross_validate(**BASE, site=site, grid=ONE).warnings)


@pytest.mark.parametrize("call", [
    lambda: cluster(BASE["values"]),
    lambda: adjusted_rand([0, 0, 1, 1], [0, 0, 1, 1]),
])  # fmt: skip
def test_without_scikit_learn_the_extra_is_named(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.impute", "sklearn.cluster", "sklearn.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingPackageError, match=r'expected scikit-learn, found no module .sklearn.*pip install "cohort-engine\[analysis\]"'
    ) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("folds", "kind"), [(5, NotEnoughError), (1, InputError)])
def test_more_folds_than_people_is_a_small_study_and_one_fold_a_mistake(folds: int, kind: type[InputError]) -> None:
    values, group = np.arange(14.0).reshape(7, 2) % 5, np.array([0, 0, 0, 1, 1, 1, 1])
    with pytest.raises(InputError) as raised:
        cross_validate(values, group, folds=folds)
    assert type(raised.value) is kind


def test_p_and_interval_by_permutation() -> None:
    """Markers that tell nothing: p is uniform and the wider interval holds 0.5; with markers that do, p is the smallest there is."""
    group = np.repeat([0, 1], [14, 10])
    found = [cross_validate(np.random.default_rng(s).normal(size=(24, 3)), group, grid=ONE, permutations=19, seed=s) for s in range(12)]
    assert 0.3 < np.mean([f.p for f in found]) < 0.7
    assert np.mean([f.low < 0.5 < f.high for f in found]) >= 0.8
    plain = cross_validate(np.random.default_rng(0).normal(size=(24, 3)), group, grid=ONE, seed=0)
    assert np.isnan(plain.p)
    assert found[0].auc == plain.auc
    assert found[0].high - found[0].low >= plain.high - plain.low
    told = cross_validate(np.random.default_rng(0).normal(size=(24, 3)) + 2 * group[:, None], group, permutations=19)
    assert told.p == 0.05


def test_groups_are_dealt_within_sites() -> None:
    """A site of patients whose scanner reads higher is no finding: dealt within sites, chance reaches the same area."""
    rng = np.random.default_rng(4)
    site, group = np.repeat(["A", "B"], 16), np.concatenate([np.arange(16) < 12, np.arange(16) < 4]).astype(float)
    values = rng.normal(size=(32, 2)) + 3 * (site == "A")[:, None]
    found = cross_validate(values, group, folds=3, fold_by=None, site=site, grid=ONE, permutations=19)
    assert found.p > 0.05
