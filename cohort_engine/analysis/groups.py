"""Two groups compared in every metric, region and level at once: Welch, Mann-Whitney, linear model; false discovery rate; bootstrap.

Tests are columns of a table (subject, test). Missing values (NaN): each test is computed from its complete cases, and is NaN where more than a share
`max_missing` of either group is not among them. Effects are group 1 minus group 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, ndtri, stdtr, stdtrit
from scipy.stats import false_discovery_control

from cohort_engine.analysis.arrays import (
    COLLINEAR,
    MAX_MISSING,
    ROUNDING,
    BoolArray,
    FloatArray,
    IntArray,
    basis,
    enough,
    numbers,
    percentiles,
    ranks,
    resampling,
    same_rows,
    share,
    table,
    tally,
    two_groups,
    varies,
)
from cohort_engine.analysis.precision import weigh, weights_of
from cohort_engine.analysis.roc import auc
from cohort_engine.errors import InputError, unknown_name

WELCH = "welch"
MANN_WHITNEY = "mann_whitney"
LINEAR = "linear"
WEIGHED = (WELCH, LINEAR)
"""Methods that compare means, so that values may count differently."""

EXACT = 100
"""Most subjects of a test without ties for which all their orders are counted."""
BLOCK = 4_000_000
"""Numbers in one array of the linear model's resamples."""
NO_RESIDUAL = 1e-10
"""Share of the sum of squares below which a residual is rounding."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One comparison of two groups a test; arrays are (test,), `n` is (2, test): subjects of group 0 and group 1 that were used.

    Attributes
    ----------
    effect, se, low, high : difference in the unit of the values (`mann_whitney`: probability that a member of group 1 exceeds one of group 0)
    se_even : the error if all values counted alike; the same as `se` where they do
    statistic, df, p : t and its degrees of freedom, or U of group 1 (df NaN); p is two-sided
    size, size_low, size_high : Hedges' g, rank-biserial correlation or partial correlation, see `EFFECTS`
    """

    method: str
    effect: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    statistic: FloatArray
    df: FloatArray
    p: FloatArray
    size: FloatArray
    size_low: FloatArray
    size_high: FloatArray
    n: IntArray
    se_even: FloatArray


@dataclass(frozen=True, eq=False)
class _Data:
    """Values (subject, test) with NaN, group membership (2, subject), covariates' basis (subject, rank), weights (subject, test) or none."""

    x: FloatArray
    groups: BoolArray
    basis: FloatArray
    n: IntArray
    precision: FloatArray | None = None


Draws = tuple[FloatArray, FloatArray]


