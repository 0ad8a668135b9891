"""What is analysed: features, each person's own level, harmonised values, and the same from a store."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.analysis import harmonise
from cohort_engine.analysis.norms import deviation, fit_norm
from cohort_engine.errors import ConfigError, InputError, StoreError, UnknownNameError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.question import Query
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.report.analyse import analyse_cohort
from cohort_engine.sections import groups, norms, repeats, roc
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw
from cohort_engine.study.material import COMPRESSED, KEYS, default_questions, gather, label, questions_of
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store

PEOPLE, AGAIN = 20, 4


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Ten patients and ten controls of three sites, C3 to C6, with morphometry and scores; four were scanned twice."""
    url = str(tmp_path_factory.mktemp("study") / "study.zarr")
    cord = parametric_cord(spacing=2.0, top="C3", bottom="C6")
    truth = simulate_store(url, PEOPLE, cord, seed=5, missing=0.0, shape=True, scores=True, repeats=AGAIN)
    tabulate(url)
    finalise(url, tabulate=lambda: tabulate(url))
    return url, truth


@pytest.fixture(scope="module")
def opened(study):
    with open_cohort(study[0]) as ds:
        yield ds.load()


@pytest.fixture
def settings(make_config):
    return lambda **sections: make_config(analysis={"compression": {"remote": "C3", "search": ["C3", "C6"]}, **sections}).analysis


def at(material, *key):
    """Place of a feature."""
    return material.features.index[(material.features[list(KEYS)] == list(key)).all(axis=1)].item()


# --- features ---------------------------------------------------------------------------------------------------------
def test_by_default_everything_at_every_level(opened, settings) -> None:
    mtr, *measures = default_questions(opened, settings())
    levels = ("C3", "C4", "C5", "C6", "C3", "compressed")
    assert measures == [Query("area", levels=levels), Query("diameter_ap", levels=levels)]
    assert (mtr.metric, mtr.levels, mtr.tracts[0], mtr.tracts[-1]) == ("mtr", levels, "WM left fasciculus gracilis", "ventral funiculi")
    f = gather(opened, settings()).features
    assert len(f) == (42 + 2) * 5  # all but CSF
    assert not f[schema.REGION].str.startswith("CSF").any()
    assert not f.duplicated(KEYS).any()
    assert f.groupby("metric")["units"].unique().str[0].to_dict() == {"area": "mm2", "diameter_ap": "mm", "mtr": "percent"}
    assert set(f["level"]) == {"C3", "C4", "C5", "C6", COMPRESSED}


def test_values_are_those_of_the_tables(opened, study, settings) -> None:
    m = gather(opened, settings())
    assert m.people.at.tolist() == list(range(PEOPLE))
    assert m.values is m.raw
    cell = opened["mtr_wa"].sel(level="C4", region="white matter").to_numpy()[:PEOPLE]
    np.testing.assert_array_equal(m.values[:, at(m, "mtr", "white matter", "C4", "wa")], cell)
    inside = opened["z_level"].to_numpy() == 5
    area = opened["profile_area"].to_numpy()[:PEOPLE, inside].mean(axis=1)
    np.testing.assert_allclose(m.values[:, at(m, "area", "spinal cord", "C5", "")], area, rtol=1e-12)
    np.testing.assert_array_equal(m.profiles["area"].values, opened["profile_area"].to_numpy()[:PEOPLE])
    assert (m.profiles["area"].units, len(m.z), len(m.z_level)) == ("mm2", opened.sizes["z"], opened.sizes["z"])


def test_values_at_the_compression_are_of_each_persons_own_level(opened, settings) -> None:
    m = gather(opened, settings())
    levels = [schema.LEVEL_NAMES[n - 1] for n in m.compression.level]
    assert len(set(levels)) > 1
    for metric, region, estimator in (("mtr", "white matter", "wa"), ("area", "spinal cord", "")):
        own = [m.values[i, at(m, metric, region, level, estimator)] for i, level in enumerate(levels)]
        np.testing.assert_array_equal(m.values[:, at(m, metric, region, COMPRESSED, estimator)], own)


