"""Change over time, from the sessions of a store to the page."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cohort_engine.config import SECTION_KINDS, parse_config
from cohort_engine.query.accessor import open_cohort
from cohort_engine.report.analyse import analyse_cohort
from cohort_engine.report.methods import write_methods
from cohort_engine.report.page import write_report
from cohort_engine.report.summary import summarise
from cohort_engine.study.people import in_time, times


def ageing(table: pd.DataFrame) -> pd.DataFrame:
    """Second sessions two years after the first; patients get worse between them."""
    second = table["session_id"] == "ses-2"
    table["age"] = table["age"] + 2 * second
    table["severity"] = table["severity"] * np.where(second, 2.0, 1.0)
    return table


@pytest.fixture(scope="module")
def study(make_finished_study):
    url = make_finished_study(twice=24, change=ageing)
    ds = open_cohort(url)
    return analyse_cohort(ds, parse_config({"data": {"bids": "b", "store": url}, "analysis": {"roc": {"resamples": 0}}})), ds


def test_patients_who_got_worse(study) -> None:
    found, _ = study
    table = found.tables["change"].set_index(["group", "metric", "level"])
    row = table.loc[("DCM", "diameter_ap", "C5")]
    assert (row["n"], row["sessions"], row["follow_up"], row["per"]) == (12, 24, 2.0, "year")
    assert row["high"] < 0
    assert row["q"] < 0.01
    assert abs(table.loc[("HC", "diameter_ap", "C5"), "slope"]) < 0.05
    assert table.loc[("difference", "diameter_ap", "C5"), "slope"] == pytest.approx(row["slope"] - table.loc[("HC", "diameter_ap", "C5"), "slope"])
    limits = found.tables["change_limits"].set_index(["metric", "level"]).loc[("diameter_ap", "C5")]
    assert (limits["reference"], limits["n_reference"]) == ("HC", 12)
    assert limits["beyond_case"] >= 8
    people = found.tables["change_people"].query("metric == 'diameter_ap' and level == 'C5' and group == 'DCM'")
    values = found.material.sessions.values[:, found.material.find("diameter_ap level=C5")[0]]
    last, first = (values[found.material.sessions.person == people["participant_id"].iloc[0]][k] for k in (1, 0))
    assert people["change"].iloc[0] == pytest.approx(last - first)


def test_the_page_says_so(study, tmp_path) -> None:
    found, ds = study
    said = summarise(found)["change"]
    assert "in DCM by" in said
    assert "a year" in said
    text = dict(write_methods(found, ds).parts)["Change over time"]
    assert "HC, up to 12 people" in text
    needed = ("subjects", "excluded", "characteristics", "quality", *SECTION_KINDS["change"].tables)
    page = write_report(dataclasses.replace(found, tables={k: found.tables[k] for k in needed}), ds, tmp_path).read_text()
    assert '<section id="change"' in page
    assert "Minimal detectable change" in page


def test_time_is_dates_then_age_then_number() -> None:
    table = pd.DataFrame({"participant_id": ["a", "a", "b", "b"], "session_id": ["1", "2", "1", "2"], "age": [50.0, 50.0, 60.0, 60.0]})
    assert times(table)[1] == "session"  # of one age
    dated = table.assign(acq_time=["2020-01-01", "2021-01-01", "2020-01-01", ""])
    at, unit = times(dated.iloc[in_time(dated)])
    assert unit == "year"
    assert at[1] - at[0] == pytest.approx(1.0, abs=0.01)
    assert np.isnan(at[3])
