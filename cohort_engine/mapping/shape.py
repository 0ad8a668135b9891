"""Shapes of the cord's cross-sections, and the per-slice affine match of two of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.template.packing import FloatArray


def occupancy(depth: FloatArray, width: float) -> NDArray[np.float32]:
    """Turn signed distance to a contour (mm, positive inside) into 0 ... 1, a straight ramp of `width` mm centred on the contour.

    With the width of a voxel this is close to the fraction of the voxel that is inside.

    Examples
    --------
    >>> occupancy(np.array([-1.0, -0.1, 0.0, 2.0]), 0.5).round(2).tolist()
    [0.0, 0.3, 0.5, 1.0]
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
