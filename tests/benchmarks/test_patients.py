"""Simulated patients by how much their cord is compressed: error of native `map`, levels, masks and quality, from masks given and from images alone.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_patients.py``; ``PATIENTS=n`` takes n people of each grade,
``PATIENTS_RIM=mm`` another distance of the tissue's end from the masks' than in real scans, ``PATIENTS_REFINE=0`` leaves the map as the outline gives
it, ``PATIENTS_GREY=1`` lets it follow segmented grey matter, and ``PATIENTS_OUT=name`` keeps all cells and people (``name_cells.csv``,
``name_people.csv``); ``PATIENTS_SEED`` takes other people, and ``PATIENTS_OF=name,name`` sums up those of earlier runs together.
Masks that are given are ragged, have gaps and lost fronts by grade (`phantom.compression.GRADES`). No tract reaches 30 voxels of 5 mm in one level:
those of at least 15 are judged. The slab of MT slices ends inside a level above and below: a cell is expected to have a value where the true map
has as much of it in the slab as a value needs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cohort_engine
from cohort_engine.config import ReduceConfig, parse_config
from cohort_engine.engine.build import build
from cohort_engine.io.volume import read_volume
from cohort_engine.phantom.compression import GRADES, draw_patient
from cohort_engine.phantom.study import LABELS, TRUTH, simulate
from cohort_engine.phantom.subject import MT_MASK, Imperfection, make_subject
from cohort_engine.store.layout import open_root
from cohort_engine.store.records import made_url
from cohort_engine.template import load_template

SEED = int(os.environ.get("PATIENTS_SEED", "11"))
COUNT = int(os.environ.get("PATIENTS", "2"))
SCANS = Imperfection(rim=float(os.environ.get("PATIENTS_RIM", "0.25")))
REFINE = os.environ.get("PATIENTS_REFINE", "1") != "0"
GREY = os.environ.get("PATIENTS_GREY", "0") != "0"
CELL = ["participant_id", "level", "region"]
LEAST_VOXELS = 15
LEAST_COVERAGE = ReduceConfig().min_coverage
VALUE, OUTSIDE, LOST = "value", "outside", "lost"
"""A cell has a value; has none, as the true map has too little of it in the slab; or has none that it should have."""
GIVEN, ALONE = "masks given", "images alone"


def built(folder: Path, name: str) -> tuple[str, pd.DataFrame]:
    """Build one tree in this process; the URL of its store, and the failures."""
    config = parse_config(
        {
            "data": {"bids": str(folder / name), "store": str(folder / f"{name}.zarr")},
            "template": {"name": "parametric"},
            "compute": {"cluster": "synchronous"},
            "stages": {"reduce": {"estimators": ["map"], "spaces": ["native"]}, "fit": {"refine": REFINE, "grey": GREY}},
        }
    )
    report = build(config)
    return report.url, report.failures


def compared(folder: Path, name: str, truth: pd.DataFrame, people: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells of large tracts with their error, and a row a person: what the map and the mask got wrong."""
    template = load_template("parametric")
    url, failures = built(folder, name)
    ds = cohort_engine.open_cohort(url, space="native")
    cells = truth.merge(ds.cohort.frame("mtr", estimator="map"), on=CELL, how="left", suffixes=("_true", ""))
    cells = cells[cells.region.str.match("WM (left|right) ") & (cells.native_voxels >= LEAST_VOXELS)]
    cells = cells.assign(error=cells.value - cells.raw, why=cells.apply(why, axis=1)).merge(people[["participant_id", "grade"]], on="participant_id")
    root = open_root(url)
    names = [str(n) for n in np.asarray(ds["participant_id"])]
    rows = []
    for person in people.itertuples():
        row, number = names.index(person.participant_id), int(person.participant_id[-3:]) - 1
        rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(4, number)))
        anatomy = anatomies(template, number, draw_patient(person.grade, rng))
        found = np.asarray(root["fit/mt"][row], float)
        there = np.isfinite(found).all(axis=1)
        off = anatomy.template(found[there]) - template.packing.xyz[there]
        near = np.abs(template.packing.xyz[there, 2] - anatomy.compressed_z) < 8
        rows.append({
            "participant_id": person.participant_id, "grade": person.grade, "levels mm": np.median(np.abs(off[:, 2])) if there.any() else np.nan,
            "plane mm": np.median(np.hypot(*off[:, :2].T)) if there.any() else np.nan,
            "plane mm, compressed": np.median(np.hypot(*off[near, :2].T)) if near.any() else np.nan,
            "dice": dice(folder, name, url, row, person.participant_id),
            "usable": float(ds["usable"][row]) if "usable" in ds else np.nan,
            "failed": "; ".join(failures.loc[failures["name"] == person.participant_id, "stage"]) if len(failures) else "",
        })  # fmt: skip
    return cells.assign(source=name), pd.DataFrame(rows).assign(source=name)


