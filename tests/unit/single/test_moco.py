"""Correction of a diffusion series as a whole: what it keeps, what it says, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import CordError, GeometryError, InputError
from cohort_engine.io.gradients import Gradients, gradients_of
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.phantom.diffusion import DwiScan, make_dwi
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import B800
from cohort_engine.single.moco import Corrected, MocoSettings, correct, found_cord
from cohort_engine.single.moco_files import flagged, motion_table
from cohort_engine.single.undistort import phase_axis_beside, undistort
from cohort_engine.template.base import Template

SPOILT = DwiImperfection(jumps=2, jump=8.0, dropped=3, interleaved=0.6, distortion=5.0)


@pytest.fixture(scope="module")
def scan(make_small_template: Template) -> DwiScan:
    return make_dwi(make_small_template, group="HC", protocol=replace(B800, slices=8), imperfection=SPOILT, reverse=True, seed=2)


@pytest.fixture(scope="module")
def make_small_template() -> Template:
    from cohort_engine.template.parametric import parametric_cord

    return parametric_cord(spacing=1.0, top="C3", bottom="C5")


@pytest.fixture(scope="module")
def gradients(scan: DwiScan) -> Gradients:
    return gradients_of(scan.bval, scan.bvec, scan.series)


@pytest.fixture(scope="module")
def cord(scan: DwiScan, gradients: Gradients) -> Volume:
    return found_cord(scan.series, gradients)


@pytest.fixture(scope="module")
def corrected(scan: DwiScan, gradients: Gradients, cord: Volume) -> Corrected:
    return correct(scan.series, gradients, cord=cord, reverse=scan.reverse)


def test_motion_is_found_within_the_goal(scan: DwiScan, corrected: Corrected) -> None:
    away = corrected.motion.shifts - scan.truth.shifts
    error = np.linalg.norm(away - np.median(away, axis=0), axis=-1)[~scan.truth.dropped]
    assert error.mean() <= 0.2
    assert corrected.motion.interleaved


def test_every_jump_and_lost_slice_is_flagged_and_hardly_another(scan: DwiScan, corrected: Corrected) -> None:
    flags = corrected.motion.flags
    assert ((flags & schema.MOVED) > 0)[scan.truth.jumped].all()
    assert ((flags & schema.DROPPED) > 0)[scan.truth.dropped].all()
    assert ((flags > 0) & ~scan.truth.jumped & ~scan.truth.dropped).mean() <= 0.01
    assert np.isnan(corrected.series.data[..., scan.truth.dropped.T]).all()


def beside(found: np.ndarray, scan: DwiScan) -> np.ndarray:
    """Distance of a displacement from the truth in the cord, mm, but for a constant: motion between the images cannot be told from it."""
    away = (found - scan.truth.displacement)[scan.truth.mask.data > 0]
    assert abs(np.median(away)) < 1.0
    return np.abs(away - np.median(away))


def test_distortion_is_brought_under_a_millimetre(scan: DwiScan, corrected: Corrected) -> None:
    away = beside(corrected.displacement, scan)
    assert np.median(away) <= 0.25
    assert np.percentile(away, 95) <= 1.0


def test_the_cord_lies_where_it_is(scan: DwiScan, corrected: Corrected, cord: Volume) -> None:
    def dice(mask: np.ndarray) -> float:
        return 2 * (mask & (scan.truth.mask.data > 0)).sum() / (mask.sum() + (scan.truth.mask.data > 0).sum())

    assert dice(corrected.cord.data) > 0.85 > dice(cord.data > 0)


def test_volumes_agree_better_afterwards(corrected: Corrected) -> None:
    for kind in ("b0", "dwi"):
        assert corrected.quality[f"spread_{kind}_after"] < corrected.quality[f"spread_{kind}_before"]


def test_tables_say_what_the_arrays_say(corrected: Corrected, gradients: Gradients) -> None:
    table = motion_table(corrected.motion, gradients).frame()
    volumes, slices = corrected.motion.flags.shape
    assert len(table) == volumes * slices
    row = table[(table["volume"] == 3) & (table["slice"] == 2)].iloc[0]
    assert row["front_mm"] == pytest.approx(corrected.motion.shifts[3, 2, 1], abs=1e-4)
    words = flagged(corrected.motion)
    assert sum(map(len, words["dropped"].values())) == 3
    assert set(table["flags"]) >= {"none", "dropped", "moved"}


def only_motion(scan: DwiScan) -> Volume:
    """Volumes of the scan, fewer slices: quick to correct."""
    return Volume(scan.series.data[:, :, :3], scan.series.affine)


def test_a_wide_field_of_view_changes_nothing(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    """The cord as 1 % of the field of view, a common complaint: what is far from it is not looked at."""
    small, mask = only_motion(scan), Volume(cord.data[:, :, :3], cord.affine)
    rng = np.random.default_rng(0)
    sizes = ((60, 60), (70, 70), (0, 0), (0, 0))
    wide = np.pad(small.data.astype(np.float32), sizes)
    wide[:60] = rng.uniform(0, 2 * small.data.max(), wide[:60].shape)
    wide_mask = np.pad(mask.data, sizes[:3])
    assert wide_mask[..., 1].mean() < 0.01
    affine = scan.series.affine
    one = correct(small, gradients, cord=mask).motion
    other = correct(Volume(wide, affine), gradients, cord=Volume(wide_mask, affine)).motion
    assert np.median(np.abs(one.shifts - other.shifts)) < 0.05


def test_one_slice(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    one, mask = Volume(scan.series.data[:, :, 4:5], scan.series.affine), Volume(cord.data[:, :, 4:5], cord.affine)
    found = correct(one, gradients, cord=mask).motion
    lost = (found.flags[:, 0] & schema.LOST) > 0
    assert lost[scan.truth.dropped[:, 4]].all()
    away = (found.shifts - scan.truth.shifts[:, 4:5])[~lost]
    assert np.linalg.norm(away - np.median(away, axis=0), axis=-1).mean() < 0.2


def test_motion_beyond_the_region_is_flagged_and_left_out(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    data = scan.series.data[:, :, :3].copy()
    data[..., 20] = np.roll(data[..., 20], 24, axis=0)  # 22 mm
    found = correct(Volume(data, scan.series.affine), gradients, cord=Volume(cord.data[:, :, :3], cord.affine))
    assert ((found.motion.flags[20] & schema.LIMIT) > 0).all()
    assert np.isnan(found.series.data[..., 20]).all()
    assert found.quality["share_beyond"] == pytest.approx(1 / found.motion.flags.shape[0])


def test_a_sagittal_series_is_refused(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    sagittal = np.diag([4.0, 0.9, 0.9, 1.0])
    with pytest.raises(GeometryError, match=r"slices across the cord.*along it"):
        correct(Volume(scan.series.data, sagittal), gradients, cord=Volume(cord.data, sagittal))


def test_a_series_without_cord_is_refused(scan: DwiScan, gradients: Gradients) -> None:
    noise = np.random.default_rng(0).rayleigh(10, scan.series.data.shape).astype(np.float32)
    with pytest.raises(CordError, match="Give its mask"):
        correct(Volume(noise, scan.series.affine), gradients)


def test_a_series_without_signal_is_refused(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    with pytest.raises(InputError, match="signal"):
        correct(Volume(np.zeros_like(scan.series.data), scan.series.affine), gradients, cord=Volume(cord.data, cord.affine))


def test_a_mask_of_another_grid_is_refused(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    with pytest.raises(GeometryError, match="cord mask of the diffusion series"):
        correct(scan.series, gradients, cord=Volume(cord.data[:-1], cord.affine))


@pytest.mark.parametrize("change", ["shape", "place"])
def test_a_reverse_image_of_another_geometry_is_refused(scan: DwiScan, gradients: Gradients, cord: Volume, change: str) -> None:
    affine = scan.series.affine.copy()
    affine[2, 3] += 10.0 * (change == "place")
    other = Volume(scan.reverse.data[:, :, : 7 if change == "shape" else 8], affine)
    with pytest.raises(GeometryError, match="reverse"):
        correct(scan.series, gradients, cord=cord, reverse=other)


def test_a_pair_alone(scan: DwiScan, gradients: Gradients, cord: Volume) -> None:
    """b0 against reverse, without a series: the same displacement but for the motion between its volumes."""
    first = Volume(scan.series.data[..., int(np.flatnonzero(gradients.b0)[0])], scan.series.affine)
    back = Volume(np.repeat(scan.reverse.data[..., None], 2, -1), scan.series.affine)
    found = undistort(first, back, cord=Volume(cord.data, cord.affine))
    assert np.median(beside(found.displacement.data, scan)) < 0.5
    assert found.image.data.shape == first.data.shape
    assert found.largest > 3


def test_eddy_currents(make_small_template: Template) -> None:
    """Stretch and shear follow what was planted for each volume."""
    spoilt = DwiImperfection(jumps=0, dropped=0, eddy=2.0)
    scan = make_dwi(make_small_template, group="HC", protocol=replace(B800, slices=6), imperfection=spoilt, seed=3)
    gradients = gradients_of(scan.bval, scan.bvec, scan.series)
    found = correct(scan.series, gradients, cord=scan.truth.mask, settings=MocoSettings(eddy=True)).motion
    weighted = ~gradients.b0
    for part in (0, 1):
        assert np.corrcoef(found.scale[weighted].mean(1)[:, part], scan.truth.eddy[weighted, 1 + part])[0, 1] > 0.85
    assert not found.scale[gradients.b0].any()


@pytest.mark.parametrize(("said", "axis"), [({"PhaseEncodingDirection": "i-"}, 0), ({"PhaseEncodingDirection": "j"}, 1), ({}, 1), (None, 1)])
def test_phase_encoding_is_as_the_file_beside_says(tmp_path, said, axis) -> None:
    image = tmp_path / "sub-01_dwi.nii.gz"
    write_volume(image, Volume(np.ones((4, 5, 3, 2), np.float32), np.diag([-1.0, 1.0, 5.0, 1.0])))
    if said is not None:
        (tmp_path / "sub-01_dwi.json").write_text(json.dumps(said))
    assert phase_axis_beside(image) == axis


def test_a_broken_file_beside_is_refused(tmp_path) -> None:
    (tmp_path / "dwi.json").write_text("j-")
    with pytest.raises(InputError, match="expected JSON"):
        phase_axis_beside(tmp_path / "dwi.nii.gz")
