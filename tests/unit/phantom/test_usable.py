"""Failures by degrees, what they do to results, and a scorecard fitted to that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.cord.levels import landmarks_from_labels
from cohort_engine.io.volume import Volume
from cohort_engine.phantom.failures import Case, lost_front, motion_between, shifted_mask, skipped_level, wrong_level
from cohort_engine.phantom.harm import AREA_ERROR, LEVEL_ERROR, MTR_ERROR, _area, failed, harm
from cohort_engine.phantom.subject import MT_MASK, T2W_LANDMARKS, T2W_MASK, make_subject
from cohort_engine.phantom.usable import CLEAN, fit_weights, judged, reliability, summary
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def good():
    template = parametric_cord(spacing=1.0, top="C3", bottom="C6")
    subject = make_subject(template, group="HC", number=1, seed=2)
    labels = subject.images[T2W_LANDMARKS]
    landmarks = landmarks_from_labels(labels.data, labels.affine, kind=schema.DISC, what="discs")
    images = {r: subject.images[r] for r in (schema.MT_ON, schema.MT_OFF, schema.T2W, MT_MASK, T2W_MASK)}
    return template, Case(images, landmarks, subject.truth.template_map), subject.truth


def test_the_true_map_of_a_good_subject_does_no_harm(good) -> None:
    template, case, truth = good
    errors = harm(case, case, template, truth)
    assert errors[MTR_ERROR] < 1.2
    assert errors[LEVEL_ERROR] < 0.1
    assert errors[AREA_ERROR] == 0
    assert not failed(errors)


@pytest.mark.parametrize("plant", [wrong_level, skipped_level])
def test_landmarks_go_a_part_of_the_way(good, plant) -> None:
    """By half a vertebra at one half, by one where the number is wrong; some of them where one is skipped."""
    template, case, truth = good
    off = [harm(plant(case, np.random.default_rng(8), size), case, template, truth)[LEVEL_ERROR] for size in (0.25, 0.5, 1.0)]
    np.testing.assert_allclose(off, [0.25, 0.5, 1.0], rtol=0.4)
    moved = plant(case, np.random.default_rng(8), 0.5).landmarks
    assert moved.numbers.tolist() == case.landmarks.numbers.tolist()
    apart = np.linalg.norm(moved.xyz - case.landmarks.xyz, axis=1)
    assert (np.isclose(apart, 0) | ((apart > 4) & (apart < 12))).all()
    assert (apart > 4).any()


@pytest.mark.parametrize(
    ("plant", "key"),
    [(lost_front, AREA_ERROR), (shifted_mask, MTR_ERROR), (motion_between, MTR_ERROR)],
)
def test_less_of_a_failure_does_less(good, plant, key) -> None:
    template, case, truth = good
    part, gross = (harm(plant(case, np.random.default_rng(4), size), case, template, truth)[key] for size in (0.1, 1.0))
    assert part < gross
    assert failed({MTR_ERROR: 0, LEVEL_ERROR: 0, AREA_ERROR: 0, key: gross})


def test_a_scorecard_is_calibrated_to_what_spoils_values() -> None:
    """Scans of growing shifts, whose values are spoilt beyond 0.4 mm or so: what is said follows, the clean ones stay unflagged."""
    rng = np.random.default_rng(1)
    shift = rng.uniform(0, 2, 400)
    error = np.where(shift + rng.normal(0, 0.15, 400) > 0.4, 9.0, 1.0)
    bad = pd.DataFrame({"planted": "shifted mask", "mt_border_shift": shift, MTR_ERROR: error, LEVEL_ERROR: 0.0, AREA_ERROR: 0.0})
    clean = pd.DataFrame({"planted": CLEAN, "mt_border_shift": rng.uniform(0, 0.15, 400), MTR_ERROR: 1.0, LEVEL_ERROR: 0.0, AREA_ERROR: 0.0})
    table = pd.concat([clean, bad], ignore_index=True)
    found = judged(table, fit_weights(table))
    told = summary(found)
    assert told.loc[CLEAN, "flagged of usable"] == 0
    assert told.loc["shifted mask", "rightly"] > 0.9
    assert told.loc["shifted mask", "flagged of usable"] < 0.2
    halves = reliability(found, (0.0, 0.5, 1.0))
    np.testing.assert_allclose(halves["said"], halves["usable"], atol=0.05)
    assert reliability(found)["scans"].sum() == 800


def test_the_slices_in_which_the_simulated_cord_ends_count_for_nothing(good) -> None:
    case = good[1]
    mask = case.images[T2W_MASK]
    there = np.flatnonzero((mask.data > 0).any(axis=(0, 1)))
    high = case.landmarks.xyz.copy()
    high[:, 2] += np.linspace(-200, 200, len(high))  # all slices lie between landmarks
    errors = []
    for k in (there[-1], there[-2]):
        less = np.array(mask.data)
        less[:, less.shape[1] // 2 :, k] = 0
        less[np.nonzero(mask.data[:, :, k])[0][0], np.nonzero(mask.data[:, :, k])[1][0], k] = 1
        errors.append(_area(Volume(less, mask.affine), mask, replace(case.landmarks, xyz=high)))
    assert errors[0] == 0 < errors[1]
