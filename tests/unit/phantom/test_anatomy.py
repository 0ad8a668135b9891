from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.errors import InputError
from cohort_engine.phantom.anatomy import draw_anatomy
from cohort_engine.phantom.compression import FRONT, GRADES, Inside, MaskFaults, Patient, Press, draw_patient
from cohort_engine.phantom.subject import MT_MASK, PERFECT, T2W_MASK, Imperfection, make_subject
from cohort_engine.quality.border import border
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C2", bottom="C7")


@pytest.mark.parametrize("seed", range(4))
def test_there_and_back(cord, seed):
    anatomy = draw_anatomy(cord, np.random.default_rng(seed), severity=0.8)
    xyz = cord.packing.xyz[::37] * [1.5, 1.5, 1.0]
    assert np.abs(anatomy.template(anatomy.world(xyz)) - xyz).max() < 1e-3
    guess = xyz[:, 2] + 2.5
    assert np.abs(anatomy.template(anatomy.world(xyz), start=guess, iterations=2) - xyz).max() < 0.03


def test_the_frame_is_right_handed_and_looks_right(cord):
    anatomy = draw_anatomy(cord, np.random.default_rng(0), severity=0.0)
    np.testing.assert_allclose(np.cross(anatomy.e_x, anatomy.e_y), anatomy.tangent, atol=1e-9)
    assert anatomy.e_x[:, 0].min() > 0.95
    assert anatomy.tangent[:, 2].min() > 0.8


