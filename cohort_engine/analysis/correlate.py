"""Correlation of many columns with many columns: Pearson, Spearman, and both with covariates taken out.

Missing values (NaN): each pair is computed from the subjects that have both values and all covariates, and is NaN where more than a share
`max_missing` of all subjects is not among them. Ranks are taken among a pair's own subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc, gammaln, ndtri, stdtr

from cohort_engine.analysis.arrays import COLLINEAR, MAX_MISSING, FloatArray, IntArray, basis, ranks, same_rows, share, table, varies
from cohort_engine.analysis.covariates import by_pattern
from cohort_engine.errors import unknown_name

PEARSON = "pearson"
SPEARMAN = "spearman"
ALL_ORDERS = 7
"""Most subjects of a pair of which all orders are gone through."""
NOTHING = 1e-12
"""Correlations that are 0 or 1 but for it are 0 or 1: the beta distribution of a skewed pair, steep at both ends, would show rounding in p."""
BY_MOMENTS = 25
"""Most subjects, beside the covariates, for which p of Pearson's correlation is that of the permutations' moments; above, Student's t agrees."""


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
        the interval is NaN below four subjects beside the covariates.

    Raises
    ------
    InputError
        Shapes do not fit.
    UnknownNameError
        No such method.

    Notes
    -----
    ``t = r sqrt(df / (1 - r^2))`` with ``df = n - 2 - k`` for k independent covariates. p is two-sided, and that of permutations (of Pearson's
    correlation up to `BY_MOMENTS` subjects), since t takes the tails for too thin: at r = 1 it gives 0, and of four subjects one order in twelve has
    that; of 28 people 1.24 ranks in a thousand reach a p of 0.001 by t. Up to `ALL_ORDERS` subjects all orders are gone through (those of the
    residuals with covariates: Freedman and Lane 1983, doi:10.1080/07350015.1983.10509354). Of more r^2 has the beta distribution with the first two
    moments that it has over all orders (Pitman 1937, doi:10.2307/2983647), taken for ranks at half of their smallest step ``6 / (m^3 - m)`` nearer
    to 0, ``m = n - k``; and p is at least ``2 / m!``, or the share of orders that exchange equal values only: where one subject of eight differs
    from all others on both sides, one order in eight has that correlation.

    Intervals on Fisher's z with variance ``1 / (n - 3 - k)``, for Spearman ``(1 + r^2 / 2) / (n - 3 - k)`` (Bonett and Wright 2000,
    doi:10.1007/BF02294183). At a correlation of exactly one the far end is that of a correlation lower by half of the smallest step of ranks.
    Adjust p with `groups.false_discovery`.

    Columns that miss the same subjects are computed together, so complete tables are one matrix product and scattered holes one small product a pair.

    Examples
    --------
    >>> found = correlate(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]), np.array([[2.0], [1.0], [4.0], [3.0], [9.0]]))
    >>> found.r.round(3).tolist(), found.p.round(4).tolist(), found.n.tolist()
    ([[0.8]], [[0.1333]], [[5]])
    """
    if method not in (PEARSON, SPEARMAN):
        raise unknown_name("method", method, [PEARSON, SPEARMAN], where="correlation")
    a, b = table(x, where="first columns of the correlation"), table(y, where="second columns of the correlation")
    same_rows(len(a), len(b), where="second columns of the correlation")
    given = np.zeros((len(a), 0)) if covariates is None else table(covariates, where="covariates")
    same_rows(len(a), len(given), where="covariates")
    complete = ~np.isnan(given).any(axis=1)
    shape = (a.shape[1], b.shape[1])
    r, n, k, p = np.full(shape, np.nan), np.zeros(shape, np.int64), np.zeros(shape), np.full(shape, np.nan)
    for (rows_a, of_a), (rows_b, of_b) in product(by_pattern(~np.isnan(a)), by_pattern(~np.isnan(b))):
        rows = rows_a & rows_b & complete
        at = np.ix_(of_a, of_b)
        n[at] = rows.sum()
        if rows.sum() >= 3 and (~rows).sum() <= max_missing * len(rows):
            r[at], k[at], p[at] = _block(a[np.ix_(rows, of_a)], b[np.ix_(rows, of_b)], given[rows], method == SPEARMAN)
    df = np.where(n - 2 - k > 0, n - 2 - k, np.nan)
    r = r + 0 * df
    whole = 1 - r**2 <= 1e-15
    rest = np.where(whole, 0.0, 1 - r**2) + 0 * r
    with np.errstate(divide="ignore"):
        t = r * np.sqrt(df / rest)
    p = np.where(np.isnan(p), 2 * stdtr(df, -np.abs(t)), p) + 0 * r
    m = df + 2
    inner = np.where(whole, np.sign(r) * (1 - share(6.0, m**3 - m)), r)
    spread = (1 + inner**2 / 2 if method == SPEARMAN else 1.0) * share(1.0, df - 1)
    step = ndtri((1 + confidence) / 2) * np.sqrt(spread)
    z = np.arctanh(inner)
    low, high = np.tanh(z - step), np.tanh(z + step)
    low, high = np.where(whole & (r < 0), -1.0, low) + 0 * step, np.where(whole & (r > 0), 1.0, high) + 0 * step
    return Correlation(method, r, low, high, t, df, p, n)


def _block(x: FloatArray, y: FloatArray, covariates: FloatArray, rank: bool) -> tuple[FloatArray, int, FloatArray]:
    """Correlations (x, y) of complete columns, the number of independent covariates, and p by permutation; NaN where t is to say."""
    if rank:
        x, y, covariates = (ranks(v)[0] for v in (x, y, covariates))
    columns, _ = basis(covariates, len(x), where="covariates")
    left, right = (_standard(v, columns) for v in (x, y))
    r, k = (left.T @ right).clip(-1, 1), columns.shape[1] - 1
    r = np.where(np.abs(r) < NOTHING, 0.0, np.where(1 - np.abs(r) < NOTHING, np.sign(r), r))
    n = len(x)
    if n <= ALL_ORDERS:
        return r, k, _all_orders(r, left, right, columns)
    if n - k >= 4 and (rank or n - k <= BY_MOMENTS):
        step = 6 / ((n - k) ** 3 - (n - k)) if rank else 0.0
        same = np.maximum(*np.ix_(*(_same_orders(v) for v in (x, y)))) if not k else np.log(2.0)
        least = np.exp(same - gammaln(n - k + 1))
        return r, k, np.maximum(_by_moments((np.abs(r) - step).clip(0), left, right, n - k), least) + 0 * r
    return r, k, np.full(r.shape, np.nan)


@cache
def _orders(n: int) -> IntArray:
    """All orders of n subjects, (order, subject)."""
    return np.array(list(permutations(range(n))))


def _all_orders(r: FloatArray, left: FloatArray, right: FloatArray, columns: FloatArray) -> FloatArray:
    """Share of all orders of the right side whose correlation is as large, (x, y)."""
    drawn = right[_orders(len(right))]  # (order, subject, y)
    if columns.shape[1] > 1:
        drawn = drawn - np.einsum("sc,tc,oty->osy", columns, columns, drawn, optimize=True)
        size = np.sqrt((drawn**2).sum(axis=1, keepdims=True))
        drawn = drawn / np.where(size > COLLINEAR, size, np.nan)
    out = np.full(r.shape, np.nan)
    for j in range(r.shape[1]):
        found = np.abs(np.nan_to_num(drawn[:, :, j] @ np.nan_to_num(left), nan=1.0))
        out[:, j] = (found >= np.abs(r[:, j]) - 1e-9).mean(axis=0)
    return out + 0 * r


def _same_orders(values: FloatArray) -> FloatArray:
    """Logarithm of how many orders of the subjects leave each column as it is, or turn it round: 2 without ties, more with equal values."""
    return np.array([max(np.log(2.0), float(gammaln(np.unique(v, return_counts=True)[1] + 1.0).sum())) for v in values.T])


def _by_moments(r: FloatArray, left: FloatArray, right: FloatArray, m: int) -> FloatArray:
    """P of each r (x, y), from the second and fourth moment over all orders of m values."""
    excess = [_kurtosis(v, m) for v in (left, right)]
    second = 1 / (m - 1)
    fourth = 3 / (m**2 - 1) * (1 + (m - 2) * (m - 3) / (3 * m * (m - 1) ** 2) * np.outer(*excess))
    spread = np.maximum(fourth - second**2, 1e-9 * second**2)
    size = second * (1 - second) / spread - 1
    a, b = second * size, (1 - second) * size
    valid = (a > 0) & (b > 0)
    out: FloatArray = np.where(valid, betaincc(np.where(valid, a, 1.0), np.where(valid, b, 1.0), r**2), np.nan)
    return out


def _kurtosis(standard: FloatArray, m: int) -> FloatArray:
    """Fisher's k4 / k2^2 of columns with mean 0 and sum of squares 1."""
    n = len(standard)
    fourth = n * (standard**4).sum(axis=0)  # m4 / m2^2
    out: FloatArray = (m - 1) / ((m - 2) * (m - 3)) * ((m + 1) * (fourth - 3) + 6)
    return out


def _standard(values: FloatArray, columns: FloatArray) -> FloatArray:
    """Residuals of columns of length one; NaN where nothing is left."""
    centred = values - values.mean(axis=0)
    rest = centred
    for _ in range(2):  # the second time removes what rounding left
        rest = rest - columns @ (columns.T @ rest)
    size = (rest**2).sum(axis=0)
    out: FloatArray = rest / np.sqrt(np.where((size > COLLINEAR * (centred**2).sum(axis=0)) & varies(values), size, np.nan))
    return out
