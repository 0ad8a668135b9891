"""A study with a known truth: what was planted is found, and nothing where nothing was. The large version is ``tests/benchmarks/test_study.py``."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from cohort_engine.analysis.cluster import adjusted_rand
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.sections import clusters, groups, roc, sites
from cohort_engine.study.material import gather
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import AGE_SLOPE, SUBJECT_SD, VOXEL_SD, simulate_store

PEOPLE, OFFSETS = 60, (2.0, -1.5, 0.5)
TRACTS = ["mtr tract='lateral corticospinal tract' level=C5", "mtr tract='fasciculus cuneatus' level=C5"]
FEATURES = ["mtr", *TRACTS]


@pytest.fixture(scope="module")
def config(make_config):
    sections = {"harmonise": {"site": "site"}, "tests": {"method": "linear", "covariates": ["age", "sex"]}, "features": FEATURES}
    chosen = {"clusters": {"features": ["dexterity", "grip", "balance", *TRACTS], "resamples": 3, "k": 2}}
    return make_config(analysis={**sections, **chosen}).analysis


@pytest.fixture(scope="module")
def study(tmp_path_factory, config):
    """30 patients and 30 controls at three scanners; the damage reaches C3 to C6, and C2 is whole."""
    url = str(tmp_path_factory.mktemp("study") / "study.zarr")
    cord = parametric_cord(spacing=2.0, top="C2", bottom="C6")
    truth = simulate_store(
        url, PEOPLE, cord, seed=4, missing=0.0, width=1.0, effect=1.6, site_offsets=OFFSETS, age_slope=AGE_SLOPE, scores=True, subgroups=True,
    )  # fmt: skip
    tabulate(url)
    return truth, gather(url, config)


def test_planted_effects_are_found(study, config) -> None:
    truth, m = study
    table = groups.compute(m, config)["groups"].query("region in @truth.regions")
    planted = np.array([truth.planted[truth.levels.index(lv), truth.regions.index(r)] for lv, r in zip(table["level"], table["region"], strict=True)])
    # Spread of subjects, of eight voxels or more, and of the severity at this difference, held against Bonferroni's limit with a power of 99 %
    limits = norm.ppf(1 - 0.025 / len(m.features)) + norm.ppf(0.99)
    severity = 0.75 / np.sqrt(12) / 0.625
    least = limits * np.sqrt((SUBJECT_SD**2 + VOXEL_SD**2 / 8) * 4 / PEOPLE) / np.sqrt(1 - (limits * severity) ** 2 * 2 / PEOPLE)
    large, none = planted < -least, np.abs(planted) < 0.05
    assert large.sum() >= 5
    assert none.sum() >= 40
    assert (table["q"][large] <= 0.05).all()
    assert (table["effect"][large] < 0).all()
    # Regions share a subject's offset, so that chance findings come together: what holds for each is the error of its effect
    assert (np.abs(table["effect"] - planted) < 4 * table["se"]).all()
    assert np.abs(table["statistic"][none]).max() < 4


def test_harmonisation_finds_the_scanners(study, config) -> None:
    _, m = study
    shift = sites.compute(m, config)["harmonisation"].groupby("site")["shift"].mean()
    np.testing.assert_allclose(shift, np.subtract(OFFSETS, np.mean(OFFSETS)), atol=2.5 * SUBJECT_SD * np.sqrt(3 / PEOPLE))


def test_subgroups_are_found(study, config) -> None:
    truth, m = study
    found = clusters.compute(m, config)["clusters"]
    index, n = adjusted_rand(found["cluster"].to_numpy(), truth.subjects["subgroup"].to_numpy()[found["subject"]])
    assert n == PEOPLE / 2
    assert index > 0.5


def test_studies_without_effect(make_material, make_config) -> None:
    """40 studies of 15 and 30 people, each with seven families of 43 tests: a finding in about one family of twenty."""
    names = [("mtr", f"region {r}", f"C{level}") for level in range(1, 8) for r in range(43)]
    group = np.repeat([0.0, 1.0], [15, 30])
    rng = np.random.default_rng(1)
    config = make_config(analysis={"tests": {"family": ["level"]}}).analysis
    rates = []
    for _ in range(40):
        table = groups.compute(make_material(45 + rng.standard_normal((45, len(names))), group, names), config)["groups"]
        rates.append((table["q"] <= 0.05).groupby(table["family"]).any().mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=2.5 * np.sqrt(0.05 * 0.95 / 280))


def test_intervals_of_areas_hold_the_planted_one(make_material, make_config) -> None:
    rng = np.random.default_rng(2)
    group = np.repeat([0.0, 1.0], [15, 30])
    values = 45 + rng.standard_normal((45, 1500)) - np.sqrt(2) * norm.ppf(0.74) * group[:, None]
    table = roc.compute(make_material(values, group), make_config(analysis={"roc": {"resamples": 0}}).analysis)["roc"]
    inside = (table["auc_low"] < 0.74) & (table["auc_high"] > 0.74)
    assert 0.93 <= inside.mean() <= 0.97
