"""Agreement of repeated measurements: intraclass correlation, Bland-Altman, and what a single measurement can tell.

Missing values (NaN): a subject that lacks one of the repeats of a test is left out of that test; a test is NaN where more than a share `max_missing`
of the subjects is. Repeats are sessions, raters or methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtri, fdtrc, fdtri, ndtri, stdtrit

from cohort_engine.analysis.arrays import MAX_MISSING, FloatArray, IntArray, numbers, share, table
from cohort_engine.errors import InputError, unknown_name

ABSOLUTE = "ICC(2,1)"
CONSISTENCY = "ICC(3,1)"


@dataclass(frozen=True, eq=False)
class Icc:
    """Intraclass correlations, each (test,): value with interval, F of subjects against error with its p, and subjects used."""

    kind: str
    icc: FloatArray
    low: FloatArray
    high: FloatArray
    f: FloatArray
    p: FloatArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class BlandAltman:
    """Bias and limits of agreement, each (test,) in the unit of the values; intervals (2, test) hold low and high."""

    bias: FloatArray
    bias_interval: FloatArray
    sd: FloatArray
    lower: FloatArray
    lower_interval: FloatArray
    upper: FloatArray
    upper_interval: FloatArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class Repeatability:
    """Measurement error, each (test,): `sem` and `mdc` in the unit of the values, `cv` as a fraction; intervals (2, test) hold low and high."""

    sem: FloatArray
    sem_interval: FloatArray
    mdc: FloatArray
    mdc_interval: FloatArray
    cv: FloatArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class _Squares:
    """Mean squares of the two-way table, each (test,): between subjects, between repeats, error, and within subjects."""

    rows: FloatArray
    columns: FloatArray
    error: FloatArray
    within: FloatArray
    n: FloatArray
    k: int


def _ratings(values: ArrayLike, max_missing: float) -> tuple[FloatArray, IntArray]:
    """Complete subjects of (subject, repeat, test), others NaN, and their number (test,)."""
    x = numbers(values, where="repeated measurements")
    if x.ndim != 3 or x.shape[1] < 2:
        raise InputError(
            expected="a table (subject, repeat, test) with two repeats or more", found=f"shape {x.shape}", where="repeated measurements",
            remedy="Stack the repeats along the second axis.",
        )  # fmt: skip
    known = ~np.isnan(x).any(axis=1)
    n: IntArray = known.sum(axis=0)
    usable = known & (len(x) - n <= max_missing * len(x))
    return np.where(usable[:, None], x, np.nan), n


def _squares(x: FloatArray, n: IntArray) -> _Squares:
    k = x.shape[1]
    count = np.where(np.isnan(x[:, 0]).all(axis=0) | (n < 2), np.nan, n)
    centre = np.nansum(x, axis=(0, 1)) / (count * k)
    x = x - centre
    row, column = x.mean(axis=1, keepdims=True), np.nansum(x, axis=0, keepdims=True) / count
    rows = k * np.nansum(row**2, axis=(0, 1)) / (count - 1)
    columns = count * (column**2).sum(axis=(0, 1)) / (k - 1)
    error = np.nansum((x - row - column) ** 2, axis=(0, 1)) / ((count - 1) * (k - 1))
    within = np.nansum((x - row) ** 2, axis=(0, 1)) / (count * (k - 1))
    tiny = 1e-26 * (centre**2 + rows)  # rounding of equal numbers
    rows, columns, error, within = (np.where(s > tiny, s, s * 0) for s in (rows, columns, error, within))
    return _Squares(rows, columns, error, within, count, k)


def icc(ratings: ArrayLike, *, kind: str = ABSOLUTE, confidence: float = 0.95, max_missing: float = MAX_MISSING) -> Icc:
    """Intraclass correlation of single measurements, for every test.

    Parameters
    ----------
    ratings : (subject, repeat, test)
        NaN: the subject is left out of that test.
    kind : {"ICC(2,1)", "ICC(3,1)"}
        Two-way, repeats random and their differences counted (absolute agreement); or repeats fixed and their differences left out (consistency).
    confidence : float
    max_missing : float
        Largest share of subjects that may be missing.

    Returns
    -------
    Icc
        Missing: all but `n` are NaN with too many missing, fewer than two subjects, or no spread at all; the interval is NaN without any error,
        and where its quantile of F is infinite (far below 0, few subjects).

    Raises
    ------
    InputError
        Not (subject, repeat, test), or a single repeat.
    UnknownNameError
        No such kind.

    Notes
    -----
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420; intervals of McGraw and Wong 1996, doi:10.1037/1082-989X.1.1.30, cases A-1 and C-1.

    Examples
    --------
    >>> found = icc(np.array([[[9.0], [10.0]], [[4.0], [6.0]], [[7.0], [7.0]], [[1.0], [2.0]]]), kind="ICC(3,1)")
    >>> found.icc.round(3).tolist(), found.low.round(3).tolist(), found.n.tolist()
    ([0.971], [0.632], [4])
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, list(KINDS), where="intraclass correlation")
    s_ratings, n = _ratings(ratings, max_missing)
    s = _squares(s_ratings, n)
    f = share(s.rows, s.error)
    value, low, high = KINDS[kind](s, f, (1 - confidence) / 2)
    undefined = np.where(np.isnan(f), np.nan, 0.0)
    p = np.asarray(fdtrc(s.n - 1, (s.n - 1) * (s.k - 1), f), dtype=np.float64)
    return Icc(kind, value, low + undefined, high + undefined, f, p, n)


