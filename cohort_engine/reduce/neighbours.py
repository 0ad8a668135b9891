"""Voxels that resemble their neighbours: how much that adds to the variance of an estimate. Plain arrays in, plain arrays out."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.reduce.linear import FloatArray

NEAR = tuple(d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0))
"""Offsets to the voxels that touch one, one of each pair."""


def neighbour_variance(coefficients: FloatArray, residual: FloatArray, places: NDArray[np.integer[Any]]) -> FloatArray:
    """Variance of linear estimates over voxels that resemble their neighbours, relative to independent voxels: (region,), at least 1.

    What a template map gets wrong by a fraction of a voxel, it gets wrong along a whole edge and in the next slice; noise that was interpolated is
    shared as well. Residuals show both.

    Parameters
    ----------
    coefficients : (region, voxel) float
        What each voxel adds to each estimate.
    residual : (voxel,) float
        Value minus model, over the noise where noise differs between voxels: else the loudest decide what all are said to be like.
    places : (voxel, 3) int
        Index in the image, slices along the last axis, without doubles.

    Formula
        ``1 + 2 sum_d rho_d sum c_v c_(v+d) / sum c_v^2`` over the offsets d in `NEAR`, ``rho_d = mean(r_v r_(v+d)) / mean(r^2)``.

    Examples
    --------
    >>> row = np.array([[0, 0, 0], [1, 0, 0], [5, 5, 0], [6, 5, 0]])
    >>> neighbour_variance(np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]), np.array([2.0, 2.0, -2.0, -2.0]), row).tolist()
    [2.0, 1.0]
    """
    square = (coefficients**2).sum(axis=1)
    scale = float(np.mean(residual**2)) if len(residual) else 0.0
    if not scale > 0:
        return np.ones(len(coefficients))
    at = places - places.min(axis=0) + 1
    index = np.full(at.max(axis=0) + 2, -1)
    index[tuple(at.T)] = np.arange(len(at))
    shared, of_voxel = np.zeros(len(coefficients)), np.ascontiguousarray(coefficients.T)
    for offset in NEAR:
        other = index[tuple((at + offset).T)]
        first = np.flatnonzero(other >= 0)
        if len(first):
            second = other[first]
            alike = 2 * np.mean(residual[first] * residual[second]) / scale
            shared += alike * np.einsum("vr,vr->r", of_voxel[first], of_voxel[second])
    ratio: FloatArray = np.maximum(1 + np.divide(shared, square, out=np.zeros_like(square), where=square > 0), 1)
    return ratio
