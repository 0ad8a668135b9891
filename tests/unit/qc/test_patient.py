"""One patient's page: values against healthy people of the same age and sex, on one sheet, with nothing of anybody else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.errors import UnknownNameError
from cohort_engine.qc.patient import Patient, patient
from cohort_engine.qc.patient_page import write_patient
from cohort_engine.query.frame import run_query
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("patient") / "study.zarr")
    simulate_store(url, 24, parametric_cord(spacing=1.0, top="C3", bottom="C4"), missing=0, shape=True, repeats=2, age_slope=-0.2)
    return url


@pytest.fixture(scope="module")
def found(store: str) -> Patient:
    return patient(store, "sub-00001")


def test_values_are_those_that_a_query_gives(store: str, found: Patient) -> None:
    mtr = next(m for m in found.measured if m.name == schema.MTR)
    table = run_query(store, "mtr tract='white matter' level=C3")
    own = table[table[schema.PARTICIPANT] == "sub-00001"].set_index(schema.SESSION)["value"]
    at = mtr.levels.index("C3"), mtr.regions.index("white matter")
    np.testing.assert_allclose(mtr.values[:, at[0], at[1]], own.loc[["ses-1", "ses-2"]])


def test_the_norm_is_the_regression_of_healthy_people_on_age_and_sex(store: str, found: Patient) -> None:
    mtr = next(m for m in found.measured if m.name == schema.MTR)
    table = run_query(store, "mtr tract='white matter' level=C3")
    healthy = table[table[schema.GROUP] == "HC"].drop_duplicates(schema.PARTICIPANT)
    own = table[table[schema.PARTICIPANT] == "sub-00001"].iloc[-1]
    columns = np.stack([np.ones(len(healthy)), healthy[schema.AGE], healthy[schema.SEX] == "M"], axis=1).astype(float)
    beta = np.linalg.lstsq(columns, healthy["value"].to_numpy(float), rcond=None)[0]
    expected = beta @ [1, own[schema.AGE], own[schema.SEX] == "M"]
    assert mtr.expected[mtr.levels.index("C3"), mtr.regions.index("white matter")] == pytest.approx(expected, rel=1e-4)
    assert found.norms == "12 healthy people of this cohort, adjusted to age and sex"


def test_a_healthy_person_is_not_compared_with_themselves(store: str) -> None:
    assert patient(store, "sub-00002").norms.startswith("11 healthy people")


def test_a_reference_of_other_levels_is_used_where_it_has_them(store: str, tmp_path: Path) -> None:
    url = str(tmp_path / "healthy.zarr")
    simulate_store(url, 24, parametric_cord(spacing=1.0, top="C4", bottom="C5"), seed=8, missing=0)
    found = patient(store, "sub-00001", reference=url)
    mtr = next(m for m in found.measured if m.name == schema.MTR)
    assert np.isfinite(mtr.values[-1]).all()
    known = {level: bool(np.isfinite(mtr.expected[i]).any()) for i, level in enumerate(mtr.levels)}
    assert known == {"C3": False, "C4": True}
    area = next(m for m in found.measured if m.name == schema.AREA)
    assert np.isfinite(area.values).any(), "which the healthy people do not have"
    assert not np.isfinite(area.expected).any()


def test_a_session_ends_the_page_and_later_ones_are_not_on_it(store: str) -> None:
    assert patient(store, "1".zfill(5), "1").sessions == ("ses-1",)
    assert patient(store, "00001").sessions == ("ses-1", "ses-2")


def test_nobody_of_that_name_is_one_clear_error(store: str) -> None:
    with pytest.raises(UnknownNameError, match="known participant"):
        patient(store, "sub-001")


def test_the_page_says_what_it_is_for_and_names_nobody_else(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_engine.qc.patient_page.template_of", lambda root, config: parametric_cord(spacing=1.0, top="C3", bottom="C4"))
    (path,) = write_patient(store, "sub-00001", out=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "Research use only" in text
    assert "not for diagnosis" in text
    assert "sub-00002" not in text
    assert text.count("data:image/webp") == 1
    assert "http" not in text.replace("http-equiv", "")


def test_without_healthy_people_there_are_values_and_no_norms(tmp_path: Path) -> None:
    url = str(tmp_path / "few.zarr")
    simulate_store(url, 4, parametric_cord(spacing=1.0, top="C4", bottom="C4"), missing=0)
    found = patient(url, "sub-00001")
    assert found.norms == "no norms: 2 healthy people, 10 are needed"
    (mtr,) = found.measured
    assert np.isfinite(mtr.values).all()
    assert np.isnan(pd.Series(mtr.centile.ravel())).all()
