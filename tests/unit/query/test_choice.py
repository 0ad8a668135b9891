"""Which value answers: the least biased one that the cohort has, unless the question names another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import AnalysisConfig
from cohort_engine.errors import StoreError, UnknownNameError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.choice import Choice, choose
from cohort_engine.query.frame import run_query
from cohort_engine.query.reader import CohortReader
from cohort_engine.store import layout
from cohort_engine.store.compare import compare
from cohort_engine.store.freeze import compact
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw
from cohort_engine.study.material import gather

NAN = float("nan")
C2, POOLED = ("mtr tract='white matter' level=C2", "mtr tract='white matter' level=C2:C3")
PEOPLE = pd.DataFrame({"participant_id": ["sub-01", "sub-02", "sub-03", "sub-04"], "group": ["HC", "HC", "DCM", "DCM"]})


@pytest.fixture
def native(lay_out: Callable[..., Any]) -> Callable[..., Any]:
    """Cohort of four whose maps are 10 and whose images say 40, 41 ... in C2 and 10 more in C3; None for an image without native values."""

    def make(images: Sequence[float | None] = (40.0, 41.0, 42.0, 43.0), *, close: bool = True) -> Any:
        cohort = lay_out([None] * 4, close=False, sums=True, group=PEOPLE["group"])
        for row, value in enumerate(images):
            cohort.write(row, [10] * 8, native=NAN if value is None else value, only_map=value is None)
        if close:
            cohort.close()
        return cohort

    return make


def both(url: str, text: str, **options: Any) -> list[pd.DataFrame]:
    """Ask a store, and the same opened as a dataset."""
    found = [run_query(url, text, **options), run_query(open_cohort(url, **options), text)]
    pd.testing.assert_frame_equal(*found)
    assert found[0].attrs["notes"] == found[1].attrs["notes"]
    return found


def test_native_map_is_the_default_for_a_level_and_for_several(native: Callable[..., Any]) -> None:
    url = native().url
    for text, expected in ((C2, [40, 41, 42, 43]), (POOLED, [45, 46, 47, 48]), ("mtr tract='white matter' level=all", [45, 46, 47, 48])):
        frame = both(url, text)[0]
        np.testing.assert_allclose(frame.value, expected, rtol=1e-6)
        assert {"se", "std", "n", "coverage"} <= set(frame.columns)
        assert (frame.attrs["space"], frame.attrs["estimator"], frame.attrs["notes"]) == ("native", "map", [])
    np.testing.assert_allclose(both(url, f"{POOLED} by=group")[0]["mean"], [45.5, 47.5])


def test_unions_and_sides_that_no_table_holds(native: Callable[..., Any]) -> None:
    url = native().url
    for tract in ("lateral corticospinal tract", "white matter + GM left ventral horn"):
        np.testing.assert_allclose(both(url, f"mtr tract='{tract}' level=C2")[0].value, [40, 41, 42, 43], rtol=1e-6)
        np.testing.assert_allclose(both(url, f"mtr tract='{tract}' level=C3")[0].value, [50, 51, 52, 53], rtol=1e-6)


def test_others_are_named(native: Callable[..., Any]) -> None:
    url = native().url
    for words, space, estimator, expected in (
        ("estimator=wa", "native", "wa", 45), ("space=template", "template", "wa", 10), ("estimator=median", "template", "median", 10),
        ("estimator=map space=template", "template", "map", 10), ("estimator=ml", "native", "ml", 45),
    ):  # fmt: skip
        frame = both(url, f"{POOLED} {words}")[0]
        assert (frame.attrs["space"], frame.attrs["estimator"]) == (space, estimator)
        assert frame.value[0] == pytest.approx(expected)
    assert both(url, POOLED, space="template")[0].value.tolist() == [10, 10, 10, 10]
    assert both(url, f"{POOLED} estimator=wa space=template")[0].attrs["notes"] == []
    with pytest.raises(UnknownNameError, match="a known space, found 'nativ'"):
        run_query(url, f"{C2} space=nativ")
    with pytest.raises(StoreError, match="opened"):
        run_query(open_cohort(url, space="template"), f"{C2} space=native")
    with pytest.raises(StoreError, match="median needs the voxels of the image"):
        run_query(url, f"{C2} estimator=median space=native")


def test_a_store_from_before_answers_as_it_did_and_says_why(lay_out: Callable[..., Any]) -> None:
    """Its native tables hold levels alone: a level and a range of levels would be answered from different spaces."""
    cohort = lay_out([[10] * 8, [20] * 8])
    for text in (C2, POOLED):
        frame = both(cohort.url, text)[0]
        assert (frame.value.tolist(), frame.attrs["space"], frame.attrs["estimator"]) == ([10, 20], "template", "wa")
        (note,) = frame.attrs["notes"]
        assert note.startswith("values are wa in template space, which is more biased than map in native space")
        assert "before the sums of levels were kept" in note
    with pytest.raises(StoreError, match="which this store lacks"):
        run_query(cohort.url, f"{POOLED} space=native estimator=wa")


def test_too_few_native_values_are_no_default(native: Callable[..., Any]) -> None:
    few = both(native((40.0, None, None, None)).url, C2)[0]
    assert few.value.tolist() == [10, 10, 10, 10]
    assert "1 of 4 people have native values" in few.attrs["notes"][0]
    most = both(native((40.0, 41.0, None, None)).url, C2)[0]
    np.testing.assert_allclose(most.value, [40, 41, NAN, NAN], rtol=1e-6)
    assert "2 subjects have no value here" in most.attrs["notes"][0]
    assert both(native((40.0, 41.0, None, None)).url, f"{C2} group=DCM")[0].attrs["space"] == "native", "whoever is asked about"


def test_an_open_store_answers_from_what_waits(native: Callable[..., Any]) -> None:
    cohort = native((40.0, 41.0, 42.0, 43.0), close=False)
    np.testing.assert_allclose(both(cohort.url, POOLED)[0].value, [45, 46, 47, 48], rtol=1e-6)
    cohort.close()
    cohort.init(PEOPLE, low_signal=0.1, sums=True)
    cohort.write(1, [10] * 8, native=50.0)
    for close in (False, True):
        if close:
            cohort.close()
        assert choose(CohortReader(cohort.url), "mtr") == Choice("native", "map")
        np.testing.assert_allclose(run_query(cohort.url, POOLED).value, [NAN, 55, NAN, NAN], rtol=1e-6)


def test_sums_go_the_whole_way_of_a_store(native: Callable[..., Any], tmp_path: Path) -> None:
    """Checked, compared, frozen with all levels of many people in one object, and erased."""
    url, freeze = native().url, str(tmp_path / "freeze.zarr")
    path = schema.sums_path("mtr")
    assert [p for p in verify(url) if p.path == path] == []
    compact(url, freeze)
    array = layout.open_root(freeze)[path]
    assert (array.chunks[1:], array.shards[1:]) == ((1, array.shape[2]), array.shape[1:])
    assert compare(url, freeze).equal
    pd.testing.assert_frame_equal(run_query(url, POOLED), run_query(freeze, POOLED))
    withdraw(url, 1)
    assert np.isnan(layout.open_root(url)[path][1]).all()
    np.testing.assert_allclose(run_query(url, POOLED).value, [45, 47, 48], rtol=1e-6)


def test_an_analysis_takes_what_a_question_takes(native: Callable[..., Any], lay_out: Callable[..., Any]) -> None:
    """Values, their errors, how levels are pooled, and what is said of them."""
    groups = {"column": "group", "control": "HC", "case": "DCM"}
    url = native().url
    m = gather(url, AnalysisConfig.model_validate({"groups": groups}))
    white = m.find("mtr tract='white matter'")
    assert set(m.features["estimator"]) == {"native map"}
    assert m.features.loc[white, "level"].tolist() == ["C2", "C3", "C2:C3"]
    np.testing.assert_allclose(m.values[:, white], [[40, 50, 45], [41, 51, 46], [42, 52, 47], [43, 53, 48]], rtol=1e-6)
    np.testing.assert_allclose(m.errors[:, white[2]], run_query(url, POOLED).se, rtol=1e-6)
    assert m.notes == ()
    assert m.label(int(white[2])) == "MTR white matter C2:C3"
    named = {"groups": groups, "features": ["mtr tract='white matter' level=C2", "mtr tract='white matter' level=C2 space=template estimator=wa"]}
    m = gather(url, AnalysisConfig.model_validate(named))
    assert m.features["estimator"].tolist() == ["native map", "wa"]
    assert [m.label(i) for i in (0, 1)] == ["MTR white matter C2", "MTR (wa) white matter C2"]
    assert m.values[0].tolist() == pytest.approx([40, 10])
    assert np.isnan(m.errors[:, 1]).all()
    assert m.find("mtr tract='white matter' level=C2 space=template estimator=wa").tolist() == [1]
    old = gather(lay_out([[10] * 8] * 4, group=PEOPLE["group"]).url, AnalysisConfig.model_validate({"groups": groups}))
    assert set(old.features["estimator"]) == {"wa"}
    assert "MTR values are wa in template space" in old.notes[0]


def test_pooled_over_one_level_is_that_level(native: Callable[..., Any]) -> None:
    """From the table, and from the sums where the coverage is below the table's."""
    url = native().url
    table, sums = (run_query(url, f"mtr level=C3 {more}") for more in ("", "coverage=0.1"))
    pd.testing.assert_frame_equal(table, sums)


def test_a_choice_is_said_in_words() -> None:
    assert Choice("native", "map").words == "map in native space"
    assert Choice("native", "map").note == ""