def test_jacobian_is_the_volume_ratio(cord):
    anatomy = draw_anatomy(cord, np.random.default_rng(3), severity=0.7)
    at, h = np.array([*anatomy.centre[len(anatomy.z) // 2], anatomy.z[len(anatomy.z) // 2]]), 0.4
    columns = [(anatomy.world(at + h * e) - anatomy.world(at - h * e)) / (2 * h) for e in np.eye(3)]
    assert np.linalg.det(np.stack(columns, 1)) == pytest.approx(anatomy.jacobian(at[2]), rel=0.01)


def test_compression_is_local_and_thins_the_cord(cord):
    healthy, ill = (draw_anatomy(cord, np.random.default_rng(0), severity=s) for s in (0.0, 1.0))
    at = ill.compressed_z
    assert ill.area_factor(at) / healthy.area_factor(at) == pytest.approx(0.55 * 1.12, abs=0.01)
    assert ill.area_factor(at + 40) == pytest.approx(healthy.area_factor(at + 40), rel=1e-3)
    assert abs(at - cord.landmark_z("disc", 6)) <= 4


@pytest.mark.parametrize("grade", GRADES)
def test_there_and_back_through_a_deformity(cord, grade):
    anatomy = draw_anatomy(cord, np.random.default_rng(1), severity=0.5, patient=draw_patient(grade, np.random.default_rng(7)))
    xyz = cord.packing.xyz[::37] * [1.5, 1.5, 1.0]
    assert np.abs(anatomy.template(anatomy.world(xyz)) - xyz).max() < 1e-3
    assert (anatomy.stretch(xyz) > 0.2).all()


def pressed(cord, **press):
    """A cord without a turn of its own about its axis, and the place of its worst slice."""
    anatomy = draw_anatomy(cord, np.random.default_rng(2), severity=0.0, patient=Patient(press=Press(**press)))
    return anatomy, np.array([*anatomy.middle(np.array(anatomy.compressed_z)), anatomy.compressed_z])


@pytest.mark.parametrize(("side", "axis"), [(FRONT, 1), (180.0, 1), (90.0, 0), (270.0, 0)])
def test_it_is_flattened_along_the_pressure(cord, side, axis):
    """Every side: the diameter along the pressure is 60 % of that of the same cord far away, to the width that was asked for across."""
    anatomy, middle = pressed(cord, left=0.6, wider=1.1, side=side)
    ends = np.zeros((2, 2, 3))
    ends[0, :, axis], ends[1, :, 1 - axis] = (-2, 2), (-2, 2)
    along, across = np.linalg.norm(np.diff(anatomy.world(middle + ends), axis=1)[:, 0], axis=-1)
    healthy = np.array([anatomy.scale[0, axis], anatomy.scale[0, 1 - axis]]) * 4
    np.testing.assert_allclose([along, across] / healthy, [0.6, 1.1], rtol=1e-3)


def test_stretch_is_the_area_ratio(cord):
    patient = draw_patient("severe", np.random.default_rng(3))
    anatomy = draw_anatomy(cord, np.random.default_rng(3), severity=0.7, patient=patient)
    for offset in ([0.5, -1.0], [2.0, 1.5], [-3.0, 0.3]):
        at, h = np.array([*(anatomy.middle(np.array(anatomy.compressed_z)) + offset), anatomy.compressed_z + 2.0]), 0.01
        columns = [(anatomy.offset(at + h * e) - anatomy.offset(at - h * e)) / (2 * h) for e in np.eye(3)[:2]]
        own = np.prod(anatomy._at(at[2:], slice(15, 17)))
        assert np.linalg.det(np.stack(columns, 1)) / own == pytest.approx(anatomy.stretch(at), rel=1e-3)


def test_the_inside_moves_by_known_amounts_and_the_outline_stays(cord):
    inside = Inside(shift=(0.4, -0.2), turn=5.0, scale=(1.05, 0.95))
    anatomy = draw_anatomy(cord, np.random.default_rng(2), severity=0.0, patient=Patient(inside=inside))
    plain = draw_anatomy(cord, np.random.default_rng(2), severity=0.0, patient=Patient())
    middle = np.array([*anatomy.middle(np.array(anatomy.compressed_z)), anatomy.compressed_z])
    np.testing.assert_allclose((anatomy.offset(middle) - plain.offset(middle)) / plain.scale[0], [0.4, -0.2], atol=1e-6)
    right = np.add(middle, [1.0, 0, 0])
    moved = (anatomy.offset(right) - anatomy.offset(middle)) / plain.scale[0]
    np.testing.assert_allclose(moved, 1.05 * np.array([np.cos(np.deg2rad(5)), np.sin(np.deg2rad(5))]), atol=1e-6)
    angle = np.linspace(0, 2 * np.pi, 12)
    outline = middle + np.stack([*(anatomy.deformity.half * np.stack([np.cos(angle), np.sin(angle)], 1)).T, 0 * angle], 1)
    np.testing.assert_allclose(anatomy.offset(outline), plain.offset(outline), atol=1e-9)


def test_without_a_patient_nothing_changed(cord):
    """The phantom that all other tests know: the images' sums, of before there were deformities."""
    subject = make_subject(cord, number=2, seed=5, imperfection=Imperfection(rim=0.0))
    assert subject.truth.anatomy.deformity is None
    sums = {"mt_on": 81534685, "mt_off": 103700621, "t2w": 92723740, "mt_mask": 2086, "t2w_mask": 9525, "t2w_landmarks": 35}
    assert {k: int(v.data.astype(np.int64).sum()) for k, v in subject.images.items()} == pytest.approx(sums, rel=1e-6)


def test_masks_as_others_give_them(cord):
    patient = Patient(severity=1.0, press=Press(left=0.6, wider=1.1), masks=MaskFaults(ragged=0.3, gap=5.0, front=0.3))
    subject = make_subject(cord, seed=5, patient=patient, imperfection=PERFECT)
    anatomy = subject.truth.anatomy
    worst = anatomy.world(np.array([*anatomy.middle(np.array(anatomy.compressed_z)), anatomy.compressed_z]))
    for role in ("mt_mask", "t2w_mask"):
        grid, given, good = subject.images[role].grid, subject.images[role].data > 0, subject.truth.masks[role].data > 0
        slices = np.flatnonzero(good.any(axis=(0, 1)))
        middle = np.array([grid.world(np.array([*np.argwhere(good[:, :, k]).mean(0), k])) for k in slices])
        assert not given[:, :, slices[np.argmin(np.linalg.norm(middle - worst, axis=1))]].any()
        from_worst = np.abs(anatomy.template(middle)[:, 2] - anatomy.compressed_z)
        near = slices[(from_worst < 7) & given[:, :, slices].any(axis=(0, 1))]
        lost = np.mean([1 - (given & good)[:, :, k].sum() / good[:, :, k].sum() for k in near])
        assert 0.05 < lost < 0.5
        assert (given != good)[:, :, slices].any(axis=(0, 1)).mean() > 0.8  # ragged all along


def test_fluid_is_gone_where_it_was_asked_for(cord):
    whole, gone = (
        make_subject(cord, seed=5, imperfection=PERFECT, patient=Patient(press=Press(left=0.7, wider=1.1, fluid=(front, 1.0))))
        for front in (1.0, 0.0)
    )
    anatomy, image = gone.truth.anatomy, gone.images["t2w"]
    middle = np.array([*anatomy.middle(np.array(anatomy.compressed_z)), anatomy.compressed_z])
    at = middle + np.array([[0, anatomy.deformity.half[1] + 1.2, 0], [0, -anatomy.deformity.half[1] - 1.2, 0]])
    front, behind = np.rint(image.grid.voxel(anatomy.world(at))).astype(int)
    assert gone.images["t2w"].data[tuple(front)] < 0.6 * whole.images["t2w"].data[tuple(front)]
    assert gone.images["t2w"].data[tuple(behind)] > 0.85 * whole.images["t2w"].data[tuple(behind)]


def test_an_unknown_grade_is_told():
    with pytest.raises(InputError, match="none, mild, moderate, severe"):
        draw_patient("grave", np.random.default_rng(0))


@pytest.mark.parametrize("rim", [0.0, 0.25, 0.5])
def test_tissue_ends_outside_the_mask_by_the_rim(cord, rim):
    """The edge of the image lies where the tissue ends; masks stay."""
    scans = replace(PERFECT, rim=rim)
    images = make_subject(cord, group="HC", imperfection=scans).images
    for image, mask in (("mt_on", MT_MASK), ("t2w", T2W_MASK)):
        found = border(images[image].data, images[mask].data, images[image].grid.spacing)
        assert np.nanmedian(found.offset) == pytest.approx(rim, abs=0.13)
        assert images[mask].data.sum() == make_subject(cord, group="HC", imperfection=PERFECT).images[mask].data.sum()