def test_compression_is_that_of_the_phantom(opened, study, settings) -> None:
    truth = study[1].subjects.iloc[:PEOPLE]
    m = gather(opened, settings())
    patient = m.people.group == 1
    number = np.array([schema.level_number(n) if n else 0 for n in truth["compression_level"]])
    assert (np.abs(m.compression.level - number)[patient] <= 1).all()
    np.testing.assert_allclose(m.compression.smallest[patient], truth["compression_ratio"][patient], atol=0.12)


def test_features_of_the_study_file(opened, settings) -> None:
    m = gather(opened, settings(features=["mtr tract='white matter' level=C3:C4,C5", "area level=compressed"]))
    assert m.features[["metric", "region", "level"]].to_numpy().tolist() == [
        ["mtr", "white matter", "C3:C4"], ["mtr", "white matter", "C5"], ["area", "spinal cord", COMPRESSED],
    ]  # fmt: skip
    questions = questions_of(opened, settings(features=["area"], roc={"compare": [["area level=C3", "mtr tract='white matter' level=C3"]]}))
    assert [q.text() for q in questions] == ["area", "area level=C3", "mtr tract='white matter' level=C3"]
    clustered = questions_of(opened, settings(features=["area"], clusters={"features": ["mjoa", "area level=C4"]}))
    assert [q.text() for q in clustered] == ["area", "area level=C4"]  # a score is no feature


def test_a_feature_is_found_by_every_name_it_has(opened, settings) -> None:
    m = gather(opened, settings(features=["mtr tract='lateral corticospinal tract' level=c3:C4", "mtr tract='white matter' level=all", "area"]))
    assert m.find("mtr tract='WM lateral corticospinal tract' level=C3:c4").tolist() == [0]
    assert m.find("mtr tract='lateral corticospinal tract' level=C3:C4").tolist() == [0]
    assert m.find("mtr tract='White Matter' level=all").tolist() == [1]
    assert m.find_all(["area level=C4", "area level=C3,C4", "mtr"]).tolist() == [3, 2, 0, 1]
    assert [m.label(i) for i in (0, 3)] == ["MTR (wa) WM lateral corticospinal tract C3:C4", "area C4"]
    with pytest.raises(ConfigError, match=r"a feature of this cohort.*cohort-engine query"):
        m.find("mtr tract='gray matter' level=C3")
    with pytest.raises(UnknownNameError, match="white matter"):
        m.find("mtr tract='white mater' level=C3")
    with pytest.raises(UnknownNameError):
        m.find("mtr level=T9")


def test_labels() -> None:
    assert label("diameter_ap", "spinal cord", COMPRESSED, "") == "AP diameter at the compression"
    assert label("mtr", "white matter", "C3", "median") == "MTR (median) white matter C3"


def test_features_that_too_few_have_are_left_out_and_counted(opened, settings) -> None:
    holed = opened.copy(deep=True)
    holed["mtr_wa"].loc[{"level": "C6", "subject": range(0, 12, 2)}] = np.nan  # six of the ten patients
    holed["mtr_wa"].loc[{"level": "C5", "subject": range(0, 10, 2)}] = np.nan  # five: not more than a half
    m = gather(holed, settings())
    assert set(m.features.query("metric == 'mtr'")["level"]) == {"C3", "C4", "C5", COMPRESSED}
    assert any("42 features are missing in more than 50% of a group" in note for note in m.notes)
    named = gather(holed, settings(features=["mtr tract='white matter' level=C6,C3"]))
    assert np.isnan(named.values).sum(axis=0).tolist() == [6, 0]  # the study file named it: it stays


def test_people_who_are_left_out_are_not_among_the_repeats_either(opened, settings) -> None:
    """They were left out of the groups alone: agreement between sessions still counted them."""
    everybody = gather(opened, settings()).repeats
    assert everybody is not None
    assert len(everybody) == AGAIN
    without = gather(opened, settings(exclude=["sub-00001"])).repeats
    assert without is not None
    np.testing.assert_array_equal(without, everybody[1:])


