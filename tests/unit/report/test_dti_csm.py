"""The reproduction of the DTI study: its plan is that of the training files, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.errors import ConfigError, StoreError, UnknownNameError
from cohort_engine.report.dti_csm import FIRST_TEST, Plan, load_plan, reproduce
from cohort_engine.report.page import Image
from cohort_engine.rois.config import load_training
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.rois.sweep import rows_of
from cohort_engine.template.base import Template

CONFIGS = Path(__file__).parents[3] / "configs/training/rois"
CORNERS = [(5, 5), (3, 10), (6, 16), (8, 10), (18, 5), (20, 10), (17, 16), (15, 10)]
TINY = {"net": {"encoder": "unet", "channels": [4, 8]}, "input": {"images": ["fa"], "norm": "robust", "size": 24}, "epochs": 1}


@pytest.mark.parametrize(("name", "file"), [("ours", "ours"), ("the article's method", "paper"), ("the released code", "published_code")])
def test_the_plan_trains_what_the_training_files_say(name: str, file: str) -> None:
    of_plan, of_file = (c.model_dump(exclude={"seed"}) for c in (load_plan().shown("full")[name].config, load_training(CONFIGS / f"{file}.yaml")))
    assert of_plan == of_file


def test_the_full_table_crosses_encoders_losses_and_inputs() -> None:
    rows = rows_of(load_plan().sweep("full"))
    crossed = {(r.labels["net"], r.labels["loss"], r.labels["input"]) for r in rows if r.labels["method"] == "as published"}
    assert len(crossed) == 2 * 4 * 2
    seeds = {m: {r.config.seed for r in rows if r.labels["method"] == m} for m in ("released code", "ours")}
    assert seeds == {"released code": {1, 2, 3}, "ours": {1, 2, 3}}
    assert {r.config.epochs for r in rows} == {500, 16}


def tiny_plan(**size: Any) -> Plan:
    choices = {"loss": {"Dice": {"loss": {"kind": "dice"}}}, "method": {"as published": {}, "ours": {"augment": {"flip": "exchange"}}}}
    tables = [{"rows": {"method": "all"}}]
    small = {
        "patients": 4,
        "test_patients": 2,
        "reduced": "everything",
        "base": TINY,
        "always": {"fractions": [0.5, 0.5, 0.0]},
        "tables": tables,
        **size,
    }
    return Plan.model_validate({"choices": choices, "looked_at": {"ours": {"method": "ours"}, "theirs": {}}, "sizes": {"small": small}})


def make(template: Template, *, patients: int, seed: int, first: int, workers: int) -> RoiSlices:
    """Squares of 4 x 4 pixels that are brighter in FA, one slice a patient."""
    rng, n = np.random.default_rng(seed), patients
    drawn = np.zeros((n, 8, 28, 24), bool)
    for r, (x, y) in enumerate(CORNERS):
        drawn[:, r, x : x + 4, y : y + 4] = True
    fa = (0.3 + 0.3 * drawn.any(axis=1) + rng.normal(0, 0.02, (n, 28, 24))).astype(np.float32)
    cord = np.zeros(fa.shape, bool)
    cord[:, 2:26, 3:22] = True
    return RoiSlices(
        {schema.FA: fa}, drawn, cord, np.arange(first, first + n), np.zeros(n, int), np.array([0.6, 0.6]), again=np.roll(drawn, 1, axis=2)
    )


def test_from_nothing_to_the_page_and_again(tmp_path: Path, tiny_template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    asked: list[int] = []

    def counted(template: Template, **more: Any) -> RoiSlices:
        asked.append(more["first"])
        return make(template, **more)

    monkeypatch.setattr("cohort_engine.phantom.roi_study.make_roi_slices", counted)
    monkeypatch.setattr("cohort_engine.report.roi_page.save_figure", lambda *_: Image("data:,", 1))  # drawn in the page's own tests
    said: list[str] = []
    found = reproduce(tmp_path, tiny_template, plan=tiny_plan(), device="cpu", say=said.append)
    assert asked == [0, FIRST_TEST]
    assert [m.name for m in found.methods] == ["ours", "theirs", "another rater"]
    record = json.loads((tmp_path / "rois.json").read_text())
    assert (record["size"], record["reduced"], record["template"]) == ("small", "everything", tiny_template.name)
    sweep = pd.read_csv(tmp_path / "csv/sweep.csv")
    assert sweep["method"].tolist() == ["as published", "ours"]
    trained = (tmp_path / "trainings/results.jsonl").read_text()
    assert sum("Dice 0." in line for line in said) == 2

    monkeypatch.setattr("cohort_engine.report.roi_study.write_evaluation", lambda *_: None)  # once is enough
    again = reproduce(tmp_path, tiny_template, plan=tiny_plan(), device="cpu")
    assert asked == [0, FIRST_TEST]
    assert (tmp_path / "trainings/results.jsonl").read_text() == trained
    assert np.array_equal(again.methods[0].masks, found.methods[0].masks)
    with pytest.raises(StoreError, match="patients"):
        reproduce(tmp_path, tiny_template, plan=tiny_plan(patients=5), device="cpu")


def test_sizes_and_rows_that_are_not_there_are_named(tmp_path: Path, tiny_template: Template) -> None:
    with pytest.raises(UnknownNameError, match="'reduced'"):
        reproduce(tmp_path, tiny_template, size="reduce")
    with pytest.raises(ConfigError, match="ours"):
        tiny_plan(tables=[{"rows": {}}]).shown("small")
