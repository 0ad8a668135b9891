"""Centile curves of healthy people by age and sex: location, scale and shape, from several data sets; a new site is placed by its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from cohort_engine.analysis.arrays import numbers, same_rows
from cohort_engine.analysis.covariates import Coding, Covariates, FloatArray, as_table, as_words
from cohort_engine.errors import InputError

WHERE = "centile curves"
FEWEST = 60
"""People that a feature needs: scale and shape are told by the few at the ends."""
FEWEST_CONTROLS = 10
"""Controls that place a site."""
KNOTS = (5.0, 35.0, 65.0, 95.0)
"""Centiles of a number among the people where its spline has knots (Harrell 2001)."""
OWN = "own"
"""Name of the site that was placed."""
PRIOR_SCALE = 30.0
"""How many people of the reference stand for the spread of a new site beside its own controls."""
BEND, SLOPE, SKEW, TAIL, APART = 0.15, 0.15, 0.5, 0.25, 0.05
"""Standard deviations of the normal priors: of the bends of a curve and of interactions, of the slopes of the log scale, of the two shapes, and of
what a feature has apart from the others of its family; in standard deviations of the values, for one standard deviation of a number."""
SLACK = 0.1
"""Part of the range of a number that its curve may be drawn out on either side."""
ROBUST = 1.5
"""Standard deviations beyond which a control no longer pulls the place of its site any harder (Huber)."""


@dataclass(frozen=True, eq=False)
class Centiles:
    """Centile curves, feature by feature: the log of a value is location plus scale times a sinh-arcsinh variable.

    Attributes
    ----------
    coding : Coding
        Of the covariates.
    centre, unit : mapping of name to float
        Of each number: what is taken off, and what it is divided by.
    knots : mapping of name to tuple
        Of each number, in its own unit.
    sites : tuple of str
        Data sets or scanners that were learnt.
    location : (feature, column)
        Of the design, without sites.
    shift : (feature, site)
        Location of each site, log units; NaN where the feature is not known of it.
    scale : (feature, 1 + straight column)
        Log of the scale.
    shape : (feature, 2)
        Skewness and log of the tail weight.
    n, n_sites : (feature)
        People (not sessions), and sites.
    low, high : (feature, number)
        Range of each number among the people of the family, a tenth drawn out on either side: nothing is said outside.
    stretch, free, leave : (feature)
        Of a placed site: its spread over the reference's, degrees of freedom of the predictive t, and the share ``1 / n`` its controls leave open.
    """

    coding: Coding
    centre: Mapping[str, float]
    unit: Mapping[str, float]
    knots: Mapping[str, tuple[float, ...]]
    sites: tuple[str, ...]
    location: FloatArray
    shift: FloatArray
    scale: FloatArray
    shape: FloatArray
    n: FloatArray
    low: FloatArray
    high: FloatArray
    stretch: FloatArray
    free: FloatArray
    leave: FloatArray

    @property
    def numbers(self) -> tuple[str, ...]:
        """Covariates that are numbers, in the order of `low` and `high`."""
        return tuple(name for name, words in self.coding.levels.items() if not words)

    def only(self, features: ArrayLike) -> Centiles:
        """Keep some of the features (index, in any order)."""
        at = np.asarray(features, np.intp)
        return replace(self, **{k: getattr(self, k)[at] for k in ARRAYS})

    def describe(self) -> dict[str, Any]:
        """Give everything as JSON holds it, NaN as null."""
        arrays = {k: _plain(getattr(self, k)) for k in ARRAYS}
        coding = {name: list(words) for name, words in self.coding.levels.items()}
        knots = {name: list(at) for name, at in self.knots.items()}
        return {"coding": coding, "centre": dict(self.centre), "unit": dict(self.unit), "knots": knots, "sites": list(self.sites), **arrays}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Centiles:
        """Read what `describe` gave.

        Raises
        ------
        InputError
            Parts are absent, or do not fit.
        """
        try:
            arrays = {k: np.array(described[k], float) for k in ARRAYS}
            coding = Coding({name: tuple(words) for name, words in described["coding"].items()})
            knots = {name: tuple(map(float, at)) for name, at in described["knots"].items()}
            out = cls(coding, dict(described["centre"]), dict(described["unit"]), knots, tuple(described["sites"]), **arrays)
            out.free[np.isnan(out.free)] = np.inf
            fits = all(len(a) == len(out.n) for a in arrays.values())
        except (KeyError, TypeError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise InputError(expected="a file of centile curves", found="something else", where=WHERE, remedy="Make it with cohort-engine norms fit.")
        return out


ARRAYS = ("location", "shift", "scale", "shape", "n", "low", "high", "stretch", "free", "leave")


@dataclass(frozen=True, eq=False)
class Position:
    """Where people lie, each (subject, feature): `z` of a standard normal, `centile` in percent, `median` for their covariates."""

    z: FloatArray
    centile: FloatArray
    median: FloatArray


def fit_centiles(
    values: ArrayLike, covariates: Covariates, *, site: ArrayLike | None = None, person: ArrayLike | None = None, family: ArrayLike | None = None
) -> Centiles:  # fmt: skip
    """Learn centile curves from healthy people.

    Parameters
    ----------
    values : (row, feature)
        Above 0. A row is a person, or a session of one. Missing: NaN.
    covariates : mapping of name to (row)
        A number (age, years) is a natural cubic spline with four knots, a word (sex) shifts it and tilts it. Rows without one are left out.
    site : (row), optional
        Data set or scanner: the location is its own, the rest is common to all.
    person : (row), optional
        Rows of one person count together as one person; by default each row is somebody.
    family : (feature), optional
        Labels; features with the same one (the levels of a measure) share the effects of the covariates, scale and shape, but for what their own
        people say against it: a level that nobody old is known of ages like the others. By default each feature is alone.

    Returns
    -------
    Centiles
        NaN for a feature that fewer than `FEWEST` people have.

    Raises
    ------
    InputError
        Values at or below 0, arrays of other lengths, covariates that are infinite.

    Formula
        ``log y = m + s q``, ``z = sinh(d asinh(q) - e)`` standard normal: m from spline, words and site, ``log s`` linear in numbers and words,
        e skewness and d tail weight (Jones & Pewsey, Biometrika 96 (2009), doi:10.1093/biomet/asp053). Maximum of the likelihood, in which each
        person weighs 1, times weak normal priors. A site multiplies values, so that scale (a coefficient of variation) and shape do not depend on it.
    Reference
        Rigby & Stasinopoulos, Appl. Stat. 54 (2005), doi:10.1111/j.1467-9876.2005.00510.x; natural splines: Harrell, Regression Modeling
        Strategies (2001), doi:10.1007/978-1-4757-3462-1. Packages for such models fit any distribution; one that has the four parameters, a site, and
        a written-out file is these few lines.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> age = rng.uniform(20, 80, 400)
    >>> curves = fit_centiles(np.exp(rng.normal(4.3 - 0.002 * age, 0.1))[:, None], {"age": age})
    >>> at = value_at(curves, [10, 50, 90], {"age": np.array([50.0])})
    >>> at[:, 0, 0].round().tolist(), np.exp(4.2 + 0.1 * ndtri([0.1, 0.5, 0.9])).round().tolist()
    ([58.0, 67.0, 76.0], [59.0, 67.0, 76.0])
    """
    table = _above_zero(values)
    rows = len(table)
    coding = Coding.of(covariates)
    plain = coding.matrix(covariates, rows)
    named = _names(coding)
    place = np.full(rows, "") if site is None else np.array(as_words(site), dtype=str)
    same_rows(rows, len(place), where=f"{WHERE}: sites")
    who = np.arange(rows) if person is None else np.unique(np.asarray(person, dtype=str), return_inverse=True)[1].reshape(-1)
    same_rows(rows, len(who), where=f"{WHERE}: people")
    usable = np.isfinite(plain).all(axis=1) & (np.isfinite(table).any(axis=1)) & ((place != "") | (site is None))
    known = np.isfinite(table) & usable[:, None]
    once = _weights(who, usable)
    centre, unit, knots = {}, {}, {}
    for i, (name, is_number) in enumerate(named):
        if is_number:
            x = plain[usable, i] if usable.any() else np.zeros(1)
            centre[name], unit[name] = float(np.average(x, weights=once[usable] if usable.any() else None)), float(max(x.std(), 1e-9))
            at = _quantiles(x, once[usable] if usable.any() else np.ones(1), KNOTS)
            knots[name] = tuple(at.tolist()) if len(np.unique(at)) == len(KNOTS) else ()
    sites = tuple(sorted(set(place[usable].tolist())))
    features = table.shape[1]
    empty = Centiles(
        coding, centre, unit, knots, sites, location=np.empty(0), shift=np.full((features, len(sites)), np.nan), scale=np.empty(0),
        shape=np.full((features, 2), np.nan), n=np.zeros(features), low=np.full((features, len(centre)), np.nan),
        high=np.full((features, len(centre)), np.nan), stretch=np.ones(features), free=np.full(features, np.inf), leave=np.zeros(features),
    )  # fmt: skip
    x, z, weak = _designs(empty, plain)
    location, scale = np.full((features, x.shape[1]), np.nan), np.full((features, z.shape[1]), np.nan)
    of = place[:, None] == np.array(sites)
    own = _plain_numbers(coding, plain)
    label = np.arange(features) if family is None else np.unique(np.asarray(family, dtype=str), return_inverse=True)[1].reshape(-1)
    same_rows(features, len(label), where=f"{WHERE}: families")
    empty.n[:] = [len(np.unique(who[known[:, f]])) for f in range(features)]
    for each in np.unique(label):
        members = [f for f in np.flatnonzero(label == each) if empty.n[f] >= FEWEST]
        if not members:
            continue
        there = [of[known[:, f]].any(axis=0) for f in members]
        rows_of = [known[:, f] for f in members]
        parts = [
            _Part.of(np.log(table[r, f]), of[np.ix_(r, t)].astype(float), x[r], z[r], _weights(who, r)[r])
            for f, r, t in zip(members, rows_of, there, strict=True)
        ]  # fmt: skip
        anyone = np.any(rows_of, axis=0)
        for f, t, (shift, rest) in zip(members, there, _fit(parts, weak), strict=True):
            empty.shift[f, t], location[f], scale[f], empty.shape[f] = shift, rest[: x.shape[1]], rest[x.shape[1] : -2], rest[-2:]
            low, high = own[anyone].min(axis=0), own[anyone].max(axis=0)
            empty.low[f], empty.high[f] = low - SLACK * (high - low), high + SLACK * (high - low)
    return replace(empty, location=location, scale=scale)


def place_site(curves: Centiles, controls: ArrayLike, covariates: Covariates) -> Centiles:
    """Move curves to a new site by its own healthy people.

    Parameters
    ----------
    controls : (subject, feature)
        10 to 30 are enough. Missing: NaN.
    covariates : mapping of name to (subject)
        Those of the curves.

    Returns
    -------
    Centiles
        Of one site, `OWN`; NaN for a feature that fewer than `FEWEST_CONTROLS` of them have.

    Raises
    ------
    InputError
        Too few controls, another number of features, covariates that are absent.

    Formula
        The shift is what makes the mean z of the controls 0 (each within 1.5, so that one failed control does not decide); nothing of the
        reference's location stays. The spread is shared:
        ``s^2 = (30 + sum z^2) / (30 + n - 1)``, so that 10 controls do not decide it alone. What they leave open is in `position`:
        ``z / (s sqrt(1 + 1/n))`` is Student's t with ``30 + n - 1`` degrees of freedom (normal with scaled inverse chi-squared prior; Gelman et al.,
        Bayesian Data Analysis (2013), section 3.3), so that centiles hold on average over whoever the controls happened to be.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> curves = fit_centiles(np.exp(rng.normal(4.2, 0.1, (400, 1))), {})
    >>> here = place_site(curves, 1.1 * np.exp(rng.normal(4.2, 0.1, (30, 1))), {})
    >>> round(float(value_at(here, [50], {}, people=1)[0, 0, 0] / value_at(curves, [50], {}, people=1)[0, 0, 0]), 2)
    1.11
    """
    table, x, z, away = _seen(curves, controls, covariates)
    with np.errstate(invalid="ignore"):
        residual = np.log(table) - x @ curves.location.T
    inside = np.isfinite(residual) & ~away & np.asarray(np.isfinite(z).all(axis=1))[:, None]
    n = inside.sum(axis=0)
    if n.max(initial=0) < FEWEST_CONTROLS:
        raise InputError(
            expected=f"{FEWEST_CONTROLS} controls of the site, of ages that the curves know", found=str(int(n.max(initial=0))), where=WHERE,
            remedy="Add controls, or compare with the study's own alone (no norms.reference).",
        )  # fmt: skip
    scale = np.exp(z @ curves.scale.T)
    shift = np.full(len(n), np.nan)
    square = np.full(len(n), np.nan)
    for f in np.flatnonzero((n >= FEWEST_CONTROLS) & np.isfinite(curves.shape[:, 0])):
        r, s = residual[inside[:, f], f], scale[inside[:, f], f]
        shift[f] = _centre(r, s, curves.shape[f])
        square[f] = (_standard((r - shift[f]) / s, curves.shape[f]) ** 2).sum()
    free = PRIOR_SCALE + n - 1
    stretch = np.sqrt((PRIOR_SCALE + square) / free)
    return replace(curves, sites=(OWN,), shift=shift[:, None], stretch=stretch, free=free.astype(float), leave=1 / np.maximum(n, 1))


def position(curves: Centiles, values: ArrayLike, covariates: Covariates, *, site: ArrayLike | None = None) -> Position:
    """Say where people lie among the healthy people of their age and sex.

    Parameters
    ----------
    values : (subject, feature)
        Missing: NaN.
    covariates : mapping of name to (subject)
        Those of the curves.
    site : (subject), optional
        Which of the curves' sites; needed where there are several.

    Returns
    -------
    Position
        Missing: NaN where the value or a covariate is, outside the ages of the reference, and at a site that has no curve.

    Raises
    ------
    InputError, UnknownNameError
        Arrays that do not fit, a site that was not learnt, none named where there are several.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> curves = fit_centiles(np.exp(rng.normal(4.2, 0.1, (400, 1))), {})
    >>> position(curves, np.exp([[4.2 - 0.1645]]), {}).centile.round().tolist()
    [[5.0]]
    """
    table, x, z, away = _seen(curves, values, covariates)
    shift = _shifts(curves, site, len(table))
    location = shift + x @ curves.location.T
    scale = np.exp(z @ curves.scale.T)
    with np.errstate(invalid="ignore"):
        raw = _standard((np.log(table) - location) / scale, curves.shape.T[:, None])
        t = raw / (curves.stretch * np.sqrt(1 + curves.leave))
        below = np.where(np.isinf(curves.free), ndtr(t), stdtr(np.where(np.isinf(curves.free), 1.0, curves.free), t))
        deviate = np.where(np.isinf(curves.free), t, ndtri(below))
    median = np.exp(location + scale * _back(np.zeros(1), curves.shape.T[:, None])[0])
    nothing = np.where(away, np.nan, 0.0)
    return Position(deviate + nothing, 100 * below + nothing, median + nothing)


def value_at(
    curves: Centiles, centiles: ArrayLike, covariates: Covariates, *, site: ArrayLike | None = None, people: int | None = None
) -> FloatArray:  # fmt: skip
    """Value at each centile for given covariates: the curves themselves.

    Parameters
    ----------
    centiles : (centile)
        Percent, above 0 and below 100.
    covariates : mapping of name to (subject)
    site : (subject), optional
    people : int, optional
        How many, where there is no covariate.

    Returns
    -------
    (centile, subject, feature)
        Missing: NaN outside the ages of the reference.

    Examples
    --------
    See `fit_centiles`.
    """
    p = np.atleast_1d(np.asarray(centiles, float)) / 100
    if not np.all((p > 0) & (p < 1)):
        raise InputError(expected="centiles above 0 and below 100", found=str(np.asarray(centiles).tolist()), where=WHERE, remedy="Use 5, 50, 95.")
    rows = people if people is not None else len(np.asarray(next(iter(covariates.values()))))
    _, x, z, away = _seen(curves, np.ones((rows, len(curves.n))), covariates)
    location = _shifts(curves, site, rows) + x @ curves.location.T
    endless = np.isinf(curves.free)
    t = np.where(endless, ndtri(p)[:, None], stdtrit(np.where(endless, 1.0, curves.free), p[:, None]))
    deviate = t * curves.stretch * np.sqrt(1 + curves.leave)
    q = _back(deviate, curves.shape.T[:, None])
    out: FloatArray = np.exp(location + np.exp(z @ curves.scale.T) * q[:, None]) + np.where(away, np.nan, 0.0)
    return out


def _seen(curves: Centiles, values: ArrayLike, covariates: Covariates) -> tuple[FloatArray, FloatArray, FloatArray, Any]:
    """Values, both designs, and what (subject, feature) lies outside the range of the reference."""
    table = _above_zero(values)
    if table.shape[1] != len(curves.n):
        raise InputError(expected=f"{len(curves.n)} features", found=str(table.shape[1]), where=WHERE, remedy="Give those of the curves.")
    plain = curves.coding.matrix(covariates, len(table))
    x, z, _ = _designs(curves, plain)
    own = _plain_numbers(curves.coding, plain)
    with np.errstate(invalid="ignore"):
        inside = (own[:, None] >= curves.low) & (own[:, None] <= curves.high)
    return table, x, z, ~inside.all(axis=2)


def _shifts(curves: Centiles, site: ArrayLike | None, rows: int) -> FloatArray:
    """Shift of each person (subject, feature)."""
    if site is None:
        if len(curves.sites) > 1:
            raise InputError(
                expected="the site of each person", found="none", where=WHERE,
                remedy=f"Name one of {', '.join(curves.sites)}, or place your own by its controls.",
            )  # fmt: skip
        return np.broadcast_to(curves.shift.T, (rows, len(curves.n)))
    words = as_words(site)
    same_rows(rows, len(words), where=f"{WHERE}: sites")
    at = np.array([curves.sites.index(w) if w in curves.sites else -1 for w in words])
    if (at < 0).any():
        raise InputError(
            expected=f"one of {', '.join(curves.sites)}", found=repr(words[int(np.argmax(at < 0))]), where=f"{WHERE}: sites",
            remedy="Place a new site by its controls.",
        )  # fmt: skip
    out: FloatArray = curves.shift.T[at]
    return out


def _names(coding: Coding) -> list[tuple[str, bool]]:
    """Name of each column of the plain matrix, and whether it is a number."""
    return [(name, not words) for name, words in coding.levels.items() for _ in range(max(len(words) - 1, 0) if words else 1)]


def _plain_numbers(coding: Coding, plain: FloatArray) -> FloatArray:
    """Columns (row, number) of the covariates that are numbers."""
    out: FloatArray = plain[:, [i for i, (_, number) in enumerate(_names(coding)) if number]]
    return out


def _designs(curves: Centiles, plain: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Design of the location (row, column) and of the log scale (row, 1 + column), and the prior SD of each column of the first (0: none)."""
    named = _names(curves.coding)
    straight = [(plain[:, i] - curves.centre[name]) / curves.unit[name] if number else plain[:, i] for i, (name, number) in enumerate(named)]
    columns, weak = list(straight), [0.0] * len(straight)
    for i, (name, number) in enumerate(named):
        if not number:
            continue
        for bend in _bends(plain[:, i], curves.knots[name]).T:
            columns.append(bend / curves.unit[name])
            weak.append(BEND)
        for j, (_, other) in enumerate(named):
            if not other:
                columns.append(straight[i] * straight[j])
                weak.append(BEND)
    rows = len(plain)
    return np.array(columns).reshape(-1, rows).T, np.array([np.ones(rows), *straight]).T, np.array(weak)


