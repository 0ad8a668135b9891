"""Correlation of many columns with many columns: Pearson, Spearman, and both with covariates taken out.

Missing values (NaN): each pair is computed from the subjects that have both values and all covariates, and is NaN where more than a share
`max_missing` of all subjects is not among them. Ranks are taken among a pair's own subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr

from cohort_engine.analysis.arrays import COLLINEAR, MAX_MISSING, BoolArray, FloatArray, IntArray, basis, ranks, same_rows, share, table, varies
from cohort_engine.errors import unknown_name

PEARSON = "pearson"
SPEARMAN = "spearman"


@dataclass(frozen=True, eq=False)
class Correlation:
    """Correlations of columns of x with columns of y, each (x, y); `n` subjects each, `df` degrees of freedom of t."""

    method: str
    r: FloatArray
    low: FloatArray
    high: FloatArray
    t: FloatArray
    df: FloatArray
    p: FloatArray
    n: IntArray


def correlate(
    x: ArrayLike, y: ArrayLike, *, method: str = SPEARMAN, covariates: ArrayLike | None = None, confidence: float = 0.95,
    max_missing: float = MAX_MISSING,
) -> Correlation:  # fmt: skip
    """Correlate every column of x with every column of y.

    Parameters
    ----------
    x, y : (subject, x) and (subject, y)
        NaN is missing.
    method : {"spearman", "pearson"}
    covariates : (subject, covariate), optional
        Taken out of both sides by least squares with a constant. For Spearman the ranks of the values are freed of the ranks of the covariates.
    confidence : float
    max_missing : float
        Largest share of all subjects that may be missing in a pair.

    Returns
    -------
    Correlation
        Missing: all but `n` are NaN with too many missing, where a side is constant or follows from the covariates, and without degrees of freedom;
        the interval is NaN below four subjects beside the covariates, and for a correlation of exactly one.

    Raises
    ------
    InputError
        Shapes do not fit.
    UnknownNameError
        No such method.

    Notes
    -----
    ``t = r sqrt(df / (1 - r^2))`` with ``df = n - 2 - k`` for k independent covariates. Intervals on Fisher's z with variance ``1 / (n - 3 - k)``,
    for Spearman ``(1 + r^2 / 2) / (n - 3 - k)`` (Bonett and Wright 2000, doi:10.1007/BF02294183). Adjust p with `groups.false_discovery`.

    Columns that miss the same subjects are computed together, so complete tables are one matrix product and scattered holes one small product a pair.

    Examples
    --------
    >>> found = correlate(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]), np.array([[2.0], [1.0], [4.0], [3.0], [9.0]]))
    >>> found.r.round(3).tolist(), found.p.round(4).tolist(), found.n.tolist()
    ([[0.8]], [[0.1041]], [[5]])
    """
    if method not in (PEARSON, SPEARMAN):
        raise unknown_name("method", method, [PEARSON, SPEARMAN], where="correlation")
    a, b = table(x, where="first columns of the correlation"), table(y, where="second columns of the correlation")
    same_rows(len(a), len(b), where="second columns of the correlation")
    given = np.zeros((len(a), 0)) if covariates is None else table(covariates, where="covariates")
    same_rows(len(a), len(given), where="covariates")
    complete = ~np.isnan(given).any(axis=1)
    r, n, k = np.full((a.shape[1], b.shape[1]), np.nan), np.zeros((a.shape[1], b.shape[1]), np.int64), np.zeros((a.shape[1], b.shape[1]))
    for (rows_a, of_a), (rows_b, of_b) in product(_patterns(~np.isnan(a)), _patterns(~np.isnan(b))):
        rows = rows_a & rows_b & complete
        at = np.ix_(of_a, of_b)
        n[at] = rows.sum()
        if rows.sum() >= 3 and (~rows).sum() <= max_missing * len(rows):
            r[at], k[at] = _block(a[np.ix_(rows, of_a)], b[np.ix_(rows, of_b)], given[rows], method == SPEARMAN)
    df = np.where(n - 2 - k > 0, n - 2 - k, np.nan)
    r = r + 0 * df
    rest = np.where(1 - r**2 > 1e-15, 1 - r**2, 0.0) + 0 * r
    with np.errstate(divide="ignore"):
        t = r * np.sqrt(df / rest)
    spread = (1 + r**2 / 2 if method == SPEARMAN else 1.0) * share(1.0, df - 1)
    step = ndtri((1 + confidence) / 2) * np.sqrt(spread)
    z = np.arctanh(np.where(rest > 0, r, np.nan))
    return Correlation(method, r, np.tanh(z - step), np.tanh(z + step), t, df, 2 * stdtr(df, -np.abs(t)), n)


def _patterns(known: BoolArray) -> list[tuple[BoolArray, IntArray]]:
    """Distinct columns of (subject, column), each with the columns that are like it."""
    kinds, which = np.unique(known, axis=1, return_inverse=True)
    return [(kinds[:, i], np.flatnonzero(which.ravel() == i)) for i in range(kinds.shape[1])]


def _block(x: FloatArray, y: FloatArray, covariates: FloatArray, rank: bool) -> tuple[FloatArray, int]:
    """Correlations (x, y) of complete columns, and the number of independent covariates."""
    if rank:
        x, y, covariates = (ranks(v)[0] for v in (x, y, covariates))
    columns, _ = basis(covariates, len(x), where="covariates")
    left, right = (_standard(v, columns) for v in (x, y))
    return (left.T @ right).clip(-1, 1), columns.shape[1] - 1


def _standard(values: FloatArray, columns: FloatArray) -> FloatArray:
    """Residuals of columns of length one; NaN where nothing is left."""
    centred = values - values.mean(axis=0)
    rest = centred
    for _ in range(2):  # the second time removes what rounding left
        rest = rest - columns @ (columns.T @ rest)
    size = (rest**2).sum(axis=0)
    out: FloatArray = rest / np.sqrt(np.where((size > COLLINEAR * (centred**2).sum(axis=0)) & varies(values), size, np.nan))
    return out