def why(cell: pd.Series) -> str:
    """Say why a cell has a value or none, by how much of it the true map has in the slab, and how much the fitted one."""
    if np.isfinite(cell.value):
        return VALUE
    return OUTSIDE if cell.coverage_true < LEAST_COVERAGE else LOST


def anatomies(template: Any, number: int, patient: Any) -> Any:
    """Truth of a person; the images are made again, since the folder does not hold the curve."""
    subject = make_subject(template, number=number, seed=SEED, site=0, patient=patient)
    return subject.truth.anatomy


def dice(folder: Path, name: str, url: str, row: int, person: str) -> float:
    """Dice of the MT mask that was used with the good one."""
    good = read_volume(str(next((folder / GIVEN / TRUTH / person).rglob("*desc-truth_MTmask.nii.gz"))), what="good mask").data > 0.5
    made = Path(made_url(url, row, MT_MASK))
    given = [*(folder / name / LABELS / person).rglob("*_mt-on_MTS_label-SC_seg.nii.gz")]
    used = [made] if made.exists() else given
    if not used:
        return np.nan
    mask = read_volume(str(used[0]), what="mask").data > 0.5
    return float(2 * (mask & good).sum() / (mask.sum() + good.sum()))


def summary(cells: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """A row for each grade and source."""
    rows = judged(cells)
    by = ["source", "grade"]
    of_cells = rows.groupby(by).agg(
        expected=("coverage_true", lambda c: int((c >= LEAST_COVERAGE).sum())), mae=("size", "mean"), bias=("error", "mean"), se=("se", "median"),
        covers=("covers", "mean"),
    )  # fmt: skip
    of_cells = rows.groupby([*by, "why"]).size().unstack(fill_value=0).join(of_cells)
    numbers = ["levels mm", "plane mm", "plane mm, compressed", "dice", "usable"]
    return of_cells.join(people.groupby(by)[numbers].mean()).reindex([(s, g) for s in (GIVEN, ALONE) for g in GRADES])


def judged(cells: pd.DataFrame) -> pd.DataFrame:
    """Add how large each error is, and whether its 95 % interval holds the truth."""
    return cells.assign(size=cells.error.abs(), covers=(cells.error.abs() <= 1.96 * cells.se).where(cells.error.notna()))


def together(cells: pd.DataFrame) -> pd.DataFrame:
    """All grades of a source: mean errors, the share of intervals that hold, and its standard error, for the cells of a person err together."""
    rows = judged(cells[cells.error.notna()])
    out = []
    for source, each in rows.groupby("source"):
        n = each.groupby("participant_id").covers.agg(["sum", "size"]).astype(float)
        share = n["sum"].sum() / n["size"].sum()
        off = float(np.sqrt(((n["sum"] - share * n["size"]) ** 2).sum()) / n["size"].sum())
        rms = float(np.sqrt(((each.error / each.se) ** 2).mean()))
        out.append([source, len(n), len(each), each["size"].mean(), each.error.mean(), share, off, rms])
    return pd.DataFrame(out, columns=["source", "people", "cells", "mae", "bias", "covers", "covers se", "error / se"]).set_index("source")


@pytest.mark.timeout(3600)
def test_error_by_severity(benchmark: Any, tmp_path: Path) -> None:
    template = load_template("parametric")

    def run() -> tuple[pd.DataFrame, pd.DataFrame]:
        study = simulate(
            tmp_path / GIVEN, template=template, patients=COUNT * len(GRADES), controls=0, sites=1, seed=SEED, grades=tuple(GRADES),
            imperfection=SCANS,
        )  # fmt: skip
        shutil.copytree(tmp_path / GIVEN, tmp_path / ALONE)
        shutil.rmtree(tmp_path / ALONE / LABELS)
        both = [compared(tmp_path, name, study.truth, study.participants) for name in (GIVEN, ALONE)]
        return pd.concat([b[0] for b in both], ignore_index=True), pd.concat([b[1] for b in both], ignore_index=True)

    if earlier := os.environ.get("PATIENTS_OF"):
        cells, people = (pd.concat([pd.read_csv(f"{n}_{what}.csv").assign(run=n) for n in earlier.split(",")]) for what in ("cells", "people"))
        cells = cells.assign(participant_id=cells.run + " " + cells.participant_id)
        benchmark.pedantic(summary, args=(cells, people), rounds=1, iterations=1)
    else:
        cells, people = benchmark.pedantic(run, rounds=1, iterations=1)
    found = summary(cells, people)
    lost = cells.loc[cells.why == LOST, ["source", "grade", *CELL, "coverage_true", "coverage", "native_voxels", "n"]]
    print(people.round(3).to_string(), found.round(3).to_string(), together(cells).round(3).to_string(), sep="\n\n")
    print(f"\n{len(lost)} cells have no value that they should have", *([lost.round(2).to_string(index=False)] if len(lost) else []), sep="\n")
    if out := os.environ.get("PATIENTS_OUT"):
        cells.to_csv(f"{out}_cells.csv", index=False)
        people.to_csv(f"{out}_people.csv", index=False)
    assert set(found.index.get_level_values("grade")) == set(GRADES)