def compare(
    values: ArrayLike, group: ArrayLike, *, method: str = WELCH, covariates: ArrayLike | None = None, confidence: float = 0.95,
    max_missing: float = MAX_MISSING, resamples: int = 0, seed: int = 1, errors: ArrayLike | None = None, trust: ArrayLike | None = None,
) -> Comparison:  # fmt: skip
    """Compare two groups in every test.

    Parameters
    ----------
    values : (subject, test)
        Any unit; NaN is missing.
    group : (subject,)
        0, 1, or NaN for neither.
    method : {"welch", "mann_whitney", "linear"}
    covariates : (subject, covariate), optional
        For `linear`: age, sex, sites as 0/1 columns; the constant is added, columns that follow from others drop out. A subject with a missing
        covariate is missing in every test.
    confidence : float
    max_missing : float
        Largest share of either group that may be missing.
    resamples, seed : int
        With resamples, the intervals of effect and size are percentiles of a bootstrap within the groups; `se`, statistic and p stay as they are.
    errors : (subject, test), optional
        Standard error of each value, by which values count, see `precision.weights_of`; NaN is not known. `mann_whitney` takes none.
    trust : (subject,), optional
        Probability that a subject's values are usable: who is usable with 0.5 counts half.

    Returns
    -------
    Comparison
        Missing: with too many missing all is NaN but `n`. A group of one: `welch` gives only the effect, `mann_whitney` no `se` and intervals. No
        spread within groups (`mann_whitney`: none at all): no statistic, p, size and analytic interval. `linear` where the covariates decide the
        group among a test's complete cases: all but `n`.

    Raises
    ------
    InputError
        Nothing can be computed at all: a group has no members, the covariates decide the group of every subject, no subject has all covariates, or
        shapes do not fit.
    UnknownNameError
        No such method.

    Notes
    -----
    ``welch``: unequal variances, df after Welch and Satterthwaite; Hedges' g with pooled standard deviation, the factor ``1 - 3 / (4 n - 9)``, and
    variance ``n / (n0 n1) + g^2 / (2 (n - 3.94))`` (Hedges 1981, doi:10.3102/10769986006002107).
    ``mann_whitney``: without ties and up to `EXACT` subjects from all orders, else the normal approximation corrected for ties and continuity,
    whose p is too large far out in small groups; the effect is U / (n0 n1), the area under the ROC curve, with
    DeLong's error and logit interval, and the rank-biserial correlation is twice that minus one.
    ``linear``: least squares of the values on group, constant and covariates; the partial correlation has Fisher's interval with variance
    ``1 / (df - 1)``, which is ``1 / (n - 3)`` without covariates.
    Errors: the effect is of weighted least squares. Its standard error is that of the method times the root of the ratio of the variances that the
    residuals of the subjects show (HC3) of the weighted to the plain effect, and the degrees of freedom fall with the number of subjects that the
    weights leave; so equal weights change nothing, and wrong ones cost width, not truth. Hedges' g has the standard deviation as observed.

    Sums over a resample are a product of draw counts (resample, subject) with the values, so a bootstrap of a thousand tests is a few matrix
    products. Hence the missing values of a test are drawn as well, as they were in the study.

    Examples
    --------
    >>> found = compare(np.array([[1.0], [2.0], [3.0], [3.0], [4.0], [6.0], [np.nan]]), [0, 0, 0, 1, 1, 1, 1])
    >>> found.effect.round(4).tolist(), found.p.round(4).tolist(), found.size.round(4).tolist(), found.n.ravel().tolist()
    ([2.3333], [0.1021], [1.4459], [3, 3])
    """
    if method not in METHODS:
        raise unknown_name("method", method, list(METHODS), where="group comparison")
    test, draw, adjusts = METHODS[method]
    if covariates is not None and not adjusts:
        raise InputError(
            expected="no covariates", found=f"covariates for method {method!r}", where="group comparison", remedy=f"Use method {LINEAR!r} to adjust."
        )
    x = table(values, where="values")
    groups = two_groups(group, len(x), where="groups")
    columns, complete = basis(covariates, len(x), where="covariates")
    x[~(complete & groups.any(axis=0))] = np.nan
    n = tally(x, groups)
    x[:, ~enough(groups, n, max_missing)] = np.nan
    data = _Data(x, groups, columns, n)
    if method in WEIGHED and (errors is not None or trust is not None):
        data = replace(data, precision=_precision(data, errors, trust))
    found = test(data, confidence)
    if not resamples:
        return found
    effect, size = draw(data, resampling(groups, resamples, seed))
    low, high = (v + 0 * found.effect for v in percentiles(effect, confidence))
    size_low, size_high = (v + 0 * found.size for v in percentiles(size, confidence))
    return replace(found, low=low, high=high, size_low=size_low, size_high=size_high)


def _precision(data: _Data, errors: ArrayLike | None, trust: ArrayLike | None) -> FloatArray:
    """How much each value counts, (subject, test)."""
    given = np.full(data.x.shape, np.nan) if errors is None else table(errors, where="errors of values")
    if given.shape != data.x.shape:
        raise InputError(
            expected=f"errors of shape {data.x.shape}", found=f"{given.shape}", where="errors of values",
            remedy="Give one for each value; NaN is not known.",
        )  # fmt: skip
    usable = None if trust is None else numbers(trust, where="usable")
    if usable is not None:
        same_rows(len(data.x), len(usable), where="usable")
    residual = np.where(np.isnan(data.x), np.nan, weigh(_centred(data.x), _columns(data)).residual)
    return weights_of(residual, given, data.groups, usable)


def _centred(x: FloatArray) -> FloatArray:
    return x - share(np.nansum(x, axis=0), (~np.isnan(x)).sum(axis=0))


