"""Receive sensitivity that a cord moves through: a volume is brighter where the cord lies nearer to the coil. Plain arrays in, plain arrays out.

Motion correction puts a cord back, not its brightness. Where sensitivity rises by one percent a millimetre, volumes without diffusion weighting that
lie 1 mm aside of the weighted ones are one percent too bright, which is more than one percent of MD.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.qmri.tensor import design_matrix

FloatArray = NDArray[Any]

USUAL = (0.02, 0.01)
"""Standard deviation of the slope, 1/mm: of its mean over the cord, and of what it differs at either end of it. A coil behind the neck loses half of
its sensitivity over 4 cm or more."""
LEAST = 3
"""Volumes more than unknowns that a slice must have."""


def receive_slope(signals: FloatArray, slices: NDArray[np.integer[Any]], bvals: FloatArray, directions: FloatArray, shifts: FloatArray) -> FloatArray:
    """Slope of the logarithm of the receive sensitivity across each slice, by how bright a cord is where it lies.

    Parameters
    ----------
    signals : (voxel, t) array
        Of the cord, motion corrected. Missing: NaN.
    slices : (voxel,) int array
        Slice of each voxel.
    bvals : (t,) array
        s/mm2.
    directions : (t, 3) array
    shifts : (t, z, 2) array
        By which slices of volumes were moved, mm.

    Returns
    -------
    (z, 2) array
        1/mm along the first and second axis; 0 where nothing tells.

    Formula
        The mean logarithm over a slice's voxels is a tensor's and ``g . shift``. Least squares over all slices, weighted by the squared signal, with
        g linear along the cord and drawn towards 0 as `USUAL` says.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> directions = rng.normal(size=(20, 3))
    >>> directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    >>> bvals, shifts = np.r_[np.zeros(4), np.full(16, 800.0)], rng.normal(0, 1, (20, 3, 2))
    >>> still = 1000 * np.exp(-bvals / 1000 * (0.4 + 1.6 * directions[:, 2] ** 2))
    >>> seen = np.stack([still * np.exp(shifts[:, k] @ [0.01, -0.004]) for k in range(3)])
    >>> receive_slope(seen, np.arange(3), bvals, directions, shifts).round(3).tolist()
    [[0.01, -0.004], [0.01, -0.004], [0.01, -0.004]]
    """
    out = np.zeros((shifts.shape[1], 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(signals > 0, signals, np.nan))
    held = np.unique(slices)
    if not len(held):
        return out
    along = np.interp(np.arange(len(out)), [held[0], max(held[-1], held[0] + 1)], [-1.0, 1.0]) if len(held) > 1 else np.zeros(len(out))
    square, right = np.zeros((4, 4)), np.zeros(4)
    rest, free = 0.0, 0
    columns = design_matrix(bvals, directions)
    for k in held.tolist():
        here = logs[slices == k]
        seen = np.isfinite(here).any(axis=0) & np.isfinite(shifts[:, k]).all(axis=1)
        whole = np.isfinite(here[:, seen]).all(axis=1)
        if seen.sum() < columns.shape[1] + 2 + LEAST or not whole.any():
            continue
        mean = here[whole][:, seen].mean(axis=0)
        root = np.exp(mean - mean.max())
        of_tensor, told = columns[seen] * root[:, None], np.column_stack([mean, shifts[seen, k]]) * root[:, None]
        fitted, _, rank, _ = np.linalg.lstsq(of_tensor, told, rcond=None)
        left = told - of_tensor @ fitted
        moved = np.column_stack([left[:, 1:], along[k] * left[:, 1:]])
        square, right = square + whole.sum() * moved.T @ moved, right + whole.sum() * moved.T @ left[:, 0]
        rest, free = rest + float(whole.sum() * left[:, 0] @ left[:, 0]), free + int(seen.sum() - rank)
    if free <= len(right):
        return out
    found = np.linalg.lstsq(square, right, rcond=None)[0]
    noise = max(rest - float(found @ right), 0.0) / (free - len(right))
    found = np.linalg.solve(square + noise * np.diag(np.repeat(np.square(USUAL), 2) ** -1.0) + 1e-300, right)
    return np.asarray(found[:2] + along[:, None] * found[2:])


def evened(series: FloatArray, slope: FloatArray, shifts: FloatArray) -> NDArray[np.float32]:
    """Give each slice of each volume (x, y, z, t) the brightness that it has at its place: divided by ``exp(slope . shift)``.

    Parameters
    ----------
    series : (x, y, z, t) array
        Motion corrected.
    slope : (z, 2) array
        Of `receive_slope`.
    shifts : (t, z, 2) array
        By which slices were moved, mm.

    Examples
    --------
    >>> evened(np.ones((1, 1, 1, 2)), np.array([[0.01, 0.0]]), np.array([[[2.0, 0.0]], [[0.0, 5.0]]])).ravel().astype(float).round(3).tolist()
    [0.98, 1.0]
    """
    return np.asarray(series * np.exp(-(shifts * slope).sum(axis=-1)).T, np.float32)
