"""Standard errors of voxels, and the weights that follow from them. Plain arrays in, plain arrays out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine.template.atlas import Atlas

FloatArray = NDArray[np.floating[Any]]

NONE, PRECISION = "none", "precision"
"""Ways to weight voxels."""
WHOLE = 0.99
"""Share of a voxel that tissues must fill for it to tell how much they vary."""


class Errors(NamedTuple):
    """What is known of how well the voxels of maps are measured.

    Attributes
    ----------
    se : (subject, voxel) array
        Standard error of a voxel of the image, in the unit of the map; NaN where the map is.
    shared : (subject,) array
        Voxels of the map that share one voxel of the image, and its error: 1 in the image itself.
    precision : (subject, voxel) array, optional
        Weight of each voxel, see `precision`; without, all count the same.
    """

    se: FloatArray
    shared: FloatArray
    precision: FloatArray | None = None


def errors_of(values: FloatArray, se: FloatArray, shared: FloatArray, atlas: Atlas, *, weights: str = NONE) -> Errors:
    """Put together what is known of the errors of maps.

    Parameters
    ----------
    values, se : (subject, voxel) arrays
    shared : (subject,) array
    atlas : Atlas
        On the voxel axis; its clusters are the tissues of `precision`.
    weights : str
        `NONE`, or `PRECISION`.
    """
    if weights == NONE:
        return Errors(se, shared)
    tissues = np.stack([np.asarray(atlas.weights[list(c)].sum(axis=0), np.float64).ravel() for c in atlas.clusters.values()])
    return Errors(se, shared, np.stack([precision(y, e, tissues) for y, e in zip(values, se, strict=True)]))


def precision(values: FloatArray, se: FloatArray, tissues: FloatArray) -> NDArray[np.float64]:
    """Weight of each voxel by how well it is measured, as in a random-effects meta-analysis.

    Parameters
    ----------
    values, se : (voxel,) arrays
        NaN where there is no value; `se` is at least 0 where there is one.
    tissues : (tissue, voxel) array
        Share of each tissue in the voxel.

    Returns
    -------
    (voxel,) float64 array
        Mean 1 over the voxels with a value, so that what is counted in voxels stays so. Missing: NaN.

    Formula
        ``q = 1 / (se^2 + tau^2)``: tau^2 is the variance of voxels that tissues fill about the least-squares values of these tissues, beyond what
        `se` explains, ``max(0, mean(r^2) - mean(se^2))``. Where tissue itself varies more than it is measured badly, voxels count nearly alike.

    References
    ----------
    DerSimonian, Laird. Meta-analysis in clinical trials. Control Clin Trials 1986;7:177. doi:10.1016/0197-2456(86)90046-2

    Examples
    --------
    >>> precision(np.array([0.7, 0.7, np.nan, 0.7]), np.array([0.02, 0.02, np.nan, 0.04]), np.ones((1, 4))).round(3).tolist()
    [1.333, 1.333, nan, 0.333]
    """
    known = np.isfinite(values) & np.isfinite(se)
    out = np.full(values.shape, np.nan)
    if not known.any():
        return out
    error = np.asarray(se[known], float) ** 2
    whole = tissues[:, known].sum(axis=0) >= WHOLE
    some = whole if whole.any() else np.ones_like(whole)
    y, parts = np.asarray(values[known], float)[some], tissues[:, known][:, some]
    residual = y - np.linalg.pinv(parts @ parts.T, hermitian=True) @ (parts @ y) @ parts
    variance = error + max(0.0, float(np.mean(residual**2) - error[some].mean()))
    if not (variance > 0).all():  # a voxel without any error at all leaves nothing to weigh it by
        variance = np.ones_like(variance)
    weight = 1 / variance
    out[known] = weight / weight.mean()
    return out


def noise_of(coefficients: FloatArray, gram: FloatArray) -> FloatArray:
    """Give the standard error ``sqrt(c' G c)`` (..., region) of linear estimates, from the errors of the voxels alone.

    Parameters
    ----------
    coefficients : (..., region, label) array
        An estimate is ``sum_v q_v (c . w_v) y_v``.
    gram : (..., label, label) array
        Sum of ``q_v^2 se_v^2 w_v w_v'``.

    Examples
    --------
    The mean of four voxels.

    >>> noise_of(np.full((1, 1), 0.25), np.full((1, 1), 4 * 0.1**2)).round(6).tolist()
    [0.05]
    """
    out: FloatArray = np.sqrt(np.maximum(((coefficients @ gram) * coefficients).sum(axis=-1), 0))
    return out
