"""Left or right: one midline for all slices of a person, and heat dealt to the two sides by it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.rois.evaluate import of_side
from cohort_engine.rois.slices import RoiSlices

FloatArray = NDArray[np.float64]

ALIKE: Final = 0.44
"""How alike are slices of one person in where a network has its midline against the registered one: the correlation of two of them."""
OWN: Final = 0.4
"""Of what a slice's midline is aside of its person's mean, so much counts: the rest is chance."""
SHARP: Final = 6.0
"""How fast heat changes sides across the midline, per mm."""
_STEEP, _STEPS = 3.0, 12
_LOOSE = 1e-3, 1.0
_SOME = 1.0
"""Sides with less than this, in pixels, have no midline."""


def midline_of(left: NDArray[Any], right: NDArray[Any], x: FloatArray, y: FloatArray) -> FloatArray:
    """Fit the line that parts left from right in each slice.

    Parameters
    ----------
    left, right : (slice, pixel)
        How much of each pixel is on a side.
    x, y : (slice, pixel) float64
        Its position, mm, x to the right.

    Returns
    -------
    (slice, 2) float64
        ``a`` and ``b`` of ``x = a + b y``, mm: the most likely ones where a pixel is on the left with probability ``1 / (1 + exp(s (x - a - b y)))``,
        s = 3 per mm, by Newton's method. Lines that nothing speaks for are ``x = 0``.

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(-3.0, 4), np.arange(-3.0, 4), indexing="ij")
    >>> x, y = x.reshape(1, -1), y.reshape(1, -1)
    >>> midline_of(x < 0.5, x > 0.5, x, y).round(2).tolist()
    [[0.5, 0.0]]
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    weight, (a, b) = left + right, np.zeros((2, len(left)))
    for _ in range(_STEPS):
        share = _of_left(x - a[:, None] - b[:, None] * y, _STEEP)
        slope, bend = _STEEP * (left - weight * share), _STEEP**2 * weight * share * (1 - share)
        ga, gb = slope.sum(1) - _LOOSE[0] * a, (slope * y).sum(1) - _LOOSE[1] * b
        aa, ab, bb = bend.sum(1) + _LOOSE[0], (bend * y).sum(1), (bend * y**2).sum(1) + _LOOSE[1]
        det = aa * bb - ab**2
        a = a + np.clip((bb * ga - ab * gb) / det, -0.5, 0.5)
        b = b + np.clip((aa * gb - ab * ga) / det, -0.2, 0.2)
    return np.stack([a, b], 1)


def pooled(aside: FloatArray, patient: NDArray[Any]) -> FloatArray:
    """Take what all slices of a person together say of how far its midline lies aside.

    Parameters
    ----------
    aside : (slice,) float64
        How far each slice's midline lies aside of the registered one, mm; NaN where that is not known.
    patient : (slice,)

    Returns
    -------
    (slice,) float64
        Mean of the person's n slices, times ``n / (1 + (n - 1) ALIKE)`` (Spearman and Brown: what each slice says is drawn towards the registered
        midline, as far as one slice alone is to be trusted; n of them are to be trusted further), and `OWN` of what a slice is aside of that mean.
        NaN where it was NaN.

    Examples
    --------
    >>> pooled(np.array([0.1, 0.3, 0.2]), np.array([0, 0, 1])).round(3).tolist()  # 0.2 x 2 / 1.44 -+ 0.4 x 0.1
    [0.238, 0.318, 0.2]
    """
    out = np.full(len(aside), np.nan)
    for who in np.unique(patient):
        own = (patient == who) & np.isfinite(aside)
        if n := int(own.sum()):
            mean = aside[own].mean()
            out[own] = mean * n / (1 + (n - 1) * ALIKE) + OWN * (aside[own] - mean)
    return out


def sided(heat: NDArray[np.float32], slices: RoiSlices) -> NDArray[np.float32]:
    """Deal the heat of each pair of regions to its two sides by the midline of the person.

    The inside of a cord lies aside of what registration by its outline makes of it, and much alike in all slices. A network that sees one slice
    cannot be sure of it; its slices together can. The registered midline of each slice is moved by what `pooled` finds.

    Parameters
    ----------
    heat : (slice, roi, x, y) float32
        Not negative.
    slices : RoiSlices
        With their `prior`; a `patient` is a person.

    Returns
    -------
    (slice, roi, x, y) float32
        The left region's heat L and the right one's R become ``(L + R) L p / (L p + R (1 - p))`` and the rest of L + R, where p, from 1 on the left
        to 0 on the right, is ``1 / (1 + exp(SHARP d))`` d mm to the right of the midline. Slices without a midline stay as they are.

    Raises
    ------
    InputError
        The slices have no prior.
    """
    if slices.prior is None:
        raise InputError(
            expected="shares of the parts of the cord", found="none", where="prior of the slices",
            remedy="Register the slices to the template first, or take a network that does without a midline.",
        )  # fmt: skip
    n, rois = heat.shape[:2]
    grid = np.meshgrid(*(np.arange(k) * s for k, s in zip(slices.cord.shape[1:], slices.spacing, strict=True)), indexing="ij")
    cord = slices.cord.reshape(n, -1)
    x, y = (p.ravel() - (cord * p.ravel()).sum(1, keepdims=True) / np.maximum(1, cord.sum(1, keepdims=True)) for p in grid)
    parts = [of_side(np.nan_to_num(maps)).reshape(n, len(schema.SIDES), -1) for maps in (heat, slices.prior)]
    found, registered = (midline_of(part[:, 0], part[:, 1], x, y) for part in parts)
    known = cord.any(1) & np.all([part.sum(2).min(1) > _SOME for part in parts], axis=0)
    a = registered[:, 0] + pooled(np.where(known, found[:, 0] - registered[:, 0], np.nan), slices.patient)
    share = _of_left(x - a[:, None] - found[:, 1:] * y, SHARP).reshape(n, 1, *heat.shape[2:])
    left, right = heat[:, : rois // 2], heat[:, rois // 2 :]
    to_left = left * share / np.maximum(left * share + right * (1 - share), np.finfo(np.float32).tiny)
    dealt = np.concatenate([(left + right) * to_left, (left + right) * (1 - to_left)], 1)
    return np.where(known[:, None, None, None], dealt, heat).astype(np.float32)


def _of_left(aside: FloatArray, sharp: float) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(np.clip(sharp * aside, -30, 30))))
