"""One image in its own space: estimators over the voxels of a group of slices. Plain arrays in, plain arrays out.

Each function takes values (voxel,) and weights (label, voxel) of one group, with the voxels that have no value already removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce import linear
from cohort_engine.reduce.linear import FloatArray, Members

HALF = 0.5
"""Share of a voxel from which `bin` and `max` count it to a region."""


@dataclass(frozen=True, eq=False)
class Cells:
    """What one group of slices says about each region; arrays (region,) float64.

    Attributes
    ----------
    value : array
        Missing: NaN where nothing determines it.
    std : array
        Weighted population standard deviation about the weighted average, whatever the estimator: SCT's ``STD()``.
    spread : array
        Standard deviation of the voxels about what this estimator says of them: of ``bin`` over its own voxels, of ``median`` about the median,
        of ``ml`` and ``map`` about the mixture, which leaves partial volume out. NaN for ``max``.
    se : array
        Standard error, of ``ml`` and ``map``; else NaN.
    size, n : arrays
        Soft voxels in the slices, and those of them that have a value.
    """

    value: FloatArray
    std: FloatArray
    spread: FloatArray
    se: FloatArray
    size: FloatArray
    n: FloatArray

    @property
    def coverage(self) -> FloatArray:
        """Share of the region's weight that has a value, 0 where there is nothing."""
        return np.divide(self.n, self.size, out=np.zeros_like(self.n), where=self.size > 0)


Result = tuple[FloatArray, FloatArray, FloatArray]
"""value, spread, se."""


def reduce_group(values: FloatArray, weights: FloatArray, regions: Members, clusters: Members, *, estimator: str) -> Cells:
    """Estimate every region from one group of slices.

    Parameters
    ----------
    values : (voxel,) float
        NaN where the metric has no value: the voxel then has no weight.
    weights : (label, voxel) float, 0 to 1
    regions, clusters : sequences of tuples of labels
    estimator : str
        A key of `ESTIMATORS`.

    Returns
    -------
    Cells

    Formula
        See `ESTIMATORS` and `linear.coefficients`.

    Examples
    --------
    >>> w = np.array([[1.0, 0.5, 1.0]])
    >>> cells = reduce_group(np.array([40.0, 10.0, np.nan]), w, [(0,)], [(0,)], estimator="wa")
    >>> cells.value.tolist(), cells.size.tolist(), cells.n.tolist(), cells.coverage.tolist()
    ([30.0], [2.5], [1.5], [0.6])
    """
    join = np.zeros((len(regions), len(weights)))
    for i, members in enumerate(regions):
        join[i, list(members)] = 1
    whole = join @ weights
    valid = np.isfinite(values)
    y, w, target = values[valid], weights[:, valid], whole[:, valid]
    size, n = whole.sum(axis=1), np.where(valid, whole, 0.0).sum(axis=1)  # added in one order: a whole region has coverage 1
    std = _weighted(y, target)[1]
    value, spread, se = ESTIMATORS[estimator](y, w, target, regions, clusters)
    empty = n <= 0
    value, std, spread, se = (np.where(empty, np.nan, a) for a in (value, std, spread, se))
    return Cells(value, std, spread, se, size, n)


