"""Native `map` and `ml` of a simulated study, own template map, against the raw truth: error, bias, and what the standard errors promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cohort_engine
from cohort_engine.config import parse_config
from cohort_engine.engine.build import build
from cohort_engine.phantom.study import simulate
from cohort_engine.template import load_template

pytestmark = pytest.mark.benchmark
ESTIMATORS = ("wa", "ml", "map")
CELL = ["participant_id", "level", "region"]


def test_error_and_intervals_against_the_raw_truth(tmp_path: Path) -> None:
    simulate(tmp_path / "bids", template=load_template("parametric"), patients=2, controls=2, seed=1)
    config = parse_config(
        {
            "data": {"bids": str(tmp_path / "bids"), "store": str(tmp_path / "study.zarr")},
            "template": {"name": "parametric"},
            "compute": {"cluster": "local", "workers": 2},
            "stages": {"reduce": {"spaces": ["template", "native"], "estimators": list(ESTIMATORS)}},
        }
    )
    report = build(config)
    assert report.exit_code == 0, report.failures.to_string()
    truth = pd.read_csv(tmp_path / "bids/derivatives/truth/truth.tsv", sep="\t")[[*CELL, "raw", "native_voxels"]]
    lines = []
    for space in ("native", "template"):
        ds = cohort_engine.open_cohort(str(tmp_path / "study.zarr"), space=space)
        for estimator in ESTIMATORS:
            cells = ds.cohort.frame("mtr", estimator=estimator).merge(truth, on=CELL).dropna(subset=["value"])
            tracts = cells[(cells.native_voxels >= 30) & cells.region.str.match("WM (left|right) ")]
            error = tracts.value - tracts.raw
            lines.append({
                "space": space, "estimator": estimator, "cells": len(error), "mean absolute error": error.abs().mean(), "bias": error.mean(),
                "spread": error.std(), "median se": tracts.se.median() if "se" in tracts else np.nan,
                "95 % interval covers": (error.abs() <= 1.96 * tracts.se).mean() if "se" in tracts else np.nan,
            })  # fmt: skip
    table = pd.DataFrame(lines).set_index(["space", "estimator"])
    print(table.round(3).to_string(), ds["mtr_space_difference"].to_numpy().round(2), f"{report.seconds:.0f} s")
    native = table.loc["native"]
    assert native.loc["map", "mean absolute error"] < native.loc["wa", "mean absolute error"]
