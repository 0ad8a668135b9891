"""Published morphometry, analysed as a study: group differences equal a regression straight from the CSVs."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from cohort_engine.config import Config, parse_config
from cohort_engine.engine.importing import import_morphometry
from cohort_engine.query.accessor import open_cohort
from cohort_engine.report.analyse import analyse_cohort
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real

UCLA = "UCLA_LA5c"
LEVELS = ("C2:C3", "C4", "C5", "C6")


@pytest.fixture(scope="module")
def ucla(real_data: Path, pam50: Template, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, url = real_data / "morphometrics", str(tmp_path_factory.mktemp("ucla") / "cohort.zarr")
    import_morphometry(folder / f"spinal_cord_{UCLA}.tar.xz", url, participants=folder / f"{UCLA}_participants.tsv", template=pam50)
    return url


def study(column: str, control: str, case: str, covariates: Sequence[str]) -> Config:
    questions = [f"{m} level={','.join(LEVELS)}" for m in ("area", "diameter_ap_ellipse")]
    groups = {"column": column, "control": control, "case": case}
    markers = {"classifier": {"markers": ["area level=C2:C3", "diameter_ap_ellipse level=C2:C3"]}}
    quick = {"roc": {"resamples": 0}, "clusters": {"resamples": 5, "largest": 3}}
    analysis = {"groups": groups, "features": questions, "tests": {"method": "linear", "covariates": covariates}, **markers, **quick}
    return parse_config({"data": {"bids": "", "store": ""}, "analysis": analysis})


def told(url: str, column: str, control: str, cases: list[str], covariates: Sequence[str] = ("age", "sex")) -> pd.DataFrame:
    """Differences of area and diameter, adjusted for the covariates, and the area under the ROC curve, case group by case group."""
    parts = []
    for case in cases:
        found = analyse_cohort(url, study(column, control, case, covariates))
        table = found.tables["groups"].merge(found.tables["roc"][["metric", "level", "auc", "auc_low", "auc_high"]], on=["metric", "level"])
        parts.append(table.assign(case=case))
    out = pd.concat(parts)
    columns = ["case", "metric", "level", "n_control", "n_case", "effect", "low", "high", "p", "q", "auc", "auc_low", "auc_high"]
    print("", out[columns].round(4).to_string(index=False), sep="\n")
    return out.set_index(["case", "metric", "level"])


def test_patients_of_ucla_against_its_controls(ucla: str, real_data: Path) -> None:
    found = told(ucla, "pathology", "CN", ["SCHZ", "bipolar", "ADHD"])
    folder = real_data / "morphometrics"
    people = pd.read_csv(folder / f"{UCLA}_participants.tsv", sep="\t").set_index("participant_id")
    with tarfile.open(folder / f"spinal_cord_{UCLA}.tar.xz") as tar:
        tables = {m.name.split("/")[-1].split("_")[0]: pd.read_csv(tar.extractfile(m)) for m in tar if m.name.endswith(".csv")}
    area = pd.Series({name: t.loc[t["VertLevel"].isin([2, 3]), "MEAN(area)"].mean() for name, t in tables.items()})
    for case, share in found.xs(("area", "C2:C3"), level=("metric", "level"))[["effect", "p"]].iterrows():
        chosen = people[people["pathology"].isin(["CN", case])].join(area.rename("csa"), how="inner").dropna(subset=["csa", "age", "sex"])
        x = sm.add_constant(pd.DataFrame({"case": chosen["pathology"] == case, "age": chosen["age"], "male": chosen["sex"] == "M"}).astype(float))
        fit = sm.OLS(chosen["csa"], x).fit()
        np.testing.assert_allclose(share, [fit.params["case"], fit.pvalues["case"]], rtol=1e-6)


def test_scanners_of_spine_generic(healthy_cohort: str) -> None:
    found = told(healthy_cohort, "manufacturer", "Siemens", ["Philips", "GE"])
    assert (found["n_control"] > 100).all()
    with open_cohort(healthy_cohort) as ds:
        assert set(ds["manufacturer"].to_numpy()) == {"Siemens", "Philips", "GE"}
    sex = told(healthy_cohort, "sex", "M", ["F"], ["age"])
    assert (sex.loc[("F", "area"), "effect"] < 0).all()
