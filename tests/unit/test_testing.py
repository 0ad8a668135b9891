import numpy as np
import pytest

from cohort_engine.io.closing import verify
from cohort_engine.io.writer import read_subject
from cohort_engine.reduce.cohort import tabulate
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
        assert np.isnan(value[coverage < 0.75]).all()
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
