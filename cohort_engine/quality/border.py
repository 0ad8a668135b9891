"""A cord mask against its image: where the image has its edge around the border of the mask, slice by slice and side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.template.packing import FloatArray

SECTORS, RAYS = 8, 3
"""Sides that are looked at, and rays in each."""
INWARD, OUTWARD, STEP = 3.0, 4.5, 0.25
"""How far along a ray from the border the edge is looked for, and the distance of samples, mm."""
SMOOTH = 0.6
"""Standard deviation of the derivative's smoothing along a ray, mm."""
SEEN = 0.4
"""An edge counts where its step is this share of what is usual around this cord."""
FALLS = 0.25
"""A fall of this share of what is usual ends the fluid."""
FARTHEST = 20.0
"""A border farther from the middle than this (mm) is none of a cord's."""


@dataclass(frozen=True, eq=False)
class Border:
    """Where an image has its edge around a mask.

    Attributes
    ----------
    angle : (sector,) array
        Direction of each side in the plane of the slice: 0 the first axis (right), 90 the second (front), degrees.
    offset : (z, sector) array
        How far outside the border of the mask the edge of the image lies, mm; NaN where none is seen.
    step : (z, sector) array
        Rise of the image over the border of the mask, outwards, in units of what is usual around this cord: 1 is usual, 0 no edge, negative the other
        way round. NaN without mask.
    outward : float
        Share of the sides of all slices where the image rises outwards: 1 where fluid is bright (T2w, MT), 0 where it is dark (T1w).
    """

    angle: FloatArray
    offset: FloatArray
    step: FloatArray
    outward: float

    @property
    def slices(self) -> NDArray[np.int64]:
        """Slices with a mask."""
        return np.flatnonzero(np.isfinite(self.step).any(axis=1))

    def shift(self) -> FloatArray:
        """Shift (z, 2) of the image's cord against the mask along both axes, mm: first harmonic of the offsets; NaN where fewer than 6 are seen."""
        out = np.full((len(self.offset), 2), np.nan)
        turn = np.deg2rad(self.angle)
        design = np.stack([np.ones_like(turn), np.cos(turn), np.sin(turn)], axis=1)
        for k in np.flatnonzero(np.isfinite(self.offset).sum(axis=1) >= 6):
            seen = np.isfinite(self.offset[k])
            out[k] = np.linalg.lstsq(design[seen], self.offset[k, seen], rcond=None)[0][1:]
        return out

    def missing(self) -> FloatArray:
        """Depth (z,) that the mask lacks on its worst side, mm: largest mean over two neighbouring sides, 0 for one that is not seen; NaN without."""
        return self._worst(self.offset)

    def surplus(self) -> FloatArray:
        """Depth (z,) that the mask has too much on its worst side, mm."""
        return self._worst(-self.offset)

    def _worst(self, depth: FloatArray) -> FloatArray:
        side = np.nan_to_num(depth)
        worst = ((side + np.roll(side, -1, axis=1)) / 2).max(axis=1)
        return np.asarray(np.where(np.isfinite(depth).any(axis=1), worst, np.nan))


