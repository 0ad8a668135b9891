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
SEEDS = (1, 7, 101)
TRACTS, UNIONS = "tracts, 15 voxels", "unions, 30 voxels"


def native_and_template_errors(folder: Path, seed: int) -> pd.DataFrame:
    """Own template map, the whole chain, four subjects: a row a cell with its error against the raw truth."""
    simulate(folder / "bids", template=load_template("parametric"), patients=2, controls=2, seed=seed)
    config = parse_config(
        {
            "data": {"bids": str(folder / "bids"), "store": str(folder / "study.zarr")},
            "template": {"name": "parametric"},
            "compute": {"cluster": "local", "workers": 2},
            "stages": {"reduce": {"estimators": list(ESTIMATORS)}},
        }
    )
    report = build(config)
    assert report.exit_code == 0, report.failures.to_string()
    truth = pd.read_csv(folder / "bids/derivatives/truth/truth.tsv", sep="\t")[[*CELL, "raw", "native_voxels"]]
    parts = []
    for space in ("native", "template"):
        ds = cohort_engine.open_cohort(str(folder / "study.zarr"), space=space)
        for estimator in ESTIMATORS:
            cells = ds.cohort.frame("mtr", estimator=estimator).merge(truth, on=CELL).dropna(subset=["value"])
            tract, voxels = cells.region.str.match("WM (left|right) "), cells.native_voxels
            union = ~cells.region.str.match("WM |GM |CSF")
            for name, some in {TRACTS: tract & (voxels >= 15), UNIONS: union & (voxels >= 30)}.items():
                kept = cells[some].assign(space=space, cells=name, estimator=estimator, seed=seed, error=cells.value - cells.raw)
                parts.append(kept.reindex(columns=["space", "cells", "estimator", "seed", "region", "error", "se"]))
    print(f"seed {seed}: spaces differ by", ds["mtr_space_difference"].to_numpy().round(2), f"{report.seconds:.0f} s")
    return pd.concat(parts, ignore_index=True)


def summary(cells: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Error and what the standard errors promise; `covers` is the share within 1.96 of them, NaN without."""
    has = cells.se.notna()
    rows = cells.assign(size=cells.error.abs(), covers=(cells.error.abs() <= 1.96 * cells.se).astype(float).where(has)).groupby(by)
    return rows.agg(
        count=("error", "size"), mean_absolute=("size", "mean"), bias=("error", "mean"), sd=("error", "std"), se=("se", "median"),
        covers=("covers", "mean"),
    )  # fmt: skip


@pytest.mark.timeout(1800)
def test_error_and_intervals_against_the_raw_truth(benchmark: Any, tmp_path: Path) -> None:
    """Intervals are judged over all seeds together: the tracts of one seed are four subjects, whose maps err for all of their cells at once."""
    found = benchmark.pedantic(
        lambda: pd.concat([native_and_template_errors(tmp_path / str(seed), seed) for seed in SEEDS], ignore_index=True), rounds=1, iterations=1
    )
    native = found[found.space == "native"]
    each = summary(native, ["cells", "estimator", "seed"])
    pooled = summary(found, ["space", "cells", "estimator"])
    unions = summary(native[(native.cells == UNIONS) & (native.estimator == "map")], ["region"])
    print(each.round(3).to_string(), pooled.round(3).to_string(), unions.round(3).to_string(), sep="\n\n")
    for estimator in ("ml", "map"):
        tracts = each.loc[TRACTS, estimator]
        assert (tracts["mean_absolute"] <= 1.5).all()
        assert (tracts["bias"].abs() <= 0.5).all()
        assert 0.9 <= pooled.loc[("native", TRACTS, estimator), "covers"] <= 0.98


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
