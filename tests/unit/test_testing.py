import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import make_subject, simulate_store


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C3", bottom="C6")


def test_the_tables_of_a_simulated_store_are_the_truth(cord, tmp_path):
    url = str(tmp_path / "study.zarr")
    truth = simulate_store(url, 6, cord, seed=3, missing=0.2)
    assert verify(url) == []
    tabulate(url)
    for row in range(6):
        value, coverage, n = (read_subject(url, row, f"tables/template/mtr_wa{c}") for c in ("", "_coverage", "_n"))
        whole = coverage > 0.999
        assert np.abs(value - truth.mtr[row])[whole & (n > 100)].max() < 2.5  # 4 sd of a voxel over sqrt(100), correlated by nothing
        assert np.isnan(value[coverage < schema.LEAST_COVERAGE]).all()
        values = read_subject(url, row, "maps/mtr")
        assert np.isnan(values).mean() == pytest.approx(truth.missing[row])


def test_a_subject_does_not_depend_on_the_others(cord, tmp_path):
    few, many = (simulate_store(str(tmp_path / f"{n}.zarr"), n, cord, seed=1) for n in (2, 4))
    np.testing.assert_array_equal(few.mtr, many.mtr[:2])
    a, b = (read_subject(str(tmp_path / f"{n}.zarr"), 1, "maps/mtr") for n in (2, 4))
    np.testing.assert_array_equal(a, b)


def test_patients_lose_mtr(cord, tmp_path):
    truth = simulate_store(str(tmp_path / "study.zarr"), 20, cord, missing=0.0)
    wm = truth.mtr[:, :, truth.regions.index("white matter")].mean(1) - truth.subjects["offset"]
    patient = truth.subjects["group"] == "DCM"
    assert wm[patient].max() < wm[~patient].min()


def test_make_subject_is_public():
    assert make_subject.__module__ == "cohort_engine.phantom.subject"


# --- what a study can have besides ------------------------------------------------------------------------------------
def test_planted_loss_age_sex_and_scanners_add_up(cord, tmp_path):
    given = {"site_offsets": (2.0, -1.0), "site_scales": (1.0, 0.0), "age_slope": -0.1, "sex_effect": 3.0, "sites": 2, "missing": 0.0}
    truth = simulate_store(str(tmp_path / "a.zarr"), 8, cord, seed=2, **given)
    people = truth.subjects
    assert pd.crosstab(people["group"], people["site"]).to_numpy().tolist() == [[2, 2], [2, 2]]
    healthy = (truth.mtr + truth.loss)[:, 0, 0] - people["offset"]
    np.testing.assert_allclose(healthy, healthy[0], rtol=1e-6)
    rest = people["offset"] + 0.1 * (people["age"] - 50) - 3.0 * (people["sex"] == "M") - people["site"].map(truth.sites.set_index("site")["offset"])
    np.testing.assert_allclose(rest[people["site"] == "site2"], 0, atol=1e-12)  # its scale is 0: nothing is random
    assert rest[people["site"] == "site1"].abs().min() > 0
    still = read_subject(str(tmp_path / "a.zarr"), int(people.index[people["site"] == "site2"][0]), "maps/mtr")
    assert len(np.unique(still.round(3))) < len(still)  # no noise of voxels either
    patients = people["group"] == "DCM"
    np.testing.assert_allclose(truth.planted, -truth.loss[patients].mean(axis=0), rtol=1e-6)
    assert (truth.loss[~patients] == 0).all()


def test_without_effect_nothing_differs(cord, tmp_path):
    truth = simulate_store(str(tmp_path / "a.zarr"), 4, cord, effect=0.0, shape=True, scores=True)
    assert (truth.planted == 0).all()
    assert (truth.subjects["severity"] == 0).all()
    assert (truth.subjects["compression_level"] == "").all()
    assert truth.subjects["mjoa"].min() >= 16


