"""Seven metrics in one cohort, some of which disease lowers and some raises: every section takes them as it takes MTR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.query.accessor import open_cohort
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.report.analyse import analyse_cohort
from cohort_engine.report.methods import write_methods
from cohort_engine.report.summary import summarise
from cohort_engine.sections.groups import top_findings
from cohort_engine.store.maintenance import finalise
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import HandMadeStore

PLANTED = {  # healthy, change of the worst patient, spread of people
    "mtr": (45.0, -4.0, 1.5), "mtsat": (4.0, -0.6, 0.3), "t1": (1.0, 0.12, 0.06), "fa": (0.70, -0.10, 0.03), "md": (0.95, 0.15, 0.06),
    "ad": (2.0, -0.15, 0.1), "rd": (0.45, 0.15, 0.06),
}  # fmt: skip
RAISED = {"t1", "md", "rd"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """Forty people, half of them patients of differing severity; the cord is narrower in them, too."""
    url = str(tmp_path_factory.mktemp("many") / "study.zarr")
    rng, template = np.random.default_rng(4), parametric_cord(spacing=2, top="C2", bottom="C4")
    off = {"enabled": False}
    stages = {
        "metrics": list(PLANTED), "reduce": {"spaces": ["template"], "estimators": ["wa"]}, "segment": off, "levels": off, "shape": {"source": "t2w"},
    }  # fmt: skip
    severity = np.where(np.arange(40) % 2, rng.uniform(0.2, 1, 40), 0)
    people = pd.DataFrame({
        "participant_id": [f"sub-{i:02d}" for i in range(40)], "session_id": "", "group": np.where(severity > 0, "DCM", "HC"),
        "age": rng.integers(30, 70, 40).astype(float), "sex": np.where(rng.random(40) < 0.5, "F", "M"),
        "mjoa": np.where(severity > 0, 18 - 8 * severity + rng.normal(0, 0.5, 40), np.nan),
    })  # fmt: skip
    config = parse_config({
        "data": {"bids": "b", "store": url}, "template": {"name": "parametric"}, "stages": stages,
        "analysis": {"clusters": {"resamples": 5}, "roc": {"resamples": 20}},
    })  # fmt: skip
    store = HandMadeStore.lay_out(config, template, people, names=(*PLANTED, "shape"))
    n, z = len(template.packing), len(template.z)
    for row, bad in zip(store.rows, severity, strict=True):
        arrays: dict[str, Any] = {"profiles/area": np.full(z, 75 - 6 * bad + rng.normal(0, 4)), "profiles/diameter_ap": np.full(z, 7.5 - bad)}
        for name, (healthy, change, spread) in PLANTED.items():
            value = healthy + change * bad + rng.normal(0, spread / 2)
            arrays[f"maps/{name}"] = (value + rng.normal(0, spread, n)).astype(np.float32)
            if schema.METRICS[name].error:
                arrays |= {f"maps/{name}_se": np.full(n, spread / 2, np.float32), f"qc/{name}_shared": np.float32(8)}
        store.write(row, arrays)
    finalise(url, tabulate=lambda: tabulate(url))
    return url, config


@pytest.fixture(scope="module")
def found(study: tuple[str, Any]) -> Any:
    return analyse_cohort(open_cohort(study[0]), study[1])


def white(table: pd.DataFrame, level: str = "C3") -> pd.DataFrame:
    return table[(table["region"] == "white matter") & (table["level"] == level)].set_index("metric")


def test_nothing_is_left_out_and_no_section_fails(found: Any) -> None:
    assert set(found.problems) == {"change", "sites", "repeats"}, "one site, and nobody came twice"
    assert set(found.material.features["metric"]) == {*PLANTED, "area", "diameter_ap"}
    assert found.material.rises == RAISED


def test_differences_have_the_sign_that_was_planted(found: Any) -> None:
    rows = white(found.tables["groups"])
    column = next(c for c in ("difference", "effect") if c in rows)
    assert {m: np.sign(rows.at[m, column]) for m in PLANTED} == {m: np.sign(change) for m, (_, change, _) in PLANTED.items()}
    assert (rows.loc[list(PLANTED), "q"] < 0.05).all()


def test_markers_point_the_way_of_disease(found: Any) -> None:
    rows = white(found.tables["roc"])
    assert set(rows.index[rows["direction"] == "higher"]) == RAISED
    assert (rows.loc[list(PLANTED), "auc"] > 0.75).all()
    md, controls = rows.loc["md"], found.material.values[:, found.material.features.index[0]]
    assert len(controls) == 40
    assert PLANTED["md"][0] < md["threshold"] < PLANTED["md"][0] + PLANTED["md"][1], "patients lie above the threshold of MD"


def test_each_two_metrics_and_the_area_are_paired_at_a_level(found: Any) -> None:
    pairs = {frozenset((a, b)) for a, b in zip(found.tables["roc_pairs"]["first"], found.tables["roc_pairs"]["second"], strict=True)}
    for two in (
        ("MTR (wa) white matter C3", "FA (wa) white matter C3"),
        ("FA (wa) white matter C3", "area C3"),
        ("MTR (wa) white matter C3", "area C3"),
    ):
        assert frozenset(two) in pairs
    levels = [{label.rpartition(" ")[2] for label in pair} for pair in pairs if not any("compression" in label for label in pair)]
    assert all(len(one) == 1 for one in levels)
    rows = found.tables["roc_pairs"].set_index(["first", "second"])
    aucs = found.tables["roc"]
    row = rows.loc[("MTR (wa) white matter C3", "FA (wa) white matter C3")]
    assert row["difference"] == pytest.approx(white(aucs).at["mtr", "auc"] - white(aucs).at["fa", "auc"])


def test_scores_go_with_every_metric_the_right_way(found: Any) -> None:
    rows = white(found.tables["correlations"])
    rows = rows[rows["score"] == "mjoa"] if "score" in rows else rows
    column = next(c for c in ("r", "rho", "correlation") if c in rows)
    for name in ("fa", "mtr"):
        assert rows.at[name, column] > 0.3
    for name in ("md", "rd"):
        assert rows.at[name, column] < -0.3


def test_methods_and_summary_speak_of_what_is_there(study: tuple[str, Any], found: Any) -> None:
    assert len(top_findings(found))
    assert summarise(found)
    text = str(write_methods(found, open_cohort(study[0])))
    for name in PLANTED:
        assert schema.label_of(name) in text