def test_who_has_no_value_is_left_out_with_a_reason(opened, settings) -> None:
    holed = opened.copy(deep=True)
    for name in ("mtr_wa", "profile_area", "profile_diameter_ap"):
        holed[name][3] = np.nan
    mtr = holed["stage"].to_numpy().tolist().index("mtr")
    holed["stages_status"][3, mtr] = 2
    people = gather(holed, settings()).people
    assert people.excluded.query("subject == 3")["reason"].item() == "no values: stage mtr failed"
    assert 3 not in people.at
    holed["stages_status"][3, mtr] = 1
    assert gather(holed, settings()).people.excluded.query("subject == 3")["reason"].item() == "no values"
    for name in ("mtr_wa", "profile_area", "profile_diameter_ap"):
        holed[name][:] = np.nan
    with pytest.raises((StoreError, InputError)):
        gather(holed, settings())


def test_without_morphometry_the_reason_is_kept(opened, settings) -> None:
    m = gather(opened.drop_vars(["profile_area", "profile_diameter_ap"]), settings())
    assert (m.compression, m.profiles) == (None, {})
    assert "stages.shape.source: t2w" in m.compression_problem
    assert COMPRESSED not in set(m.features["level"])


def test_text_in_a_score_is_said(opened, settings) -> None:
    words = [f"{v:g}" for v in opened["grip"].to_numpy()]
    words[1] = "strong"
    m = gather(opened.assign_coords(grip=("subject", np.array(words, dtype=object))), settings())
    assert "column grip holds text ('strong') among numbers and is not used: correct participants.tsv (n/a is missing) and build again" in m.notes
    assert "grip" not in m.people.numeric()
    words = np.array([f"{v:g}" for v in opened["age"].to_numpy()[:-1]] + ["old"], dtype=object)
    with pytest.raises(InputError, match="column age"):  # asked for, it is an error
        gather(opened.assign_coords(age=("subject", words[::-1])), settings(harmonise={"site": "site"}))


def test_who_is_left_out_of_what_is_adjusted_is_said(opened, settings) -> None:
    """Three people were in no test, and nobody said so."""
    n = opened.sizes["subject"]
    age, site = opened["age"].to_numpy().copy(), opened["site"].to_numpy().copy()
    age[2], site[3] = np.nan, ""
    words = np.array([f"visit {i % 9}" for i in range(n)], dtype=object)
    changed = opened.assign_coords(age=("subject", age), site=("subject", site), note=("subject", words), flat=("subject", np.ones(n)))
    names = changed["participant_id"].to_numpy()
    m = gather(changed, settings(tests={"method": "linear", "covariates": ["age", "note", "flat"]}, harmonise={"site": "site"}))
    assert m.notes[0].startswith("MTR values are wa in template space, which is more biased than map in native space")
    assert m.notes[1:5] == (
        "column note holds text: each of its 9 words is a category to adjust for",
        "column flat is the same in everybody, or missing: nothing is adjusted for it",
        f"1 people are in nothing that is adjusted: {names[2]} (no age)",
        f"2 people have no harmonised value: {names[3]} (no site), {names[2]} (no age)",
    )


def test_somebody_alone_at_a_site_does_not_stop_the_others(opened, settings) -> None:
    site = opened["site"].to_numpy().copy()
    age = opened["age"].to_numpy().copy()
    site[0], site[1], site[2], age[2] = "alone", "two", "two", np.nan
    m = gather(opened.assign_coords(site=("subject", site), age=("subject", age)), settings(harmonise={"site": "site"}))
    names = opened["participant_id"].to_numpy()
    assert m.notes[1:4] == (
        f"1 people have no harmonised value: {names[2]} (no age)",
        f"{names[0]} has no harmonised value: nobody else of site alone can be used",
        f"{names[1]} has no harmonised value: nobody else of site two can be used",
    )
    assert np.isfinite(m.values).any(axis=1).tolist() == [False] * 3 + [True] * (len(m.values) - 3)


