"""Change over time: how fast groups change, whether they differ, the smallest change that is more than noise, and who changed more.

Each person is compared with themselves alone, so that what differs between people of different ages (how they were born, scanned or chosen) is no
change. Missing values (NaN) leave that session out of that test; people with one session, or sessions at one time, tell nothing of change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import stdtr, stdtrit

from cohort_engine.analysis.arrays import BoolArray, FloatArray, IntArray, numbers, same_rows, share, table
from cohort_engine.errors import InputError

WHERE = "change over time"
FEWEST = 3
"""People with two times or more, below whom nothing is said."""
LONG = 10
"""Sessions beyond two a person that the error of a single session needs."""
MOST = 1 - 1e-6
"""Largest share of the spread of slopes that may be people's own."""


@dataclass(frozen=True, eq=False)
class Change:
    """Slopes of a group.

    Attributes
    ----------
    slope, se, low, high, p : (test,)
        Mean slope, unit of the values per unit of time, against none.
    df : (test,)
        People minus 1, or less where they weigh differently.
    between : (test,)
        SD of people's own slopes.
    sem : (test,)
        Error of a single session, SD about each person's line; NaN where fewer than `LONG` sessions go beyond two a person.
    follow_up : (test,)
        Median time from first to last session.
    n, sessions : (test,)
        People with two times or more, and their sessions.
    own, error : (person, test)
        Slope of each person, and the variance of its error over that of a session; NaN where there is none.
    variance, alone : (test,)
        Of a session; and what it would be if all people had one slope.
    free : (test,)
        Degrees of freedom of these.
    people : (person,)
        Labels, sorted.
    """

    slope: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    p: FloatArray
    df: FloatArray
    between: FloatArray
    sem: FloatArray
    follow_up: FloatArray
    n: IntArray
    sessions: IntArray
    own: FloatArray
    error: FloatArray
    variance: FloatArray
    alone: FloatArray
    free: FloatArray
    people: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Difference:
    """Slope of the second group minus that of the first, each (test,)."""

    effect: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    df: FloatArray
    p: FloatArray


@dataclass(frozen=True, eq=False)
class Changed:
    """First to last session of each person against a reference.

    Attributes
    ----------
    people : (person,)
    change, expected, limit, p : (person, test)
        Last minus first value, what the reference changes in that time, how far from it a change is still noise, and the two-sided p.
    years : (person, test)
        Time between.
    beyond : (person, test) bool
        Further from the expected change than `limit`.
    mdc : (test,)
        Minimal detectable change: the limit for the median time of the reference.
    """

    people: NDArray[np.str_]
    change: FloatArray
    expected: FloatArray
    limit: FloatArray
    p: FloatArray
    years: FloatArray
    beyond: BoolArray
    mdc: FloatArray


def fit_change(values: ArrayLike, person: ArrayLike, time: ArrayLike, *, confidence: float = 0.95) -> Change:
    """Mean slope of a group over time, for every test.

    Parameters
    ----------
    values : (session, test)
    person : (session,)
        Who; sessions of one person are compared with each other only.
    time : (session,)
        Years, or any unit. NaN: the session is left out.
    confidence : float

    Returns
    -------
    Change
        NaN with fewer than `FEWEST` people that have two times.

    Raises
    ------
    InputError
        Shapes do not fit.

    Formula
        Least squares give each person's slope b_i, with error ``s^2 / S_i``, S_i the sum of squares of their times about the mean. Slopes of
        people vary with variance T: ``b_i ~ N(slope, T + s^2 / S_i)``, and s^2 is also told by residuals about the lines; T and s^2 by restricted
        maximum likelihood, the mean weighted by the inverse variances, with ``people - 1`` degrees of freedom. It is the linear mixed model with a
        free intercept and a random slope of each person. With two sessions at the same distance it is the paired t-test.
    Reference
        Laird & Ware, Biometrics 38 (1982), doi:10.2307/2529876; within against between people: Neuhaus & Kalbfleisch, Biometrics 54 (1998),
        doi:10.2307/3109770.

    Examples
    --------
    >>> found = fit_change([[70.0], [69.0], [80.0], [78.0], [75.0], [72.0]], ["a", "a", "b", "b", "c", "c"], [0, 1, 0, 1, 0, 1])
    >>> found.slope.tolist(), found.se.round(3).tolist(), found.p.round(3).tolist()
    ([-2.0], [0.577], [0.074])
    """
    x, who, at = _sessions(values, person, time)
    people, index = np.unique(who, return_inverse=True)
    size, tests = len(people), x.shape[1]
    own, error = np.full((size, tests), np.nan), np.full((size, tests), np.nan)
    columns = {k: np.full(tests, np.nan) for k in ("slope", "se", "between", "sem", "follow_up", "variance", "alone", "free")}
    n, sessions, df = np.zeros(tests, np.int64), np.zeros(tests, np.int64), np.full(tests, np.nan)
    for test in range(tests):
        known = np.isfinite(x[:, test]) & np.isfinite(at)
        slope, spread, left, count, length = _lines(x[known, test], at[known], index[known], size)
        has = np.isfinite(slope)
        n[test], sessions[test] = has.sum(), count[has].sum()
        own[:, test], error[:, test] = slope, 1 / spread
        if n[test] < FEWEST:
            continue
        free = int((count[has] - 2).sum())
        mean, variance_of_mean, apart, noise, columns["alone"][test], df[test] = _pool(slope[has], 1 / spread[has], left[has].sum(), free)
        columns["slope"][test], columns["se"][test] = mean, np.sqrt(variance_of_mean)
        columns["between"][test], columns["variance"][test] = np.sqrt(apart), noise
        columns["sem"][test] = np.sqrt(noise) if free >= LONG else np.nan
        columns["follow_up"][test], columns["free"][test] = np.median(length[has]), n[test] - 1 + free
    step = stdtrit(df, (1 + confidence) / 2) * columns["se"]
    p = 2 * stdtr(df, -np.abs(share(columns["slope"], columns["se"])))
    return Change(
        low=columns["slope"] - step, high=columns["slope"] + step, p=p, df=df, n=n, sessions=sessions, own=own, error=error, people=people, **columns
    )