def _bends(x: FloatArray, knots: tuple[float, ...]) -> FloatArray:
    """Curved columns of a natural cubic spline (row, knots - 2), in the unit of x: beyond the outer knots it is straight."""
    if not knots:
        return np.empty((len(x), 0))
    at = np.array(knots)
    cube = np.clip(x[:, None] - at, 0, None) ** 3
    part = (cube[:, :-1] - cube[:, -1:]) / (at[-1] - at[:-1])
    out: FloatArray = (part[:, :-1] - part[:, -1:]) / (at[-1] - at[0])
    return out


def _quantiles(x: FloatArray, weights: FloatArray, percent: tuple[float, ...]) -> FloatArray:
    order = np.argsort(x, kind="stable")
    share = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    out: FloatArray = np.interp(np.array(percent) / 100, share, x[order])
    return out


def _weights(who: Any, rows: Any) -> FloatArray:
    """Weight (row) with which the rows of one person count as 1 together, 0 for other rows."""
    count = np.bincount(who, weights=rows, minlength=int(who.max(initial=0)) + 1)[who]
    out: FloatArray = np.divide(rows, count, out=np.zeros(len(who)), where=count > 0)
    return out


def _standard(q: FloatArray, shape: Any) -> FloatArray:
    """Give z of q."""
    out: FloatArray = np.sinh(np.clip(np.exp(shape[1]) * np.arcsinh(q) - shape[0], -50, 50))
    return out


