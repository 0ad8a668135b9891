"""Diffusion of real people: the whole chain from the scans of one session, and values that SCT published."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sessions import ALONE, LABELS, SESSION, in_the_middle, link, made, make, raw

from cohort_engine import schema
from cohort_engine.engine.build import BuildReport
from cohort_engine.engine.status import status
from cohort_engine.io.volume import decode_series, read_mask, read_raw
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.query.accessor import open_cohort
from cohort_engine.single.dti import fit_series, tangents
from cohort_engine.store.verify import verify
from cohort_engine.template.base import Template

pytestmark = pytest.mark.real

METRICS = ("mtr", "fa", "md", "ad", "rd")
PUBLISHED = {"C2": 0.827, "C3": 0.820, "C4": 0.807, "C5": 0.802}
"""White matter FA of sct_019 by SCT, estimator map."""
TRACTS = {"WM left lateral corticospinal tract": 0.767, "WM right lateral corticospinal tract": 0.769}
"""Lateral corticospinal tracts there, all slices but the lowest two, estimator wa."""
NEAR, NEAR_IN_TRACTS = 0.03, 0.04
"""How near to SCT's. Tracts are further off since b0 is brought to the weighted volumes: MD of the cord then varies least."""
LEVELS = ["C2", "C3", "C4", "C5"]


