"""Thresholds: the search over a histogram finds what trying each threshold finds."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.errors import InputError, UnknownNameError
from cohort_engine.rois.evaluate import on_other_side
from cohort_engine.rois.thresholds import GRID, MEAN_DICE, POOLED_IOU, WEIGHTS, above, against, best_sides, best_thresholds


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tried(heat: np.ndarray, drawn: np.ndarray, by: str) -> np.ndarray:
    """Quality (roi, threshold), one threshold after the other."""
    out = []
    for t in GRID:
        mask = heat >= t
        if by == POOLED_IOU:
            out.append((mask & drawn).sum((0, 2, 3)) / (mask | drawn).sum((0, 2, 3)))
        else:
            dice = 2 * (mask & drawn).sum((2, 3)) / np.maximum((mask.sum((2, 3)) + drawn.sum((2, 3))), 1)
            out.append(np.nanmean(np.where(drawn.any((2, 3)), dice, np.nan), axis=0))
    return np.array(out).T


@pytest.mark.parametrize("by", [POOLED_IOU, MEAN_DICE])
def test_all_thresholds_at_once_are_what_each_by_itself_is(by: str, rng: np.random.Generator) -> None:
    drawn = rng.random((5, 3, 6, 7)) < 0.3
    drawn[0, 1] = False
    heat = (0.6 * drawn + 0.6 * rng.random(drawn.shape) - 0.1).astype(np.float32)
    quality = tried(heat, drawn, by)
    found = best_thresholds(heat, drawn, by=by)
    at = np.searchsorted(GRID, found)
    assert np.allclose(quality[np.arange(3), at], quality.max(axis=1), rtol=1e-12)


def test_of_equal_thresholds_the_middle_one_is_taken() -> None:
    heat = np.array([[[[0.9, 0.5, 0.3]]]])
    drawn = np.array([[[[True, True, False]]]])
    assert best_thresholds(heat, drawn, grid=np.array([0.2, 0.4, 0.45, 0.5, 0.8])).tolist() == [0.45]


def test_heat_on_a_threshold_reaches_it() -> None:
    heat = np.array([[[[0.25, 0.5, 0.75]]]], dtype=np.float32)
    assert above(heat, np.array([0.5])).tolist() == [[[[False, True, True]]]]


def test_the_two_criteria_differ_where_slices_do() -> None:
    """One slice of 8 pixels is best at a low threshold, three slices of 1 at a high one."""
    heat, drawn = np.zeros((4, 1, 4, 4)), np.zeros((4, 1, 4, 4), dtype=bool)
    drawn[0, 0, :2], heat[0, 0, :2] = True, 0.3
    drawn[1:, 0, 0, 0], heat[1:, 0, 0, 0] = True, 0.9
    heat[1:, 0, 3, 3] = 0.3
    grid = np.array([0.2, 0.5])
    assert best_thresholds(heat, drawn, grid=grid, by=POOLED_IOU).tolist() == [0.2]  # 11 of 14 against 3 of 11
    assert best_thresholds(heat, drawn, grid=grid, by=MEAN_DICE).tolist() == [0.2]  # (1 + 3 * 2/3) / 4 = 0.75 against 3/4
    heat[1, 0, 3, 2] = 0.3
    assert best_thresholds(heat, drawn, grid=grid, by=POOLED_IOU).tolist() == [0.2]
    assert best_thresholds(heat, drawn, grid=grid, by=MEAN_DICE).tolist() == [0.5]


def test_without_any_overlap_the_middle_of_the_grid_is_left() -> None:
    drawn = np.array([[[[True, False]]]])
    assert best_thresholds(np.zeros((1, 1, 1, 2)), drawn, grid=np.array([0.2, 0.4, 0.6])).tolist() == [0.4]


def test_what_cannot_be_searched_is_named(rng: np.random.Generator) -> None:
    heat, drawn = rng.random((2, 8, 3, 3)), np.ones((2, 8, 3, 3), dtype=bool)
    with pytest.raises(UnknownNameError, match="pooled_iou"):
        best_thresholds(heat, drawn, by="pooled iou")
    with pytest.raises(InputError, match="shape"):
        best_thresholds(heat[:1], drawn)
    drawn[:, 2] = False
    with pytest.raises(InputError, match="none of left ventral column"):
        best_thresholds(heat, drawn)
    drawn[:], heat[0, 0, 0, 0] = True, np.nan
    with pytest.raises(InputError, match="1 values that are none"):
        best_thresholds(heat, drawn)


def test_heat_of_the_other_side_counts_by_as_little_as_it_takes() -> None:
    """A left region of three pixels, and one of the right one beside it that looks like it, but that the right one claims, too."""
    heat, drawn = np.zeros((1, 8, 1, 6), np.float32), np.zeros((1, 8, 1, 6), bool)
    drawn[:] = np.arange(6) == 5
    drawn[0, 0], drawn[0, 4] = [[1, 1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1, 0]]
    heat[0, 0], heat[0, 4] = [[0.9, 0.9, 0.5, 0.5, 0, 0]], [[0, 0, 0, 0.35, 0.9, 0]]
    plain = best_thresholds(heat, drawn)
    assert on_other_side(above(heat, plain), drawn)[0, 0] == 1  # 3 of 4 pixels, better than 2 of 3
    thresholds, weights = best_sides(heat, drawn, 0.1)
    assert weights[0] == WEIGHTS[1] == 0.125  # 0.5 - 0.125 * 0.35 parts the two
    assert (weights[[1, 2, 3, 5, 6, 7]] == 0).all()
    masks = above(against(heat, weights), thresholds)
    assert np.array_equal(masks[0, 0], drawn[0, 0])
    allowed, none = best_sides(heat, drawn, 0.3)
    assert not none.any()
    assert np.array_equal(allowed, plain)