def _back(z: FloatArray, shape: Any) -> FloatArray:
    """Give q of z."""
    out: FloatArray = np.sinh((np.arcsinh(z) + shape[0]) / np.exp(shape[1]))
    return out[0] if out.ndim > np.ndim(z) else out


def _centre(residual: FloatArray, scale: FloatArray, shape: FloatArray) -> float:
    """Shift of the residuals for which the mean of z, no value counted beyond `ROBUST`, is 0."""
    low, high = float(residual.min() - 10 * scale.max()), float(residual.max() + 10 * scale.max())
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _standard((residual - middle) / scale, shape).clip(-ROBUST, ROBUST).mean() > 0 else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, eq=False)
class _Part:
    """What one feature is fitted to: residuals (row) of a first least-squares fit in units of their SD, designs (row, column), weights (row)."""

    target: FloatArray
    sites: FloatArray
    x: FloatArray
    z: FloatArray
    weights: FloatArray
    start: FloatArray
    sd: float

    @classmethod
    def of(cls, y: FloatArray, sites: FloatArray, x: FloatArray, z: FloatArray, weights: FloatArray) -> _Part:
        root, full = np.sqrt(weights)[:, None], np.column_stack([sites, x])
        start = np.linalg.lstsq(full * root, y * root[:, 0], rcond=None)[0]
        start[sites.shape[1] :] = 0  # what features share is not begun with what one of them says
        start[: sites.shape[1]] = np.linalg.lstsq(sites * root, y * root[:, 0], rcond=None)[0]
        sd = math.sqrt(float(np.average((y - full @ start) ** 2, weights=weights)))
        return cls((y - full @ start) / max(sd, 1e-12), sites, x, z, weights, start, sd)

    def loss(self, place: FloatArray, p: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Minus the log likelihood at shifts of the sites and coefficients (location, log scale, skewness, log tail), with both gradients."""
        k = self.x.shape[1]
        log_scale, skew, tail = self.z @ p[k:-2], p[-2], math.exp(p[-1])
        shrink = np.exp(-log_scale)
        q = (self.target - self.sites @ place - self.x @ p[:k]) * shrink
        turned = np.arcsinh(q)
        u = np.clip(tail * turned - skew, -50, 50)
        s, c = np.sinh(u), np.cosh(u)
        value = s * s / 2 - p[-1] - np.log(c) + np.log1p(q * q) / 2 + log_scale
        by_u = s * c - s / c
        by_q = by_u * tail / np.sqrt(1 + q * q) + q / (1 + q * q)
        moved = self.weights * by_q * shrink
        ends = [-(self.weights * by_u).sum(), (self.weights * (by_u * tail * turned - 1)).sum()]
        gradient = np.concatenate([-self.x.T @ moved, self.z.T @ (self.weights * (1 - by_q * q)), ends])
        return float(self.weights @ value), -self.sites.T @ moved, gradient


def _fit(parts: list[_Part], weak: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Shifts of the sites, and coefficients of location, log scale and shape (all in a row), of each feature; of the largest posterior density.

    Features share their coefficients but for deviations with a prior about 0; one feature alone has none.
    """
    k, m = parts[0].x.shape[1], parts[0].z.shape[1]
    common, width = k + m + 2, k + m + 2 if len(parts) > 1 else 0
    slack = np.concatenate([np.where(weak > 0, weak, np.inf), [np.inf], np.full(m - 1, SLOPE), [SKEW, TAIL]])
    apart = np.full(width, APART)
    apart[k : k + 1] = SLOPE
    precision = [1 / slack**2]
    at, cuts = common, []
    for part in parts:
        cuts.append((at, at + part.sites.shape[1], at + part.sites.shape[1] + width))
        at = cuts[-1][2]
        precision += [np.zeros(part.sites.shape[1]), 1 / apart**2]
    inverse = np.concatenate(precision)

    def loss(p: FloatArray) -> tuple[float, FloatArray]:
        total, gradient = 0.0, np.zeros(len(p))
        for part, (a, b, c) in zip(parts, cuts, strict=True):
            value, by_place, by_rest = part.loss(p[a:b], p[:common] + (p[b:c] if width else 0.0))
            total += value
            gradient[:common] += by_rest
            gradient[a:b] += by_place
            gradient[b:c] += by_rest[:width]
        return total + float(inverse @ (p * p)) / 2, gradient + inverse * p

    found = minimize(loss, np.zeros(at), jac=True, method="BFGS", options={"gtol": 1e-7 * sum(len(p.target) for p in parts), "maxiter": 1000}).x
    out = []
    for part, (a, b, c) in zip(parts, cuts, strict=True):
        rest = found[:common] + (found[b:c] if width else 0.0)
        rest[:k] = part.sd * rest[:k]
        rest[k] += math.log(max(part.sd, 1e-12))
        out.append((part.start[: b - a] + part.sd * found[a:b], rest))
    return out


def _above_zero(values: ArrayLike) -> FloatArray:
    table = as_table(numbers(values, where=WHERE), where=WHERE)
    if (bad := int((table <= 0).sum())) > 0:
        raise InputError(expected="values above 0, or NaN", found=f"{bad} at or below 0", where=WHERE, remedy="Make what was not measured NaN.")
    return table


def _plain(array: FloatArray) -> Any:
    """Nested lists as JSON has them: no NaN, no infinity."""
    return [None if not math.isfinite(v) else float(f"{v:.10g}") for v in array] if array.ndim == 1 else [_plain(a) for a in array]
