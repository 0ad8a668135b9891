"""The template map of real cords: hand-drawn and automatic masks, T2w and MT slices of 5 to 16.5 mm. ``pytest -s`` prints the figures."""

import time

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.grey import grey_matter
from cohort_engine.cord.levels import Landmarks, landmarks_from_labels, level_axis, transfer
from cohort_engine.io.volume import read_volume
from cohort_engine.mapping.template_map import fit_template_map, sample

pytestmark = [pytest.mark.real, pytest.mark.slow]

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
    assert quality[schema.DICE] >= 0.99
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
    assert dice >= 0.98
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


def centred_levels(centreline, template, upper=4):
    """Levels of a slab whose vertebrae nobody named: the middle of the image is taken for that of C4."""
    height = template.landmarks[schema.DISC]
    half = (height[upper] - height[upper + 1]) / 2
    places = centreline.position(centreline.length / 2 + np.array([half, -half]))
    return level_axis(centreline, Landmarks(schema.DISC, np.array([upper, upper + 1]), places), template)


@pytest.mark.parametrize("subject", ["HC003U", "9418", "9584", "10062Ses1", "10062Ses2"])
def test_grey_matter_that_the_network_draws_brings_the_inside_of_the_cord_to_the_template(subject, load, t2w_levels, pam50):
    """Judged by the grey matter that others drew: how well it fits the template's, once outline alone and once grey matter too made the map."""
    pytest.importorskip("torch")
    if subject == "HC003U":
        names = [SUBJECT.format("T2star") + f"_T2star{part}" for part in ("", "_seg", "_gmseg")]
    else:
        names = [f"gm_challenge/{where}sub-{subject}/anat/sub-{subject}_run-1_T2starw" for where in ("", "derivatives/labels/")]
        names = [names[0], *(f"{names[1]}_{part}-manual" for part in ("seg", "gmseg"))]
    image, cord, drawn = (load(name) for name in names)
    line = centreline_from_mask(cord.data, cord.affine, what="cord mask")
    levels = transfer(t2w_levels(*t2w_of(subject))[1], line) if subject == "HC003U" else centred_levels(line, pam50)
    seen = grey_matter(image.data, image.affine, cord.data)
    assert seen.shown
    dice, outline = {}, {}
    for how, grey in (("outline", None), ("grey", seen.soft)):
        fitted = fit_template_map(cord.data, cord.affine, levels, pam50, grey=grey)
        there = np.nan_to_num(sample((drawn.data > 0.5).astype(np.float32), drawn.affine, fitted.block)) >= 0.5
        slices = there.any(axis=(0, 1))
        wanted = pam50.gm[:, :, slices] >= 0.5
        dice[how], outline[how] = float(2 * (there[:, :, slices] & wanted).sum() / (there.sum() + wanted.sum())), fitted.quality[schema.DICE]
    print(f"\n{subject} T2*: drawn grey matter in the template, Dice {dice['outline']:.3f} by the outline, {dice['grey']:.3f} with grey matter;",
          f"outline {outline['outline']:.3f}, {outline['grey']:.3f}")  # fmt: skip
    assert dice["grey"] > dice["outline"] + 0.01
    assert outline["grey"] > 0.98
