"""How far a person is from healthy people: deviations, prediction intervals and centiles against a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cohort_engine.analysis.covariates import BoolArray, Coding, Covariates, FloatArray, as_table, by_pattern
from cohort_engine.errors import InputError

WHERE = "reference"


@dataclass(frozen=True, eq=False)
class Norm:
    """Mean of healthy people, or their regression on covariates, feature by feature.

    Attributes
    ----------
    coding : Coding
        Of the covariates; without any, the norm is mean and SD.
    coefficients : (column, feature)
        The first is the value where all covariates are at `centre`.
    centre : (column - 1)
        Mean of the covariates' columns over the reference.
    sd : (feature)
        Residual standard deviation with ``n - columns`` degrees of freedom, the same for all people.
    inverse : (feature, column, column)
        ``(X'X)^-1``: what the size of the reference leaves open.
    n : (feature)
        People that the feature is known of. Below ``columns + 1`` all else is NaN.
    shape : tuple of int
        Shape of one person's values.
    """

    coding: Coding
    coefficients: FloatArray
    centre: FloatArray
    sd: FloatArray
    inverse: FloatArray
    n: FloatArray
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Deviation:
    """People against a norm; arrays (subject, ...) but for `n` (...).

    Attributes
    ----------
    z : value minus expected, in standard deviations of the reference
    centile : percent of healthy people expected below the value, the size of the reference taken into account
    expected, lower, upper : value of a healthy person with these covariates, and the prediction interval
    n : people of the reference
    """

    z: FloatArray
    centile: FloatArray
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    n: FloatArray


def fit_norm(reference: ArrayLike, covariates: Covariates | None = None) -> Norm:
    """Learn what is healthy.

    Parameters
    ----------
    reference : (subject, ...)
        Healthy people: cells, or a profile along z. Missing: NaN; each feature uses the people it is known of.
    covariates : mapping of name to (subject), optional
        Age, sex ...: the mean depends on them linearly, the SD does not. People without one are left out.

    Returns
    -------
    Norm
        NaN where the people of a feature do not determine it.

    Raises
    ------
    InputError
        No subjects or features, infinite values, covariates of another length.

    Examples
    --------
    >>> norm = fit_norm([[70.0], [74.0], [78.0]])
    >>> norm.coefficients.tolist(), norm.sd.tolist(), norm.n.tolist()
    ([[74.0]], [4.0], [3.0])
    """
    table, shape = _people(reference, None)
    coding = Coding.of(covariates)
    kept = coding.matrix(covariates, len(table))
    there: BoolArray = np.asarray(np.isfinite(kept).all(axis=1))
    centre = kept[there].mean(axis=0) if there.any() else np.zeros(kept.shape[1])
    x = np.concatenate([np.ones((len(table), 1)), kept - centre], axis=1)
    known = np.isfinite(table) & there[:, None]
    columns, features = x.shape[1], table.shape[1]
    beta, sd = np.full((columns, features), np.nan), np.full(features, np.nan)
    inverse = np.full((features, columns, columns), np.nan)
    for rows, at in by_pattern(known):
        design = x[rows]
        if len(design) <= columns or np.linalg.matrix_rank(design) < columns:
            continue
        y = table[np.ix_(rows, at)]
        beta[:, at] = np.linalg.lstsq(design, y)[0]
        sd[at] = np.sqrt(((y - design @ beta[:, at]) ** 2).sum(axis=0) / (len(design) - columns))
        inverse[at] = np.linalg.inv(design.T @ design)
    return Norm(coding, beta, centre, sd, inverse, known.sum(axis=0).astype(float), shape)


def deviation(norm: Norm, values: ArrayLike, covariates: Covariates | None = None, *, level: float = 0.95) -> Deviation:
    """Compare people with a norm.

    Parameters
    ----------
    values : (subject, ...)
        Missing: NaN, which stays NaN; a person without a covariate is NaN throughout.
    covariates : mapping of name to (subject)
        Those of the norm.
    level : float
        Of the prediction interval.

    Returns
    -------
    Deviation
        `z` and `centile` are NaN where the reference does not vary.

    Raises
    ------
    InputError, UnknownNameError
        Values of another shape, covariates that are absent or were not learnt, a level outside 0 to 1.

    Formula
        ``z = (y - m) / s``; ``t = z / sqrt(1 + x'(X'X)^-1 x)`` is Student's t with ``n - columns`` degrees of freedom for one more healthy
        person (``sqrt(1 + 1/n)`` without covariates); the centile is its distribution function, the interval ``m +- t_q s sqrt(1 + ...)``.
    Reference
        Crawford & Howell, Clin. Neuropsychol. 12 (1998), doi:10.1076/clin.12.4.482.7241.

    Examples
    --------
    >>> out = deviation(fit_norm([[70.0], [74.0], [78.0]]), [[66.0]])
    >>> out.z.item(), out.centile.round(1).item(), out.lower.round(1).item(), out.n.item()
    (-2.0, 11.3, 54.1, 3.0)
    """
    if not 0 < level < 1:
        raise InputError(expected="a level between 0 and 1", found=str(level), where="prediction interval", remedy="Use 0.95.")
    table, _ = _people(values, norm.shape)
    kept = norm.coding.matrix(covariates, len(table))
    x = np.concatenate([np.ones((len(table), 1)), kept - norm.centre], axis=1)
    expected = x @ norm.coefficients
    spread = norm.sd * np.sqrt(1 + np.einsum("si,fij,sj->sf", x, norm.inverse, x, optimize=True))
    free = norm.n - x.shape[1]
    z = _ratio(table - expected, norm.sd)
    with np.errstate(invalid="ignore"):
        centile = 100 * stats.t.cdf(_ratio(table - expected, spread), free)
        half = stats.t.ppf((1 + level) / 2, free) * spread
    z, centile, expected, lower, upper = (a.reshape(-1, *norm.shape) for a in (z, centile, expected, expected - half, expected + half))
    return Deviation(z, centile, expected, lower, upper, norm.n.reshape(norm.shape))


def rank_centile(reference: ArrayLike, values: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Centile without a distribution: the rank of a person among the healthy people and themselves.

    Parameters
    ----------
    reference, values : (subject, ...)

    Returns
    -------
    centile : (subject, ...)
        Percent. Missing: NaN where the value is, or where nobody of the reference is known.
    n : (...)
        People of the reference.

    Formula
        ``100 (below + (equal + 1) / 2) / (n + 1)``: never 0 nor 100, and no finer than the reference allows.

    Examples
    --------
    >>> centile, n = rank_centile([[70.0], [74.0], [78.0], [np.nan]], [[60.0], [75.0]])
    >>> centile.ravel().tolist(), n.tolist()
    ([12.5, 62.5], [3.0])
    """
    healthy, shape = _people(reference, None)
    table, _ = _people(values, shape)
    n = np.isfinite(healthy).sum(axis=0)
    out = np.full_like(table, np.nan)
    for f in np.flatnonzero(n):
        column = np.sort(healthy[:, f])[: n[f]]
        below, upto = (np.searchsorted(column, table[:, f], side) for side in ("left", "right"))
        out[:, f] = 100 * (below + (upto - below + 1) / 2) / (n[f] + 1)
    out[np.isnan(table)] = np.nan
    return out.reshape(-1, *shape), n.reshape(shape).astype(float)


