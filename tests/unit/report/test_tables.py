"""Each table against the same numbers from scipy, numpy and pandas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cohort_engine.analysis import harmonise
from cohort_engine.analysis.compression import find_compression
from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.groups import compare
from cohort_engine.errors import ConfigError, InputError, NotEnoughError, UnknownNameError
from cohort_engine.quality.vocabulary import USABLE
from cohort_engine.sections import classifier, clusters, compression, correlations, groups, norms, people, repeats, roc, sites
from cohort_engine.sections.base import family
from cohort_engine.sections.classifier import markers
from cohort_engine.sections.correlations import scores
from cohort_engine.sections.roc import pairs
from cohort_engine.study.material import Profile, _harmonised

close = {"rtol": 1e-10, "atol": 0}
FEATURES = [
    ("mtr", "white matter", "C2"), ("mtr", "gray matter", "C2"), ("mtr", "white matter", "C2:C3"), ("mtr", "gray matter", "C2:C3"),
    ("area", "spinal cord", "C2"), ("area", "spinal cord", "C2:C3"),
]  # fmt: skip
CONTROLS, CASES = 14, 18


@pytest.fixture
def settings(make_config):
    return lambda **sections: make_config(analysis=sections).analysis


@pytest.fixture
def material(make_material):
    """14 controls and 18 cases; the last feature is constant, one value in ten is missing."""
    rng = np.random.default_rng(4)
    group = np.repeat([0.0, 1.0], [CONTROLS, CASES])
    n = len(group)
    values = 40 + rng.normal(0, 2, (n, 6)) - 1.5 * group[:, None]
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 5] = 70.0
    mjoa = np.where(rng.random(n) < 0.2, np.nan, np.rint(18 - 4 * group * rng.random(n)))
    return make_material(
        values, group, FEATURES, age=rng.uniform(30, 70, n).round(), sex=rng.choice(["F", "M"], n), site=rng.choice(["a", "b"], n), mjoa=mjoa,
        grip=rng.normal(40, 5, n).round(1),
    )  # fmt: skip


def split(material, feature):
    """Known values of controls and of cases."""
    return [v[np.isfinite(v)] for v in (material.values[material.people.group == g, feature] for g in (0, 1))]


def q_of(p, names):
    """Benjamini and Hochberg within each family, by pandas."""
    out = pd.Series(np.nan, range(len(p)))
    for _, part in pd.Series(p).groupby(names):
        known = part.dropna()
        if len(known):
            out[known.index] = stats.false_discovery_control(known)
    return out.to_numpy()


# --- groups -----------------------------------------------------------------------------------------------------------
def test_groups_count_values_by_their_errors(material, settings) -> None:
    rng = np.random.default_rng(6)
    errors, usable = np.exp(rng.standard_normal(material.values.shape)), rng.uniform(0.2, 1, len(material.values))
    sure = replace(material, errors=errors, quality=pd.DataFrame({USABLE: usable}))
    table, even = (groups.compute(sure, settings(tests={"weigh": w}))["groups"] for w in (True, False))
    expected = compare(material.values, material.people.group, errors=errors, trust=usable)
    for name in ("effect", "se", "se_even", "p", "low", "high"):
        np.testing.assert_allclose(table[name], getattr(expected, name), **close)
        np.testing.assert_allclose(even[name], getattr(compare(material.values, material.people.group), name), **close)
    assert (even["se"].dropna() == even["se_even"].dropna()).all()
    assert (table["se_even"].dropna() == even["se"].dropna()).all()
    assert "Values count by their uncertainty" in groups._gain(table)
    assert groups._gain(even) == ""
    ranks = groups.compute(sure, settings(tests={"method": "mann_whitney"}))["groups"]
    np.testing.assert_allclose(ranks["p"], compare(material.values, material.people.group, method="mann_whitney").p, **close)


def test_errors_are_on_the_scale_of_the_harmonised_values(material, settings) -> None:
    measured = replace(material, errors=np.full(material.values.shape, 2.0))
    done = _harmonised(measured, settings(harmonise={"site": "site"}))
    model, site = done.models["mtr"], material.people.column("site")
    for row in (0, 5, 20):
        np.testing.assert_allclose(done.errors[row, :4], 2 / model.scale[model.sites.index(site[row])], **close)
    assert (measured.errors == 2).all()


def test_groups_by_welch(material, settings) -> None:
    table = groups.compute(material, settings())["groups"]
    for j in range(5):
        a, b = split(material, j)
        found = stats.ttest_ind(b, a, equal_var=False)
        interval = found.confidence_interval(0.95)
        row = table.loc[j]
        np.testing.assert_allclose(row[["statistic", "p", "df", "low", "high"]].astype(float), [*found, found.df, *interval], **close)
        np.testing.assert_allclose(
            row[["mean_control", "sd_control", "mean_case", "sd_case"]].astype(float), [a.mean(), a.std(ddof=1), b.mean(), b.std(ddof=1)], **close
        )
        assert (row["n_control"], row["n_case"]) == (len(a), len(b))
    assert table.loc[5, ["p", "q", "statistic", "size"]].isna().all()  # constant
    assert (table.loc[5, "effect"], table.loc[5, "n_case"]) == (0, CASES)
    np.testing.assert_allclose(table["q"], q_of(table["p"], [""] * 6), **close)
    assert table["family"].tolist() == [""] * 6
    wide = stats.ttest_ind(*reversed(split(material, 0)), equal_var=False).confidence_interval(1 - 0.05 / 5)
    np.testing.assert_allclose(table.loc[0, ["low_all", "high_all"]].astype(float), [*wide], **close)
    assert set(table["size_kind"]) == {"Hedges' g"}


def test_groups_by_mann_whitney(material, settings) -> None:
    table = groups.compute(material, settings(tests={"method": "mann_whitney", "family": ["metric", "level"]}))["groups"]
    for j in range(5):
        a, b = split(material, j)
        found = stats.mannwhitneyu(b, a, method="exact")
        np.testing.assert_allclose(table.loc[j, ["statistic", "p"]].astype(float), [*found], **close)
        np.testing.assert_allclose(table.loc[j, "effect"], found.statistic / len(a) / len(b), **close)
    assert table["family"].tolist() == ["mtr C2", "mtr C2", "mtr C2:C3", "mtr C2:C3", "area C2", "area C2:C3"]
    np.testing.assert_allclose(table["q"], q_of(table["p"], table["family"]), **close)


def design_of(material, *, site=False):
    """Group, age, being a man, being at site b, and a constant."""
    c = material.people.column
    columns = [material.people.group, c("age"), c("sex") == "M", *([c("site") == "b"] if site else []), np.ones(CONTROLS + CASES)]
    return np.column_stack(columns).astype(float)


def least_squares(x, y):
    """Coefficient of the first column, its standard error, and degrees of freedom."""
    have = np.isfinite(y)
    x, y = x[have], y[have]
    inverse = np.linalg.inv(x.T @ x)
    b = inverse @ x.T @ y
    df = len(y) - x.shape[1]
    return b[0], np.sqrt(((y - x @ b) ** 2).sum() / df * inverse[0, 0]), df


def test_groups_adjusted_for_age_and_sex(material, settings) -> None:
    table = groups.compute(material, settings(tests={"method": "linear", "covariates": ["age", "sex"]}))["groups"]
    for j in range(5):
        effect, se, df = least_squares(design_of(material), material.values[:, j])
        p = 2 * stats.t.sf(abs(effect / se), df)
        np.testing.assert_allclose(table.loc[j, ["effect", "se", "df", "p"]].astype(float), [effect, se, df, p], **close)


def test_harmonised_values_are_tested_with_their_site(material, settings, make_material) -> None:
    """The site's shift was estimated from the same values: a test that does not count it finds too much."""
    c = material.people.column
    done = harmonise.learn(material.values[:, :5], c("site"), {"group": material.people.group})
    columns = {n: c(n) for n in ("age", "sex", "site")}
    harmonised = make_material(done.values, material.people.group, FEATURES[:5], raw=material.values[:, :5], **columns)
    harmonised.models["mtr"] = done.model
    config = settings(tests={"method": "linear", "covariates": ["age", "sex"]}, harmonise={"site": "site"})
    table = groups.compute(harmonised, config)["groups"]
    for j in range(5):
        effect, se, df = least_squares(design_of(material, site=True), done.values[:, j])
        np.testing.assert_allclose(table.loc[j, ["effect", "se", "df"]].astype(float), [effect, se, df], **close)