def _weighed(data: _Data, effect: FloatArray, se: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Effect, its error and degrees of freedom when values count by their weights."""
    if data.precision is None:
        return effect, se, df
    x, columns = _centred(data.x), _columns(data)
    even, uneven = weigh(x, columns), weigh(x, columns, data.precision)
    ratio = np.where(se > 0, np.sqrt(share(uneven.variance, even.variance)), 1.0)
    return effect + (uneven.effect - even.effect), se * ratio, df * share(uneven.people, even.people)


def _t_test(effect: FloatArray, se: FloatArray, df: FloatArray, confidence: float) -> dict[str, FloatArray]:
    df = np.where(df > 0, df, np.nan)
    statistic = share(effect, se) + 0 * df
    step = stdtrit(df, (1 + confidence) / 2) * np.where(se > 0, se, np.nan)
    return {
        "effect": effect, "se": se, "low": effect - step, "high": effect + step, "statistic": statistic, "df": df,
        "p": 2 * stdtr(df, -np.abs(statistic)),
    }  # fmt: skip


def _sums(data: _Data, weights: FloatArray) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
    """Count, mean and sample variance of each group under weights (draw, subject), each (draw, test); the mean by what values count."""
    counts, means, variances = [], [], []
    for members, n in zip(data.groups, data.n, strict=True):
        x = data.x[members]
        w = weights[:, members]
        known = ~np.isnan(x)
        centre = share(np.nansum(x, axis=0), n)
        y = np.where(known, x - centre, 0.0)
        count = w @ known
        shift = share(w @ y, count)
        total = w @ y**2
        rest = total - count * shift**2
        variance = share(np.where(rest > NO_RESIDUAL * total, rest, 0.0), count - 1)
        counts.append(count)
        if data.precision is not None:
            heavy = np.where(known, data.precision[members], 0.0)
            shift = share(w @ (heavy * y), w @ heavy)
        means.append(centre + shift)
        variances.append(np.where(varies(x) | np.isnan(variance), variance, 0.0))
    return counts, means, variances


def _hedges(counts: list[FloatArray], means: list[FloatArray], variances: list[FloatArray]) -> FloatArray:
    free = counts[0] + counts[1] - 2
    pooled = share(sum(v * (k - 1) for v, k in zip(variances, counts, strict=True)), free)
    return share(means[1] - means[0], np.sqrt(pooled)) * (1 - 3 / (4 * free - 1))


def _welch(data: _Data, confidence: float) -> Comparison:
    counts, means, variances = ([v[0] for v in s] for s in _sums(replace(data, precision=None), np.ones((1, len(data.x)))))
    errors = [share(v, k) for v, k in zip(variances, counts, strict=True)]
    df = share((errors[0] + errors[1]) ** 2, sum(e**2 * share(1.0, k - 1) for e, k in zip(errors, counts, strict=True)))
    even = np.sqrt(errors[0] + errors[1])
    effect, se, df = _weighed(data, means[1] - means[0], even, df)
    size = _hedges(counts, [0 * effect, effect], variances)
    total, narrower = counts[0] + counts[1], np.where(even > 0, share(se, even), 1.0)
    step = ndtri((1 + confidence) / 2) * np.sqrt(share(total, counts[0] * counts[1]) * narrower**2 + share(size**2, 2 * (total - 3.94)))
    found = _t_test(effect, se, df, confidence)
    return Comparison(WELCH, **found, size=size, size_low=size - step, size_high=size + step, n=data.n, se_even=even)


def _welch_draws(data: _Data, weights: FloatArray) -> Draws:
    counts, means, variances = _sums(data, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[1] - means[0], _hedges(counts, means, variances)


def _mann_whitney(data: _Data, confidence: float) -> Comparison:
    rank, ties = ranks(data.x)
    n0, n1 = data.n.astype(float)
    n = n0 + n1
    spread = np.where(varies(data.x), 0.0, np.nan)
    u = np.nansum(rank[data.groups[1]], axis=0) - n1 * (n1 + 1) / 2 + spread
    tied = share(np.nansum(ties**2 - 1, axis=0), n * (n - 1))
    z = share(np.abs(u - n0 * n1 / 2) - 0.5, np.sqrt((n0 * n1 / 12 * (n + 1 - tied)).clip(0)))
    p = np.minimum(2 * ndtr(-z), 1)
    for test in np.flatnonzero(~np.isnan(u) & (tied == 0) & (n <= EXACT)):
        p[test] = min(2 * _u_below(*data.n[:, test].tolist())[int(min(u[test], n0[test] * n1[test] - u[test]))], 1)
    area = auc(data.x, np.where(data.groups.any(axis=0), data.groups[1], np.nan), confidence=confidence, max_missing=1.0)
    return Comparison(
        MANN_WHITNEY, effect=area.auc, se=area.se, low=area.low, high=area.high, statistic=u, df=u * np.nan, p=p,
        size=2 * area.auc - 1 + spread, size_low=2 * area.low - 1, size_high=2 * area.high - 1, n=data.n, se_even=area.se,
    )  # fmt: skip


@cache
def _u_below(n0: int, n1: int) -> FloatArray:
    """Probability of each U up to half of n0 n1, or less, when all orders are alike.

    The number of orders with each U are the coefficients of the Gaussian binomial, the product over i of ``(1 - x^(n0 + i)) / (1 - x^i)``.
    """
    count = np.zeros(n0 * n1 // 2 + 1)
    count[0] = 1
    for i in range(1, n1 + 1):
        count[n0 + i :] -= count[: max(len(count) - n0 - i, 0)].copy()
        padded = np.append(count, np.zeros(-len(count) % i)).reshape(-1, i)
        count = padded.cumsum(axis=0).ravel()[: len(count)]
    return np.cumsum(count) / comb(n0 + n1, n0)


def _mann_whitney_draws(data: _Data, weights: FloatArray) -> Draws:
    """U of each resample from running sums of draw counts over the sorted values of group 0: linear in subjects."""
    w0, w1 = (np.ascontiguousarray(weights[:, g].T, dtype=np.float32) for g in data.groups)
    effect = np.full((len(weights), data.x.shape[1]), np.nan)
    for test in range(data.x.shape[1]):
        x0, x1 = data.x[data.groups[0], test], data.x[data.groups[1], test]
        known0, known1 = np.flatnonzero(~np.isnan(x0)), np.flatnonzero(~np.isnan(x1))
        if not len(known0) or not len(known1):
            continue
        order = known0[np.argsort(x0[known0])]
        below = np.zeros((len(order) + 1, len(weights)), np.float32)
        np.cumsum(w0[order], axis=0, out=below[1:])
        drawn = w1[known1]
        sides = [np.searchsorted(x0[order], x1[known1], side) for side in ("left", "right")]
        wins = sum(np.einsum("ir,ir->r", drawn, below[side], dtype=np.float64) for side in sides)
        effect[:, test] = share(wins / 2, below[-1] * drawn.sum(axis=0))
    return effect, 2 * effect - 1


@dataclass(frozen=True, eq=False)
class _Fit:
    """Least squares on [covariates, group] under draw counts, each (draw, test) and `coefficients` (draw, test, column).

    `left` is the sum of squares of the group freed of the covariates, NaN where nothing is; `residual` of `total` is 0 where only rounding is left.
    """

    effect: FloatArray
    left: FloatArray
    residual: FloatArray
    total: FloatArray
    df: FloatArray
    partial: FloatArray
    coefficients: FloatArray


def _columns(data: _Data) -> FloatArray:
    """Covariates and group freed of them, over all subjects: (subject, column)."""
    group = data.groups[1].astype(float)
    return np.column_stack([data.basis, (group - data.basis @ (data.basis.T @ group)) * data.basis.any(axis=1)])


def _fit(data: _Data, weights: FloatArray, tests: slice) -> _Fit:
    """Fit under weights (draw, subject): the normal equations are solved column by column, and a column that earlier ones explain is skipped."""
    x = data.x[:, tests]
    known = ~np.isnan(x)
    heavy = known if data.precision is None else np.where(known, data.precision[:, tests], 0.0)
    y = np.where(known, _centred(x), 0.0)
    columns = _columns(data)
    k = columns.shape[1]
    gram = np.empty((len(weights), x.shape[1], k + 1, k + 1))
    for i in range(k):
        for j in range(i + 1):
            gram[..., i, j] = gram[..., j, i] = (weights * (columns[:, i] * columns[:, j])) @ heavy
        gram[..., i, k] = gram[..., k, i] = (weights * columns[:, i]) @ (heavy * y)
    total = weights @ (heavy * y**2)
    gram[..., k, k] = total
    size = np.diagonal(gram, axis1=-2, axis2=-1).copy()
    rank = np.zeros(total.shape)

    def solve(i: int, kept: BoolArray) -> None:
        row = np.where(kept[..., None], gram[..., i, :] / np.where(kept, gram[..., i, i], 1.0)[..., None], 0.0)
        others = gram[..., i].copy()
        others[..., i] = 0
        gram[...] -= others[..., None] * row[..., None, :]
        gram[..., i, :] = row

    for i in range(k - 1):
        kept = gram[..., i, i] > np.maximum(COLLINEAR * size[..., i], ROUNDING)
        rank += kept
        solve(i, kept)
    count, mass, in_one = weights @ known, weights @ heavy, weights[:, data.groups[1]] @ heavy[data.groups[1]]
    before = share(in_one * (mass - in_one), mass)
    left, values = gram[..., k - 1, k - 1].copy(), gram[..., k, k].copy()
    decided = ~((before > 0) & (left > COLLINEAR * before))
    left[decided] = np.nan
    solve(k - 1, ~decided)
    residual = gram[..., k, k] + 0 * left
    residual = np.where((residual > NO_RESIDUAL * total) & varies(x), residual, residual * 0)
    effect = gram[..., k - 1, k] + 0 * left
    partial = np.where(residual > 0, effect * np.sqrt(share(left, values)), np.nan)
    return _Fit(effect, left, residual, total, count - rank - 1, partial, gram[..., :k, k])


def _linear(data: _Data, confidence: float) -> Comparison:
    _check_design(data)
    once, even = np.ones((1, len(data.x))), replace(data, precision=None)
    first = _fit(even, once, slice(None))
    rest = _fit(replace(even, x=_centred(data.x) - _columns(data) @ first.coefficients[0].T), once, slice(None))  # again, for what little is left
    exact = (rest.residual > ROUNDING * first.total)[0] & varies(data.x)
    residual = np.where(exact, rest.residual[0], 0 * rest.residual[0])
    df = np.where(first.df[0] > 0, first.df[0], np.nan)
    se_even = np.sqrt(share(residual, df) / first.left[0])
    effect, se, df = _weighed(data, (first.effect + rest.effect)[0], se_even, df)
    found = _t_test(effect, se, df, confidence)
    size = share(found["statistic"], np.sqrt(found["statistic"] ** 2 + df))
    step = ndtri((1 + confidence) / 2) * np.sqrt(share(1.0, df - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.tanh(np.arctanh(size) - step), np.tanh(np.arctanh(size) + step)
    return Comparison(LINEAR, **found, size=size, size_low=low, size_high=high, n=data.n, se_even=se_even)


def _check_design(data: _Data) -> None:
    """Refuse covariates that leave nothing of the group."""
    rows = data.basis.any(axis=1) & data.groups.any(axis=0)
    one, columns = data.groups[1][rows].astype(float), data.basis[rows]
    if not rows.any():
        raise InputError(
            expected="subjects with all covariates", found="none", where="covariates", remedy="Leave out the covariate that most subjects lack."
        )
    rest = one - columns @ np.linalg.lstsq(columns, one, rcond=None)[0]
    if rest @ rest <= COLLINEAR * max(one @ one * (1 - one.mean()), 1e-300):
        raise InputError(
            expected="a group that the covariates do not decide", found=f"the covariates of {rows.sum()} subjects give the group of each",
            where="covariates", remedy="Leave out the covariate that stands for the group, such as a site that scanned one group only.",
        )  # fmt: skip


def _linear_draws(data: _Data, weights: FloatArray) -> Draws:
    step = max(1, BLOCK // (len(weights) * (data.basis.shape[1] + 2) ** 2))
    fits = [_fit(data, weights, slice(i, i + step)) for i in range(0, max(data.x.shape[1], 1), step)]
    return np.concatenate([f.effect for f in fits], axis=1), np.concatenate([f.partial for f in fits], axis=1)


def inflation(group: ArrayLike, site: ArrayLike) -> float:
    """How much larger the variance of a difference of groups is when the shift of each site is estimated from the same values.

    Parameters
    ----------
    group : (subject,)
        0 or 1.
    site : (subject,)
        Words; who has none is left out.

    Returns
    -------
    float
        ``1 / (1 - R^2)`` of the group on the sites: 1 where each site has the same share of cases, infinite where sites decide the group.

    Examples
    --------
    >>> inflation([0, 1, 0, 1], ["a", "a", "b", "b"]), round(inflation([0, 0, 1, 0, 1, 1], ["a", "a", "a", "b", "b", "b"]), 3)
    (1.0, 1.125)
    """
    code, place = numbers(group, where="groups"), np.asarray(site, dtype=str)
    same_rows(len(code), len(place), where="sites")
    code, place = code[place != ""], place[place != ""]
    inside = np.array([code[place == w].mean() for w in place])
    total, rest = float(((code - code.mean()) ** 2).sum()), float(((code - inside) ** 2).sum())
    return total / rest if rest > ROUNDING else np.inf


def widen(found: Comparison, variance: float) -> Comparison:
    """Take the errors of a comparison for larger: for values from which something was taken that they had to tell themselves, see `inflation`.

    Parameters
    ----------
    found : Comparison
        Of `WELCH` or `MANN_WHITNEY`; `LINEAR` takes the sites as covariates instead.
    variance : float
        Factor of the variance, 1 or more.

    Notes
    -----
    The statistic of Welch's test is divided by the root of the factor, and so is the normal deviate of a Mann-Whitney p, whose U stays. Intervals
    are stretched about the estimate, on the logit scale for areas under the curve.

    Examples
    --------
    >>> plain = compare(np.array([[1.0], [2.0], [3.0], [3.0], [4.0], [6.0]]), [0, 0, 0, 1, 1, 1])
    >>> wide = widen(plain, 4.0)
    >>> (wide.se / plain.se).tolist(), (wide.statistic / plain.statistic).tolist(), plain.p.round(3).tolist(), wide.p.round(3).tolist()
    ([2.0], [0.5], [0.102], [0.34])
    """
    k = float(np.sqrt(variance))
    if found.method == MANN_WHITNEY:
        low, high = (expit(logit(found.effect) + k * (logit(v) - logit(found.effect))) for v in (found.low, found.high))
        p = np.minimum(2 * ndtr(ndtri(found.p / 2) / k), 1)
        return replace(found, se=k * found.se, se_even=k * found.se_even, low=low, high=high, p=p, size_low=2 * low - 1, size_high=2 * high - 1)
    low, high = (found.effect + k * (v - found.effect) for v in (found.low, found.high))
    size_low, size_high = (found.size + k * (v - found.size) for v in (found.size_low, found.size_high))
    statistic = found.statistic / k
    p = 2 * stdtr(found.df, -np.abs(statistic))
    wide = replace(found, se=k * found.se, se_even=k * found.se_even, low=low, high=high, statistic=statistic, p=p)
    return replace(wide, size_low=size_low, size_high=size_high)


METHODS: Mapping[str, tuple[Callable[[_Data, float], Comparison], Callable[[_Data, FloatArray], Draws], bool]] = {
    WELCH: (_welch, _welch_draws, False),
    MANN_WHITNEY: (_mann_whitney, _mann_whitney_draws, False),
    LINEAR: (_linear, _linear_draws, True),
}
"""Method -> its test, effect and size under draw counts, whether it takes covariates."""

EFFECTS: Mapping[str, tuple[str, str]] = {
    WELCH: ("difference of means", "Hedges' g"),
    MANN_WHITNEY: ("probability of a higher value in group 1", "rank-biserial correlation"),
    LINEAR: ("adjusted difference", "partial correlation"),
}
"""Method -> what its effect and its effect size are."""


def false_discovery(p: ArrayLike, family: ArrayLike | None = None) -> FloatArray:
    """Adjust p-values within each family after Benjamini and Hochberg (1995): reject at q <= 0.05 for a false discovery rate of 0.05.

    Parameters
    ----------
    p : array of any shape
        NaN: not tested; it stays NaN and does not count.
    family : array that broadcasts to p's shape, optional
        Labels; equal labels are one family. Without it all tests are one.

    Returns
    -------
    q : float64, shape of p

    Raises
    ------
    InputError
        A p-value outside 0 to 1.

    Examples
    --------
    >>> false_discovery([0.01, 0.04, np.nan, 0.02], ["a", "a", "a", "b"]).tolist()
    [0.02, 0.04, nan, 0.02]
    """
    found = numbers(p, where="p-values")
    outside = (found < 0) | (found > 1)
    if outside.any():
        raise InputError(expected="p-values from 0 to 1", found=f"{found[outside][0]:g}", where="p-values", remedy="Give p, not a statistic.")
    labels = np.zeros(found.shape, int) if family is None else np.unique(np.broadcast_to(family, found.shape), return_inverse=True)[1]
    labels = labels.reshape(found.shape)
    q = np.full(found.shape, np.nan)
    for label in range(int(labels.max(initial=-1)) + 1):
        tested = (labels == label) & ~np.isnan(found)
        if tested.any():
            q[tested] = false_discovery_control(found[tested])
    return q
