"""The image moves the inside of the cord to where it lies: cords whose inside does not follow the outline, with the true map."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.grey import SHOWN
from cohort_engine.cord.levels import landmarks_from_labels, level_axis, transfer
from cohort_engine.io.volume import Volume
from cohort_engine.mapping.refine import LEAST_AREA, PRIOR, refine_map
from cohort_engine.mapping.template_map import BORDER, fit_template_map, template_depth
from cohort_engine.phantom.compression import Inside, Patient, Press
from cohort_engine.phantom.subject import make_subject
from cohort_engine.single.fit import by_image, fit_cord
from cohort_engine.template.parametric import parametric_cord

ASIDE = Inside(shift=(0.3, -0.2), turn=4.0, scale=(0.92, 0.9))


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(top="C3", bottom="C5")


@pytest.fixture(scope="module")
def scanned(cord):
    """Subject, its map by the mask, and the refined one: with an inside of its own, without, and compressed."""

    def scan(patient):
        subject = make_subject(cord, group="HC", number=3, seed=2, patient=patient)
        images = subject.images
        t2w, mask, points, on = (images[k] for k in ("t2w_mask", "mt_mask", "t2w_landmarks", "mt_on"))
        marks = landmarks_from_labels(points.data, points.affine, kind="disc", what="landmarks")
        levels = level_axis(centreline_from_mask(t2w.data, t2w.affine, what="mask"), marks, cord)
        fitted = fit_template_map(
            mask.data, mask.affine, transfer(levels, centreline_from_mask(mask.data, mask.affine, what="mask")), cord, likely=True
        )
        return subject, fitted, refine_map(fitted, cord, on.data, on.affine, mask.data)

    patients = {"aside": Patient(inside=ASIDE), "plain": Patient(), "pressed": Patient(press=Press(left=0.7, wider=1.1, dent=0.6), inside=ASIDE)}
    return {name: scan(patient) for name, patient in patients.items()}


def off(subject, fitted, cord):
    """Mean distance across the cord (mm) of grey matter from its true place."""
    ijk = cord.packing.ijk.astype(int) - np.asarray(cord.corner)
    away = fitted.packed(cord) - subject.truth.template_map
    known = np.isfinite(away).all(axis=1) & (cord.gm[tuple(ijk.T)] > 0.5)
    anatomy = subject.truth.anatomy
    along = np.stack([np.interp(cord.packing.xyz[:, 2], anatomy.z, anatomy.tangent[:, k]) for k in range(3)], axis=-1)
    away = away - (away * along).sum(axis=1, keepdims=True) * along
    return float(np.linalg.norm(away[known], axis=1).mean())


@pytest.mark.parametrize(("name", "part", "most"), [("aside", 0.5, 0.2), ("pressed", 0.6, 0.25), ("plain", 1.1, 0.2)])
def test_the_inside_comes_to_its_place(scanned, cord, name, part, most):
    subject, fitted, found = scanned[name]
    before, after = off(subject, fitted, cord), off(subject, found.fitted, cord)
    assert after < part * before
    assert after < most


@pytest.mark.parametrize("name", ["aside", "plain", "pressed"])
def test_the_image_is_explained_better_and_nothing_is_squeezed(scanned, name):
    _, _, found = scanned[name]
    assert found.after.mean > found.before.mean
    assert (found.after.white_below_grey[found.slices] == 1).all()  # MT-on
    assert found.area[0] >= LEAST_AREA
    assert found.area[1] < 2
    assert 0 < found.shift < 2
    assert found.amplitudes.shape == (len(found.slices), len(PRIOR))


def test_an_image_that_says_nothing_leaves_the_map(scanned, cord):
    subject, fitted, _ = scanned["aside"]
    mask = subject.images["mt_mask"]
    noise = 100 + np.random.default_rng(4).normal(0, 10, mask.data.shape)
    found = refine_map(fitted, cord, noise, mask.affine, mask.data)
    moved = np.linalg.norm(found.fitted.packed(cord) - fitted.packed(cord), axis=1)
    assert np.nanmedian(moved) < 0.2
    assert found.after.mean < 0.2
    judged = by_image(fitted, Volume(noise, mask.affine), mask, cord)
    assert np.array_equal(judged.block, fitted.block, equal_nan=True)
    assert abs(judged.quality[schema.GREY_CONTRAST]) < SHOWN
    assert judged.quality[schema.EXPLAINED] == judged.quality[schema.EXPLAINED_BEFORE] < 0.2
    assert np.isnan(judged.quality[schema.REFINED_SHIFT])


def test_an_image_that_shows_grey_matter_refines(scanned, cord):
    subject, fitted, found = scanned["aside"]
    judged = by_image(fitted, subject.images["mt_on"], subject.images["mt_mask"], cord)
    assert np.array_equal(judged.block, found.fitted.block, equal_nan=True)
    assert judged.quality[schema.GREY_CONTRAST] > SHOWN
    assert judged.quality[schema.EXPLAINED] > judged.quality[schema.EXPLAINED_BEFORE]
    assert judged.quality[schema.WHITE_BELOW_GREY] == 1
    assert judged.quality[schema.DICE] == fitted.quality[schema.DICE]


def test_a_coil_that_lies_to_one_side_moves_nothing(scanned, cord):
    """One percent brighter a millimetre, to one side and to the back: cord and inside stay where they are, to a few hundredths of a millimetre."""
    subject, fitted, found = scanned["aside"]
    mask, on = subject.images["mt_mask"], subject.images["mt_on"]
    x, y = ((np.arange(n) - n / 2) * on.grid.spacing[a] for a, n in enumerate(on.data.shape[:2]))
    tilted = on.data * np.exp(0.01 * (x[:, None] - y))[..., None]
    again = refine_map(fitted, cord, tilted, on.affine, mask.data)
    moved = np.linalg.norm(again.fitted.packed(cord) - found.fitted.packed(cord), axis=1)
    assert np.nanmedian(moved) < 0.03


def test_neither_gain_of_the_coil_nor_missing_voxels_matter(scanned, cord):
    subject, fitted, found = scanned["aside"]
    mask, on = subject.images["mt_mask"], subject.images["mt_on"]
    gain = np.linspace(0.5, 3.0, on.data.shape[2])
    image = on.data * gain
    again = refine_map(fitted, cord, image, on.affine, mask.data)
    assert np.nanmax(np.abs(again.fitted.block - found.fitted.block)) < 1e-3
    image[:, :, found.slices[2]] = np.nan
    there = np.argwhere(mask.data[:, :, found.slices[4]])
    image[(*there[len(there) // 2], found.slices[4])] = np.nan
    holed = refine_map(fitted, cord, image, on.affine, mask.data)
    assert found.slices[2] not in holed.slices
    assert off(subject, holed.fitted, cord) < 0.2
    assert np.isfinite(holed.fitted.block[np.isfinite(fitted.block)]).all()


def test_what_cannot_be_judged_is_not_refined(scanned, cord):
    subject, fitted, _ = scanned["plain"]
    mask, on = subject.images["mt_mask"], subject.images["mt_on"]
    assert refine_map(fitted, cord, np.full(on.data.shape, np.nan), on.affine, mask.data) is None
    assert refine_map(fitted, cord, on.data, on.affine, np.zeros_like(mask.data)) is None
    assert refine_map(fitted, cord, -1.0 * on.data, on.affine, mask.data) is None  # no gain to take out


def test_a_map_that_no_image_refines_follows_the_mask_to_its_border_and_only_there(scanned, cord):
    subject, _, _ = scanned["aside"]
    t2w, mask, points, on = (subject.images[k] for k in ("t2w_mask", "mt_mask", "t2w_landmarks", "mt_on"))
    marks = landmarks_from_labels(points.data, points.affine, kind="disc", what="landmarks")
    noise = Volume(100 + np.random.default_rng(4).normal(0, 10, mask.data.shape), mask.affine)
    alone, silent, likely, refined = (
        fit_cord(mask, marks, cord, labelled=t2w, **how) for how in ({}, {"image": noise}, {"likely": True}, {"image": on})
    )
    assert alone.quality[schema.DICE] >= 0.99
    assert np.array_equal(silent.block, alone.block, equal_nan=True)
    assert silent.quality[schema.EXPLAINED] < 0.2
    assert np.isnan(silent.quality[schema.REFINED_SHIFT])
    assert refined.quality[schema.DICE] == likely.quality[schema.DICE] < alone.quality[schema.DICE] - 0.005
    apart, depth = np.linalg.norm(alone.block - likely.block, axis=-1), template_depth(cord, 0, cord.cord.shape[2])
    assert np.nanmedian(apart[(depth > 0) & (depth < 0.3)]) > 0.05
    assert np.nanmedian(apart[depth > BORDER + 0.5]) < 0.02