def test_uneven_sites_widen_the_other_methods(material, settings, make_material) -> None:
    """Twelve of fourteen controls at a, three of eighteen cases: R2 of group on site is 0.48."""
    site = np.repeat(["a", "b", "a", "b"], [12, 2, 3, 15])
    m = make_material(material.values[:, :4], material.people.group, FEATURES[:4], site=site)
    plain = {method: groups.compute(m, settings(tests={"method": method}))["groups"] for method in ("welch", "mann_whitney")}
    m.models["mtr"] = harmonise.learn(m.values, site, {"group": m.people.group}).model
    wide = {method: groups.compute(m, settings(tests={"method": method}, harmonise={"site": "site"}))["groups"] for method in plain}
    table = pd.crosstab(site, m.people.group).to_numpy()
    k = 1 / np.sqrt(1 - stats.chi2_contingency(table, correction=False).statistic / len(site))  # phi squared is R2
    a, b = plain["welch"], wide["welch"]
    np.testing.assert_allclose(b["se"], k * a["se"], **close)
    np.testing.assert_allclose(b["p"], 2 * stats.t.sf(np.abs(a["statistic"]) / k, a["df"]), **close)
    np.testing.assert_allclose(b["effect"] - b["low"], k * (a["effect"] - a["low"]), **close)
    np.testing.assert_allclose(b["size_high"] - b["size"], k * (a["size_high"] - a["size"]), **close)
    a, b = plain["mann_whitney"], wide["mann_whitney"]
    np.testing.assert_allclose(stats.norm.isf(b["p"] / 2), stats.norm.isf(a["p"] / 2) / k, rtol=1e-8)
    assert (b["low"] < a["low"]).all()
    np.testing.assert_allclose(b["size_low"], 2 * b["low"] - 1, **close)