def centile_curves(reference: ArrayLike, centiles: ArrayLike) -> FloatArray:
    """Value at each centile, for instance of a profile along z.

    Parameters
    ----------
    reference : (subject, ...)
    centiles : (centile)
        Percent, above 0 and below 100.

    Returns
    -------
    (centile, ...)
        Missing: NaN where the reference does not reach: n people reach from ``100 / (n + 1)`` to ``100 n / (n + 1)`` percent.

    Formula
        Order statistic ``p (n + 1)``, linear in between (type 6 of Hyndman & Fan, Am. Stat. 50 (1996), doi:10.1080/00031305.1996.10473566):
        the chance that one more healthy person lies below is p, whatever the distribution.

    Examples
    --------
    >>> centile_curves([[1.0], [2.0], [3.0]], [10, 25, 50]).ravel().tolist()
    [nan, 1.0, 2.0]
    """
    healthy, shape = _people(reference, None)
    p: FloatArray = np.atleast_1d(np.asarray(centiles, float)) / 100
    if p.ndim != 1 or not np.all((p > 0) & (p < 1)):
        raise InputError(
            expected="centiles above 0 and below 100", found=str(np.asarray(centiles).tolist()), where="centiles", remedy="Use 5, 50, 95."
        )
    n = np.isfinite(healthy).sum(axis=0)
    place = p[:, None] * (n + 1) - 1
    low = np.clip(np.floor(place).astype(int), 0, len(healthy) - 1)
    ordered = np.sort(healthy, axis=0)
    first = np.take_along_axis(ordered, low, axis=0)
    second = np.take_along_axis(ordered, np.clip(np.minimum(low + 1, n - 1), 0, None), axis=0)
    reached = (place >= -1e-9) & (place <= n - 1 + 1e-9)
    out: FloatArray = np.where(reached, first + np.clip(place - low, 0, 1) * (second - first), np.nan).reshape(-1, *shape)
    return out


def _people(values: ArrayLike, shape: tuple[int, ...] | None) -> tuple[FloatArray, tuple[int, ...]]:
    """Values (subject, feature), and the shape of one person's."""
    array = np.asarray(values, float)
    if array.ndim < 2:
        raise InputError(expected="values (subject, ...)", found=f"shape {array.shape}", where=WHERE, remedy="Give one row a subject.")
    if shape is not None and array.shape[1:] != shape:
        found = f"{array.shape[1:]}"
        raise InputError(expected=f"values of shape {shape} a subject, as the reference", found=found, where=WHERE, remedy="Give the same features.")
    return as_table(array.reshape(len(array), math.prod(array.shape[1:])), where=WHERE), array.shape[1:]


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient. NaN where the divisor is 0 or NaN."""
    out: FloatArray = np.divide(above, below, out=np.full(np.broadcast_shapes(above.shape, below.shape), np.nan), where=below > 0)
    return out
