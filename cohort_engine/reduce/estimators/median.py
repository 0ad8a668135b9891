"""Weighted median."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import CellEstimator
from cohort_engine.reduce.linear import FloatArray


class Median(CellEstimator):
    """`weighted_median`; ``std`` is about the weighted average, the spread about the median."""

    name = schema.MEDIAN

    def describe(self) -> str:
        return "Weighted median: half of the region's weight lies below the value."

    def of_cell(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        return weighted_median(values, weights)


def weighted_median(values: FloatArray, weights: FloatArray) -> NDArray[np.float64]:
    """Weighted median of each row, interpolated between voxels.

    Parameters
    ----------
    values : (row, voxel) float
        NaN is left out; each row has a value.
    weights : (voxel,) float
        Above 0.

    Formula
        Over the voxels with a value, sorted by it: ``S = cumsum(w)``, ``p = (S - w / 2) / S_end``; the value at ``p = 0.5``, between two voxels by
        linear interpolation.

    Examples
    --------
    >>> weighted_median(np.array([[10.0, 1.0, 2.0], [np.nan, 5.0, 7.0]]), np.array([1.0, 3.0, 0.5])).round(4).tolist()
    [1.4286, 5.2857]
    """
    order = np.argsort(values, axis=1)
    y = np.take_along_axis(values, order, axis=1).astype(np.float64)
    w = np.where(np.isnan(y), 0.0, weights[order])
    total = np.cumsum(w, axis=1)
    p = np.where(np.isnan(y), np.inf, (total - w / 2) / total[:, -1:])
    above = np.clip((p < 0.5).sum(axis=1), 1, np.maximum((~np.isnan(y)).sum(axis=1) - 1, 1)) if y.shape[1] > 1 else np.zeros(len(y), np.intp)
    rows = np.arange(len(y))
    below = np.maximum(above - 1, 0)
    low, high, p0, p1 = y[rows, below], y[rows, above], p[rows, below], p[rows, above]
    alone = ~np.isfinite(p1) | (p1 <= p0)
    share = np.clip(np.divide(0.5 - p0, p1 - p0, out=np.zeros(len(y)), where=~alone), 0, 1)
    return np.where(share > 0, low + share * (np.where(alone, low, high) - low), low)


schema.ESTIMATORS.add(Median())