def test_bootstrap_of_groups_is_that_of_the_seed(material, settings) -> None:
    table = groups.compute(material, settings(tests={"resamples": 50}, seed=9))["groups"]
    found = compare(material.values, material.people.group, resamples=50, seed=9)
    np.testing.assert_array_equal(
        table[["low", "high", "size_low", "size_high"]], np.stack([found.low, found.high, found.size_low, found.size_high], 1)
    )


def test_what_the_groups_refuse(material, settings) -> None:
    with pytest.raises(ConfigError, match="method: linear"):
        groups.compute(material, settings(tests={"covariates": ["age"]}))
    with pytest.raises(UnknownNameError, match="age"):
        groups.compute(material, settings(tests={"method": "linear", "covariates": ["agee"]}))
    assert family(material, ()).tolist() == [""] * 6


# --- ROC --------------------------------------------------------------------------------------------------------------
def test_areas_and_thresholds(material, settings) -> None:
    tables = roc.compute(material, settings(roc={"resamples": 0, "higher": ["area"]}))
    for j, sign in enumerate([-1, -1, -1, -1, 1]):
        a, b = split(material, j)
        row = tables["roc"].loc[j]
        wins = sign * (b[:, None] - a) > 0
        np.testing.assert_allclose(row["auc"], wins.mean(), **close)
        variance = wins.mean(axis=1).var(ddof=1) / len(b) + wins.mean(axis=0).var(ddof=1) / len(a)
        np.testing.assert_allclose(row["auc_se"], np.sqrt(variance), **close)
        ordered = np.sort(np.r_[a, b])
        cuts = (ordered[1:] + ordered[:-1]) / 2
        youden = np.array([(sign * (b - c) > 0).mean() + (sign * (a - c) < 0).mean() - 1 for c in cuts])
        assert row["direction"] == {1: "higher", -1: "lower"}[sign]
        if youden.max() <= 0:  # no threshold is better than chance
            assert np.isnan(row["threshold"])
            continue
        assert row["youden"] == pytest.approx(youden.max())
        assert youden[np.argmin(np.abs(cuts - row["threshold"]))] == pytest.approx(youden.max())
        assert row["sensitivity"] == pytest.approx((sign * (b - row["threshold"]) > 0).mean())
    assert tables["roc"].loc[5, "auc"] == 0.5  # constant


def test_the_best_marker_is_not_one_whose_place_was_selected(make_material, settings) -> None:
    """The feature at the own level of compression has the largest area; the best of the others stands with the p of a best one."""
    group = np.repeat([0.0, 1.0], 20)
    values = np.random.default_rng(1).standard_normal((40, 3)) - [3, 1, 0] * group[:, None]
    names = [("mtr", "white matter", level) for level in ("compressed", "C2", "C3")]
    tables = roc.compute(make_material(values, group, names), settings(roc={"resamples": 0}))
    best = tables["roc_best"].loc[0]
    assert tables["roc"]["selected"].tolist() == [True, False, False]
    assert (best["marker"], best["markers"]) == ("MTR (wa) white matter C2", 2)
    assert best["auc"] == tables["roc"].loc[1, "auc"] < tables["roc"].loc[0, "auc"]
    assert best["low"] <= tables["roc"].loc[1, "auc_low"] + 0.05
    assert 0.001 <= best["p"] <= 0.05


