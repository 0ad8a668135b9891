from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import label

from cohort_engine import schema
from cohort_engine.phantom.head import CANAL, draw_head, draw_over
from cohort_engine.phantom.subject import PERFECT, T2W_LANDMARKS, Imperfection, make_subject
from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise
from cohort_engine.qmri.mt import cord_floor, mtr
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C2", bottom="C7")


@pytest.fixture(scope="module")
def patient(cord):
    return make_subject(cord, severity=0.8)


def test_images_share_what_they_must(patient):
    images = patient.images
    on, off, mask = (images[r] for r in ("mt_on", "mt_off", "mt_mask"))
    assert on.data.shape == off.data.shape == mask.data.shape
    np.testing.assert_array_equal(on.affine, off.affine)
    np.testing.assert_allclose(np.linalg.norm(on.affine[:3, :3], axis=0), [0.9, 0.9, 5.0])
    assert images["t2w"].data.shape == images["t2w_mask"].data.shape == images[T2W_LANDMARKS].data.shape
    for r in ("t2w_mask", "mt_mask"):
        assert label(images[r].data)[1] == 1  # one piece


def test_the_planted_motion_is_found(patient):
    on, off, mask = (patient.images[r] for r in ("mt_on", "mt_off", "mt_mask"))
    found = estimate_slicewise(on.data, off.data, mask.data, on.grid.spacing)
    error = np.abs(found - patient.truth.shifts)
    assert np.median(error) < 0.1  # mm, of which the slice-to-slice jitter is 0.08
    assert np.abs(patient.truth.shifts).max() > 0.4


def test_mtr_of_the_registered_images_is_the_true_one(patient):
    on, off, mask = (patient.images[r] for r in ("mt_on", "mt_off", "mt_mask"))
    registered = apply_shifts(off.data, patient.truth.shifts, off.grid.spacing)
    value, flagged = mtr(registered, on.data, floor=cord_floor(off.data, mask.data, 0.05))
    inside = mask.data > 0
    error = (value - patient.truth.mtr.data)[inside]
    assert abs(np.median(error)) < 0.5
    assert np.median(np.abs(error)) < 2.5
    assert not flagged[inside].any()


def test_without_imperfection_the_images_give_the_true_mtr(cord):
    subject = make_subject(cord, group="HC", imperfection=PERFECT)
    on, off, mask = (subject.images[r].data.astype(float) for r in ("mt_on", "mt_off", "mt_mask"))
    assert not subject.truth.shifts.any()
    np.testing.assert_allclose((100 * (1 - on / off.clip(1)))[mask > 0], subject.truth.mtr.data[mask > 0], atol=0.1)  # int16 rounding


def test_masks_cover_the_true_cord(cord):
    subject = make_subject(cord, imperfection=PERFECT, severity=0.5)
    for role in ("mt_mask", "t2w_mask"):
        mask = subject.images[role]
        inside = subject.truth.anatomy.template(mask.grid.world(np.argwhere(mask.data).astype(float)))
        at = np.rint(cord.block_grid.voxel(inside)).astype(int)
        at[:, 2] = at[:, 2].clip(0, cord.cord.shape[2] - 1)
        assert (cord.cord[tuple(at.T)] > 0.2).mean() > 0.98


def test_the_mask_has_the_true_area(cord):
    subject = make_subject(cord, group="HC", imperfection=PERFECT)
    mask, anatomy = subject.images["t2w_mask"], subject.truth.anatomy
    z = anatomy.template(mask.grid.world(np.argwhere(mask.data).astype(float)))[:, 2]
    level = np.array(["C2", "C3", "C4", "C5", "C6", "C7"])
    border = [cord.landmark_z("disc", n) for n in range(2, 9)]
    volume = -np.histogram(-z, -np.array(border))[0] * -np.prod(mask.grid.spacing)
    axis = [anatomy.world(np.c_[np.zeros((50, 2)), np.linspace(a, b, 50)]) for a, b in pairwise(border)]
    length = [np.linalg.norm(np.diff(points, axis=0), axis=1).sum() for points in axis]
    assert subject.truth.levels == tuple(level)
    np.testing.assert_allclose(volume / length, subject.truth.csa, rtol=0.05)


def test_landmarks_are_the_discs(patient, cord):
    image = patient.images[T2W_LANDMARKS]
    for voxel in np.argwhere(image.data):
        place = patient.truth.anatomy.template(image.grid.world(voxel.astype(float)))
        assert place[2] == pytest.approx(cord.landmark_z("disc", int(image.data[tuple(voxel)])), abs=0.8)
        assert 4 < place[1] < 14  # in front of the cord, forward is +y
    assert len(np.unique(image.data)) - 1 >= 6


