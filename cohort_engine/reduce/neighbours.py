"""Voxels that resemble their neighbours: how much that adds to the variance of an estimate. Plain arrays in, plain arrays out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.reduce.linear import FloatArray

NEAR = tuple(d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0))
"""Offsets to the voxels that touch one, one of each pair."""


def likeness(residual: FloatArray, places: NDArray[np.integer[Any]]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], float]]:
    """Yield, for each offset in `NEAR`, the voxels that have a neighbour there, those neighbours, and how alike their residuals are.

    What a template map gets wrong by a fraction of a voxel, it gets wrong along a whole edge and in the next slice; noise that was interpolated is
    shared as well. Residuals show both. The variance of a linear estimate with coefficients c is then, relative to independent voxels,
    ``1 + 2 sum_d rho_d sum c_v c_(v+d) / sum c_v^2``.

    Parameters
    ----------
    residual : (voxel,) float
        Value minus model, over the noise where noise differs between voxels: else the loudest decide what all are said to be like.
    places : (voxel, 3) int
        Index in the image, slices along the last axis, without doubles.

    Yields
    ------
    first, second : (pair,) int arrays
    rho : float
        ``mean(r_v r_(v+d)) / mean(r^2)`` over the pairs.

    Examples
    --------
    >>> row = np.array([[0, 0, 0], [1, 0, 0], [5, 5, 0], [6, 5, 0]])
    >>> [(a.tolist(), b.tolist(), rho) for a, b, rho in likeness(np.array([2.0, 2.0, -2.0, -2.0]), row)]
    [([0, 2], [1, 3], 1.0)]
    """
    scale = float(np.mean(residual**2)) if len(residual) else 0.0
    if not scale > 0:
        return
    at = places - places.min(axis=0) + 1
    index = np.full(at.max(axis=0) + 2, -1)
    index[tuple(at.T)] = np.arange(len(at))
    for offset in NEAR:
        other = index[tuple((at + offset).T)]
        first = np.flatnonzero(other >= 0)
        if len(first):
            second = other[first]
            yield first, second, float(np.mean(residual[first] * residual[second])) / scale