def test_intervals_of_thresholds_run_upwards_whichever_way_disease_moves_a_feature(material, settings) -> None:
    """Turned round with the sign, the ends of the interval came out exchanged."""
    falls, rises = (roc.compute(material, settings(roc={"resamples": 60, "higher": higher}))["roc"].loc[:3] for higher in ([], ["mtr"]))
    for table in (falls, rises):
        known = table.dropna(subset=["threshold", "threshold_low"])
        assert len(known) >= 2
        assert (known["threshold_low"] < known["threshold_high"]).all()
    flipped = replace(material, values=-material.values)
    mirrored = roc.compute(flipped, settings(roc={"resamples": 60, "higher": ["mtr"]}))["roc"].loc[:3]
    np.testing.assert_allclose(mirrored["threshold_low"], -falls["threshold_high"], **close)


def test_metrics_that_disease_raises_say_so_themselves(material, settings) -> None:
    rising = replace(material, rises=frozenset({"area"}))
    assert roc.compute(rising, settings(roc={"resamples": 0}))["roc"]["direction"].tolist() == ["lower"] * 4 + ["higher"] * 2
    with pytest.raises(UnknownNameError, match=r"analysis\.roc\.higher.*'mtrr'.*'mtr'"):
        roc.compute(rising, settings(roc={"resamples": 0, "higher": ["mtrr"]}))


def test_a_classifier_learns_from_values_as_measured(material, settings) -> None:
    """Values that were harmonised over everybody have seen the people that it is judged on."""
    config = settings(classifier={"folds": 3, "markers": ["mtr tract='white matter'"]}, harmonise={"site": "site"})
    expected = classifier.compute(material, config)["classifier_scores"]["score"]
    harmonised = replace(material, values=material.values + 100 * (np.arange(len(material.values)) % 3)[:, None])
    np.testing.assert_array_equal(classifier.compute(harmonised, config)["classifier_scores"]["score"], expected)
    measured = replace(material, raw=harmonised.values)
    assert not np.allclose(classifier.compute(measured, config)["classifier_scores"]["score"], expected, equal_nan=True)


def test_pairs_of_markers(material, settings) -> None:
    assert pairs(material, settings()) == [(0, 4), (2, 5)]  # white matter against area, level by level
    config = settings(roc={"resamples": 0, "compare": [["mtr tract='white matter' level=C2", "mtr tract='gray matter' level=C2"]]})
    row = roc.compute(material, config)["roc_pairs"].loc[0]
    x = -material.values[:, :2]
    known = np.isfinite(x).all(axis=1)
    cases, controls = (x[known & (material.people.group == g)] for g in (1, 0))
    wins = cases[:, None] > controls  # (case, control, marker)
    moved = wins[..., 0].astype(float) - wins[..., 1]
    parts = np.array([moved.mean(axis=1 - axis).var(ddof=1) / n for axis, n in enumerate(moved.shape[:2])])
    se, df = np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2 / (np.array(moved.shape[:2]) - 1)).sum()
    found = row[["auc_first", "auc_second", "difference", "se", "p"]].astype(float)
    p = 2 * stats.t.sf(abs(moved.mean() / se), df)
    np.testing.assert_allclose(found, [*wins.mean(axis=(0, 1)), moved.mean(), se, p], **close)
    assert (row["first"], row["second"]) == ("MTR (wa) white matter C2", "MTR (wa) gray matter C2")
    with pytest.raises(ConfigError, match="one feature, found 2"):
        pairs(material, settings(roc={"compare": [["mtr level=C2", "area level=C2"]]}))
    with pytest.raises(UnknownNameError):
        roc.compute(material, settings(roc={"higher": ["aera"]}))


def test_curves(material, settings) -> None:
    tables = roc.compute(material, settings(roc={"resamples": 0}))
    curve = tables["roc_curves"].query("marker == 'MTR (wa) white matter C2' and pair == -1")
    np.testing.assert_allclose(-np.trapezoid(curve["sensitivity"], curve["specificity"]), tables["roc"].loc[0, "auc"], **close)
    first = tables["roc_pairs"].loc[0]
    both = tables["roc_curves"].query("marker == 'MTR (wa) white matter C2' and pair == 0")
    np.testing.assert_allclose(-np.trapezoid(both["sensitivity"], both["specificity"]), first["auc_first"], **close)  # of those who have both
    assert first["auc_first_low"] < first["auc_first"] < first["auc_first_high"]
    assert curve["threshold"].iloc[0] == -np.inf
    at = curve.iloc[5]
    b = split(material, 0)[1]
    assert at["sensitivity"] == pytest.approx((b <= at["threshold"]).mean())


