"""The template map of real cords: hand-drawn and automatic masks, T2w and MT slices of 5 to 16.5 mm. ``pytest -s`` prints the figures."""

import time

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.io.volume import read_volume
from cohort_engine.mapping.template_map import fit_template_map, sample

pytestmark = pytest.mark.real

HEALTHY = "dcm_ou/sub-HC003U/ses-spinalcord/anat"
SUBJECT = f"{HEALTHY}/{{0}}/sub-HC003U_ses-spinalcord"
TWO_POINTS = "t2_landmarks_C2_T2_center"


@pytest.fixture(scope="module")
def load(real_data):
    return lambda name: read_volume(real_data / f"{name}.nii.gz", what="cord mask")


@pytest.fixture(scope="module")
def t2w_levels(load, pam50):
    """Mask and levels of a T2w image."""

    def make(mask, labels, kind):
        cord, points = load(mask), load(labels)
        landmarks = landmarks_from_labels(points.data, points.affine, kind=kind, what="landmarks")
        return cord, level_axis(centreline_from_mask(cord.data, cord.affine, what="cord mask"), landmarks, pam50)

    return make


def t2w_of(subject):
    """Mask, landmarks and their kind: two bodies by hand (C2, T2), or a point a disc."""
    if subject == "HC003U":
        return SUBJECT.format("T2w") + "_T2w_seg", SUBJECT.format("T2w") + "_T2w_seg_labeled_discs", schema.DISC
    return f"errsm_{subject}/t2/t2_manual_segmentation", f"errsm_{subject}/t2/{TWO_POINTS}", schema.BODY


def fit(name, cord, levels, template):
    start = time.process_time()
    fitted = fit_template_map(cord.data, cord.affine, levels, template)
    seconds = time.process_time() - start
    print(f"\n{name}: {seconds:.1f} s CPU,", ", ".join(f"{key} {value:.3f}" for key, value in fitted.quality.items()))
    return fitted, seconds


def check(fitted, seconds):
    quality = fitted.quality
    assert quality[schema.DICE] >= 0.97
    assert quality[schema.DICE] > quality[schema.DICE_GEOMETRY] > 0.9
    assert 0.2 < quality[schema.JACOBIAN_MIN] < 1 < quality[schema.JACOBIAN_MAX] < 3
    assert seconds <= 15  # of processor time, on all cores


@pytest.mark.parametrize("subject", ["11", "18", "23"])
def test_hand_drawn_cords(subject, t2w_levels, pam50):
    cord, levels = t2w_levels(*t2w_of(subject))
    fitted, seconds = fit(f"errsm_{subject} T2w", cord, levels, pam50)
    check(fitted, seconds)
    # The same by sampling the mask as a metric is sampled, and the areas: the edge is neither drawn in nor out.
    mapped = np.isfinite(fitted.block[0, 0, :, 0])
    warped = np.nan_to_num(sample(cord.data, cord.affine, fitted.block[:, :, mapped])) >= 0.5
    wanted = pam50.cord[:, :, mapped] >= 0.5
    dice = 2 * (warped & wanted).sum() / (warped.sum() + wanted.sum())
    print(f"dice of the sampled mask {dice:.3f}")
    assert dice >= 0.97
    assert warped.sum() == pytest.approx(wanted.sum(), rel=0.01)


@pytest.mark.parametrize(
    ("subject", "mask", "image"),
    [
        ("23", "errsm_23/mt/mt_seg", "errsm_23/mt/mt1"),
        ("HC003U", SUBJECT.format("MTS") + "_acq-MTon_MTS_seg", SUBJECT.format("MTS") + "_acq-MTon_MTS"),
    ],
    ids=["errsm_23, 16.5 mm", "HC003U, 5 mm"],
)
def test_slabs_with_the_levels_of_the_t2w_image(subject, mask, image, load, t2w_levels, pam50):
    _, levels = t2w_levels(*t2w_of(subject))
    cord, scan = load(mask), load(image)
    moved = transfer(levels, centreline_from_mask(cord.data, cord.affine, what="cord mask"))
    fitted, seconds = fit(f"{subject} MT", cord, moved, pam50)
    check(fitted, seconds)
    values = sample(scan.data, scan.affine, fitted.packed(pam50))
    seen = np.isfinite(fitted.packed(pam50)).all(axis=1)
    assert np.isnan(values[~seen]).all()
    assert np.isfinite(values[seen]).mean() > 0.95