def compare_change(first: Change, second: Change, *, confidence: float = 0.95) -> Difference:
    """Compare the slopes of two groups, each with its own variances (Welch).

    Examples
    --------
    >>> people, time = ["a", "a", "b", "b", "c", "c"], [0, 1, 0, 1, 0, 1]
    >>> stable = fit_change([[70.0], [70.5], [80.0], [79.5], [75.0], [75.0]], people, time)
    >>> falling = fit_change([[70.0], [68.0], [80.0], [77.0], [75.0], [71.0]], people, time)
    >>> found = compare_change(stable, falling)
    >>> found.effect.tolist(), found.p.round(3).tolist()
    ([-3.0], [0.02])
    """
    effect, squares = second.slope - first.slope, (first.se**2, second.se**2)
    se = np.sqrt(sum(squares))
    df = share(sum(squares) ** 2, sum(s**2 / g.df for s, g in zip(squares, (first, second), strict=True)))
    step = stdtrit(df, (1 + confidence) / 2) * se
    return Difference(effect, se, effect - step, effect + step, df, 2 * stdtr(df, -np.abs(share(effect, se))))


def changed(reference: Change, values: ArrayLike, person: ArrayLike, time: ArrayLike, *, confidence: float = 0.95) -> Changed:
    """Say who changed more, from first to last session, than people of a reference do by ageing and by chance.

    Parameters
    ----------
    reference : Change
        Of healthy or stable people. Who is among them is compared with the others, as one more person would be.
    values, person, time : as `fit_change` has them
    confidence : float
        Of the limit: of people like the reference, ``1 - confidence`` lie beyond it.

    Returns
    -------
    Changed
        NaN where there is one session only, or no reference.

    Formula
        ``d`` from first to last in time ``t`` has, for one more person of the reference, mean ``slope t`` and variance
        ``2 s^2 + (T + 1 / W) t^2``, W the sum of the weights; the limit is its root times Student's t with the degrees of freedom of s^2. With
        ``T = 0`` and many people it is the minimal detectable change ``1.96 sqrt(2) SEM``. Two sessions a person hardly tell T from s^2: the variance
        is no less than if people had one slope, lest short times seem sure.
    Reference
        Jacobson & Truax, J. Consult. Clin. Psychol. 59 (1991), doi:10.1037/0022-006X.59.1.12; Weir, J. Strength Cond. Res. 19 (2005),
        doi:10.1519/15184.1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people, time = np.repeat(np.arange(40), 2), np.tile([0.0, 1.0], 40)
    >>> stable = fit_change(rng.normal(70, 1, (80, 1)), people, time)
    >>> found = changed(stable, [[70.0], [64.0], [70.0], [69.5]], ["x", "x", "y", "y"], [0, 1, 0, 1])
    >>> found.beyond.ravel().tolist(), found.mdc.round(1).tolist()
    ([True, False], [2.6])
    """
    x, who, at = _sessions(values, person, time)
    people, index = np.unique(who, return_inverse=True)
    shape = (len(people), x.shape[1])
    if shape[1] != len(reference.slope):
        raise InputError(expected=f"{len(reference.slope)} tests", found=str(shape[1]), where=WHERE, remedy="Give those of the reference.")
    change, years = np.full(shape, np.nan), np.full(shape, np.nan)
    order = np.lexsort((at, index))
    for test in range(shape[1]):
        rows = order[np.isfinite(x[order, test]) & np.isfinite(at[order])]
        if not len(rows):
            continue
        first = np.flatnonzero(np.append(True, index[rows][1:] != index[rows][:-1]))
        last = np.append(first[1:], len(rows)) - 1
        one = index[rows[first]]
        change[one, test], years[one, test] = x[rows[last], test] - x[rows[first], test], at[rows[last]] - at[rows[first]]
    change[~(years > 0)], years[~(years > 0)] = np.nan, np.nan
    apart = reference.between**2
    slope = np.broadcast_to(reference.slope, shape).copy()
    at_home = np.searchsorted(reference.people, people).clip(0, max(len(reference.people) - 1, 0))
    inside = reference.people[at_home] == people
    weight = share(1.0, apart + reference.variance * reference.error)
    total = np.nansum(weight, axis=0)
    square = np.broadcast_to(share(1.0, total), shape).copy()
    weight = weight[at_home] * inside[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (total * reference.slope - weight * reference.own[at_home]) / (total - weight)
        mine = np.isfinite(others) & inside[:, None]
        slope[mine], square[mine] = others[mine], (1 / (total - weight))[mine]
    expected = slope * years
    sd = np.sqrt(np.maximum(2 * reference.variance + apart * years**2, 2 * reference.alone) + square * years**2)
    u, df = share(change - expected, sd), np.broadcast_to(reference.free, shape)
    critical = stdtrit(df, (1 + confidence) / 2)
    if mine.any():  # their own change is in the variance, too: external studentisation
        u[mine] *= np.sqrt((df[mine] - 1) / np.maximum(df[mine] - u[mine] ** 2, 1e-12))
        df = df - mine
        critical = np.where(mine, stdtrit(df, (1 + confidence) / 2), critical)
        critical = np.where(mine, critical * np.sqrt((df + 1) / (df + critical**2)), critical)
    limit = critical * sd
    p = 2 * stdtr(df, -np.abs(u))
    usual = np.sqrt(
        np.maximum(2 * reference.variance + apart * reference.follow_up**2, 2 * reference.alone) + share(1.0, total) * reference.follow_up**2
    )
    with np.errstate(invalid="ignore"):
        beyond = np.abs(change - expected) > limit
    return Changed(people, change, expected, limit, p, years, beyond, stdtrit(reference.free, (1 + confidence) / 2) * usual)


def _sessions(values: ArrayLike, person: ArrayLike, time: ArrayLike) -> tuple[FloatArray, NDArray[np.str_], FloatArray]:
    x, who, at = table(values, where=WHERE), np.asarray(person, dtype=str), numbers(time, where=f"{WHERE}: times")
    same_rows(len(x), len(who), where=f"{WHERE}: people")
    same_rows(len(x), len(at), where=f"{WHERE}: times")
    return x, who, at


def _lines(y: FloatArray, at: FloatArray, who: IntArray, people: int) -> tuple[FloatArray, FloatArray, FloatArray, IntArray, FloatArray]:
    """Slope of each person (person,), sum of squares of their times, of their residuals, number of sessions, and time from first to last."""

    def total(v: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(who, weights=v, minlength=people), np.float64)

    count: IntArray = np.bincount(who, minlength=people).astype(np.int64)
    t, v = (a - share(total(a), count)[who] for a in (at, y))
    spread = total(t * t)
    spread = np.where(spread > 1e-12, spread, np.nan)
    slope = total(t * v) / spread
    left = np.where(count > 2, total((v - slope[who] * t) ** 2), 0.0)
    first, last = np.full(people, np.inf), np.full(people, -np.inf)
    np.minimum.at(first, who, at)
    np.maximum.at(last, who, at)
    return slope, spread, np.nan_to_num(left), count, np.where(count > 0, last, np.nan) - np.where(count > 0, first, np.nan)


def _pool(slope: FloatArray, error: FloatArray, left: float, free: int) -> tuple[float, float, float, float, float, float]:
    """Mean of slopes, its variance, variance between people, of a session, of one if people had one slope, and degrees of freedom of the mean.

    `error` is the variance of each slope over that of a session; `left` the residual sum of squares on `free` degrees of freedom.
    """
    middle, degrees = float(error.mean()), len(slope) - 1 + free

    def at(part: float) -> tuple[float, float, float, float]:
        v = part * middle + (1 - part) * error
        w = 1 / v
        mean = float(w @ slope / w.sum())
        scale = (float(w @ (slope - mean) ** 2) + left / (1 - part)) / degrees
        return mean, scale, float(w.sum()), float(np.log(v).sum())

    def loss(part: float) -> float:
        _, scale, weight, logs = at(part)
        return float(degrees * np.log(max(scale, 1e-300)) + free * np.log(1 - part) + logs + np.log(weight))

    inside = float(minimize_scalar(loss, bounds=(0, MOST), method="bounded", options={"xatol": 1e-7}).x)
    best = min((0.0, inside), key=loss)
    mean, scale, weight, _ = at(best)
    h = 1 / (best * middle + (1 - best) * error) / weight
    a = h**2 / (1 - h) ** 2 * (1 - 1 / len(h))
    expected, spread = float(a @ (1 / h - 1)), float(((a * (1 / h - 1)) ** 2).sum() + a.sum() ** 2 - a @ a)  # in units of the variance of the mean
    return mean, float(a @ (slope - mean) ** 2), scale * best * middle, scale * (1 - best), at(0.0)[1], expected**2 / spread