# --- people -----------------------------------------------------------------------------------------------------------
def test_characteristics(material, settings) -> None:
    tables = people.compute(material, settings())
    table = tables["characteristics"].set_index(["variable", "category", "group"])
    age, group, sex = (material.people.column("age"), material.people.group, material.people.column("sex"))
    row = table.loc[("age", "", "DCM")]
    low, middle, high = np.percentile(age[group == 1], [25, 50, 75])
    expected = [CASES, age[group == 1].mean(), age[group == 1].std(ddof=1), low, middle, high]
    np.testing.assert_allclose(row[["n", "mean", "sd", "low", "median", "high"]].astype(float), expected, **close)
    assert row["p"] == pytest.approx(stats.ttest_ind(age[group == 0], age[group == 1], equal_var=False).pvalue, rel=1e-10)
    counts = pd.crosstab(group, sex)
    assert table.loc[("sex", "F", "HC"), "count"] == counts.loc[0, "F"]
    assert table.loc[("sex", "F", "HC"), "p"] == pytest.approx(stats.fisher_exact(counts).pvalue, rel=1e-10)
    assert "group" not in table.index.get_level_values("variable")
    assert table.loc[("mjoa", "", "HC"), "n"] == np.isfinite(material.people.column("mjoa")[group == 0]).sum()
    pd.testing.assert_frame_equal(tables["subjects"], material.people.table)


def test_only_chosen_columns_are_in_a_table(make_material, settings) -> None:
    words = [f"hand {i % 10}" for i in range(40)]
    private = {"scan_date": [f"2024-01-{1 + i % 28:02d}" for i in range(40)], "weight": np.arange(40.0), "radiographer": ["Roe", "Doe"] * 20}
    m = make_material(np.zeros((40, 1)), [0, 1] * 20, age=np.arange(40.0), nurick=np.arange(40.0) % 5, hand=words, **private)
    identity = ["subject", "participant_id", "session_id", "group"]
    tables = people.compute(m, settings())
    assert list(tables["subjects"]) == [*identity, "age", "nurick"]
    assert set(tables["characteristics"]["variable"]) == {"age", "nurick"}
    chosen = people.compute(m, settings(characteristics=["hand"], correlate={"scores": ["weight"]}))
    assert list(chosen["subjects"]) == [*identity, "hand", "weight"]
    hands = chosen["characteristics"].query("variable == 'hand' and group == 'HC'")
    assert hands["category"].tolist() == [*(f"hand {i}" for i in range(7)), "others (3)"]
    assert hands["count"].tolist() == [4.0, 0.0] * 3 + [4.0, 4.0]
    with pytest.raises(UnknownNameError, match="hend"):
        people.compute(m, settings(characteristics=["hend"]))


# --- compression ------------------------------------------------------------------------------------------------------
@pytest.fixture
def squeezed(material, settings):
    """The same people with a profile of ten slices a level, C2 to C7; cases lose a third at C5."""
    rng = np.random.default_rng(2)
    level = np.repeat([7, 6, 5, 4, 3, 2], 10)
    profile = 7 + rng.normal(0, 0.1, (CONTROLS + CASES, 60))
    profile[CONTROLS:, 24:26] *= 0.66
    found = find_compression(profile, profile[:CONTROLS], level, spacing=1.0, specificity=0.9)
    return replace(material, z=np.arange(60.0), z_level=level, profiles={"diameter_ap": Profile(profile, "mm", "diameter")}, compression=found)


def test_where_cords_are_compressed(squeezed, settings) -> None:
    tables = compression.compute(squeezed, settings())
    table = tables["compression"]
    cases = table[table["group"] == "DCM"]
    assert set(cases["narrowest_level"]) == {"C5"} == set(cases["site_of_compression"])
    assert set(cases["z_mm"]) <= {24.0, 25.0}
    np.testing.assert_array_equal(table["mscc"], 100 * (1 - table["ratio"]))
    counts = tables["compression_levels"]
    assert counts.groupby("group")["people"].sum().to_dict() == {"DCM": CASES, "HC": CONTROLS}
    assert counts.query("group == 'DCM' and level == 'C5'")["people"].item() == CASES
    summary = tables["compression_summary"].loc[0]
    assert (summary["auc"], summary["n_case"], summary["n_limit"]) == (1, CASES, CONTROLS)


