"""Subjects whose values may not be usable are named wherever the values are used, and count all the same."""

import numpy as np
import pandas as pd
import pytest

from cohort_engine import open_cohort
from cohort_engine.config import AnalysisConfig, parse_config
from cohort_engine.engine.status import status
from cohort_engine.quality import vocabulary
from cohort_engine.query.frame import run_query
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.verify import verify
from cohort_engine.study.material import gather
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import HandMadeStore

WHY = "the cord mask is shifted, or lacks a part (mt_border_lacks 2.4, slices 9-12)"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("doubtful")
    template = parametric_cord(spacing=2.0, top="C4", bottom="C5")
    config = parse_config({"data": {"bids": "b", "store": str(folder / "s.zarr")}, "template": {"name": "parametric"}})
    people = pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(6)], "group": ["HC", "HC", "HC", "DCM", "DCM", "DCM"]})
    store = HandMadeStore.lay_out(config, template, people, names=("mtr", "quality"))
    specs = vocabulary.quality_specs()
    for row, usable in enumerate((0.97, 0.95, 0.99, 0.04, 0.96, 0.94)):
        arrays = {s.path: np.float32(np.nan) for s in specs.values() if s.dtype != "str"}
        arrays |= {specs["usable"].path: np.float32(usable), specs["reasons"].path: np.array(WHY if usable < 0.5 else "", dtype=object)}
        store.write(row, {"maps/mtr": np.full(len(template.packing), 40.0 + row, np.float32), **arrays})
    finalise(store.url)
    return store.url


def test_the_store_is_sound_and_keeps_the_reasons(url: str) -> None:
    assert verify(url) == []
    assert list(open_cohort(url)["reasons"].to_numpy()) == ["", "", "", WHY, "", ""]


def test_status_names_them_with_the_reasons(url: str) -> None:
    assert status(url).doubtful == {"sub-3": f"0.04: {WHY}"}


def test_an_answer_says_that_they_are_in_it(url: str) -> None:
    found = run_query(url, "mtr tract='white matter' level=C4")
    assert len(found) == 6
    said = '1 of 6 subjects may not be usable, and are in the answer: rows 3 ("cohort-engine status" says why)'
    assert said in found.attrs["notes"]
    assert said not in run_query(url, "mtr tract='white matter' level=C4 group=HC").attrs["notes"]


def test_an_analysis_names_them_and_leaves_them_out_when_asked(url: str) -> None:
    asked = AnalysisConfig(features=("mtr tract='white matter' level=C4",))
    told = gather(url, asked)
    assert len(told.people.table) == 6
    assert any(n.startswith("sub-3 may not be usable (usable with a probability of 0.04)") and WHY in n for n in told.notes)
    without = gather(url, asked.model_copy(update={"quality": {"usable": (0.5, None)}}))
    assert list(without.people.excluded["reason"]) == ["usable is 0.04, allowed at least 0.5"]
    assert not any("may not be usable" in n for n in without.notes)
