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
from cohort_engine.mapping.rim import RIM
from cohort_engine.phantom.study import simulate
from cohort_engine.phantom.subject import Imperfection, make_subject
from cohort_engine.reduce.native import level_tables
from cohort_engine.reduce.sums import LevelSums, combine
from cohort_engine.schema import LEVEL_NAMES, level_number
from cohort_engine.template import load_template
from cohort_engine.template.levels import LevelRange

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


RANGES = ("C3", "C5", "C2:C3", "C3:C6", "C1:T1")
FRESH = (3, 11)
"""Seeds that nothing was chosen by; the ways of pooling and their errors were, by those of `SEEDS`."""


def one_level(sums: LevelSums) -> LevelSums:
    """All levels as if they were one: the sums of one fit to their voxels."""
    return LevelSums(**{n: None if a is None else a.sum(axis=0, keepdims=True) for n, a in vars(sums).items()})


def pooled_errors(folder: Path, seed: int) -> pd.DataFrame:
    """Own template map, the whole chain, six subjects: a row a cell of `RANGES`, by each way to pool, with its error against the raw truth."""
    template = load_template("parametric")
    simulate(folder / "bids", template=template, patients=3, controls=3, seed=seed)
    data = {"bids": str(folder / "bids"), "store": str(folder / "study.zarr")}
    report = build(parse_config({"data": data, "template": {"name": "parametric"}, "compute": {"cluster": "local", "workers": 2}}))
    assert report.exit_code == 0, report.failures.to_string()
    truth = pd.read_csv(folder / "bids/derivatives/truth/truth.tsv", sep="\t").set_index("participant_id")
    ds = cohort_engine.open_cohort(data["store"])
    regions, clusters, levels = template.atlas.regions, tuple(template.atlas.clusters.values()), list(template.levels)
    members, names = [r.members for r in regions], [r.name for r in regions]
    sums = LevelSums.unpack(ds["native_mtr_sums"].to_numpy(), len(template.atlas.labels))
    parts = []
    for text in RANGES:
        some = [levels.index(LEVEL_NAMES[n - 1]) for n in LevelRange.parse(text, levels).numbers]
        ways = {
            "mean of fits": ds.cohort.table("mtr", None, text, estimator="map", space="native"),
            "native wa": ds.cohort.table("mtr", None, text, estimator="wa", space="native"),
            "template map": ds.cohort.table("mtr", None, text, estimator="map", space="template"),
            "template wa": ds.cohort.table("mtr", None, text, estimator="wa", space="template"),
        }
        for row, who in enumerate(ds["participant_id"].to_numpy()):
            own = truth.loc[who].pivot(index="level", columns="region", values=["raw", "native_voxels"]).reindex(index=[levels[i] for i in some])
            raw, voxels = (own[c].reindex(columns=names).to_numpy(float) for c in ("raw", "native_voxels"))
            voxels = np.where(np.isnan(raw), 0, voxels)
            size = voxels.sum(axis=0)
            true = np.divide(np.nansum(raw * voxels, axis=0), size, out=np.full(len(size), np.nan), where=size > 0)
            own_sums = LevelSums(**{n: None if a is None else a[row] for n, a in vars(sums).items()})
            single = one_level(own_sums.at(np.array(some)))
            fitted = combine(single, members, clusters, prior=True)
            found = {
                w: (t["value"].to_numpy()[row, 0], t["se"].to_numpy()[row, 0] if "se" in t else np.full(len(names), np.nan)) for w, t in ways.items()
            }
            found["one fit"] = (np.where(np.isnan(found["mean of fits"][0]), np.nan, fitted[0]), fitted[2])
            cells = np.array(
                [TRACTS if n.startswith(("WM left", "WM right")) else "" if n.startswith(("WM ", "GM ", "CSF")) else UNIONS for n in names]
            )
            enough = (size >= np.where(cells == TRACTS, 15, 30)) & (cells != "") & np.isfinite(found["mean of fits"][0])
            parts += [
                pd.DataFrame({"cells": cells, "levels": text, "way": w, "seed": seed, "error": v - true, "se": e})[enough]
                for w, (v, e) in found.items()
            ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.timeout(3600)
def test_levels_pooled_against_the_raw_truth(benchmark: Any, tmp_path: Path) -> None:
    """The mean of the levels' fits, one fit to all levels (SCT's way), and what else a store holds."""
    seeds = (*SEEDS, *FRESH)
    found = benchmark.pedantic(lambda: pd.concat([pooled_errors(tmp_path / str(s), s) for s in seeds], ignore_index=True), rounds=1, iterations=1)
    for name, some in {"seeds by which the way was chosen": SEEDS, "fresh seeds": FRESH}.items():
        print(f"\n{name}", summary(found[found.seed.isin(some)], ["cells", "levels", "way"]).round(3).to_string(), sep="\n")
    fresh = summary(found[found.seed.isin(FRESH) & found.levels.str.contains(":")], ["cells", "way"])
    for cells in (TRACTS, UNIONS):
        own = fresh.loc[(cells, "mean of fits")]
        assert own["mean_absolute"] <= 1.5
        assert abs(own["bias"]) <= 0.5
        assert own["covers"] >= 0.9
        assert own["mean_absolute"] < fresh.loc[(cells, "template map"), "mean_absolute"] < fresh.loc[(cells, "template wa"), "mean_absolute"]


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


ENDS = (0.0, 0.25)
"""How far tissue reaches beyond masks and atlas in simulated scans, mm: 0.25 in real ones."""


@pytest.mark.timeout(1800)
def test_what_partial_volume_costs_where_the_map_is_true(benchmark: Any) -> None:
    """True template map: how far `map` is off by how the atlas comes into the image, by what a voxel mixes, and by where tissue ends."""
    template = load_template("parametric")
    scans = {end: [make_subject(template, group=g, number=0, seed=1, imperfection=Imperfection(rim=end)) for g in ("DCM", "HC")] for end in ENDS}
    regions, clusters = template.atlas.regions, tuple(template.atlas.clusters.values())
    tract = np.array([r.name.startswith(("WM left", "WM right")) for r in regions])
    numbers = [level_number(name) for name in template.levels]

    def errors(how: str, by_signal: bool, rim: float, end: float) -> np.ndarray:
        out = []
        for subject in scans[end]:
            truth = subject.truth
            atlas = native_atlas(truth.template_map, template, truth.mtr.affine, truth.mtr.data.shape, how=how, rim=rim)
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

    ways = [(how, by_signal, RIM, RIM) for how in ("interpolate", "integral") for by_signal in (False, True)]
    ways += [("integral", True, rim, end) for end in ENDS for rim in (0.0, 0.15, 0.25, 0.35) if (rim, end) != (RIM, RIM)]
    found = benchmark.pedantic(lambda: {way: errors(*way) for way in ways}, rounds=1, iterations=1)
    for (how, by_signal, rim, end), error in found.items():
        shares = f"shares of the {'signal' if by_signal else 'volume'}, tissue ends {end} mm outside, the atlas {rim}"
        print(f"{how}, {shares}: {len(error)} tracts, mean {np.abs(error).mean():.2f}, bias {error.mean():+.2f}")
    size = {way: np.abs(error).mean() for way, error in found.items()}
    assert size["integral", True, RIM, RIM] < 0.3 < size["interpolate", False, RIM, RIM]
    assert size["integral", True, 0.0, 0.0] < 0.3 < size["integral", True, 0.0, RIM]
