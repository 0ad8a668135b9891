"""Shapes of the cord's cross-sections, and the per-slice affine match of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.template.packing import FloatArray

SCALE_LENGTH = 4.0
"""Standard deviation (mm along the cord) of the smoothing of shift and scale."""
ROTATION_LENGTH = 20.0
"""The same of rotation. The orientation of one slice says little: the long axes of cord and grey matter of 4 hand-drawn subjects correlate at 0.1
from slice to slice, while the medians over the slices agree within 4 degrees, where they lie at 5 to 10 degrees."""
ROUND = 0.06
"""Squared elongation (see `rotation`) at which half of the angle is believed: an axis ratio of 1.28."""


def occupancy(depth: FloatArray, width: float) -> NDArray[np.float32]:
    """Turn signed distance to a contour (mm, positive inside) into 0 ... 1, a straight ramp of `width` mm centred on the contour.

    With the width of a voxel this is close to the fraction of the voxel that is inside.

    Examples
    --------
    >>> occupancy(np.array([-1.0, -0.125, 0.0, 2.0]), 0.5).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    return np.clip(0.5 + np.asarray(depth, np.float32) / np.float32(width), 0.0, 1.0)


def moments(weights: FloatArray, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre and spread of each slice.

    Parameters
    ----------
    weights : (x, y, z) array
    x, y : (x,), (y,) arrays
        Coordinates, mm.

    Returns
    -------
    centre : (z, 2) array
        mm; NaN where a slice is empty.
    covariance : (z, 2, 2) array
        mm^2.

    Examples
    --------
    >>> centre, covariance = moments(np.ones((2, 3, 1)), np.array([0.0, 2.0]), np.array([0.0, 3.0, 6.0]))
    >>> centre.tolist(), covariance.tolist()
    ([[1.0, 3.0]], [[[1.0, 0.0], [0.0, 6.0]]])
    """
    w = np.asarray(weights, float)
    along_x, along_y = w.sum(axis=1), w.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = along_x.sum(axis=0)
        mx, my = x @ along_x / total, y @ along_y / total
        xx, yy = x**2 @ along_x / total - mx**2, y**2 @ along_y / total - my**2
        xy = np.einsum("x,xyz,y->z", x, w, y, optimize=True) / total - mx * my
    return np.stack([mx, my], axis=-1), np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)


def smooth_along(values: FloatArray, sigma: float) -> FloatArray:
    """Gaussian mean along axis 0 over the finite entries; `sigma` in samples. Entries without a finite one in reach stay NaN."""
    finite = np.isfinite(values)
    kernel: dict[str, Any] = {"sigma": sigma, "axis": 0, "mode": "constant", "truncate": 4.0}
    weight = ndimage.gaussian_filter1d(finite.astype(float), **kernel)
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, ndimage.gaussian_filter1d(np.where(finite, values, 0.0), **kernel) / weight, np.nan)


@dataclass(frozen=True, eq=False)
class SectionMatch:
    """An affine map of each slice, smooth along the cord: template mm to cord coordinates mm.

    Attributes
    ----------
    template, native : (z, 2) arrays
        Centres of the two cords, mm.
    matrix : (z, 2, 2) array
        Native over template.
    """

    template: FloatArray
    native: FloatArray
    matrix: FloatArray

    def place(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Carry template coordinates (..., z) to cord coordinates (..., z)."""
        u, v = x - self.template[:, 0], y - self.template[:, 1]
        a, b = (self.native[:, i] + self.matrix[:, i, 0] * u + self.matrix[:, i, 1] * v for i in (0, 1))
        return a, b


def match_sections(here: tuple[FloatArray, FloatArray], there: tuple[FloatArray, FloatArray], spacing: float) -> SectionMatch:
    """Match centre, second moments and orientation of the template's slices to those of the image.

    Parameters
    ----------
    here, there : (centre (z, 2), covariance (z, 2, 2)) pairs
        Of template and image, from `moments`, mm.
    spacing : float
        Between slices, mm.

    Returns
    -------
    SectionMatch
        Rotation by `rotation`, after the symmetric stretch that carries the template's covariance to the image's turned back by that angle. Where
        the cord is too round to show an orientation the stretch alone matches the outline, and the inside is not turned.

    Examples
    --------
    >>> circle = (np.zeros((5, 2)), np.tile(np.eye(2), (5, 1, 1)))
    >>> wide = (np.ones((5, 2)), np.tile(np.diag([9.0, 4.0]), (5, 1, 1)))
    >>> match_sections(circle, wide, 0.5).matrix[2].round(6).tolist()
    [[3.0, 0.0], [0.0, 2.0]]
    """
    sigma = SCALE_LENGTH / spacing
    (centre_here, covariance_here), (centre_there, covariance_there) = here, there
    angle = rotation(covariance_here, covariance_there, ROTATION_LENGTH / spacing)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    source, target = smooth_along(covariance_here, sigma), smooth_along(covariance_there, sigma)
    target = np.swapaxes(turn, -1, -2) @ target @ turn
    root = _power(source, 0.5)
    inverse = _power(source, -0.5)
    stretch = inverse @ _power(root @ target @ root, 0.5) @ inverse
    return SectionMatch(smooth_along(centre_here, sigma), smooth_along(centre_there, sigma), turn @ stretch)


def rotation(here: FloatArray, there: FloatArray, sigma: float) -> FloatArray:
    """Angle from the long axis of one set of slices to that of another, smoothed along the cord and drawn to zero where the sections are round.

    Parameters
    ----------
    here, there : (z, 2, 2) arrays
        Covariances.
    sigma : float
        Of the smoothing, samples.

    Returns
    -------
    (z,) array
        Radians, counter-clockwise (from x to y).

    Notes
    -----
    The elongation of a slice is q = ((xx - yy) + 2i xy) / (xx + yy): its length is (r^2 - 1) / (r^2 + 1) for an axis ratio r, its argument twice the
    angle. With p the smoothed product of q there and conjugate q here, the angle is arg(p) / 2 * |p| / (|p| + `ROUND`), the posterior mean where
    outlines are 0.05 off in q and cords are turned by 6 degrees (standard deviations).

    Examples
    --------
    >>> flat, turned = np.diag([4.0, 1.0]), np.array([[2.5, 1.5], [1.5, 2.5]])
    >>> (np.degrees(rotation(flat[None], turned[None], 1.0)) / 45).round(2).tolist()
    [0.86]
    """

    def elongation(c: FloatArray) -> FloatArray:
        q: FloatArray = np.stack([c[:, 0, 0] - c[:, 1, 1], 2 * c[:, 0, 1]], axis=-1) / (c[:, 0, 0] + c[:, 1, 1])[:, None]
        return q

    (a, b), (c, d) = elongation(here).T, elongation(there).T
    real, imaginary = smooth_along(np.stack([c * a + d * b, d * a - c * b], axis=-1), sigma).T
    size = np.hypot(real, imaginary)
    return np.asarray(0.5 * np.arctan2(imaginary, real) * size / (size + ROUND))


def _power(symmetric: FloatArray, exponent: float) -> FloatArray:
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * values[..., None, :] ** exponent) @ np.swapaxes(vectors, -1, -2))
