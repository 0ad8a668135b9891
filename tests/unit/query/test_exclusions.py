"""Whoever is left out by ratings has no value: in answers of a store, of an opened cohort, and in an analysis."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.io.exclusions import ALL, Rating, exclusions_url, write_exclusions
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query
from cohort_engine.sections.people import flow
from cohort_engine.study.material import gather
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store


def rate(url: str, *ratings: Rating) -> None:
    place = Path(exclusions_url(url))
    place.parent.mkdir(exist_ok=True)
    place.write_text(write_exclusions(ratings))


@pytest.fixture
def cohort(make_cohort: Any) -> str:
    return str(make_cohort([[40.0] * 8, [50.0] * 8, [60.0] * 8]))


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("metric", ["mtr", ALL])
def test_a_rated_value_is_missing_and_the_answer_says_why(cohort: str, opened: bool, metric: str) -> None:
    rate(cohort, Rating(metric, "sub-02", reason="moved", rater="AB"), Rating("mtr", "sub-01", rating="pass", rater="AB"))
    found = run_query(open_cohort(cohort) if opened else cohort, "mtr tract='white matter' level=C2")
    np.testing.assert_array_equal(found["value"], [40.0, np.nan, 60.0])
    assert any("rows 1 (rated fail: moved)" in n and "AB" not in n for n in found.attrs["notes"])


def test_other_metrics_of_the_same_person_stay(cohort: str) -> None:
    rate(cohort, Rating("fa", "sub-02"))
    assert run_query(cohort, "mtr tract='white matter' level=C2")["value"].tolist() == [40.0, 50.0, 60.0]


def test_a_group_does_without(cohort: str) -> None:
    rate(cohort, Rating("mtr", "sub-02", rating="artifact"))
    found = run_query(cohort, "mtr tract='white matter' level=C2 by=session_id")
    assert found[["mean", "n"]].to_numpy().tolist() == [[50.0, 2.0]]
    assert found["sd"].item() == pytest.approx(14.142, abs=1e-3)  # of 40 and 60


def test_an_analysis_leaves_people_out_with_the_reason(tmp_path: Path) -> None:
    url = str(tmp_path / "study.zarr")
    simulate_store(url, 12, parametric_cord(spacing=1.0, top="C2", bottom="C5"), shape=True)
    rate(url, Rating(ALL, "sub-00003", reason="moved"), Rating("mtr", "sub-00004", rating="artifact", reason="ghost"),
         Rating(schema.SHAPE, "sub-00005", reason="mask"))  # fmt: skip
    config = parse_config({"data": {"bids": "", "store": url}}).analysis
    found = gather(url, config)
    left = found.people.excluded
    assert left[[schema.PARTICIPANT, "reason"]].to_numpy().tolist() == [["sub-00003", "rated fail: moved"]]
    values = pd.DataFrame(found.values, found.people.table[schema.PARTICIPANT])
    of = (found.features["metric"] == schema.MTR).to_numpy()
    assert values.loc["sub-00004"].isna().tolist() == of.tolist()
    assert values.loc["sub-00005"].isna().tolist() == (~of).tolist()
    assert np.isnan(found.profiles[schema.AREA].values[list(values.index).index("sub-00005")]).all()
    assert {
        "MTR is left out of some people: rated artifact: ghost, 1",
        "the shape of the cord is left out of some people: rated fail: mask, 1",
    } <= set(found.notes)

    assert "left out: rated fail: moved" in [c.text for c in flow(SimpleNamespace(material=found))]  # type: ignore[arg-type]
    only = parse_config({"data": {"bids": "", "store": url}, "analysis": {"features": ["mtr tract='white matter' level=C3"]}}).analysis
    assert gather(url, only).people.excluded["reason"].tolist() == ["rated fail: moved", "rated artifact: ghost"], "nothing is left of the second"