def border(image: NDArray[Any], mask: NDArray[Any], spacing: FloatArray) -> Border:
    """Look for the edge of an image around a mask.

    Parameters
    ----------
    image : (x, y, z) array
        Grey values. Missing: NaN counts as 0.
    mask : (x, y, z) array
        0 to 1, slices along the last axis.
    spacing : (3,) array
        Voxel size, mm.

    Returns
    -------
    Border

    Notes
    -----
    From the middle of each slice's mask rays go out; the border is where the interpolated mask falls below 0.5 for the last time. The edge is the
    nearest steep rise, or fall, of the image along the ray, smoothed by 0.6 mm, from 3 mm inside to 4.5 mm outside of the border: a rise or a fall as
    most of the border of this cord has it. What is usual is the median over all slices and sides.

    Examples
    --------
    >>> x, y = np.mgrid[-15:16, -15:16] * 0.9
    >>> cord = (np.hypot(x, y) < 6)[..., None]
    >>> found = border(100 - 60.0 * (np.hypot(x - 1, y) < 6)[..., None], cord, np.array([0.9, 0.9, 5]))
    >>> bool(abs(found.shift()[0, 0] - 1) < 0.2), bool(abs(found.shift()[0, 1]) < 0.2), found.outward
    (True, True, 1.0)
    """
    spacing = np.asarray(spacing, float)
    solid, values = np.nan_to_num(np.asarray(mask, float)), np.nan_to_num(np.asarray(image, float))
    angle = np.arange(SECTORS) * 360.0 / SECTORS
    spread = (np.arange(RAYS) - (RAYS - 1) / 2) * 360.0 / SECTORS / RAYS
    turn = np.deg2rad(angle[:, None] + spread)
    direction = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    along = np.arange(-INWARD, OUTWARD + STEP / 2, STEP)
    slices = np.flatnonzero((solid >= 0.5).any(axis=(0, 1)))
    profile = np.full((solid.shape[2], SECTORS, len(along)), np.nan)
    for k in slices:
        middle = np.argwhere(solid[:, :, k] >= 0.5).mean(axis=0)
        radius = _radius(solid[:, :, k], middle, direction, spacing[:2])
        at = middle + direction[:, :, None] * (radius[..., None] + along).clip(0)[..., None] / spacing[:2]
        profile[k] = ndimage.map_coordinates(values[:, :, k], np.moveaxis(at, -1, 0), order=1, mode="nearest").mean(axis=1)
    slope = ndimage.gaussian_filter1d(profile, SMOOTH / STEP, axis=-1, order=1, mode="nearest") / STEP
    inside, outside = (along >= -2.0) & (along <= -0.75), (along >= 0.75) & (along <= 2.0)
    rise = profile[..., outside].mean(axis=-1) - profile[..., inside].mean(axis=-1)
    known = np.isfinite(rise)
    usual = float(np.median(rise[known])) if known.any() else np.nan
    sign = -1.0 if usual < 0 else 1.0
    return Border(angle, _edges(sign * slope, along), rise / (abs(usual) or np.nan), float(np.mean(rise[known] > 0)) if known.any() else np.nan)


def _radius(mask: FloatArray, middle: FloatArray, direction: FloatArray, spacing: FloatArray) -> FloatArray:
    """Distance (sector, ray) from the middle to where the mask ends, mm."""
    r = np.arange(0, FARTHEST, 0.1)
    at = middle + direction[:, :, None] * r[:, None] / spacing
    inside = ndimage.map_coordinates(mask, np.moveaxis(at, -1, 0), order=1, mode="constant") >= 0.5
    return np.asarray(np.where(inside, r, 0.0).max(axis=-1))


def _edges(slope: FloatArray, along: FloatArray) -> FloatArray:
    """Place (z, sector) of the rise that counts, mm: of those that are steep enough the nearest to the border; none where the image falls before it.

    Behind the fluid come dark dura and bright fat: what rises behind a fall is no border of the cord.
    """
    usual = float(np.nanmedian(slope.max(axis=-1))) if np.isfinite(slope).any() else np.nan
    with np.errstate(invalid="ignore"):
        peak = np.zeros(slope.shape, bool)
        peak[..., 1:-1] = (slope[..., 1:-1] >= slope[..., :-2]) & (slope[..., 1:-1] > slope[..., 2:]) & (slope[..., 1:-1] >= SEEN * usual)
        fallen = np.maximum.accumulate((slope <= -FALLS * usual) & (along >= 0), axis=-1)
    away = np.where(peak & ~fallen, np.abs(along), np.inf)
    best = np.argmin(away, axis=-1)
    out: FloatArray = np.where(np.isfinite(away).any(axis=-1), along[best], np.nan)
    return out
