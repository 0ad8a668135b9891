"""Group comparisons of several sites that share sums and no value of anybody: the same numbers as of all people in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from cohort_engine.analysis.arrays import FloatArray, numbers, same_rows, share, table, two_groups
from cohort_engine.errors import InputError

WHERE = "sums of a site"
LEAST = 5
"""People of each group that a site needs to share the sums of a test: those of one or two would be their values."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Moments of one site, or of several.

    Attributes
    ----------
    count : (2, test)
        People of each group.
    total, square : (2, test)
        Sum of the values of each group, and of their squares about the group's mean.
    cross : (test, column, column)
        Products of [group, covariates, value] about the site's own means, summed over people with all of them; sites are added.
    rows : (test,)
        People of `cross`.
    sites : (test,)
        Sites that have the test.
    """

    count: FloatArray
    total: FloatArray
    square: FloatArray
    cross: FloatArray
    rows: FloatArray
    sites: FloatArray


@dataclass(frozen=True, eq=False)
class Combined:
    """A comparison of all sites, each (test,); `n` is (2, test)."""

    effect: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    df: FloatArray
    p: FloatArray
    n: FloatArray


def sums(values: ArrayLike, group: ArrayLike, covariates: ArrayLike | None = None, *, least: int = LEAST) -> Sums:
    """Add up what one site shares.

    Parameters
    ----------
    values : (subject, test)
        Missing: NaN.
    group : (subject,)
        0, 1 or NaN (in neither).
    covariates : (subject, covariate), optional
        The same columns, in the same order and units, at every site.
    least : int
        A test with fewer people of a group is not shared.

    Returns
    -------
    Sums
        0 throughout for a test that is not shared.

    Raises
    ------
    InputError
        Shapes do not fit, or a group without members.

    Examples
    --------
    >>> found = sums(np.arange(10.0)[:, None], [0] * 5 + [1] * 5)
    >>> found.count.ravel().tolist(), found.total.ravel().tolist(), found.square.ravel().tolist()
    ([5.0, 5.0], [10.0, 35.0], [10.0, 10.0])
    """
    x = table(values, where=WHERE)
    members = two_groups(group, len(x), where=WHERE)
    given = np.empty((len(x), 0)) if covariates is None else table(covariates, where=f"{WHERE}: covariates")
    same_rows(len(x), len(given), where=f"{WHERE}: covariates")
    known = np.isfinite(x)
    shared = np.min([(known & g[:, None]).sum(axis=0) for g in members], axis=0) >= least
    count = np.stack([np.where(shared, (known & g[:, None]).sum(axis=0), 0) for g in members]).astype(float)
    total = np.stack([np.where(shared, np.nansum(x[g], axis=0), 0.0) for g in members])
    square = np.stack([
        np.where(shared, np.nansum((x[g] - share(t, n)) ** 2, axis=0), 0.0) for g, t, n in zip(members, total, count, strict=True)
    ])  # fmt: skip
    columns = np.column_stack([members[1].astype(float), given])
    complete = members.any(axis=0) & np.isfinite(given).all(axis=1)
    k = columns.shape[1] + 1
    cross, rows = np.zeros((x.shape[1], k, k)), np.zeros(x.shape[1])
    for test in np.flatnonzero(shared):
        here = complete & known[:, test]
        if min((here & g).sum() for g in members) < least:
            continue
        block = np.column_stack([columns[here], x[here, test]])
        block = block - block.mean(axis=0)
        cross[test], rows[test] = block.T @ block, here.sum()
    return Sums(count, total, square, cross, rows, (rows > 0).astype(float))


def add(parts: Sequence[Sums]) -> Sums:
    """Sum the sums of several sites.

    Raises
    ------
    InputError
        None, or of other tests or covariates.
    """
    if not parts or len({p.cross.shape for p in parts}) > 1:
        found = " and ".join(str(p.cross.shape) for p in parts) or "none"
        raise InputError(expected="sums of the same tests and covariates", found=found, where=WHERE, remedy="Let every site ask for the same.")
    count, total = (np.sum([getattr(p, k) for p in parts], axis=0) for k in ("count", "total"))
    mean = share(total, count)
    # squares about the mean of all, from squares about each site's own mean
    square = np.sum([p.square + p.count * np.nan_to_num(share(p.total, p.count) - mean) ** 2 for p in parts], axis=0)
    cross, rows, sites = (np.sum([getattr(p, k) for p in parts], axis=0) for k in ("cross", "rows", "sites"))
    return Sums(count, total, square, cross, rows, sites)


def welch(s: Sums, *, confidence: float = 0.95) -> Combined:
    """Welch's test of all people, as if they were in one table; sites do not count.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, g = rng.normal(size=(40, 1)), np.tile([0, 1], 20)
    >>> both = welch(add([sums(x[:20], g[:20]), sums(x[20:], g[20:])]))
    >>> abs(both.effect - (x[g == 1].mean() - x[g == 0].mean())).item() < 1e-12
    True
    """
    mean, error = share(s.total, s.count), share(s.square, (s.count - 1) * s.count)
    effect, se = mean[1] - mean[0], np.sqrt(error[0] + error[1])
    df = share((error[0] + error[1]) ** 2, (error**2 / np.where(s.count > 1, s.count - 1, np.nan)).sum(axis=0))
    return _combined(effect, se, df, s.count, confidence)


def linear(s: Sums, *, confidence: float = 0.95) -> Combined:
    """Difference of the groups in a linear model with the covariates and a mean of each site.

    Returns
    -------
    Combined
        NaN where the covariates decide the group, or the people are too few.

    Formula
        Products about each site's means, summed over sites, are the normal equations with a column a site (Frisch, Waugh and Lovell): the same
        coefficients and errors as of one table.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, g = rng.normal(size=(40, 1)), np.tile([0, 1], 20)
    >>> linear(add([sums(x[:20], g[:20]), sums(x[20:], g[20:])])).df.tolist()
    [37.0]
    """
    k = s.cross.shape[1] - 1
    effect, se, df = (np.full(len(s.rows), np.nan) for _ in range(3))
    for test in np.flatnonzero(s.rows):
        normal, right, square = s.cross[test, :k, :k], s.cross[test, :k, k], s.cross[test, k, k]
        scale = np.sqrt(np.diag(normal))
        used = scale > 0  # a covariate that is the same in everybody says nothing
        if not used[0] or np.linalg.matrix_rank(normal[np.ix_(used, used)] / np.outer(scale[used], scale[used]), tol=1e-9) < used.sum():
            continue
        inverse = np.linalg.inv(normal[np.ix_(used, used)])
        beta = inverse @ right[used]
        free = s.rows[test] - s.sites[test] - used.sum()
        if free > 0:
            residual = max(square - right[used] @ beta, 0.0)
            effect[test], se[test], df[test] = beta[0], np.sqrt(residual / free * inverse[0, 0]), free
    return _combined(effect, se, df, s.count, confidence)


def _combined(effect: FloatArray, se: FloatArray, df: FloatArray, n: FloatArray, confidence: float) -> Combined:
    step = stdtrit(df, (1 + confidence) / 2) * se
    p = 2 * stdtr(df, -np.abs(share(effect, se)))
    return Combined(effect, se, effect - step, effect + step, df, numbers(p, where=WHERE), n)
