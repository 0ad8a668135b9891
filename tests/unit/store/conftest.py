"""Stores of a few subjects and two stages, laid out as a build does it: recipes, specifications and what was asked are plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.provenance import digest
from cohort_engine.schema import SUBJECT, VariableSpec
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import init_store, write_subject
from cohort_engine.template.base import Template

FIT, MTR = "fit_mt", "mtr"
TABLE = "tables/template/mtr_wa"
CELLS = (TABLE, f"{TABLE}_n")
SPECS = (
    VariableSpec("fit/mt", "where each template voxel lies", "mm", (SUBJECT, "voxel", "axis"), chunks={SUBJECT: 1}, stage=FIT),
    VariableSpec("qc/mt_dice", "Dice", "1", (SUBJECT,), valid_range=(0.0, 1.0), stage=FIT),
    VariableSpec("maps/mtr", "MTR", "percent", (SUBJECT, "voxel"), valid_range=(-100.0, 100.0), chunks={SUBJECT: 1}, stage=MTR),
    VariableSpec("qc/mtr_cord_median", "median", "percent", (SUBJECT,), stage=MTR),
    VariableSpec("profiles/area", "area", "mm2", (SUBJECT, "z"), "float64", stage=MTR),
    VariableSpec("tables/native/mtr_wa", "native", "percent", (SUBJECT, "level", "region"), stage=MTR),
    VariableSpec(TABLE, "MTR, wa", "percent", (SUBJECT, "level", "region"), chunks={SUBJECT: 64}),
    VariableSpec(f"{TABLE}_n", "voxels", "voxel", (SUBJECT, "level", "region"), valid_range=(0.0, float("inf")), chunks={SUBJECT: 64}),
)


def recipe(stage: str, **params: Any) -> dict[str, Any]:
    return {"stage": stage, "version": "1", "params": params, "template": "t"}


def asking(low_signal: float = 0.05, seed: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a study asks for, and its recipes."""
    found = {FIT: recipe(FIT, seed=seed), MTR: recipe(MTR, low_signal=low_signal)}
    hashes = {stage: digest(r) for stage, r in found.items()}
    stages = {
        FIT: {"recipe": hashes[FIT], "needs": [], "makes": "", "section": "fit"},
        MTR: {"recipe": hashes[MTR], "needs": [FIT], "makes": "", "section": "mtr"},
    }
    for stage, entry in stages.items():
        entry["writes"] = [s.path for s in SPECS if s.stage == stage]
    asked = {"science": {"low_signal": low_signal, "seed": seed}, "hash": digest(low_signal, seed), "stages": stages}
    return asked, {hashes[s]: r for s, r in found.items()}


def people(subjects: int | pd.DataFrame) -> pd.DataFrame:
    if isinstance(subjects, pd.DataFrame):
        return subjects
    return pd.DataFrame({"participant_id": [f"sub-{i:03d}" for i in range(subjects)], "session_id": "01", "age": 50.0, "site": "x"})


class Cohort:
    """A store to be laid out, filled and laid out again."""

    def __init__(self, url: str, template: Template) -> None:
        self.url, self.template, self.asked, self.recipes = url, template, *asking()

    def init(self, subjects: int | pd.DataFrame = 3, *, specs: Any = SPECS, template: Any = None, **options: Any) -> list[int]:
        settings = {k: options.pop(k) for k in ("low_signal", "seed") if k in options}
        if settings:
            self.asked, self.recipes = asking(**settings)
        rows = init_store(
            self.url, template=template or self.template, subjects=people(subjects), specs=specs, asked=self.asked, recipes=self.recipes, **options
        )
        return [int(r) for r in rows]

    def entry(self, row: int, stage: str, status: str = schema.DONE, **more: Any) -> Entry:
        used = self.asked["stages"][stage]["recipe"]
        return Entry(row, stage, status, **{"key": f"{stage}{row}{used[:4]}", "recipe": used, "seconds": 2.0, "peak_memory": 300.0, **more})

    def write(self, row: int, arrays: Mapping[str, Any], stage: str, **more: Any) -> None:
        write_subject(self.url, row, arrays, self.entry(row, stage, **more), template_digest=self.template.digest)

    def fit(self, row: int, value: float = 1.0, **more: Any) -> None:
        voxels = len(self.template.packing)
        self.write(row, {"fit/mt": np.full((voxels, 3), value), "qc/mt_dice": 0.9}, FIT, **more)

    def mtr(self, row: int, value: float | None = None, **more: Any) -> None:
        """MTR of a subject: its row number (of 100) everywhere, or another value."""
        t, v = self.template, float(row % 100 if value is None else value)
        arrays = {
            "maps/mtr": np.full(len(t.packing), v), "qc/mtr_cord_median": v, "profiles/area": np.full(len(t.z), v),
            "tables/native/mtr_wa": np.full((len(t.levels), len(t.atlas.regions)), v),
        }  # fmt: skip
        key = self.entry(row, FIT).key
        self.write(row, arrays, MTR, **{"upstream": {FIT: key}, **more})

    def run(self, *rows: int) -> None:
        for row in rows:
            self.fit(row)
            self.mtr(row)

    def fail(self, row: int, stage: str, status: str = schema.FAILED) -> None:
        self.write(row, {}, stage, status=status, key="")

    def table(self, value: float = 1.0) -> dict[str, Any]:
        t = self.template
        return {p: np.full((len(t.levels), len(t.atlas.regions)), value) for p in CELLS}


@pytest.fixture
def cohort(tmp_path: Path, small_template: Template) -> Cohort:
    return Cohort(str(tmp_path / "store.zarr"), small_template)


@pytest.fixture
def build(tmp_path: Path, small_template: Template) -> Callable[..., Cohort]:
    """Lay out n subjects and bring `done` of them (by default all) to the end, row r having an MTR of r everywhere."""

    def call(n: int = 3, done: Any = None, url: str = "") -> Cohort:
        made = Cohort(url or str(tmp_path / "store.zarr"), small_template)
        made.init(n)
        made.run(*(range(n) if done is None else done))
        return made

    return call


class Crash(Exception):
    """As if the power went."""


def group(url, name):
    """Read a group of a store as xarray does that knows nothing of it."""
    return xr.open_zarr(url, group=name, consolidated=False, zarr_format=3).load()