def level_tables(
    values: FloatArray, weights: FloatArray, level: NDArray[np.integer[Any]], reach: FloatArray, levels: Sequence[int], regions: Members,
    clusters: Members, *, estimator: str, min_coverage: float,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Reduce one image to (level, region) cells: the row of a subject in the native tables.

    Parameters
    ----------
    values : (voxel,) float
        NaN where the metric has no value.
    weights : (label, voxel) float, 0 to 1
    level : (voxel,) int
        Level number of each voxel.
    reach : (2, level, label) float
        Weight of the label in each of `levels` that lies in the image, and all of it.
    levels : sequence of int
    regions, clusters : sequences of tuples of labels
    estimator : str
    min_coverage : float
        A cell with less of its region in the data is NaN.

    Returns
    -------
    dict of (level, region) float32 arrays
        ``value`` and the companions of `schema.ESTIMATORS`. Coverage is the share that lies in the image times the share of it that has a value.
    """
    keys = (schema.VALUE, *schema.ESTIMATORS[estimator])
    out = {key: np.full((len(levels), len(regions)), np.nan) for key in keys}
    for i, number in enumerate(levels):
        some = level == number
        cells = reduce_group(values[some], weights[:, some], regions, clusters, estimator=estimator)
        seen, whole = np.array([reach[:, i, list(members)].sum(axis=1) for members in regions]).T
        coverage = cells.coverage * np.divide(seen, whole, out=np.zeros(len(regions)), where=whole > 0)
        low = (coverage < min_coverage) | (coverage <= 0)
        kept = {schema.N: cells.n, schema.COVERAGE: coverage}
        rest = {schema.VALUE: cells.value, schema.STD: cells.std, schema.SE: cells.se}
        for key in keys:
            out[key][i] = kept[key] if key in kept else np.where(low, np.nan, rest[key])
    return {key: array.astype(np.float32) for key, array in out.items()}


def _weighted(y: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and population standard deviation of each row of weights; NaN without weight."""
    n = target.sum(axis=1)
    mean = np.divide(target @ y, n, out=np.full(len(n), np.nan), where=n > 0)
    deviation = y - mean[:, None]
    variance = np.divide((target * deviation**2).sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0)
    return mean, np.sqrt(variance)


def _absent(target: FloatArray) -> FloatArray:
    return np.full(len(target), np.nan)


def _average(y: FloatArray, w: FloatArray, target: FloatArray, regions: Members, clusters: Members) -> Result:
    return *_weighted(y, target), _absent(target)


def _binary(y: FloatArray, w: FloatArray, target: FloatArray, regions: Members, clusters: Members) -> Result:
    return *_weighted(y, (target >= HALF).astype(float)), _absent(target)


def _maximum(y: FloatArray, w: FloatArray, target: FloatArray, regions: Members, clusters: Members) -> Result:
    inside = np.where(target >= HALF, y, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(inside), inside, np.nan), _absent(target), _absent(target)


def _median(y: FloatArray, w: FloatArray, target: FloatArray, regions: Members, clusters: Members) -> Result:
    value = weighted_median(y, target)
    n = target.sum(axis=1)
    square = (target * (y - value[:, None]) ** 2).sum(axis=1)
    return value, np.sqrt(np.divide(square, n, out=_absent(target), where=n > 0)), _absent(target)


def _mixture(y: FloatArray, w: FloatArray, target: FloatArray, regions: Members, clusters: Members, *, prior: bool) -> Result:
    moments = linear.Moments.of(w, y)
    fitted = linear.fit(moments, regions, clusters, prior=prior)
    residual = y - fitted.labels @ w
    n = target.sum(axis=1)
    noise = np.divide(target @ residual**2, n, out=_absent(target), where=n > 0) * fitted.inflation
    return fitted.value, np.sqrt(noise), linear.standard_error(moments, fitted, regions, noise)


ESTIMATORS: Mapping[str, Callable[[FloatArray, FloatArray, FloatArray, Members, Members], Result]] = {
    schema.WA: _average,
    schema.BIN: _binary,
    schema.MEDIAN: _median,
    schema.ML: partial(_mixture, prior=False),
    schema.MAP: partial(_mixture, prior=True),
    schema.MAX: _maximum,
}
"""Functions of values (voxel,), weights (label, voxel), weights (region, voxel), members and clusters, by SCT's name.

``wa``: sum w y / sum w. ``bin``: mean where w >= 0.5. ``max``: largest value where w >= 0.5. ``median``: `weighted_median`.
``ml`` and ``map``: `linear.coefficients`; their noise is the residuals' variance weighted by the region, so that noisy surroundings do not count.
"""


def weighted_median(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Median of values (voxel,) under each row of weights (row, voxel), interpolated between voxels; NaN where a row has no weight.

    Formula
        Over the voxels with weight, sorted by value: ``S = cumsum(w)``, ``p = (S - w / 2) / S_end``; the value at ``p = 0.5``, between two voxels
        by linear interpolation.

    Examples
    --------
    >>> weighted_median(np.array([1.0, 2.0, 10.0]), np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [3.0, 0.0, 1.0]])).tolist()
    [2.0, 5.5, 3.25]
    """
    order = np.argsort(values, kind="stable")
    y, w = values[order], weights[:, order]
    out = np.full(len(w), np.nan)
    for i, row in enumerate(w):
        some = row > 0
        if some.any():
            total = np.cumsum(row[some])
            out[i] = np.interp(0.5, (total - row[some] / 2) / total[-1], y[some])
    return out


def slice_levels(levels: NDArray[np.integer[Any]], affine: FloatArray, *, smoothing: float = 30.0) -> NDArray[np.int64]:
    """Vertebral level of each slice: the label under a smooth line through the centres of the labelled slices.

    Parameters
    ----------
    levels : (x, y, z) int array
        Level number in each voxel, 0 where there is none; z upwards.
    affine : (4, 4) array
        Voxel centres to RAS+ mm.
    smoothing : float
        Wavelength along the cord in mm that the line keeps half of.

    Returns
    -------
    (z,) int array
        0 where the slice has no level. A level takes whole slices.

    Notes
    -----
    Where the line's voxel has no label (a thin or hollow mask), the slice takes the most frequent label in it.

    Examples
    --------
    >>> levels = np.zeros((3, 3, 4), int)
    >>> levels[:, :, 1], levels[:, :, 2] = 3, 2
    >>> slice_levels(levels, np.diag([1.0, 1.0, 5.0, 1.0])).tolist()
    [0, 3, 2, 0]
    """
    inside = levels > 0
    count = inside.sum(axis=(0, 1))
    z = np.flatnonzero(count)
    out = np.zeros(levels.shape[2], np.int64)
    if not len(z):
        return out
    x, y = (inside.sum(axis=1 - a)[:, z].T @ np.arange(levels.shape[a]) / count[z] for a in (0, 1))
    across = np.cross(affine[:3, 0], affine[:3, 1])
    spacing = abs(float(across @ affine[:3, 2])) / float(np.linalg.norm(across))
    line = np.rint(_smooth(z * spacing, np.stack([x, y], axis=1), spacing, smoothing)).astype(int)
    at = levels[line[:, 0].clip(0, levels.shape[0] - 1), line[:, 1].clip(0, levels.shape[1] - 1), z]
    for i in np.flatnonzero(at == 0):
        at[i] = np.argmax(np.bincount(levels[:, :, z[i]][inside[:, :, z[i]]]))
    out[z] = at
    return out


def _smooth(u: FloatArray, values: FloatArray, spacing: float, wavelength: float) -> FloatArray:
    """Cubic smoothing spline of values (n, m) at its knots u (mm), which may have gaps; the penalty is that of the cord's centreline."""
    n = len(u)
    if n < 3:
        return values
    h = np.diff(u)
    q = np.zeros((n, n - 2))
    r = np.zeros((n - 2, n - 2))
    inner = np.arange(n - 2)
    q[inner, inner], q[inner + 1, inner], q[inner + 2, inner] = 1 / h[:-1], -1 / h[:-1] - 1 / h[1:], 1 / h[1:]
    r[inner, inner] = (h[:-1] + h[1:]) / 3
    r[inner[:-1], inner[1:]] = r[inner[1:], inner[:-1]] = h[1:-1] / 6
    penalty = (wavelength / (2 * np.pi)) ** 4 / spacing
    smooth: FloatArray = values - penalty * q @ np.linalg.solve(r + penalty * q.T @ q, q.T @ values)
    return smooth