def test_the_deviation_of_each_tract_is_in_the_truth(cord, tmp_path):
    plain, own = (simulate_store(str(tmp_path / f"{sd}.zarr"), 3, cord, missing=0.0, tract_sd=sd) for sd in (0.0, 2.0))
    moved = own.mtr - plain.mtr
    tracts = [i for i, name in enumerate(own.regions) if name.startswith("WM ")]
    assert 0.8 < moved[:, :, tracts].std() < 2.0  # soft borders mix neighbours
    for sd in (0.0, 2.0):
        tabulate(str(tmp_path / f"{sd}.zarr"))
    cells = [read_subject(str(tmp_path / f"{sd}.zarr"), 0, "tables/template/mtr_wa") for sd in (0.0, 2.0)]
    np.testing.assert_allclose(cells[1] - cells[0], moved[0], atol=1e-3)  # the noise is the same


def test_subgroups_lose_other_tracts(cord, tmp_path):
    truth = simulate_store(str(tmp_path / "a.zarr"), 24, cord, subgroups=True, scores=True)
    kinds = truth.subjects["subgroup"]
    assert set(kinds[truth.subjects["group"] == "DCM"]) == {"motor", "sensory"}
    motor, sensory = (truth.regions.index(f"WM left {n}") for n in ("lateral corticospinal tract", "fasciculus cuneatus"))
    ratio = truth.loss[:, 1, motor] / np.where(truth.loss[:, 1, sensory] > 0, truth.loss[:, 1, sensory], 1)
    assert ratio[kinds == "motor"].min() > 1 > ratio[kinds == "sensory"].max()
    with open_cohort(str(tmp_path / "a.zarr")) as ds:
        names = set(map(str, ds.coords))
        assert names >= {"mjoa", "dexterity", "grip", "balance"}
        assert not names & {"severity", "offset", "subgroup"}
        assert ds["grip"].attrs["units"] == "kg"


def test_morphometry_has_the_compression_that_is_in_the_truth(cord, tmp_path):
    url = str(tmp_path / "a.zarr")
    truth = simulate_store(url, 8, cord, shape=True)
    assert verify(url) == []
    with open_cohort(url) as ds:
        z, level, ap = ds["z"].to_numpy(), ds["z_level"].to_numpy(), ds["profile_diameter_ap"].to_numpy()
        table = ds["area"].to_numpy()
        np.testing.assert_allclose(table[:, 0], ds["profile_area"].to_numpy()[:, level == 3].mean(axis=1), rtol=1e-10)
    healthy = ap[1::2].mean(axis=0)
    for i, row in truth.subjects.iterrows():
        assert row["compression_ratio"] == pytest.approx(1 - 0.45 * row["severity"], abs=0.01)
        at = np.flatnonzero(z == row["compression_z"])
        if len(at):
            assert schema.LEVEL_NAMES[level[at[0]] - 1] == row["compression_level"]
            assert (ap[i] / healthy)[at[0]] == pytest.approx(row["compression_ratio"], abs=0.2)
    around = cord.cord.sum((0, 1)) * np.prod(cord.grid.spacing[:2])
    assert np.nanmean(table[1::2]) == pytest.approx(around[around > 0].mean(), rel=0.1)


def test_sessions_of_one_person_share_everything_but_the_day(cord, tmp_path):
    url = str(tmp_path / "a.zarr")
    truth = simulate_store(url, 4, cord, missing=0.0, repeats=2)
    people = truth.subjects
    assert people["participant_id"].tolist() == ["sub-00001", "sub-00002", "sub-00003", "sub-00004", "sub-00001", "sub-00002"]
    assert people["session_id"].tolist() == ["ses-1"] * 4 + ["ses-2"] * 2
    assert people[["age", "sex", "site", "severity"]][:2].to_numpy().tolist() == people[["age", "sex", "site", "severity"]][4:].to_numpy().tolist()
    day = truth.mtr[4] - truth.mtr[0]
    np.testing.assert_allclose(day, people["offset"][4] - people["offset"][0], atol=1e-4)
    first, second = (read_subject(url, row, "maps/mtr") for row in (0, 4))
    assert (second - first).std() == pytest.approx(4 * np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("wrong", [{"site_offsets": (1.0,)}, {"site_scales": (1.0, 1.0)}, {"repeats": 9}])
def test_what_does_not_fit_is_refused(cord, tmp_path, wrong):
    with pytest.raises(InputError):
        simulate_store(str(tmp_path / "a.zarr"), 4, cord, **wrong)