# --- harmonised -------------------------------------------------------------------------------------------------------
def test_harmonised_values_are_those_of_combat_and_keep_the_group(opened, settings) -> None:
    m = gather(opened, settings(harmonise={"site": "site"}))
    block = np.flatnonzero(m.features["metric"] == "mtr")
    keep = {"group": m.people.group, "age": m.people.column("age"), "sex": m.people.column("sex")}
    np.testing.assert_array_equal(m.values[:, block], harmonise.learn(m.raw[:, block], m.people.column("site"), keep).values)
    assert sorted(m.models) == ["area", "diameter_ap", "mtr"]
    site = np.array([str(s) for s in m.people.column("site")])
    design = np.column_stack([m.people.group, m.people.column("age"), m.people.column("sex") == "M", *(site == s for s in sorted(set(site)))])
    raw, done = (np.linalg.lstsq(design.astype(float), v[:, block])[0][0] for v in (m.raw, m.values))
    np.testing.assert_allclose(done, raw, atol=0.5)  # what the group does is kept
    assert len(m.notes) == 1  # which values they are


def test_a_constant_metric_is_passed_on_said_and_no_finding(opened, settings) -> None:
    flat = opened.copy(deep=True)
    flat["mtr_wa"][:] = 40.0
    config = settings(harmonise={"site": "site"}, features=["mtr level=C3,C4", "area"], roc={"resamples": 5})
    m = gather(flat, config)
    assert "mtr: 86 features are constant (feature 0, 1, 2" in m.notes[-1]
    mtr = m.features["metric"] == "mtr"
    assert (m.values[:, mtr] == 40).all()
    table = groups.compute(m, config)["groups"]
    assert table["p"].isna().equals(mtr)
    assert (roc.compute(m, config)["roc"]["auc"][mtr] == 0.5).all()


def test_several_sites_that_nobody_harmonises_are_said(opened, settings) -> None:
    assert "3 sites and nothing is harmonised: set analysis.harmonise.site" in gather(opened, settings()).notes[-1]
    one = opened.assign_coords(site=("subject", np.full(opened.sizes["subject"], "a", dtype=object)))
    assert gather(one, settings(space="template")).notes == ()


def test_groups_that_go_with_the_site_are_said(opened, settings) -> None:
    site = np.where(np.arange(opened.sizes["subject"]) % 2 == 0, "a", "b").astype(object)
    site[[0, 2, 1, 3]] = ["b", "b", "a", "a"]
    uneven = opened.assign_coords(site=("subject", site))
    note = gather(uneven, settings(harmonise={"site": "site"})).notes[-1]
    # eight of ten patients at a, two of ten controls: R2 of group on site is 0.36, 1 / (1 - 0.36) = 1.56
    assert "unevenly over site: the variance of a harmonised difference is 1.56 times" in note


def test_a_site_that_is_one_group_cannot_be_harmonised(opened, settings) -> None:
    site = np.where(np.arange(opened.sizes["subject"]) % 2 == 0, "a", "b").astype(object)
    with pytest.raises(InputError, match="sites and covariates that can be told apart"):
        gather(opened.assign_coords(site=("subject", site)), settings(harmonise={"site": "site"}))


# --- repeats, norms of another store ----------------------------------------------------------------------------------
def test_sessions_of_the_same_people(opened, settings) -> None:
    config = settings()
    m = gather(opened, config)
    assert m.repeats.shape == (AGAIN, 2, len(m.features))
    cell = opened["mtr_wa"].sel(level="C4", region="white matter").to_numpy().astype(float)
    pairs = np.stack([cell[:AGAIN], cell[PEOPLE:]], axis=1)
    np.testing.assert_array_equal(m.repeats[:, :, at(m, "mtr", "white matter", "C4", "wa")], pairs)
    assert np.isnan(m.repeats[:, :, m.features["level"] == COMPRESSED]).all()
    row = repeats.compute(m, config)["repeats"].iloc[at(m, "mtr", "white matter", "C4", "wa")]
    assert row["bias"] == pytest.approx((pairs[:, 0] - pairs[:, 1]).mean(), rel=1e-10)
    rows, columns, error = _squares(pairs)
    n, k = pairs.shape
    assert row["icc31"] == pytest.approx((rows - error) / (rows + (k - 1) * error), rel=1e-10)
    assert row["icc21"] == pytest.approx((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n), rel=1e-10)
    assert (row["n"], row["sessions"]) == (4, 2)
    assert gather(opened.isel(subject=range(PEOPLE)), config).repeats is None


