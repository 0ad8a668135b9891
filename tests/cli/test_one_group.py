"""A study of one group: what does not compare groups is there all the same, and what does says why it is not."""

from __future__ import annotations

from typing import Any

import pytest

from cohort_engine.config import parse_config
from cohort_engine.query.accessor import open_cohort
from cohort_engine.report.analyse import analyse_cohort
from cohort_engine.report.methods import write_methods
from cohort_engine.report.page import write_report
from cohort_engine.report.summary import summarise

pytestmark = pytest.mark.slow

FEATURES = ["mtr tract='white matter' tract='dorsal columns' level=C2:C3,C5", "area level=C2:C3"]
COMPARES = {"groups", "roc", "classifier"}


@pytest.fixture(scope="module")
def stores(make_finished_study) -> dict[str, str]:
    """22 people who all have one word, of whom six came twice."""
    return {word: make_finished_study(22, 6, lambda table, word=word: table.assign(group=word)) for word in ("HC", "DCM")}


def analysed(url: str, **sections: Any) -> tuple[Any, Any]:
    ds = open_cohort(url)
    chosen = {"features": FEATURES, "harmonise": {"site": "site"}, "clusters": {"resamples": 3}, **sections}
    return analyse_cohort(ds, parse_config({"data": {"bids": "b", "store": url}, "analysis": chosen})), ds


def test_healthy_people_alone(stores, tmp_path) -> None:
    found, ds = analysed(stores["HC"])
    assert not found.failed
    assert set(found.problems) & COMPARES == COMPARES
    assert "expected two groups, found one, 'HC'" in found.problems["groups"]
    assert {"people", "repeats", "norms", "sites", "change", "correlations"} & set(found.problems) == set()
    assert found.tables["repeats"]["n"].max() == 6  # people; their 12 sessions are not
    assert set(found.tables["norms_summary"]["n_reference"]) == {22.0}
    assert set(found.tables["characteristics"]["group"]) == {"HC"}
    said = summarise(found)
    assert said["people"] == "22 people were analysed: 22 controls (HC), one group; 6 scans were left out."
    assert "22 controls (HC), one group" in str(write_methods(found, ds))
    page = write_report(found, ds, tmp_path).read_text()
    assert "Agreement of repeated scans" in page
    assert "against" not in page.split("<title>")[1].split("</title>")[0]


def test_patients_alone_against_another_cohort(stores) -> None:
    alone, _ = analysed(stores["DCM"])
    assert "expected healthy people, found none" in alone.problems["norms"]
    assert not alone.failed
    found, _ = analysed(stores["DCM"], norms={"reference": stores["HC"]})
    assert not found.failed
    assert found.tables["norms"]["subject"].nunique() == 22
    assert found.tables["norms_summary"]["n_case"].max() == 22
    assert summarise(found)["people"].startswith("22 people were analysed: 22 cases (DCM), one group")