def test_raw_truth_of_one_label_is_that_label(patient, cord):
    truth = patient.truth
    lower, upper = truth.tissue.mtr.min(1), truth.tissue.mtr.max(1)
    single = truth.raw[:, : len(cord.atlas.labels)]
    assert ((single >= lower - 1e-9) & (single <= upper + 1e-9)).all()
    wm = truth.raw[:, truth.regions.index("white matter")]
    assert ((wm > single[:, :30].min(1)) & (wm < single[:, :30].max(1))).all()


def test_disease_lowers_the_mtr_where_it_should(cord):
    healthy, ill = (make_subject(cord, severity=s, imperfection=PERFECT).truth for s in (0.0, 1.0))
    lost = {r: dict(zip(healthy.levels, (healthy.raw - ill.raw)[:, healthy.regions.index(r)], strict=True)) for r in healthy.regions}
    cst, fc = lost["WM left lateral corticospinal tract"], lost["WM left fasciculus cuneatus"]
    assert cst["C5"] > cst["C2"]
    assert cst["C7"] > cst["C2"]  # motor below
    assert fc["C2"] > fc["C7"]  # sensory above
    assert lost["CSF contour"]["C5"] == pytest.approx(0)
    assert healthy.csa[healthy.levels.index("C5")] > ill.csa[ill.levels.index("C5")] + 5


def test_wa_truth_holds_partial_volume(patient):
    truth = patient.truth
    cord = truth.regions.index("spinal cord")
    inner = truth.coverage[:, cord] > 0.99
    assert inner.sum() >= 5
    assert (truth.wa < truth.raw)[inner, cord].all()  # the rim holds CSF
    assert np.isnan(truth.wa[truth.coverage < schema.LEAST_COVERAGE]).all()


def test_a_subject_is_the_same_whoever_else_is_there(cord):
    a, b = (make_subject(cord, number=2, seed=5, imperfection=Imperfection()) for _ in range(2))
    for role, volume in a.images.items():
        np.testing.assert_array_equal(volume.data, b.images[role].data)
    assert a.covariates == b.covariates
    other = make_subject(cord, number=3, seed=5)
    assert other.images["mt_on"].data.shape != a.images["mt_on"].data.shape or (other.images["mt_on"].data != a.images["mt_on"].data).any()


@pytest.fixture(scope="module")
def with_head():
    whole = parametric_cord(spacing=1.0, bottom="C7")
    return whole, make_subject(whole, group="HC", imperfection=PERFECT, seed=3)


def test_the_t2w_image_shows_the_head_above_c1(with_head):
    """Along the middle of the cord: brain stem with fluid before and behind it; bone of the skull base in front of that fluid."""
    whole, subject = with_head
    head, image = draw_head(np.random.default_rng(np.random.SeedSequence(3, spawn_key=(1, 0)).spawn(6)[5])), subject.images["t2w"]
    anatomy, top = subject.truth.anatomy, whole.landmark_z("disc", 1)

    def seen(y, high):
        voxel = np.rint(image.grid.voxel(anatomy.world(np.array([0.0, y, top + high])))).astype(int)
        return float(image.data[tuple(voxel)])

    high = 0.8 * head.reach
    clivus = CANAL[0] + 1 + max(high - head.basion, 0) * head.clivus
    assert high > 10
    assert 250 < seen(0, high) < 600  # brain stem
    assert seen(clivus - 2.5, high) > 750  # fluid before it
    assert seen(clivus + head.thick[0] / 2, high) < 600  # bone
    mask = subject.images["t2w_mask"]
    heights = anatomy.template(mask.grid.world(np.argwhere(mask.data).astype(float)))[:, 2] - top
    assert heights.max() == pytest.approx(min(head.mask_end, head.reach), abs=1.5)


def test_a_wider_stem_is_above_the_pontomedullary_junction():
    head = draw_head(np.random.default_rng(0))
    y = np.linspace(-12, 20, 641)
    depth = [
        0.05 * draw_over(np.zeros_like(y), 0 * y, y, np.full_like(y, high), 0 * y, head, (1.0, 1.0))[1].sum() for high in (0.0, head.junction + 6)
    ]
    assert depth[0] == pytest.approx(8.2, abs=0.4)  # the cord's depth at the top of C1
    assert depth[1] > depth[0] + 0.8 * head.pons
