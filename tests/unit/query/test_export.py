"""Tables of a preset: the columns and units of the software they are compared with."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort_engine import schema
from cohort_engine.cli import app
from cohort_engine.config import load_config, parse_config, preset_of
from cohort_engine.errors import UnknownNameError
from cohort_engine.query.export import export_tables
from cohort_engine.query.reader import CohortReader
from cohort_engine.reduce.cohort import tabulate
from cohort_engine.stages.choose import stages_of
from cohort_engine.store.maintenance import finalise
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import HandMadeStore

PUBLISHED = "Timestamp,SCT Version,Filename,Slice (I->S),VertLevel,DistancePMJ,Label,Size [vox],WA(),STD()"
"""Head of a table that the toolbox wrote."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three people: MD of 0.9, 1.0 and 1.1 um2/ms in C2 to C5 and 9 elsewhere; no diffusion of the third."""
    url = str(tmp_path_factory.mktemp("cohort") / "study.zarr")
    template = parametric_cord(spacing=2, top="C2", bottom="C7")
    off = {"enabled": False}
    stages = {
        "metrics": ["mtr", "md"], "reduce": {"spaces": ["template"], "estimators": ["wa"]}, "segment": off, "levels": off, "shape": {"source": "t2w"},
    }  # fmt: skip
    config = parse_config({"data": {"bids": "b", "store": url}, "template": {"name": "parametric"}, "stages": stages})
    people = pd.DataFrame({"participant_id": ["sub-01", "sub-02", "sub-03"], "session_id": ["", "ses-1", ""]})
    made = HandMadeStore.lay_out(config, template, people, names=("mtr", "md", "shape"))
    level = template.packing.level
    z = len(template.z)
    for row, value in zip(made.rows, (0.9, 1.0, None), strict=True):
        arrays = {"maps/mtr": np.full(len(level), 40, np.float32), "profiles/area": np.full(z, 70.0 + row)}
        if value is not None:
            arrays |= {"maps/md": np.where(level <= 5, value, 9.0).astype(np.float32), "maps/md_se": np.full(len(level), 0.1, np.float32)}
            arrays |= {"qc/md_shared": np.float32(1)}
        made.write(row, arrays)
    finalise(url, tabulate=lambda: tabulate(url), allow_missing=True)
    return url


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as lines:
        return list(csv.DictReader(lines))


def test_tables_have_the_columns_and_units_of_those_they_are_compared_with(store: str, tmp_path: Path) -> None:
    done = export_tables(CohortReader(store), preset_of("spine-generic"), tmp_path)
    assert (tmp_path / "DWI_MD.csv").read_text().partition("\n")[0] == PUBLISHED
    rows = read(tmp_path / "DWI_MD.csv")
    assert [r["Filename"] for r in rows] == ["sub-01/dwi/dti_MD.nii.gz", "sub-02/ses-1/dwi/dti_MD.nii.gz", "sub-03/dwi/dti_MD.nii.gz"]
    assert [r["WA()"] for r in rows[2:]] == [""]
    assert [float(r["WA()"]) for r in rows[:2]] == pytest.approx([0.9e-3, 1.0e-3], rel=1e-5)
    assert {(r["VertLevel"], r["Label"]) for r in rows} == {("2:5", "white matter")}
    assert float(rows[0]["Size [vox]"]) > 100
    assert done.written["DWI_MD.csv"] == 2
    assert [float(r["WA()"]) for r in read(tmp_path / "MTR_LCST.csv")] == pytest.approx([40] * 3)
    area = read(tmp_path / "csa-SC_T2w.csv")
    assert [float(r["MEAN(area)"]) for r in area] == pytest.approx([70, 71, 72])
    assert {r["VertLevel"] for r in area} == {"2:3"}


def test_what_the_cohort_lacks_is_said_and_left_out(store: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", store, "--preset", "spine-generic", "--out", str(tmp_path / "new" / "folder")])
    assert result.exit_code == 0, result.output
    there = {p.name for p in (tmp_path / "new" / "folder").iterdir()}
    assert there == {f"{m}{r}.csv" for m in ("MTR", "DWI_MD") for r in ("", "_LCST", "_DC")} | {"csa-SC_T2w.csv"}
    assert "DWI_FA.csv" in result.output
    assert "'fa'" in result.output


def test_a_preset_lies_below_what_the_study_file_says(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("data: {bids: b, store: s.zarr}\nstages: {metrics: [mtr], reduce: {min_coverage: 0.5}}\n")
    plain, chosen = load_config(study), load_config(study, preset="spine-generic")
    assert plain.stages.shape.source is None
    assert (chosen.stages.metrics, chosen.stages.shape.source) == (("mtr",), "t2w")
    assert (chosen.stages.reduce.min_coverage, chosen.stages.reduce.native) == (0.5, "interpolate")
    study.write_text("preset: spine-generic\ndata: {bids: b, store: s.zarr}\n")
    names = {s.name for s in stages_of(load_config(study))}
    assert {"mtr", "mtsat", "t1", "fa", "md", "rd", "shape"} <= names
    study.write_text("preset: spin-generic\ndata: {bids: b, store: s.zarr}\n")
    with pytest.raises(UnknownNameError, match="'spine-generic'"):
        load_config(study)


def test_every_question_of_a_preset_is_about_a_metric_that_a_stage_makes() -> None:
    preset = preset_of("spine-generic")
    asked = {t.ask.partition(" ")[0] for t in preset.tables.values()}
    assert asked == {*preset.settings["stages"]["metrics"], schema.AREA}