def test_without_a_profile_there_is_no_compression(material, settings) -> None:
    with pytest.raises(NotEnoughError, match="no morphometry"):
        compression.compute(material, settings())


def test_bands_along_the_cord(squeezed, settings) -> None:
    table = norms.compute(squeezed, settings())["profiles"]
    healthy, cases = squeezed.profiles["diameter_ap"].values[:CONTROLS], squeezed.profiles["diameter_ap"].values[CONTROLS:]
    np.testing.assert_allclose(table["control_median"], np.median(healthy, axis=0), **close)
    np.testing.assert_allclose(table["case_mean"], cases.mean(axis=0), **close)
    np.testing.assert_allclose(table["case_sd"], cases.std(axis=0, ddof=1), **close)
    assert table["control_low"].isna().all()  # fourteen people do not reach the 5th centile
    assert table["level_number"].tolist() == squeezed.z_level.tolist()


# --- markers and clusters ---------------------------------------------------------------------------------------------
def test_markers(material, settings) -> None:
    assert markers(material, settings()).tolist() == [3, 5]  # grey matter and area at the remote level
    assert markers(material, settings(classifier={"markers": ["area level=C2"]})).tolist() == [4]
    with pytest.raises(InputError, match=r"analysis\.classifier\.markers"):
        markers(material, settings(compression={"remote": "C4"}))


def test_clusters_of_cases(material, settings, make_material) -> None:
    """Two kinds of cases, 6 apart in both features."""
    values = material.values.copy()
    rng = np.random.default_rng(3)
    values[CONTROLS:, :2] = rng.normal(0, 1, (CASES, 2)) + np.where(np.arange(CASES) % 2, 36, 42)[:, None]
    values[CONTROLS, 0] = np.nan
    kinds = make_material(values, material.people.group, FEATURES, age=material.people.column("age"))
    tables = clusters.compute(kinds, settings(clusters={"features": ["mtr level=C2"], "resamples": 19, "largest": 3}))
    who = tables["clusters"]
    assert who["subject"].tolist() == list(range(CONTROLS, CONTROLS + CASES))
    assert who["cluster"].tolist() == [-1, *np.where(np.arange(1, CASES) % 2, 0, 1)]
    assert tables["cluster_choice"].query("chosen")["k"].item() == 2
    profile = tables["cluster_profiles"].set_index(["feature", "cluster"])
    column, member = values[CONTROLS:, 1], who["cluster"].to_numpy()
    assert profile.loc[("MTR (wa) gray matter C2", 0), "mean"] == pytest.approx(column[member == 0].mean(), rel=1e-10)
    age = material.people.column("age")[CONTROLS:]
    expected = stats.kruskal(age[member == 0], age[member == 1])
    np.testing.assert_allclose(profile.loc[("age", 1), ["h", "p"]].astype(float), [*expected], **close)
    assert profile.loc[("age", 0), "q"] == pytest.approx(expected.pvalue, rel=1e-10)  # the only one that is tested
    assert np.isnan(profile.loc[("MTR (wa) gray matter C2", 0), "q"])  # it made them
    assert tables["cluster_notes"]["note"].tolist()[-1] == "1 people lack a feature and are left out"


def test_scores_are_numbers_that_vary(material, settings) -> None:
    rows = np.arange(CONTROLS, CONTROLS + CASES)
    assert scores(material, settings(), rows) == ["mjoa", "grip"]
    assert scores(material, settings(correlate={"scores": ["age"]}), rows) == ["age"]
    with pytest.raises(InputError, match="column sex: expected numbers"):
        scores(material, settings(correlate={"scores": ["sex"]}), rows)


def test_a_constant_feature_is_not_clustered(material, settings) -> None:
    with pytest.raises(InputError, match=r"features that vary, found none.*analysis\.clusters\.features"):
        clusters.compute(material, settings(clusters={"features": ["area level=C2:C3"]}))


