"""The threshold above which heat is a region: each region's own, found on slices that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, unknown_name
from cohort_engine.rois.evaluate import other_side

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

GRID: Final[FloatArray] = np.arange(100, 1000) / 1000
"""0.100 to 0.999 in steps of 0.001, as the DTI study searched."""
POOLED_IOU: Final = "pooled_iou"
MEAN_DICE: Final = "mean_dice"
WEIGHTS: Final[FloatArray] = np.concatenate([np.arange(24) / 8, 3 * 2 ** (np.arange(13) / 4)])
"""What heat of the other side may count against a region's own."""


def above(heat: NDArray[Any], thresholds: NDArray[Any]) -> BoolArray:
    """Masks (slice, roi, x, y) of heat that reaches its region's threshold (roi,).

    Examples
    --------
    >>> above(np.array([[[[0.2, 0.4]], [[0.2, 0.4]]]]), np.array([0.4, 0.1])).astype(int).tolist()
    [[[[0, 1]], [[1, 1]]]]
    """
    return np.asarray(heat, dtype=np.float64) >= np.asarray(thresholds, dtype=np.float64)[:, None, None]


def against(heat: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
    """Heat (slice, roi, x, y) less `weights` (roi,) times the sum of that of the other side's regions.

    Examples
    --------
    >>> heat = np.zeros((1, 8, 1, 1), np.float32)
    >>> heat[0, 0], heat[0, 4] = 0.5, 0.25
    >>> against(heat, np.ones(8)).ravel().tolist()
    [0.25, -0.25, -0.25, -0.25, -0.25, -0.5, -0.5, -0.5]
    """
    if not np.any(weights):
        return np.asarray(heat, dtype=np.float32)
    return np.asarray(heat - np.asarray(weights)[:, None, None] * other_side(heat), dtype=np.float32)


def best_sides(heat: NDArray[Any], drawn: BoolArray, share: float, *, by: str = POOLED_IOU) -> tuple[FloatArray, FloatArray]:
    """Find how much heat of the other side is to count against each region, and the thresholds of what is left.

    Parameters
    ----------
    heat, drawn, by
        As of `best_thresholds`.
    share : float
        Largest share of a region's pixels that may lie in regions drawn on the other side.

    Returns
    -------
    thresholds, weights : (roi,) float64
        The least of `WEIGHTS` that keeps to the share, the largest where none does.

    Raises
    ------
    InputError, UnknownNameError
        As of `best_thresholds`.
    """
    rois = heat.shape[1]
    thresholds, weights, others, sought = np.zeros(rois), np.zeros(rois), other_side(drawn) & ~drawn, np.arange(rois)
    for weight in WEIGHTS:
        left = against(heat, np.full(rois, weight))[:, sought]
        thresholds[sought], weights[sought] = best_thresholds(left, drawn[:, sought], by=by), weight
        masks = above(left, thresholds[sought])
        sought = sought[(masks & others[:, sought]).sum((0, 2, 3)) > share * masks.sum((0, 2, 3))]
        if not len(sought):
            break
    return thresholds, weights


def best_thresholds(heat: NDArray[Any], drawn: BoolArray, *, grid: FloatArray = GRID, by: str = POOLED_IOU) -> FloatArray:
    """Find, for each region, the threshold whose mask agrees best with what was drawn.

    Parameters
    ----------
    heat : (slice, roi, x, y)
        What a network answers; a pixel belongs to the region where its heat reaches the threshold.
    drawn : (slice, roi, x, y) bool
        Slices in which a region was not drawn count against heat there in `pooled_iou`, and not at all in `mean_dice`.
    grid : (threshold,)
        Ascending.
    by : {"pooled_iou", "mean_dice"}
        Intersection over union of all slices' pixels together, as the DTI study chose; or Dice of each slice, averaged.

    Returns
    -------
    (roi,) float64
        Of neighbouring thresholds that are equally good the middle one, of several such runs the lowest; the middle of the grid where heat meets
        the drawn region at none.

    Raises
    ------
    InputError
        Shapes differ, heat is not a number somewhere, or a region was drawn in no slice.
    UnknownNameError
        No such criterion.

    Notes
    -----
    Pixels inside and outside the drawn region are counted once in a histogram over the grid; summed from above, it holds the hits and false alarms of
    all thresholds, so 900 cost what one does.

    Examples
    --------
    >>> heat = np.zeros((1, 2, 1, 4))
    >>> heat[0, :, 0] = [0.9, 0.5, 0.3, 0.1]
    >>> best_thresholds(heat, np.array([[[[1, 1, 0, 0]], [[1, 0, 0, 0]]]], dtype=bool)).tolist()
    [0.4, 0.7]
    """
    if by not in CRITERIA:
        raise unknown_name("criterion", by, list(CRITERIA), where="thresholds")
    if heat.shape != drawn.shape or heat.ndim != 4:
        raise InputError(
            expected=f"heat (slice, roi, x, y) of the drawn regions' shape {drawn.shape}", found=f"{heat.shape}", where="heat",
            remedy="Give the answer of the network on the same slices.",
        )  # fmt: skip
    if not np.isfinite(heat).all():
        raise InputError(expected="numbers", found=f"{(~np.isfinite(heat)).sum()} values that are none", where="heat",
                         remedy="Look for missing values in the images, or for a training that diverged.")  # fmt: skip
    empty = [schema.ROIS[i] if len(schema.ROIS) == drawn.shape[1] else str(i) for i in np.flatnonzero(~drawn.any(axis=(0, 2, 3)))]
    if empty:
        raise InputError(
            expected="every region drawn in one slice or more", found=f"none of {', '.join(empty)}", where="thresholds",
            remedy="Choose the thresholds on more slices.",
        )  # fmt: skip
    quality = CRITERIA[by](*_counts(heat, drawn, grid))
    best = quality >= quality.max(axis=1, keepdims=True) * (1 - 1e-12)
    first = best.argmax(axis=1)
    after = np.where(np.arange(len(grid)) > first[:, None], ~best, False)
    end = np.where(after.any(axis=1), after.argmax(axis=1), len(grid))
    return np.asarray(grid[(first + end - 1) // 2], dtype=np.float64)


def _counts(heat: NDArray[Any], drawn: BoolArray, grid: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Hits and pixels above each threshold (slice, roi, threshold), and drawn pixels (slice, roi, 1)."""
    n, rois = heat.shape[:2]
    steps = len(grid) + 1
    step = np.searchsorted(grid, heat.astype(np.float64).ravel(), side="right")  # so many thresholds are reached
    where = np.repeat(np.arange(n * rois), heat[0, 0].size) * steps + step
    inside = drawn.ravel()

    def reached(chosen: NDArray[Any]) -> FloatArray:
        histogram = np.bincount(chosen, minlength=n * rois * steps).reshape(n, rois, steps)
        return histogram[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:].astype(np.float64)

    return reached(where[inside]), reached(where), drawn.sum(axis=(2, 3), dtype=np.float64)[..., None]


def _pooled_iou(hits: FloatArray, found: FloatArray, drawn: FloatArray) -> FloatArray:
    hits, found, drawn = (part.sum(axis=0) for part in (hits, found, drawn))
    return hits / (found + drawn - hits)


def _mean_dice(hits: FloatArray, found: FloatArray, drawn: FloatArray) -> FloatArray:
    there = drawn > 0
    dice = np.where(there, 2 * hits, 0.0) / np.where(there, found + drawn, 1.0)
    return np.asarray(dice.sum(axis=0) / there.sum(axis=0), dtype=np.float64)


CRITERIA: Final[Mapping[str, Callable[[FloatArray, FloatArray, FloatArray], FloatArray]]] = {POOLED_IOU: _pooled_iou, MEAN_DICE: _mean_dice}
