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
HELD = 100.0
"""Pairs' worth of the whole image that the likeness of a level is held back by."""


def likeness(
    residual: FloatArray, places: NDArray[np.integer[Any]], parts: FloatArray | None = None, level: NDArray[np.integer[Any]] | None = None
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]]:  # fmt: skip
    """Yield, for each offset in `NEAR`, the voxels that have a neighbour there, those neighbours, and how alike the residuals of each pair are.

    Noise that was interpolated is shared by neighbours, and what a model misses is missed along the cord; residuals show both. The variance of a
    linear estimate with coefficients c is then, relative to independent voxels, ``1 + 2 sum_d sum rho c_v c_(v+d) / sum c_v^2``. Fluid at the border
    of a cord is alike over many voxels, as it flows and as its border is off; that says nothing of the tissue inside: each tissue has a likeness of
    its own. So has each level, as a compressed one differs from the others: it is held back by that of the whole image.

    Parameters
    ----------
    residual : (voxel,) float
        Value minus model, over the noise where noise differs between voxels: else the loudest decide what all are said to be like.
    places : (voxel, 3) int
        Index in the image, slices along the last axis, without doubles.
    parts : (tissue, voxel) float, optional
        Share of each tissue in the voxel; by default all are one.
    level : (voxel,) int, optional
        From 0. Pairs are of one level; by default all are of one.

    Yields
    ------
    first, second : (pair,) int arrays
    rho : (pair,) array
        ``sum_t s_t s'_t rho_t``: s are the shares in the two voxels; over the pairs of a level, and `HELD` more that are as those of all levels,
        ``rho_t = sum (s_t s'_t r r') / sum (s_t s'_t (r^2 + r'^2) / 2)``.

    Examples
    --------
    >>> row = np.array([[0, 0, 0], [1, 0, 0], [5, 5, 0], [6, 5, 0]])
    >>> [(a.tolist(), b.tolist(), rho.tolist()) for a, b, rho in likeness(np.array([2.0, 2.0, -2.0, -2.0]), row)]
    [([0, 2], [1, 3], [1.0, 1.0])]
    """
    if not (residual**2).any():
        return
    shares = np.ones((1, len(residual))) if parts is None else parts
    of = np.zeros(len(residual), np.int64) if level is None else level
    at = places - places.min(axis=0) + 1
    index = np.full(at.max(axis=0) + 2, -1)
    index[tuple(at.T)] = np.arange(len(at))
    for offset in NEAR:
        other = index[tuple((at + offset).T)]
        first = np.flatnonzero((other >= 0) & (of == of[other]))
        if len(first):
            second = other[first]
            both, a, b = shares[:, first] * shares[:, second], residual[first], residual[second]
            product, square = (np.stack([np.bincount(of[first], t * v) for t in both]) for v in (a * b, (a * a + b * b) / 2))
            rho = _ratio(product + HELD * _ratio(product.sum(axis=1, keepdims=True), square.sum(axis=1, keepdims=True)), square + HELD)
            yield first, second, (rho[:, of[first]] * both).sum(axis=0)


def _ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
