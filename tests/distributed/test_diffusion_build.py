"""A simulated study with distorted diffusion series through every stage: its lost slices, its distortion, and FA beside its truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.config import load_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.engine.status import status
from cohort_engine.phantom.dwi_files import DwiPlan
from cohort_engine.phantom.study import Simulation, simulate
from cohort_engine.query.accessor import open_cohort
from cohort_engine.rois.cores import UNIONS
from cohort_engine.store.verify import verify
from cohort_engine.template import load_template

DISTORTION = 6.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    template = load_template("parametric")
    stages = {"metrics": ["fa"], "fit": {"deformable": False}, "rois": {"source": "atlas"}}
    settings = {"stages": stages, "compute": {"cluster": "synchronous"}}
    plan = DwiPlan.named("b800", distortion=DISTORTION)
    plan = replace(plan, protocol=replace(plan.protocol, directions=15, b0_at=(0, 16, 17, 18)))
    out = tmp_path_factory.mktemp("diffusion") / "study"
    return simulate(out, template=template, patients=0, controls=1, sites=1, seed=3, dwi=plan, settings=settings)


@pytest.fixture(scope="module")
def report(study: Simulation) -> BuildReport:
    return build(load_config(study.study_file))


def test_every_stage_is_done(report: BuildReport) -> None:
    assert report.exit_code == 0, report.failures.to_string()
    assert report.counts["moco_dwi"]["done"] == report.counts["tensor_dwi"]["done"] == report.counts["fa_native"]["done"] == 1
    assert [str(p) for p in verify(report.url)] == []


def test_slices_that_were_lost_are_those_that_were_dropped(study: Simulation, report: BuildReport) -> None:
    truth = pd.read_csv(next((study.bids / "derivatives/truth").rglob("*_motion.tsv")), sep="\t")
    dropped = truth[truth["dropped"] > 0]
    flags = open_cohort(report.url).cohort.motion(0)["flag"].to_numpy()
    assert flags.shape == (truth["volume"].max() + 1, truth["slice"].max() + 1)
    assert np.argwhere(flags & schema.DROPPED).tolist() == dropped[["volume", "slice"]].to_numpy().tolist()
    notes = status(report.url).notes
    assert notes.loc[notes["stage"] == "moco_dwi", "name"].tolist() == ["sub-HC001"]
    assert f"{len(dropped)} slices lost their signal" in notes["note"].iloc[0]


def test_distortion_was_put_right_from_the_fieldmap(report: BuildReport) -> None:
    found = float(open_cohort(report.url)["moco_dwi_largest_displacement"][0])
    assert found == pytest.approx(DISTORTION, abs=1.0)


def test_fa_is_near_its_truth(study: Simulation, report: BuildReport) -> None:
    """Through motion, distortion, partial volume and noise; how near, tract by tract, is measured in the benchmarks.

    Half of the usual directions, and 40 voxels of grey matter in a level: one of the three is off by 0.05, four standard errors.
    """
    cells = open_cohort(report.url).cohort.frame("fa", ["white matter", "gray matter"], ["C3", "C4", "C5"])
    truth = study.truth.set_index([schema.LEVEL, schema.REGION])["fa"]
    away = cells["value"].to_numpy() - truth.loc[list(zip(cells["level"], cells["region"], strict=True))].to_numpy()
    print(cells.assign(away=away)[["level", "region", "value", "away"]].to_string(index=False))
    white = (cells["region"] == "white matter").to_numpy()
    assert np.abs(away[white]).max() < 0.02
    assert np.abs(away[~white]).max() < 0.06
    assert (cells["coverage"] > 0.9).all()


def test_drawn_regions_are_near_the_truth_of_their_parts(study: Simulation, report: BuildReport) -> None:
    """Over three levels; cores of the thin horns hold white matter, too, and those of the thin ventral columns what lies beside them."""
    ds = open_cohort(report.url)
    assert float(ds["rois_absent"][0]) == 0
    truth = study.truth.set_index([schema.LEVEL, schema.REGION])["fa"]
    levels = ["C3", "C4", "C5"]
    away = {}
    for name in schema.ROIS:
        cells = ds.cohort.frame("fa", schema.ROI_REGION.format(name), levels).set_index("level")
        away[name] = cells["value"] - [truth[level, UNIONS[name.split(" ", 1)[1]]] for level in cells.index]
        assert (cells["coverage"] > 0.9).all()
        assert (cells["se"] > cells["noise"] * 0.5).all()
    print(pd.DataFrame(away).round(3).to_string())
    white = pd.DataFrame(away).drop(columns=["left grey matter", "right grey matter"])
    assert white.mean().abs().max() < 0.08
    assert white.mean().mean() == pytest.approx(0, abs=0.03)


def test_building_again_does_nothing(study: Simulation, report: BuildReport) -> None:
    again = build(load_config(study.study_file))
    assert sum(n["done"] for n in again.counts.values()) == 0