# --- correlations -----------------------------------------------------------------------------------------------------
def test_correlations_with_scores(material, settings) -> None:
    table = correlations.compute(material, settings())["correlations"].set_index(["score", "metric", "region", "level"])
    for j, key in enumerate(FEATURES[:5]):
        x, y = material.values[CONTROLS:, j], material.people.column("mjoa")[CONTROLS:]
        known = np.isfinite(x) & np.isfinite(y)
        r = stats.spearmanr(x[known], y[known]).statistic
        row = table.loc[("mjoa", *key)]
        p = correlate(x[known, None], y[known, None]).p.item()
        np.testing.assert_allclose(row[["r", "p", "n"]].astype(float), [r, p, known.sum()], **close)
    assert np.isnan(table.loc[("mjoa", *FEATURES[5]), "r"])  # constant
    np.testing.assert_allclose(table["q"], q_of(table["p"].to_numpy(), [""] * len(table)), **close)  # scores are one family, too
    wide = correlate(material.values[CONTROLS:, :1], material.people.column("mjoa")[CONTROLS:, None], confidence=1 - 0.05 / 10)
    np.testing.assert_allclose(table.iloc[0][["low_all", "high_all"]].astype(float), [wide.low[0, 0], wide.high[0, 0]], **close)


def test_partial_correlations(material, settings) -> None:
    config = settings(correlate={"scores": ["grip"], "covariates": ["age"], "method": "pearson", "who": "all"})
    found = correlations.compute(material, config)["correlations"].loc[0]
    x, y, age = material.values[:, 0], material.people.column("grip"), material.people.column("age")
    known = np.isfinite(x)
    rest = [v[known] - np.polyval(np.polyfit(age[known], v[known], 1), age[known]) for v in (x, y)]
    np.testing.assert_allclose([found["r"], found["df"]], [np.corrcoef(rest)[0, 1], known.sum() - 3], rtol=1e-9)


@pytest.mark.parametrize(("missing", "known"), [(9, True), (10, False)])
def test_a_score_that_half_of_the_cases_lack(material, settings, make_material, missing, known) -> None:
    grip = material.people.column("grip").copy()
    grip[CONTROLS : CONTROLS + missing] = np.nan
    half = make_material(np.where(np.isnan(material.values), 40.5, material.values), material.people.group, FEATURES, grip=grip)
    row = correlations.compute(half, settings())["correlations"].loc[0]
    assert (row["n"], np.isfinite(row["r"])) == (CASES - missing, known)


# --- norms ------------------------------------------------------------------------------------------------------------
def test_cases_against_their_controls(material, settings) -> None:
    tables = norms.compute(material, settings(norms={"covariates": []}))
    table = tables["norms"].set_index(["subject", "metric", "region", "level"])
    for j, key in enumerate(FEATURES[:5]):
        a, _ = split(material, j)
        n, mean, sd = len(a), a.mean(), a.std(ddof=1)
        half = stats.t.ppf(0.975, n - 1) * sd * np.sqrt(1 + 1 / n)
        values = pd.Series(material.values[CONTROLS:, j], range(CONTROLS, CONTROLS + CASES)).dropna()
        part = table.xs(key, level=("metric", "region", "level"))
        assert part.index.tolist() == values.index.tolist()
        np.testing.assert_allclose(part["z"], (values - mean) / sd, **close)
        np.testing.assert_allclose(part[["lower", "upper"]].to_numpy(), [[mean - half, mean + half]] * len(values), **close)
        summary = tables["norms_summary"].loc[j]
        outside = (values < mean - half) | (values > mean + half)
        assert summary[["n_reference", "n_case", "outside", "below"]].tolist() == [n, len(values), outside.sum(), (values < mean - half).sum()]
        assert summary["z_mean"] == pytest.approx(((values - mean) / sd).mean(), rel=1e-10)
    assert ("area", "spinal cord", "C2:C3") not in {k[1:] for k in table.index}  # nobody deviates from what does not vary


def test_norms_that_depend_on_age(material, settings) -> None:
    row = norms.compute(material, settings(norms={"covariates": ["age"]}))["norms"].iloc[0]
    j = FEATURES.index((row["metric"], row["region"], row["level"]))
    y, age = material.values[:CONTROLS, j], material.people.column("age")
    known = np.isfinite(y)
    line = np.polyfit(age[:CONTROLS][known], y[known], 1)
    sd = np.sqrt(((y[known] - np.polyval(line, age[:CONTROLS][known])) ** 2).sum() / (known.sum() - 2))
    assert row["z"] == pytest.approx((row["value"] - np.polyval(line, age[int(row["subject"])])) / sd, rel=1e-9)


