"""How much values depend on doubtful slices: as a column of every native answer, pooled or not, in what is said beside it, and in the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cohort_engine import open_cohort, schema
from cohort_engine.config import AnalysisConfig, parse_config
from cohort_engine.quality import vocabulary
from cohort_engine.query.frame import run_query
from cohort_engine.reduce.dependence import changes
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.sums import LevelSums, pooled_cells
from cohort_engine.stages.mtr import MTR
from cohort_engine.store.maintenance import finalise
from cohort_engine.study.material import gather
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import HandMadeStore

DOUBTFUL, CLEAN, UNJUDGED, ALL_OF_IT = range(4)
SAID = "C4: slices 2 (the mask jumps), without which white matter goes from 42.0 to 40.0"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Levels of three slices with pure voxels of each label: 40, 40 and 46 in C4, 50 in C5."""
    template = parametric_cord(spacing=2.0, top="C4", bottom="C5")
    data = {"bids": "b", "store": str(tmp_path_factory.mktemp("doubt") / "s.zarr")}
    config = parse_config({"data": data, "template": {"name": "parametric"}})
    people = pd.DataFrame({"participant_id": [f"sub-{n}" for n in range(4)], "group": ["HC", "HC", "DCM", "DCM"]})
    store = HandMadeStore.lay_out(config, template, people, names=("mtr", "mtr_native", "quality"))
    written = {s.path for stage in store.stages for s in stage.writes}
    assert vocabulary.doubt_path("mtr", "map") in written
    atlas, levels = template.atlas, [schema.level_number(n) for n in template.levels]
    weights = np.tile(np.eye(len(atlas.labels)), 6)
    slices = np.repeat(np.arange(6), len(atlas.labels))
    values = np.array([40.0, 40, 46, 50, 50, 50])[slices] + np.random.default_rng(1).normal(0, 0.1, len(slices))
    level, reach = np.repeat(levels, 3)[slices], np.ones((2, len(levels), len(weights)))
    image = reach, levels, tuple(atlas.clusters.values())
    whole = LevelSums.of(values, weights, level, *image)
    cells = pooled_cells(whole.at(np.arange(len(levels))[:, None]), [r.members for r in atlas.regions], image[2], estimator("map"), min_coverage=0.5)
    native = {s.path: cells[k] for k, s in schema.table_specs("mtr", "map", "native").items()} | {schema.sums_spec(MTR).path: whole.pack()}
    specs = vocabulary.quality_specs()
    numbers = {s.path: np.float32(np.nan) for s in specs.values() if s.dtype != "str"}
    for row, which in ((DOUBTFUL, [2]), (CLEAN, []), (UNJUDGED, []), (ALL_OF_IT, [0, 1, 2])):
        arrays = {"maps/mtr": np.full(len(template.packing), 40.0, np.float32), **native}
        if row != UNJUDGED:
            some = LevelSums.of(values, weights, np.where(np.isin(slices, which), level, 0), *image)
            packed = some.pack()
            packed[some.count == 0] = np.nan
            arrays |= {s.path: changes(whole, some, atlas, e) for e in ("map", "wa") if (s := vocabulary.doubt_spec(MTR, e)).path in written}
            arrays |= numbers | {specs[vocabulary.REASONS].path: np.array("", object), vocabulary.doubtful_spec(MTR).path: packed}
            arrays |= {
                specs[vocabulary.DOUBTFUL_SLICES].path: np.float32(len(which)),
                specs[vocabulary.LARGEST_DOUBT].path: np.float32(9 * bool(which)),
            }
            arrays |= {specs[vocabulary.DOUBTFUL].path: np.array(SAID if which else "", object)}
        store.write(row, arrays)
    finalise(store.url, allow_missing=True)
    return store.url


@pytest.mark.parametrize(("level", "change", "left"), [("C4", -2.0, np.nan), ("C5", 0.0, 0.0), ("C4:C5", -1.0, 4.0)])
def test_an_answer_says_how_it_would_change(url: str, level: str, change: float, left: float) -> None:
    """C4 is 42, and 40 without; pooled with C5 46, and 45; where all of C4 is doubtful, C5 alone is left."""
    found = run_query(url, f"mtr tract='white matter' level={level}")
    np.testing.assert_allclose(found["doubt"], [change, 0, np.nan, left], atol=0.1)


def test_a_table_says_what_the_sums_say(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of single levels it is kept, so that a question reads no sums; without it the sums say the same."""
    ask = [f"mtr tract='{region}' level=C4,C5" for region in ("white matter", "gray matter", "WM left fasciculus gracilis")]
    with monkeypatch.context() as patch:
        patch.setattr("cohort_engine.query.cells._read_sums", lambda *given: pytest.fail("sums are read"))
        kept = [run_query(url, q)["doubt"].to_numpy() for q in ask]
    monkeypatch.setattr(vocabulary, "doubt_path", lambda metric, estimator: "tables/native/none")
    for q, expected in zip(ask, kept, strict=True):
        np.testing.assert_allclose(run_query(url, q)["doubt"], expected, atol=1e-5)


def test_it_is_that_of_the_estimator(url: str) -> None:
    found = run_query(url, "mtr tract='white matter' level=C4 estimator=wa space=native coverage=0.4")
    np.testing.assert_allclose(found["value"] + found["doubt"], [40, 42, np.nan, np.nan], atol=0.1)


def test_what_is_said_beside_an_answer(url: str) -> None:
    for question in ("mtr tract='white matter' level=C4", "mtr tract='white matter' level=C4 by=group"):
        assert any(
            n.startswith("values of 1 subjects change by more than their standard error without their doubtful slices: rows 0 (C4 white matter by -2")
            for n in run_query(url, question).attrs["notes"]
        )
    assert run_query(url, "mtr tract='white matter' level=C5").attrs["notes"] == []
    assert "doubt" not in run_query(url, "mtr tract='white matter' level=C4 space=template")


def test_a_report_names_whose_values_depend_on_them(url: str) -> None:
    notes = gather(url, AnalysisConfig(features=("mtr tract='white matter' level=C5",))).notes
    assert [n for n in notes if "doubtful" in n] == [f"{who} has native MTR that depends on doubtful slices: {SAID}" for who in ("sub-0", "sub-3")]
    assert open_cohort(url)["doubtful_slices"].to_numpy()[[0, 1, 3]].tolist() == [1, 0, 3]
