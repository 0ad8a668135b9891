"""Slices of single volumes that lost their signal, as by the pulse of the cord during the weighting: what other slices have and no tensor explains.

The logarithm of a cord's signal in a volume, over that without weighting, is about what this volume has in all slices, plus what the tensor of this
slice is other than that of the others: a linear model of seven unknowns a slice, which a compressed or bent cord fills, and a lost volume does not.
Signal is lost, never won; so the model is the upper quartile of what is measured (quantile regression), and stays right where up to half of a
slice's volumes are lost.

References
----------
Koenker R, Bassett G. Regression quantiles. Econometrica 1978;46:33-50.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.qmri.tensor import UNKNOWNS, design_matrix

FloatArray = NDArray[np.float64]

FEWEST = 5
"""Slices from which on something can be said."""
SPARE = 4
"""Weighted volumes beyond the unknowns from which on something can be said."""
LOSS = 0.5
"""Logarithm by which a slice must lie below what is expected: two fifths of the signal are lost."""
DEVIATIONS = 5.0
"""Robust standard deviations of all slices and volumes by which it must as well."""
QUANTILE = 0.75
APART = 0.3
"""Standard deviation of the difference between the tensors of slices, um2/ms: prior."""
ROUNDS, STEPS = 4, 25
NOISE = 0.05
"""Mean deviation of the logarithms, against which the prior is weighed; within less than half of it, quantile regression is quadratic."""


def lost_slices(
    signals: NDArray[Any], slices: NDArray[Any], bvals: NDArray[Any], directions: NDArray[Any], b0: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Find slices of weighted volumes that lost signal.

    Parameters
    ----------
    signals : (n, t) array
        Of the voxels of the cord. Missing: NaN.
    slices : (n,) int array
        Slice of each.
    bvals : (t,) array
        s/mm2.
    directions : (t, 3) array
    b0 : (t,) bool array
        Volumes without diffusion weighting.

    Returns
    -------
    (t, z) bool array
        z counts from 0 to the highest slice. Nothing is found in fewer than `FEWEST` slices, or in too few volumes.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> directions = rng.normal(size=(20, 3))
    >>> directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    >>> b0 = np.arange(20) < 2
    >>> signals = np.where(b0, 100, 50) + rng.normal(0, 2, (80, 20))
    >>> slices = np.repeat(np.arange(8), 10)
    >>> signals[slices == 3, 6:10] *= 0.3
    >>> np.argwhere(lost_slices(signals, slices, np.where(b0, 0, 800), directions, b0)).tolist()
    [[6, 3], [7, 3], [8, 3], [9, 3]]
    """
    signals, slices = np.asarray(signals, np.float64), np.asarray(slices, np.int64)
    out = np.zeros((len(b0), int(slices.max(initial=-1)) + 1), bool)
    found, weighted = np.unique(slices), np.flatnonzero(~b0)
    if len(found) < FEWEST or len(weighted) < UNKNOWNS + SPARE or not b0.any():
        return out
    levels = np.stack([_median(signals[slices == z]) for z in found])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(levels[:, weighted] / _median(levels[:, b0].T)[:, None])
    ratio[~np.isfinite(ratio)] = np.nan
    design = design_matrix(bvals, directions)[weighted]
    model = np.zeros_like(ratio)
    for _ in range(ROUNDS):
        of_volume = _median(ratio - model)
        model = _upper(ratio - of_volume, design)
    left = ratio - of_volume - model
    known = left[np.isfinite(left)]
    if not len(known):
        return out
    usual = float(np.median(known))  # below zero: the model is the upper quartile
    least = max(LOSS, DEVIATIONS * 1.4826 * float(np.median(np.abs(known - usual))))
    suspect = left - usual < -least
    values = ratio - of_volume
    kept = np.where(suspect, np.nan, values)
    left = values - _fitted(kept, design, np.isfinite(kept).astype(np.float64))  # the middle of what is not suspected
    out[np.ix_(weighted, found)] = (suspect & (left < -least)).T
    return out


def _upper(values: FloatArray, design: FloatArray) -> FloatArray:
    """Upper quartile (z, t) of values of slices as the design explains them: quantile regression by reweighted least squares."""
    residual = np.zeros_like(values)
    fitted = residual
    for _ in range(STEPS):
        weight = np.where(residual >= 0, QUANTILE, 1 - QUANTILE) / np.maximum(np.abs(residual), NOISE / 2)
        fitted = _fitted(values, design, np.where(np.isfinite(values), weight, 0.0))
        residual = np.nan_to_num(values - fitted)
    return fitted


def _fitted(values: FloatArray, design: FloatArray, weight: FloatArray) -> FloatArray:
    """Values (z, t) of slices as the design explains them, by weighted least squares with a prior; NaN has no weight."""
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    prior = np.diag([NOISE / APART**2] * (UNKNOWNS - 1) + [1e-6])
    normal = (weight @ products).reshape(-1, UNKNOWNS, UNKNOWNS) + prior
    right = (weight * np.nan_to_num(values)) @ design
    fitted: FloatArray = np.linalg.solve(normal, right[..., None])[..., 0] @ design.T
    return fitted


def _median(values: FloatArray) -> FloatArray:
    """Median over the first axis of what is not NaN; NaN where all is."""
    none = np.isnan(values).all(axis=0)
    return np.where(none, np.nan, np.nanmedian(np.where(none, 0.0, values), axis=0))
