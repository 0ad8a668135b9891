"""How much each value of a comparison counts: by the uncertainty it was measured with, beside how far people lie apart.

Weights may be wrong, since errors are estimates. So they decide only how much each value counts, and the variance of a weighted effect comes from
the residuals of the people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohort_engine.analysis.arrays import COLLINEAR, ROUNDING, BoolArray, FloatArray, share

STEPS = 20
"""Of the likelihood's fixed point."""
LEAST_VARIANCE = 0.1
"""Share of the mean variance that each value has at least: none counts for much more than ten."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """Least squares under weights; arrays are (test,), `residual` (subject, test) with 0 where missing.

    Attributes
    ----------
    effect : coefficient of the last column
    variance : of that, from the residuals of the people (HC3)
    people : how many people it is made of: fewer than there are where they count differently
    """

    effect: FloatArray
    variance: FloatArray
    people: FloatArray
    residual: FloatArray


def weights_of(residual: FloatArray, errors: FloatArray, groups: BoolArray, trust: FloatArray | None = None) -> FloatArray:
    """Weights of values by their errors: inverse of the variance between people and the squared error.

    Parameters
    ----------
    residual : (subject, test)
        Values without what the model explains; NaN is missing.
    errors : (subject, test)
        Standard error of each value, same unit. NaN: not known, taken as the mean of the others of the group; where nobody has one, all count alike.
    groups : (2, subject) bool
        Each group has its own variance between people.
    trust : (subject,), optional
        Probability that a person's values are usable, NaN as 1: who is usable with 0.5 counts half.

    Returns
    -------
    weights : (subject, test)
        Mean 1 over the people of each group with a value; 0 where missing.

    Formula
        ``trust / (tau^2 + error^2)``, tau^2 by restricted maximum likelihood (Viechtbauer, J. Educ. Behav. Stat. 30 (2005),
        doi:10.3102/10769986030003261).

    Examples
    --------
    >>> groups = np.array([[True, True, True, True], [False, False, False, False]])
    >>> weights_of(np.array([[-1.0], [1.0], [-1.0], [1.0]]), np.array([[1.0], [1.0], [2.0], [2.0]]), groups).ravel().round(2).tolist()
    [1.55, 1.55, 0.45, 0.45]
    """
    out = np.zeros(residual.shape)
    for members in groups:
        known = ~np.isnan(residual[members])
        y = np.where(known, residual[members], 0.0)
        n = known.sum(axis=0)
        square = np.where(known, errors[members] ** 2, np.nan)
        has = np.isfinite(square)
        square = np.where(has, square, share(np.where(has, square, 0.0).sum(axis=0), has.sum(axis=0)))
        square = np.where(known & np.isfinite(square), square, 0.0)
        between = np.nan_to_num(share((y**2).sum(axis=0), n - 1) - share(square.sum(axis=0), n)).clip(0)
        for _ in range(STEPS):
            w = _inverse(between, square, known)
            total = w.sum(axis=0)
            left = y - np.nan_to_num(share((w * y).sum(axis=0), total))
            step = share((w**2 * (left**2 - square)).sum(axis=0), (w**2).sum(axis=0)) + share(1.0, total)
            between = np.nan_to_num(step).clip(0)
        w = _inverse(between, square, known)
        if trust is not None:
            w = w * np.where(np.isnan(trust[members]), 1.0, trust[members])[:, None]
        out[members] = np.nan_to_num(w * share(n, w.sum(axis=0)))
    return out


def _inverse(between: FloatArray, square: FloatArray, known: BoolArray) -> FloatArray:
    """Inverse variances; all alike where there is no variance."""
    variance = np.where(known, between + square, 0.0)
    least = LEAST_VARIANCE * np.nan_to_num(share(variance.sum(axis=0), known.sum(axis=0)))
    variance = np.maximum(variance, least)
    return np.where(known, np.nan_to_num(share(1.0, variance), nan=1.0), 0.0)


def weigh(values: FloatArray, columns: FloatArray, weights: FloatArray | None = None) -> Weighed:
    """Weighted least squares of every test on the same columns.

    Parameters
    ----------
    values : (subject, test)
        NaN is missing.
    columns : (subject, column)
        Columns that others explain among a test's complete cases are skipped.
    weights : (subject, test), optional
        By default all count alike.

    Formula
        With effect ``sum(u y)`` and leverage h: variance ``sum(u^2 residual^2 / (1 - h)^2)``, which holds where weights are wrong; people
        ``sum(u^2 / w)^2 / sum((u^2 / w)^2)``.
    Reference
        MacKinnon & White, J. Econometrics 29 (1985), doi:10.1016/0304-4076(85)90158-7.

    Examples
    --------
    >>> y, group = np.array([[1.0], [3.0], [4.0], [8.0]]), np.array([[1.0, 0], [1, 0], [1, 1], [1, 1]])
    >>> weigh(y, group).effect.round(6).tolist(), weigh(y, group, np.array([[1.0], [1.0], [1.5], [0.5]])).effect.round(6).tolist()
    ([4.0], [3.0])
    """
    known = ~np.isnan(values)
    w = known.astype(float) if weights is None else np.where(known, weights, 0.0)
    y: NDArray[np.float64] = np.where(known, values, 0.0)
    count, k = columns.shape[1], columns.shape[1] ** 2
    pairs = (columns[:, :, None] * columns[:, None, :]).reshape(len(columns), k)
    gram = (w.T @ pairs).reshape(-1, count, count)
    inverse = np.linalg.pinv(gram, rcond=COLLINEAR, hermitian=True)
    fit = np.einsum("tij,tj->ti", inverse, (w * y).T @ columns)
    residual = np.where(known, y - columns @ fit.T, 0.0)
    u = w * (columns @ inverse[:, :, -1].T)
    leverage = w * (pairs @ inverse.reshape(-1, k).T)
    variance = (u**2 * residual**2 / np.maximum(1 - leverage, COLLINEAR) ** 2).sum(axis=0)
    part = np.divide(u**2, w, out=np.zeros_like(u), where=w > ROUNDING)
    return Weighed(fit[:, -1], variance, share(part.sum(axis=0) ** 2, (part**2).sum(axis=0)), residual)