# --- sites, repeats ---------------------------------------------------------------------------------------------------
def test_sites_before_and_after(material, settings, make_material) -> None:
    c = material.people.column
    done = harmonise.learn(material.values[:, :2], c("site"), {"group": material.people.group})
    m = make_material(done.values, material.people.group, FEATURES[:2], raw=material.values[:, :2], site=c("site"))
    m.models["mtr"] = done.model
    tables = sites.compute(m, settings(harmonise={"site": "site"}))
    frame = pd.DataFrame({"site": c("site"), "group": np.where(m.people.group == 1, "DCM", "HC"), "raw": m.raw[:, 0], "done": m.values[:, 0]})
    expected = frame.groupby(["site", "group"]).agg(n=("raw", "count"), mean=("raw", "mean"), sd=("raw", "std"), after=("done", "mean"))
    table = tables["sites"].query("region == 'white matter'").set_index(["site", "group"]).loc[expected.index]
    np.testing.assert_allclose(table[["n", "mean", "sd", "mean_harmonised"]].astype(float), expected, **close)
    np.testing.assert_allclose(table["cv"], 100 * expected["sd"] / expected["mean"], **close)
    shift = tables["harmonisation"].query("region == 'white matter'").set_index("site")["shift"]
    np.testing.assert_allclose(shift, done.model.shift[:, 0] * done.model.sd[0], **close)
    assert tables["site_check"]["when"].tolist() == ["before", "after"]


def test_people_without_a_site_or_a_value_are_left_out_of_the_check(make_material, settings) -> None:
    """Folds were counted with them, and the section could not be made."""
    rng = np.random.default_rng(0)
    site = np.array(["a"] * 4 + ["b"] * 6 + ["", "c"], dtype=object)
    raw = rng.normal(size=(12, 2))
    harmonised = raw.copy()
    harmonised[0] = np.nan
    m = make_material(harmonised, [0, 1] * 6, FEATURES[:2], raw=raw, site=site)
    m.models["mtr"] = harmonise.learn(raw[1:10], site[1:10]).model
    check = sites.compute(m, settings(harmonise={"site": "site"}))["site_check"]
    assert check[["when", "n", "left_out", "folds"]].to_numpy().tolist() == [["before", 9, 3, 3], ["after", 9, 3, 3]]


def test_one_site_is_nothing_to_compare(make_material, settings) -> None:
    with pytest.raises(InputError, match="several sites"):
        sites.compute(make_material(np.eye(4), [0, 0, 1, 1], site=["a"] * 4), settings())


def test_repeats_need_sessions(material, settings) -> None:
    with pytest.raises(InputError, match="several sessions"):
        repeats.compute(material, settings())


# --- what is claimed --------------------------------------------------------------------------------------------------
def test_nothing_is_claimed_of_few_people(make_material, settings) -> None:
    group = np.repeat([0.0, 1.0], [4, 9])
    m = make_material(np.random.default_rng(0).standard_normal((13, 3)), group, age=np.arange(13.0), mjoa=np.r_[np.full(9, np.nan), 9, 12, 13, 17.0])
    four, five = settings(least=4, roc={"resamples": 0}, max_missing=0.9), settings(roc={"resamples": 0}, max_missing=0.9)
    for section, table, column in ((groups, "groups", "p"), (roc, "roc_best", "p"), (correlations, "correlations", "p")):
        assert section.compute(m, four)[table][column].notna().any(), table
        found = section.compute(m, five)[table]
        assert not len(found) or found[column].isna().all(), table
    assert groups.compute(m, five)["groups"]["effect"].notna().all()
    assert people.compute(m, five)["characteristics"]["p"].isna().all()


def test_numbers_with_a_decimal_comma_are_no_categories(make_material, settings) -> None:
    m = make_material(np.zeros((8, 1)), [0, 1] * 4, bmi=["25,5", "31", "25,5", "22", "31", "25,5", "22", "31"], sex=["F", "M"] * 4)
    assert set(people.compute(m, settings())["characteristics"]["variable"]) == {"sex"}


def test_what_too_few_know_is_not_clustered_and_named(make_material, settings) -> None:
    rng = np.random.default_rng(0)
    group, grip = np.ones(20), rng.standard_normal(20)
    group[:2] = 0
    rare = np.where(np.arange(20) < 15, np.nan, rng.standard_normal(20))
    m = make_material(rng.standard_normal((20, 1)), group, [("area", "spinal cord", "C2:C3")], grip=grip, rare=rare)
    tables = clusters.compute(m, settings(clusters={"resamples": 2}))
    assert tables["clusters"]["cluster"].tolist() == [0] * 18
    assert tables["cluster_choice"].query("chosen")["k"].tolist() == [1]
    assert "rare is known of 5 of 18 people and left out, so that more people have all features" in tables["cluster_notes"]["note"].tolist()