def _absolute(s: _Squares, f: FloatArray, tail: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    n, k = s.n, s.k
    value = share(s.rows - s.error, s.rows + (k - 1) * s.error + k * (s.columns - s.error) / n)
    a = share(k * value, n * (1 - value))
    b = 1 + a * (n - 1)
    weights = a * s.columns, b * s.error
    v = share(sum(weights) ** 2, weights[0] ** 2 / (k - 1) + weights[1] ** 2 / ((n - 1) * (k - 1)))
    below, above = fdtri(n - 1, v, 1 - tail), fdtri(v, n - 1, 1 - tail)
    below, above = (np.where(np.isfinite(below) & np.isfinite(above), q, np.nan) for q in (below, above))
    other = k * s.columns + (k * n - k - n) * s.error
    low = share(n * (s.rows - below * s.error), below * other + n * s.rows)
    high = share(n * (above * s.rows - s.error), other + n * above * s.rows)
    return value, low, high


def _consistency(s: _Squares, f: FloatArray, tail: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    value = share(s.rows - s.error, s.rows + (s.k - 1) * s.error)
    free = (s.n - 1) * (s.k - 1)
    below, above = f / fdtri(s.n - 1, free, 1 - tail), f * fdtri(free, s.n - 1, 1 - tail)
    return value, (below - 1) / (below + s.k - 1), (above - 1) / (above + s.k - 1)


KINDS: Mapping[str, Callable[[_Squares, FloatArray, float], tuple[FloatArray, FloatArray, FloatArray]]] = {
    ABSOLUTE: _absolute,
    CONSISTENCY: _consistency,
}


def bland_altman(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, agreement: float = 0.95, max_missing: float = MAX_MISSING
) -> BlandAltman:
    """Bias (first minus second) and limits of agreement, with intervals, for every test.

    Parameters
    ----------
    first, second : (subject, test)
        One unit; NaN in either leaves the subject out of that test.
    confidence : float
        Of the intervals.
    agreement : float
        Share of differences between the limits: 0.95 is bias -+ 1.96 sd.
    max_missing : float
        Largest share of subjects that may be missing.

    Returns
    -------
    BlandAltman
        Missing: all but `n` are NaN with too many missing; `sd` and limits with one subject. Equal differences give limits at the bias.

    Raises
    ------
    InputError
        Shapes do not fit.

    Notes
    -----
    ``se(bias)^2 = sd^2 / n`` and ``se(limit)^2 = sd^2 (1 / n + z^2 / (2 (n - 1)))``, both with t of n - 1 (Bland and Altman 1999,
    doi:10.1177/096228029900800204).

    Examples
    --------
    >>> found = bland_altman(np.array([[10.0], [12.0], [15.0], [11.0]]), np.array([[9.0], [12.0], [13.0], [10.0]]))
    >>> found.bias.tolist(), found.lower.round(3).tolist(), found.upper.round(3).tolist()
    ([1.0], [-0.6], [2.6])
    """
    pair = [table(v, where=f"{w} measurement") for v, w in ((first, "first"), (second, "second"))]
    if pair[0].shape != pair[1].shape:
        raise InputError(
            expected=f"two tables of shape {pair[0].shape}",
            found=f"{pair[1].shape}",
            where="second measurement",
            remedy="Give the same subjects and tests.",
        )
    x, n = _ratings(np.stack(pair, axis=1), max_missing)
    difference = x[:, 0] - x[:, 1]
    count = np.where(np.isnan(difference).all(axis=0), np.nan, n)
    bias = np.nansum(difference, axis=0) / count
    free = np.where(count > 1, count - 1, np.nan)
    sd = np.sqrt(np.nansum((difference - bias) ** 2, axis=0) / free)
    z, t = ndtri((1 + agreement) / 2), stdtrit(free, (1 + confidence) / 2)
    step, wide = t * sd / np.sqrt(count), t * sd * np.sqrt(1 / count + z**2 / (2 * free))
    lower, upper = bias - z * sd, bias + z * sd

    def around(middle: FloatArray, half: FloatArray) -> FloatArray:
        return np.stack([middle - half, middle + half])

    return BlandAltman(bias, around(bias, step), sd, lower, around(lower, wide), upper, around(upper, wide), n)


def repeatability(ratings: ArrayLike, *, systematic: bool = True, confidence: float = 0.95, max_missing: float = MAX_MISSING) -> Repeatability:
    """Give standard error of measurement, minimal detectable change and within-subject coefficient of variation, for every test.

    Parameters
    ----------
    ratings : (subject, repeat, test)
        NaN: the subject is left out of that test. `cv` needs values on a ratio scale.
    systematic : bool
        Whether a shift that all subjects share between repeats counts as error: then `sem` is the root of the mean square within subjects, else of
        the mean square of error of the two-way table.
    confidence : float
        Of the intervals, and of the change.
    max_missing : float
        Largest share of subjects that may be missing.

    Returns
    -------
    Repeatability
        Missing: all but `n` are NaN with too many missing or fewer than two subjects; `cv` where a subject's mean is not positive.

    Raises
    ------
    InputError
        Not (subject, repeat, test), or a single repeat.

    Notes
    -----
    ``mdc = z sqrt(2) sem`` (Weir 2005, doi:10.1519/15184.1); intervals from the chi-squared distribution of the mean square, with n (k - 1) degrees
    of freedom, or (n - 1) (k - 1) without systematic shifts. ``cv = sqrt(mean of (sd / mean)^2)`` over subjects (Bland and Altman 1996,
    doi:10.1136/bmj.313.7049.106), always of the spread within subjects.

    Examples
    --------
    >>> found = repeatability(np.array([[[10.0], [12.0]], [[20.0], [20.0]], [[30.0], [28.0]]]))
    >>> found.sem.round(4).tolist(), found.mdc.round(4).tolist(), found.cv.round(4).tolist()
    ([1.1547], [3.2006], [0.0794])
    """
    x, n = _ratings(ratings, max_missing)
    s = _squares(x, n)
    square, free = (s.within, s.n * (s.k - 1)) if systematic else (s.error, (s.n - 1) * (s.k - 1))
    tail = (1 - confidence) / 2
    sem = np.sqrt(square)
    interval = np.stack([sem * np.sqrt(free / chdtri(free, t)) for t in (tail, 1 - tail)])
    change = ndtri(1 - tail) * np.sqrt(2)
    mean, variance = x.mean(axis=1), x.var(axis=1, ddof=1)
    positive = np.where((mean > 0) | np.isnan(mean), mean, 0.0)
    ratio = np.nansum(share(variance, positive**2), axis=0) / s.n
    cv = np.where((positive == 0).any(axis=0), np.nan, np.sqrt(ratio))
    return Repeatability(sem, interval, change * sem, change * interval, cv, n)