def _squares(x):
    """Mean squares of the two-way table."""
    n, k = x.shape
    rows, columns = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    error = ((x - rows - columns + x.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    return k * ((rows - x.mean()) ** 2).sum() / (n - 1), n * ((columns - x.mean()) ** 2).sum() / (k - 1), error


def test_norms_of_another_store(study, opened, settings, tmp_path) -> None:
    url = str(tmp_path / "healthy.zarr")
    simulate_store(url, 12, parametric_cord(spacing=2.0, top="C3", bottom="C6"), seed=8, missing=0.0, effect=0.0)
    tabulate(url)
    config = settings(norms={"reference": url, "covariates": ["age"]})
    m = gather(opened, config)
    found = norms.compute(m, config)
    j = at(m, "mtr", "white matter", "C4", "wa")
    with open_cohort(url) as ds:
        healthy, age = ds["mtr_wa"].sel(level="C4", region="white matter").to_numpy().astype(float), ds["age"].to_numpy()
    cases = m.people.group == 1
    expected = deviation(fit_norm(healthy[:, None], {"age": age}), m.values[cases][:, [j]], {"age": m.people.column("age")[cases]})
    row = found["norms"].query("metric == 'mtr' and region == 'white matter' and level == 'C4'")
    np.testing.assert_allclose(row["z"], expected.z[:, 0], rtol=1e-10)
    summary = found["norms_summary"]
    assert summary.loc[j, ["reference", "n_reference", "n_case"]].tolist() == ["12 people of another cohort", 12, 10]
    assert (summary[summary["metric"] == "area"]["n_case"] == 0).all()  # the other cohort has no morphometry


# --- a whole analysis -------------------------------------------------------------------------------------------------
QUICK = {"roc": {"resamples": 20}, "clusters": {"k": 2, "resamples": 2}, "compression": {"remote": "C3", "search": ["C3", "C6"]}}


def test_a_section_that_fails_stops_no_other(study, make_config) -> None:
    config = make_config(analysis={**QUICK, "features": ["area", "mtr tract='white matter'"], "correlate": {"scores": ["sex"]}})
    found = analyse_cohort(study[0], config)
    assert sorted(found.problems) == ["change", "clusters", "correlations"]
    assert "column sex: expected numbers, found text" in found.problems["correlations"]
    assert {"subjects", "groups", "roc", "compression", "norms", "sites", "repeats"} <= set(found.tables)
    assert (found.findings["q"] <= 0.05).all()
    assert found.findings["size"].abs().is_monotonic_decreasing


def test_an_analysis_is_the_same_again(study, make_config) -> None:
    config = make_config(analysis={**QUICK, "features": ["area"]})
    a, b = (analyse_cohort(study[0], config) for _ in range(2))
    assert a.about["hash"] == b.about["hash"]
    assert all(a.tables[name].equals(b.tables[name]) for name in a.tables)
    other = analyse_cohort(study[0], make_config(analysis={**QUICK, "features": ["area level=C3"]}))
    assert other.about["hash"] != a.about["hash"]


def test_the_simulated_store_is_whole_and_stays_so_when_somebody_withdraws(study, tmp_path, settings) -> None:
    url = str(tmp_path / "copy.zarr")
    simulate_store(url, 6, parametric_cord(spacing=2.0, top="C3", bottom="C4"), shape=True, scores=True)
    assert verify(url) == []
    withdraw(url, 2)
    assert verify(url) == []
    tabulate(url)
    with open_cohort(url) as ds:
        assert isinstance(ds, xr.Dataset)
        assert gather(ds, settings(features=["area level=C3"])).people.table["subject"].tolist() == [0, 1, 3, 4, 5]