@pytest.fixture(scope="module")
def session(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    root = tmp_path_factory.mktemp("session") / "study"
    link(SESSION, real_data, root)
    link(LABELS, real_data, root / "derivatives/labels")
    start = time.process_time()
    report = make(root, real_data, {"metrics": list(METRICS), "shape": {"source": "t2w"}})
    print(f"\nerrsm_23, T2w, MT and DWI of one person: {time.process_time() - start:.1f} s of processor time")
    return report


@pytest.fixture(scope="module")
def slab(real_data: Path, pam50: Template, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """Diffusion alone, and the atlas in the image as SCT has it."""
    root = tmp_path_factory.mktemp("slab") / "study"
    link(ALONE, real_data, root)
    in_the_middle(root, pam50)
    return make(root, real_data, {"metrics": ["fa", "md"], "reduce": {"native": schema.INTERPOLATE, "estimators": ["map", "wa"]}})


@pytest.fixture(params=["session", "slab"])
def built(request: pytest.FixtureRequest) -> tuple[BuildReport, Path]:
    report = request.getfixturevalue(request.param)
    return report, Path(report.url).parent / "study"


# --- the whole chain ------------------------------------------------------------------------------------------------------
def test_the_whole_chain_in_one_build(session: BuildReport) -> None:
    """MTR and FA of each tract and level in one store, and the area beside them."""
    assert session.exit_code == 0, session.failures.to_string()
    assert [str(p) for p in verify(session.url)] == []
    ds = open_cohort(session.url)
    frames = {m: ds.cohort.frame(m, ["white matter", "gray matter"], LEVELS) for m in METRICS}
    for metric, cells in frames.items():
        print(metric, cells[["level", "region", "value", "std", "coverage"]].to_string(index=False), sep="\n")
    print("area", ds["area"].sel(level=LEVELS).to_numpy().round(1))
    c3 = {m: f[f["level"] == "C3"].set_index("region")["value"] for m, f in frames.items()}
    assert 0.6 <= c3["fa"]["white matter"] <= 0.85
    assert c3["fa"]["gray matter"] < c3["fa"]["white matter"]
    assert 0.7 <= c3["md"]["white matter"] <= 1.3
    assert c3["rd"]["white matter"] < c3["md"]["white matter"] < c3["ad"]["white matter"]
    assert 30 <= c3["mtr"]["white matter"] <= 45
    tracts = ds.cohort.frame("fa", list(TRACTS), ["C3"])["value"]
    assert tracts.between(0.6, 0.95).all()


def test_levels_beyond_the_series_are_missing(session: BuildReport) -> None:
    """Nine slices of 5 mm end above C5; the levels of its image come from T2w, through scanner coordinates."""
    cells = open_cohort(session.url).cohort.frame("fa", "white matter", ["C5", "C7"])
    assert cells["value"].isna().all()
    assert (cells["coverage"] < 0.1).all()


def test_motion_is_in_the_store_and_lost_slices_are_told_by_name(session: BuildReport) -> None:
    ds = open_cohort(session.url)
    flags = ds["motion_dwi_flag"][0].to_numpy()
    assert flags.shape == (34, 9)
    assert ds["motion_dwi_shift"].shape == (1, 34, 9, 2)
    lost = ((flags & schema.LOST) > 0).sum()
    notes = status(session.url).notes
    told = notes[notes["stage"] == "moco_dwi"]
    print(told["note"].tolist())
    assert bool(lost) == (not told.empty)
    assert (told["name"] == "sub-1").all()


# --- against what was published -------------------------------------------------------------------------------------------
def test_white_matter_fa_is_that_of_sct(slab: BuildReport) -> None:
    """As SCT has the atlas in the image (`reduce.native: interpolate`)."""
    assert slab.exit_code == 0, slab.failures.to_string()
    cells = open_cohort(slab.url).cohort.frame("fa", "white matter", LEVELS, estimator="map", space="native").set_index("level")
    print(cells[["value", "se", "coverage"]].assign(published=PUBLISHED).to_string())
    assert (cells["value"] - cells.index.map(PUBLISHED)).abs().max() <= NEAR


def test_corticospinal_tracts_are_those_of_sct(slab: BuildReport) -> None:
    cells = open_cohort(slab.url).cohort.frame("fa", list(TRACTS), ["C2:C5"], estimator="wa", space="native").set_index("region")
    print(cells[["value", "coverage"]].assign(published=TRACTS).to_string())
    assert (cells["value"] - cells.index.map(TRACTS)).abs().max() <= NEAR_IN_TRACTS


def test_values_with_the_atlas_over_whole_voxels(slab: BuildReport, real_data: Path) -> None:
    """By default the atlas counts over each voxel, not at its centre: white matter then keeps less of what lies beside it, and FA is higher."""
    root = Path(slab.url).parent / "study"
    centre = open_cohort(slab.url).cohort.frame("fa", "white matter", LEVELS, estimator="map", space="native").set_index("level")["value"]
    report = make(root, real_data, {"metrics": ["fa"]}, "default")
    whole = open_cohort(report.url).cohort.frame("fa", "white matter", LEVELS, estimator="map", space="native").set_index("level")["value"]
    print(whole.round(3).to_dict(), "beside", centre.round(3).to_dict())
    assert (whole > centre).all()
    assert (whole - whole.index.map(PUBLISHED)).abs().max() <= 2 * NEAR


# --- before and after -------------------------------------------------------------------------------------------------------
def test_fibres_follow_the_cord(built: tuple[BuildReport, Path]) -> None:
    report, _ = built
    tensor = decode_series(read_raw(made(report, schema.DWI_TENSOR), what="tensor"), what="tensor")
    cord = read_mask(made(report, schema.DWI_MASK), what="mask").data > 0.5
    e1 = np.stack([tensor.data[cord][:, CHANNELS.index(f"e1_{a}")] for a in "xyz"], axis=1)
    reliable = tensor.data[cord][:, CHANNELS.index("reliable")] > 0
    cosine = np.abs((e1 * tangents(cord, tensor.affine, np.argwhere(cord))).sum(axis=1))
    print(
        f"mean |cos| of e1 with the cord: {np.nanmean(cosine):.3f} of all voxels, {cosine[reliable].mean():.3f} of the {reliable.mean():.0%} reliable"
    )
    assert np.nanmean(cosine) >= 0.95


def test_motion_correction_lowers_variance_and_residual(built: tuple[BuildReport, Path]) -> None:
    report, root = built
    scan, gradients = raw(root)
    series = decode_series(read_raw(made(report, schema.DWI_MOCO), what="series"), what="series")
    mask = read_mask(made(report, schema.DWI_MASK), what="mask")
    cord = mask.data > 0.5
    kept = np.where(np.isfinite(series.data), scan.data, np.nan)  # both without the slices that were lost
    found = {}
    for name, data in (("before", kept), ("after", series.data)):
        values = data[cord]
        parts = {"b0": values[:, gradients.b0], "weighted": values[:, ~gradients.b0]}
        found[name] = {kind: float(np.mean(np.nanvar(part, 1) / np.nanmean(part, 1) ** 2)) for kind, part in parts.items()}
        found[name]["residual"] = fit_series(scan.with_data(data), gradients, mask).quality["residual"]
        print(name, {k: round(v, 4) for k, v in found[name].items()}, "(relative variance over volumes; residual of the tensor, percent of S0)")
    assert found["after"]["b0"] < found["before"]["b0"]
    assert found["after"]["residual"] <= found["before"]["residual"]
