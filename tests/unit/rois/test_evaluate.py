"""Scores by hand: eight regions on a small grid, some met, some missed, some on the wrong side."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import GeometryError, InputError
from cohort_engine.rois.evaluate import over_patients, score
from cohort_engine.rois.slices import RoiSlices

NAN = np.nan


def drawn_on(columns: dict[int, list[int]], n: int = 1) -> np.ndarray:
    """Regions (n, 8, 16, 1): by number of the region its x."""
    out = np.zeros((n, 8, 16, 1), dtype=bool)
    for roi, x in columns.items():
        out[:, roi, x] = True
    return out


def slices(drawn: np.ndarray, fa: np.ndarray | None = None, patient: list[int] | None = None) -> RoiSlices:
    n = len(drawn)
    image = np.full((n, *drawn.shape[2:]), 0.5, dtype=np.float32) if fa is None else fa.astype(np.float32)
    return RoiSlices({schema.FA: image}, drawn, drawn.any(axis=1), np.array(patient or [0] * n), np.arange(n), np.ones(2))


def test_overlap_by_hand() -> None:
    drawn, masks = drawn_on({0: [0, 1, 2, 3], 1: [5, 6]}), drawn_on({0: [2, 3, 4], 1: [7]})
    found = score(masks, slices(drawn))
    assert found.dice[0, :3].tolist() == pytest.approx([4 / 7, 0, NAN], nan_ok=True)
    assert found.recall[0, :3].tolist() == pytest.approx([0.5, 0, NAN], nan_ok=True)
    assert found.precision[0, :3].tolist() == pytest.approx([2 / 3, 0, NAN], nan_ok=True)


def test_an_outlier_does_not_meet_and_an_empty_mask_is_one_of_them() -> None:
    drawn = drawn_on({0: [0, 1], 1: [5, 6]}, 4)
    masks = drawn.copy()
    masks[0, 0] = False  # no output
    masks[1, 0] = np.roll(drawn[1, 0], 4, axis=0)  # elsewhere
    drawn[3, 0] = False  # not drawn: neither
    found = score(masks, slices(drawn))
    assert found.without_output[:, 0].tolist() == [True, False, False, False]
    assert found.outlier[:, 0].tolist() == [True, True, False, False]
    assert found.outlier_share[:3].tolist() == pytest.approx([2 / 3, 0, NAN], nan_ok=True)
    assert found.without_output_share[0] == pytest.approx(1 / 3)
    assert found.dice[:, 0].tolist() == pytest.approx([0, 0, 1, NAN], nan_ok=True)
    assert found.dice_without_outliers[:, 0].tolist() == pytest.approx([NAN, NAN, 1, NAN], nan_ok=True)


def test_error_of_the_mean_leaves_missing_values_out() -> None:
    fa = np.zeros((1, 16, 1))
    fa[0, :5, 0] = [0.4, 0.6, NAN, 0.8, 1.0]
    found = score(drawn_on({0: [1, 2, 3], 1: [2], 2: [4]}), slices(drawn_on({0: [0, 1, 2], 1: [0], 2: [4]}), fa))
    assert found.drawn_mean[0, :2].tolist() == pytest.approx([0.5, 0.4])
    assert found.mean[0, :2].tolist() == pytest.approx([0.7, NAN], nan_ok=True)
    assert found.error[0, :3].tolist() == pytest.approx([0.2, NAN, 0], nan_ok=True)
    assert found.error_percent[0, :3].tolist() == pytest.approx([40, NAN, 0], nan_ok=True)


def test_pixels_on_the_wrong_side() -> None:
    """Left regions at x 0 to 5, right ones at 10 to 15; a mask that spreads over 4, 6, 8, 10, 12 has three pixels nearer to the right, two inside."""
    drawn = drawn_on({0: [0, 1, 2], 1: [3, 4, 5], 4: [10, 11, 12], 5: [13, 14, 15]})
    found = score(drawn_on({0: [4, 6, 8, 10, 12], 4: [11, 12, 13]}), slices(drawn))
    assert found.wrong_side[[0, 4]].tolist() == pytest.approx([2 / 5, 0])
    assert found.wrong_half[[0, 4]].tolist() == pytest.approx([3 / 5, 0])
    assert np.isnan(found.wrong_side[1])


def test_a_pixel_that_was_drawn_for_both_sides_is_on_neither_wrong_one() -> None:
    drawn = drawn_on({0: [4, 5], 4: [5, 6]})
    assert score(drawn, slices(drawn)).wrong_side[[0, 4]].tolist() == [0, 0]


def test_a_side_that_was_not_drawn_gives_no_halves() -> None:
    drawn = drawn_on({0: [4, 5]})
    assert score(drawn_on({0: [5, 15]}), slices(drawn)).wrong_half[0] == 0


def test_masks_of_another_shape_and_maps_that_are_not_there_are_named() -> None:
    drawn = drawn_on({0: [0]})
    with pytest.raises(GeometryError, match="masks"):
        score(drawn[:, :7], slices(drawn))
    with pytest.raises(InputError, match="'md'"):
        score(drawn, slices(drawn), metric=schema.MD)


def test_a_summary_holds_each_figure_of_each_region() -> None:
    drawn = drawn_on({0: [0, 1], 4: [8, 9]}, 2)
    masks = drawn.copy()
    masks[1, 0, :2] = [[False], [True]]
    found = score(masks, slices(drawn)).summary()
    assert found["dice"][0] == pytest.approx((1 + 2 / 3) / 2)
    assert found["dice_sd"][0] == pytest.approx(np.sqrt(2) / 6)
    assert (found["drawn_area"][0], found["area"][0], found["area"][4]) == (2, 1.5, 2)
    assert np.isnan(found["area"][1])
    assert {len(values) for values in found.values()} == {8}


def test_the_interval_is_over_patients_not_slices() -> None:
    """Two patients, ten equal slices each: another pair of patients gives 0, 0.5 or 1, however many slices there are."""
    values = np.repeat([0.0, 1.0], 10)
    found = over_patients(values, np.repeat([3, 7], 10))
    assert (found.mean, found.low, found.high, found.n, found.patients) == (0.5, 0.0, 1.0, 20, 2)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(30), 4)
    trials = rng.normal(size=(30, 400))[patient] + rng.normal(size=(120, 400))
    found = over_patients(trials, patient, resamples=500)
    assert np.mean((found.low <= 0) & (found.high >= 0)) == pytest.approx(0.94, abs=0.03)


def test_one_seed_one_interval_and_one_patient_none() -> None:
    values, patient = np.random.default_rng(0).random((60, 2)), np.repeat(np.arange(20), 3)
    first, again, other = (over_patients(values, patient, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)
    values[patient > 0, 1] = NAN
    alone = over_patients(values, patient)
    assert alone.patients.tolist() == [20, 1]
    assert np.isnan(alone.low).tolist() == [False, True]
    nobody = over_patients(np.full((6, 2), NAN), np.arange(6))
    assert np.isnan([nobody.mean, nobody.low, nobody.high]).all()
    assert nobody.n.tolist() == [0, 0]
    with pytest.raises(InputError, match="patients"):
        over_patients(values, patient[:3])


def test_a_method_that_finds_nothing_is_judged() -> None:
    drawn = drawn_on({0: [0, 1], 4: [8, 9]}, 2)
    found = score(np.zeros_like(drawn), slices(drawn, patient=[0, 1]))
    assert found.without_output_share[[0, 4]].tolist() == [1, 1]
    assert found.dice[:, 0].tolist() == [0, 0]
    assert np.isnan(found.error).all()
    assert np.isnan(found.wrong_side).all()
