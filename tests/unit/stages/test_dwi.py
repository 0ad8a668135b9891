"""The stages of diffusion on a few voxels: which gradients a series has, what is passed on, and what is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.errors import InputError, told
from cohort_engine.io.sidecars import phase_axis
from cohort_engine.io.volume import Volume, decode_series, encode_volume, write_volume
from cohort_engine.qmri.moco import Motion
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.report.references import number
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.choose import stages_of, to_make
from cohort_engine.stages.dwi import displaced, dwi_methods, gradients_for, motion_arrays, raw_gradients, reverse_of, tell
from cohort_engine.stages.tensor import METRICS, channel_image, tensor_methods

CONFIG = parse_config({"data": {"bids": "b", "store": "s"}, "stages": {"metrics": ["fa", "md"], "dwi": {"moco": False}}})
STAGES = {s.name: s for s in stages_of(CONFIG)}
SHAPE = (6, 5, 3)
RAS, LAS = np.diag([1.0, 1.0, 5.0, 1.0]), np.diag([-1.0, 1.0, 5.0, 1.0])
HALF = np.sqrt(0.5)
DIRECTIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [HALF, HALF, 0], [HALF, 0, HALF], [0, HALF, HALF]])
BVAL = "0 800 800 800 800 800 800"


def texts(directions: Any = DIRECTIONS) -> str:
    return "\n".join(" ".join(f"{v:g}" for v in row) for row in np.transpose(directions))


def signals() -> np.ndarray:
    """FA 0.67 along z, the same everywhere: series (x, y, z, t)."""
    b = np.array(BVAL.split(), float) / 1000
    return np.broadcast_to(100 * np.exp(-b * (0.5 + 1.2 * DIRECTIONS[:, 2] ** 2)), (*SHAPE, 7)).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path):
    """Inputs of a stage: arrays become images stored with `affine`, texts are files."""

    def call(stage: str, files: dict[str, Any], affine: dict[str, Any] | None = None, load: Any = None, **params: Any) -> StageInput:
        places = {}
        for role, content in files.items():
            path = tmp_path / (role if isinstance(content, str) else f"{role}.nii.gz")
            if isinstance(content, str):
                path.write_text(content)
            else:
                write_volume(path, Volume(np.asarray(content), (affine or {}).get(role, RAS)))
            places[role] = str(path)
        return StageInput(places, {}, {**STAGES[stage].params, **params}, SimpleNamespace(), load)  # type: ignore[arg-type]

    return call


# --- which stages, and what they make ---------------------------------------------------------------------------------------
def test_a_study_of_mtr_knows_no_diffusion():
    names = [s.name for s in stages_of(parse_config({"data": {"bids": "b", "store": "s"}}))]
    assert not [n for n in names if schema.DWI in n or n == "fa"]


def test_order_of_the_chain():
    names = list(STAGES)
    chain = ["moco_dwi", "mean_dwi", "segment_dwi", "fit_dwi"], ["segment_dwi", "tensor_dwi", "fa", "fa_native"]
    for part in chain:
        assert [n for n in names if n in part] == part


SCAN = dict.fromkeys(("dwi", "dwi_bval", "dwi_bvec"), "x")
LEVELS = dict.fromkeys(("t2w", "t2w_mask", "t2w_landmarks"), "x")


@pytest.mark.parametrize(
    ("more", "made"),
    [
        ({}, {"dwi_moco", "dwi_mean", "dwi_mask", "dwi_tensor"}),
        ({"dwi_mask": "x"}, {"dwi_moco", "dwi_mean", "dwi_tensor"}),
        ({"dwi_moco": "x"}, {"dwi_mean", "dwi_mask", "dwi_tensor"}),
        ({"dwi_moco": "x", "dwi_mean": "x", "dwi_mask": "x"}, {"dwi_tensor"}),
    ],
)  # fmt: skip
def test_what_the_study_has_is_not_made(more, made):
    assert to_make({**SCAN, **LEVELS, **more}, list(STAGES.values())) == made


def test_without_gradients_nothing_is_made():
    assert to_make({"dwi": "x", **LEVELS}, list(STAGES.values())) == frozenset()


# --- gradients ----------------------------------------------------------------------------------------------------------------
def test_directions_are_along_the_axes_of_the_file_they_belong_to(make):
    """The study's corrected series was stored with another x axis than the scan; the directions beside the scan are still the scan's."""
    files = {"dwi": signals(), "dwi_moco": signals(), "dwi_bval": BVAL, "dwi_bvec": texts()}
    for stored in (RAS, LAS):
        inputs = make("tensor_dwi", files, {"dwi": LAS, "dwi_moco": stored})
        np.testing.assert_allclose(gradients_for(inputs, inputs.series("dwi_moco")).directions[:, 0], -DIRECTIONS[:, 0], atol=1e-6)
    own = files | {"dwi_moco_bval": BVAL, "dwi_moco_bvec": texts(DIRECTIONS[:, [1, 0, 2]])}
    inputs = make("tensor_dwi", own, {"dwi": LAS, "dwi_moco": RAS})
    np.testing.assert_allclose(gradients_for(inputs, inputs.series("dwi_moco")).directions[:, 0], -DIRECTIONS[:, 1], atol=1e-6)


def test_a_corrected_series_of_fewer_volumes_needs_gradients_of_its_own(make):
    inputs = make("mean_dwi", {"dwi": signals(), "dwi_moco": signals()[..., :5], "dwi_bval": BVAL, "dwi_bvec": texts()})
    with pytest.raises(InputError, match="5 b-values, one a volume, found 7"):
        STAGES["mean_dwi"].run(inputs)


@pytest.mark.parametrize(
    ("axes", "way", "axis"), [("LAS", "j-", 1), ("LAS", "i", 0), ("PSR", "i", 1), ("PSR", "k", 0), ("RAS", "k", 1), ("RAS", "", 1)]
)
def test_phase_encoding_is_told_of_the_stored_axes(axes, way, axis):
    import nibabel as nib

    columns = {"L": (-1, 0, 0), "R": (1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1)}
    affine = np.eye(4)
    affine[:3, :3] = np.transpose([columns[a] for a in axes])
    series = decode_series(nib.Nifti1Image(np.ones((4, 4, 4, 2), np.float32), affine).to_bytes(), what="series")
    assert phase_axis({"PhaseEncodingDirection": way}, series) == axis


# --- the series ---------------------------------------------------------------------------------------------------------------
def test_a_series_that_is_not_to_be_corrected_is_passed_on(make):
    found = STAGES["moco_dwi"].run(make("moco_dwi", {"dwi": signals(), "dwi_bval": BVAL, "dwi_bvec": texts()}))
    np.testing.assert_array_equal(found["dwi_moco"].data, signals())
    assert set(found) == {"dwi_moco", *(s.path for s in STAGES["moco_dwi"].writes)}
    assert found["motion/dwi_shift"].shape == (7, 3, 2)
    assert np.isnan(found["motion/dwi_shift"]).all()
    assert found["motion/dwi_flag"].tolist() == [[0] * 3] * 7
    assert found["motion/dwi_b"].tolist() == [0.0, *[800.0] * 6]


def test_displacements_are_known_of_series_that_were_corrected_here(make):
    shifts = np.arange(28, dtype=np.float32).reshape(7, 2, 2)
    flags = np.zeros((7, 2), np.int8)
    flags[1, 0], flags[2, 1], flags[3, 1], flags[4] = schema.DROPPED, schema.LIMIT, schema.MOVED, -1  # the last: behind the end
    stored = {"motion/dwi_shift": shifts, "motion/dwi_flag": flags}
    inputs = make("fa", {"dwi_moco": signals()}, load=stored.__getitem__)
    assert displaced(inputs) is None  # the study's own
    found = displaced(replace(inputs, made=frozenset({schema.DWI_MOCO})))
    assert np.argwhere(np.isnan(found[..., 0])).tolist() == [[1, 0], [2, 1], [4, 0], [4, 1]]
    np.testing.assert_array_equal(found[[0, 3]], shifts[[0, 3]])
    stored["motion/dwi_shift"] = np.full_like(shifts, np.nan)  # motion was left as it is
    assert displaced(replace(inputs, made=frozenset({schema.DWI_MOCO}))) is None


def test_the_mean_is_that_of_weighted_volumes_over_what_is_there(make):
    series = np.stack([np.full(SHAPE, v, np.float32) for v in (500, 1, 2, 3, 4, 5, 6)], axis=-1)
    series[:, :, 1, 3:] = np.nan
    series[:, :, 2, 1:] = np.nan
    files = {"dwi": signals(), "dwi_moco": series, "dwi_bval": BVAL, "dwi_bvec": texts()}
    mean = STAGES["mean_dwi"].run(make("mean_dwi", files))["dwi_mean"].data
    assert mean[0, 0].tolist()[:2] == [3.5, 1.5]
    assert np.isnan(mean[..., 2]).all()


def motion(flags: np.ndarray) -> Motion:
    shifts = np.arange(flags.size * 2, dtype=float).reshape(*flags.shape, 2)
    return Motion(shifts, 0.01 * shifts, flags.astype(np.int8), np.full(flags.shape, 0.9), False)


def test_motion_is_laid_out_by_volume_and_slice(make):
    inputs = make("moco_dwi", {"dwi": signals(), "dwi_bval": BVAL, "dwi_bvec": texts()})
    series = inputs.series("dwi")
    found: Any = SimpleNamespace(motion=motion(np.zeros((7, 3))))
    arrays = motion_arrays(raw_gradients(inputs, series), series, found)
    assert arrays["motion/dwi_shift"][2, 1].tolist() == [14, 15]
    assert arrays["motion/dwi_stretch"][2, 1] == pytest.approx(0.14)
    assert arrays["motion/dwi_shear"][2, 1] == pytest.approx(0.15)
    assert {p: a.dtype.name for p, a in arrays.items()} == {s.path: s.dtype for s in schema.MOTION_SPECS.values()}


def test_lost_slices_are_told(make):
    flags = np.zeros((7, 3))
    flags[2, 1], flags[5, 0], flags[6, 2] = schema.DROPPED, schema.DROPPED | schema.MOVED, schema.LIMIT
    with told() as notes:
        tell(SimpleNamespace(motion=motion(flags)))  # type: ignore[arg-type]
    assert notes == [
        "diffusion series: 2 slices lost their signal and are left out (volume/slice from 0: 2/1, 5/0)",
        "diffusion series: 1 slice lies beyond the range that is searched and is left out (volume/slice from 0: 6/2)",
    ]


@pytest.mark.parametrize(("bval", "volumes"), [(None, 3), ("0 0 800", 2), ("0,800,800", 1)])
def test_of_a_reverse_series_the_volumes_without_weighting_are_taken(make, bval, volumes):
    inputs = make("moco_dwi", {"dwi_reverse": signals()[..., :3]} | ({"dwi_reverse_bval": bval} if bval else {}))
    assert reverse_of(inputs).data.shape[3] == volumes  # type: ignore[union-attr]


@pytest.mark.parametrize("bval", ["0 0", "800 800 800"])
def test_a_reverse_series_whose_weighting_is_not_known_is_not_used_and_that_is_told(make, bval):
    inputs = make("moco_dwi", {"dwi_reverse": signals()[..., :3], "dwi_reverse_bval": bval})
    with told() as notes:
        assert reverse_of(inputs) is None
    assert notes == ["diffusion image with reverse phase encoding: its b-values do not fit it: it is not used"]


# --- the tensor and its metrics -------------------------------------------------------------------------------------------------
def test_from_signals_to_fa_and_its_error(make):
    mask = np.zeros(SHAPE, np.float32)
    mask[2:4, 2:4] = 1
    rng = np.random.default_rng(0)
    noisy = signals() * (1 + 0.01 * rng.standard_normal((*SHAPE, 7)).astype(np.float32))
    noisy[3, 3, 1] = 0  # no signal: no tensor
    files = {"dwi": noisy, "dwi_moco": noisy, "dwi_mask": mask, "dwi_bval": BVAL, "dwi_bvec": texts()}
    tensor = STAGES["tensor_dwi"].run(make("tensor_dwi", files))
    assert set(tensor) == {"dwi_tensor", *(s.path for s in STAGES["tensor_dwi"].writes)}
    raw = decode_series(encode_volume(tensor["dwi_tensor"]), what="tensor").data
    files = {"dwi_tensor": raw, "dwi_mask": mask, "dwi_mean": noisy.mean(axis=3)}
    found = channel_image(make("fa", files, mask_unreliable=False), metric=METRICS["fa"])
    values = found.volume.data[mask > 0]
    assert np.isnan(values).sum() == 1
    assert np.nanmedian(values) == pytest.approx(0.67, abs=0.03)
    assert found.quality["flagged_fraction"] == pytest.approx(1 / 12)
    assert found.se is None, "seven volumes and seven unknowns"


def test_unreliable_voxels_are_missing_where_that_is_asked_for(make):
    data = np.full((*SHAPE, len(CHANNELS)), 0.5, np.float32)
    data[..., CHANNELS.index("reliable")] = 1
    data[0, 0, 0, CHANNELS.index("reliable")] = 0
    mask = np.ones(SHAPE, np.float32)
    for asked, missing in ((True, 1), (False, 0)):
        found = channel_image(make("fa", {"dwi_tensor": data, "dwi_mask": mask, "dwi_mean": mask}, mask_unreliable=asked), metric=METRICS["fa"])
        assert np.isnan(found.volume.data).sum() == missing
        assert found.quality["flagged_fraction"] == pytest.approx(missing / mask.size)


def test_masking_does_not_fit_again():
    """What is left out is decided where values are read off: the tensor's recipe does not know of it."""
    off = parse_config({"data": {"bids": "b", "store": "s"}, "stages": {"metrics": ["fa"], "tensor": {"mask_unreliable": False}}})
    other = {s.name: s for s in stages_of(off)}
    assert other["tensor_dwi"].params == STAGES["tensor_dwi"].params
    assert other["fa"].params != STAGES["fa"].params


# --- words ----------------------------------------------------------------------------------------------------------------------
def test_methods_say_what_was_done_and_cite_works_that_exist():
    science = CONFIG.science()
    full = parse_config({
        "data": {"bids": "b", "store": "s"}, "stages": {"metrics": ["fa"], "dwi": {"denoise": True, "eddy": True}, "tensor": {"method": "irls"}},
    }).science()  # fmt: skip
    metrics = frozenset({"fa", "md"})
    assert dwi_methods(science, frozenset({"mtr"})) == tensor_methods(science, frozenset({"mtr"})) == ""
    assert "was not corrected" in dwi_methods(science, metrics)
    told_all = [dwi_methods(full, metrics), tensor_methods(full, metrics), tensor_methods(science, metrics)]
    assert all(word in told_all[0] for word in ("MP-PCA", "slice by slice", "stretch and shear", "opposite phase encoding"))
    assert "FA and MD" in told_all[1]
    assert "robust fit" in told_all[1]
    assert "robust" not in told_all[2]
    _, works = number(told_all)
    assert all(w.doi.startswith("10.") for w in works)
