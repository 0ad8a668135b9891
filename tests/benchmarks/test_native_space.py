"""Native `map` and `ml` of simulated studies against the raw truth: error, bias, and what the standard errors promise.

Run with ``pytest -s --benchmark-only -o filterwarnings=default tests/benchmarks/test_native_space.py``. No tract reaches 30 voxels of 5 mm in one
level: those of at least 15 are judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cohort_engine
from cohort_engine.config import parse_config
from cohort_engine.engine.build import build
from cohort_engine.mapping.native import native_atlas
from cohort_engine.phantom.study import simulate
from cohort_engine.phantom.subject import make_subject
from cohort_engine.reduce.native import level_tables
from cohort_engine.schema import level_number
from cohort_engine.template import load_template

ESTIMATORS = ("wa", "ml", "map")
CELL = ["participant_id", "level", "region"]


@pytest.mark.parametrize("seed", [1, 7])
def test_error_and_intervals_against_the_raw_truth(benchmark: Any, tmp_path: Path, seed: int) -> None:
    """Own template map, the whole chain: four subjects a seed."""
    simulate(tmp_path / "bids", template=load_template("parametric"), patients=2, controls=2, seed=seed)
    config = parse_config(
        {
            "data": {"bids": str(tmp_path / "bids"), "store": str(tmp_path / "study.zarr")},
            "template": {"name": "parametric"},
            "compute": {"cluster": "local", "workers": 2},
            "stages": {"reduce": {"estimators": list(ESTIMATORS)}},
        }
    )
    report = benchmark.pedantic(build, args=(config,), rounds=1, iterations=1)
    assert report.exit_code == 0, report.failures.to_string()
    truth = pd.read_csv(tmp_path / "bids/derivatives/truth/truth.tsv", sep="\t")[[*CELL, "raw", "native_voxels"]]
    lines = []
    for space in ("native", "template"):
        ds = cohort_engine.open_cohort(str(tmp_path / "study.zarr"), space=space)
        for estimator in ESTIMATORS:
            cells = ds.cohort.frame("mtr", estimator=estimator).merge(truth, on=CELL).dropna(subset=["value"])
            tract, voxels = cells.region.str.match("WM (left|right) "), cells.native_voxels
            union = ~cells.region.str.match("WM |GM |CSF")
            kinds = {"tracts, 15 voxels": tract & (voxels >= 15), "unions, 30 voxels": union & (voxels >= 30)}
            for name, some in {**kinds, "both": kinds["tracts, 15 voxels"] | kinds["unions, 30 voxels"]}.items():
                error = (cells.value - cells.raw)[some]
                se = cells.se[some] if "se" in cells else np.full(len(error), np.nan)
                lines.append({
                    "space": space, "cells": name, "estimator": estimator, "count": len(error), "mean absolute error": error.abs().mean(),
                    "bias": error.mean(), "spread": error.std(), "median se": np.median(se), "95 % covers": (error.abs() <= 1.96 * se).mean(),
                })  # fmt: skip
    table = pd.DataFrame(lines).set_index(["space", "cells", "estimator"]).sort_index()
    print(f"seed {seed}", table.round(3).to_string(), ds["mtr_space_difference"].to_numpy().round(2), f"{report.seconds:.0f} s", sep="\n")
    native = table.xs("native")
    for estimator in ("ml", "map"):
        tracts = native.loc[("tracts, 15 voxels", estimator)]
        assert tracts["mean absolute error"] <= 1.5
        assert abs(tracts["bias"]) <= 0.5
        assert 0.9 <= native.loc[("both", estimator)]["95 % covers"] <= 0.98


def test_what_partial_volume_costs_where_the_map_is_true(benchmark: Any) -> None:
    """True template map, no noise, no motion: how far `map` is off by how the atlas comes into the image, and by what a voxel mixes."""
    template = load_template("parametric")
    subjects = [make_subject(template, group=group, number=0, seed=1) for group in ("DCM", "HC")]
    regions, clusters = template.atlas.regions, tuple(template.atlas.clusters.values())
    tract = np.array([r.name.startswith(("WM left", "WM right")) for r in regions])
    numbers = [level_number(name) for name in template.levels]

    def errors(how: str, by_signal: bool) -> np.ndarray:
        out = []
        for subject in subjects:
            truth = subject.truth
            atlas = native_atlas(truth.template_map, template, truth.mtr.affine, truth.mtr.data.shape, how=how)
            weights = atlas.weights
            if by_signal:
                signal = np.asarray(truth.tissue.off)[:, None]
                mixed = weights * signal
                weights = mixed * weights.sum(axis=0) / mixed.sum(axis=0)
            values = truth.mtr.data.reshape(-1)[atlas.voxel].astype(float)
            found = level_tables(
                values, weights, atlas.level, atlas.reach, numbers, [r.members for r in regions], clusters, estimator="map", min_coverage=0.75
            )["value"]
            some = tract & (truth.native_voxels >= 15) & np.isfinite(found)
            out.append((found - truth.raw)[some])
        return np.concatenate(out)

    ways = [(how, by_signal) for how in ("interpolate", "integral") for by_signal in (False, True)]
    found = benchmark.pedantic(lambda: {way: errors(*way) for way in ways}, rounds=1, iterations=1)
    for (how, by_signal), error in found.items():
        shares = "signal" if by_signal else "volume"
        print(f"{how}, shares of the {shares}: {len(error)} tracts, mean {np.abs(error).mean():.2f}, bias {error.mean():+.2f}")
    assert np.abs(found["integral", True]).mean() < 0.3 < np.abs(found["interpolate", False]).mean()
