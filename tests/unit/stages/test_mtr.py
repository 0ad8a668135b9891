"""The MTR stage on blocks of a few voxels: what it refuses, and which number it samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine.config import parse_config
from cohort_engine.errors import GeometryError, InputError
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.single.mtr import bring_onto
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.choose import stages_of

SHAPE = (24, 24, 4)
STAGES = {s.name: s for s in stages_of(parse_config({"data": {"bids": "b", "store": "s"}}))}
run_mtr = STAGES["mtr"].run


@pytest.fixture
def make_inputs(tmp_path: Path, make_few_voxels):
    """Factory: a cord of 6 x 6 voxels in the middle; template voxels at `xyz` mm."""

    def make(*, on: float = 60.0, off: float = 100.0, off_affine: Any = None, xyz: Any = ((12.0, 12.0, 1.0),), **params: object) -> StageInput:
        rng = np.random.default_rng(0)
        texture = rng.uniform(0.8, 1.0, SHAPE)
        mask = np.zeros(SHAPE, np.float32)
        mask[9:15, 9:15] = 1
        files = {}
        for role, data in {"mt_on": on * texture, "mt_off": off * texture, "mt_mask": mask}.items():
            files[role] = str(tmp_path / f"{role}.nii.gz")
            affine = off_affine if role == "mt_off" and off_affine is not None else np.eye(4)
            write_volume(files[role], Volume(np.asarray(data, np.float32), np.asarray(affine, float)))
        positions = np.asarray(xyz, np.float32)
        settings = {"coregister": "none", "low_signal": 0.05, "fit.seed": 1} | params
        return StageInput(files, {}, settings, make_few_voxels(len(positions)), lambda path: {"fit/mt": positions}[path])

    return make


def test_forty_percent(make_inputs) -> None:
    found = run_mtr(make_inputs())
    assert found["maps/mtr"].dtype == np.float32
    assert found["maps/mtr"] == pytest.approx([40.0])
    np.testing.assert_allclose(found["tables/template/mtr_sums"], [[1, 40, 1600, 1600, 1, 1]], rtol=1e-6)  # w, wy, wyy, yy, voxels, ww
    quality = {k: float(v) for k, v in found.items() if k.startswith("qc/")}
    assert quality == pytest.approx({"qc/mtr_shift_max": 0, "qc/mtr_flagged_fraction": 0, "qc/mtr_negative_fraction": 0, "qc/mtr_cord_median": 40})


def test_the_noise_floor_is_that_of_mt_off(make_inputs, tmp_path: Path) -> None:
    """A voxel with 4 in MT-off and 3 in MT-on lies below 5 % of the cord's MT-off (5) and not below 5 % of its MT-on (3): it holds no signal."""
    inputs = make_inputs(xyz=((12, 12, 1), (13, 12, 1)))
    for role, level, low in (("mt_on", 60.0, 3.2), ("mt_off", 100.0, 4.0)):
        data = np.full(SHAPE, level, np.float32)
        data[13, 12, 1] = low
        write_volume(inputs.files[role], Volume(data, np.eye(4)))
    found = run_mtr(inputs)["maps/mtr"]
    assert found[0] == pytest.approx(40.0)
    assert np.isnan(found[1])


def test_a_voxel_without_a_place_in_the_image_is_nan(make_inputs) -> None:
    nan = float("nan")
    found = run_mtr(make_inputs(xyz=((12, 12, 1), (nan, nan, nan), (500, 12, 1))))["maps/mtr"]
    assert np.isnan(found).tolist() == [False, True, True]


def test_images_of_different_grids_are_refused(make_inputs) -> None:
    shifted = np.eye(4)
    shifted[0, 3] = 2
    with pytest.raises(GeometryError, match="MT-off image: expected the grid of the MT-on image"):
        run_mtr(make_inputs(off_affine=shifted))


def test_an_empty_image_is_refused(make_inputs) -> None:
    with pytest.raises(InputError, match="MT-off image: expected signal"):
        run_mtr(make_inputs(off=0.0))


def test_swapped_images_are_refused(make_inputs) -> None:
    with pytest.raises(InputError, match="MT-o"):
        run_mtr(make_inputs(on=100.0, off=60.0))


def test_syn_undoes_a_bend_that_shifts_cannot() -> None:
    rng = np.random.default_rng(1)
    shape = (64, 64, 5)
    texture = np.stack([ndimage.gaussian_filter(rng.normal(size=shape[:2]), 2.5) for _ in range(shape[2])], axis=-1)
    texture = 100 + 400 * texture
    i, j = np.indices(shape[:2])
    bump = 1.5 * np.exp(-((i - 32) ** 2 + (j - 32) ** 2) / (2 * 8**2))
    bent = np.stack([ndimage.map_coordinates(texture[..., k], [i + bump, j], order=3, mode="nearest") for k in range(shape[2])], axis=-1)
    mask = np.zeros(shape, np.float32)
    mask[27:37, 27:37] = 1
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    on, off, cord = (Volume(np.asarray(a, np.float32), affine) for a in (0.6 * texture, bent, mask))
    inside = mask > 0

    def error(how: str) -> float:
        moved, _ = bring_onto(on, off, cord, how)
        return float(np.sqrt(np.mean((moved - texture)[inside] ** 2)))

    assert error("deformable") < 0.5 * error("slicewise") < 0.25 * error("none")


def test_co_registration_of_an_image_with_itself_moves_nothing(make_inputs) -> None:
    found = run_mtr(make_inputs(coregister="slicewise"))
    assert found["maps/mtr"] == pytest.approx([40.0], abs=0.5)
    assert float(found["qc/mtr_shift_max"]) < 0.1
