"""How well a marker tells two groups apart: ROC, precision and recall, with intervals and paired tests after DeLong.

A marker is high in group 1; give its negative where low means group 1. Missing values (NaN): each marker, or each pair of markers, is computed from
the subjects that have it, and is NaN where more than a share `max_missing` of either group has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri, stdtr, stdtrit

from cohort_engine.analysis.arrays import (
    MAX_MISSING,
    ROUNDING,
    BoolArray,
    FloatArray,
    IntArray,
    enough,
    numbers,
    percentiles,
    ranks,
    resampling,
    share,
    table,
    tally,
    two_groups,
)

Scale = Literal["logit", "plain"]


@dataclass(frozen=True, eq=False)
class Auc:
    """Areas under ROC curves, each (marker,); `n` is (2, marker): subjects of group 0 and of group 1."""

    auc: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class AucDifference:
    """Paired differences of areas, each (pair,); `n` is (2, pair): subjects that have both markers."""

    first: FloatArray
    second: FloatArray
    difference: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    z: FloatArray
    df: FloatArray
    p: FloatArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class Curve:
    """One marker's ROC, from the highest threshold down: group 1 is called where the value is at or above `threshold`."""

    threshold: FloatArray
    sensitivity: FloatArray
    specificity: FloatArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One marker's precision and recall, from the highest threshold down, and the average precision."""

    threshold: FloatArray
    precision: FloatArray
    recall: FloatArray
    average: float
    n: IntArray


@dataclass(frozen=True, eq=False)
class Threshold:
    """Best thresholds by Youden's index, each (marker,); intervals (2, marker) hold low and high; `n` is (2, marker).

    `optimism` is how much the index gains from being chosen on the subjects it is measured on: ``youden - optimism`` is what new subjects would show.
    """

    threshold: FloatArray
    youden: FloatArray
    sensitivity: FloatArray
    specificity: FloatArray
    optimism: FloatArray
    threshold_interval: FloatArray
    youden_interval: FloatArray
    sensitivity_interval: FloatArray
    specificity_interval: FloatArray
    n: IntArray


def _placements(values: FloatArray, groups: BoolArray) -> tuple[FloatArray, list[FloatArray], IntArray]:
    """Areas (marker,), the placement values of groups 0 and 1 (subject, marker), NaN elsewhere, and the counts (2, marker).

    A placement is the share of the other group on the right side of a subject, ties counting one half; their mean is the area.
    """
    inside = [np.where(g[:, None], values, np.nan) for g in (groups[0], groups[1])]
    everyone, _ = ranks(np.where((groups[0] | groups[1])[:, None], values, np.nan))
    n = tally(values, groups)
    beside = [everyone - ranks(v)[0] for v in inside]  # how many of the other group lie below
    area = share(np.nansum(beside[1], axis=0), n[0] * n[1])
    return area, [1 - share(beside[0], n[1]), share(beside[1], n[0])], n


def _covariance(a: FloatArray, b: FloatArray, n: IntArray) -> FloatArray:
    """Sample covariance down the columns; NaN for fewer than two."""
    centred = [v - share(np.nansum(v, axis=0), n) for v in (a, b)]
    return share(np.nansum(centred[0] * centred[1], axis=0), n - 1)


def auc(values: ArrayLike, group: ArrayLike, *, scale: Scale = "logit", confidence: float = 0.95, max_missing: float = MAX_MISSING) -> Auc:
    """Area under the ROC curve of every marker, with DeLong's standard error and interval.

    Parameters
    ----------
    values : (subject, marker)
        High in group 1. NaN: the subject is left out for that marker.
    group : (subject,)
        0, 1, or NaN for neither.
    scale : {"logit", "plain"}
        Where the interval is symmetric: on the logit of the area (stays within 0 and 1), or on the area (cut at 0 and 1).
    confidence : float
    max_missing : float
        Largest share of either group that may be missing.

    Returns
    -------
    Auc
        Missing: all but `n` are NaN with too many missing; `se` and interval with a group of one, the interval of a
        constant. Placements of groups that do not overlap have no spread and bound nothing: there the interval is that of `score_interval`.

    Raises
    ------
    InputError
        A group has no members, or shapes do not fit.

    Notes
    -----
    ``var = S10 / n1 + S01 / n0``, the sample variances of the placement values (DeLong et al. 1988, doi:10.2307/2531595), from midranks in
    n log n time (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313).

    Examples
    --------
    >>> found = auc(np.array([[1.0], [2.0], [3.0], [2.5], [4.0]]), [0, 0, 0, 1, 1])
    >>> found.auc.round(4).tolist(), found.se.round(4).tolist(), found.n.ravel().tolist()
    ([0.8333], [0.2357], [3, 2])
    """
    x = table(values, where="markers")
    groups = two_groups(group, len(x), where="groups of the markers")
    area, (v0, v1), n = _placements(x, groups)
    area = np.where(enough(groups, n, max_missing), area, np.nan)
    se = np.sqrt(_covariance(v1, v1, n[1]) / n[1].clip(1) + _covariance(v0, v0, n[0]) / n[0].clip(1)) + 0 * area
    z = ndtri((1 + confidence) / 2)
    if scale == "logit":
        step = z * share(se, np.where(se > 0, area * (1 - area), 0.0))
        inner = np.where(np.isnan(step), 0.5, area)
        low, high = expit(logit(inner) - step), expit(logit(inner) + step)
    else:
        step = np.where(se > 0, z * se, np.nan)
        low, high = (area - step).clip(0, 1), (area + step).clip(0, 1)
    flat = np.isin(area, (0, 1)) & (n.min(axis=0) > 1)
    low[flat], high[flat] = score_interval(area[flat], n[:, flat], float(z))
    return Auc(area, se, low, high, n)


def score_interval(area: ArrayLike, n: ArrayLike, z: float) -> tuple[FloatArray, FloatArray]:
    """Interval of an area from its value and the sizes of the groups alone, which exists for an area of one, too.

    Parameters
    ----------
    area : (marker,)
    n : (2, marker)
        Subjects of group 0 and of group 1.
    z : float
        Standard errors to either side: 1.96 for 95 %, more where the marker was chosen among others.

    Returns
    -------
    low, high : (marker,)
        NaN where the area is.

    Notes
    -----
    The areas A from which the observed one is at most z standard errors away, with the variance at A of exponential scores,
    ``A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A)) / (n0 n1)``, ``N = (n0 + n1) / 2 - 1`` (method 5 of Newcombe 2006, doi:10.1002/sim.2324).
    At one half this is the variance of the Mann-Whitney test without ties: the interval excludes 0.5 exactly where that test rejects at z.

    Examples
    --------
    >>> low, high = score_interval([1.0, 0.5], [[10, 10], [10, 10]], 1.96)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.8, 0.274], [1.0, 0.726])
    """
    observed, n = np.asarray(area, float), np.asarray(n, float)
    inner = n.sum(axis=0) / 2 - 1

    def reached(a: FloatArray) -> BoolArray:
        spread = a * (1 - a) * (1 + inner * (1 - a) / (2 - a) + inner * a / (1 + a)) / (n[0] * n[1])
        out: BoolArray = (observed - a) ** 2 <= z**2 * spread
        return out

    ends = []
    for end in (0.0, 1.0):
        outside, inside = np.full_like(observed, end), observed.copy()
        for _ in range(50):
            middle = (outside + inside) / 2
            near = reached(middle)
            inside, outside = np.where(near, middle, inside), np.where(near, outside, middle)
        ends.append(inside + 0 * observed)
    return ends[0], ends[1]


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest of many areas, and what is left of it when the choice is counted.

    Attributes
    ----------
    marker : int
        Its column; -1 where no marker has an area.
    auc, low, high : float
        The area, and the interval that holds the marker's true area although the marker was chosen.
    p : float
        How often the largest area is as clear when the groups are dealt out by chance.
    markers : int
        Markers among which it was chosen.
    n : (2,) int
        Subjects of either group that have the marker.
    """

    marker: int
    auc: float
    low: float
    high: float
    p: float
    markers: int
    n: IntArray


def largest_auc(
    values: ArrayLike, group: ArrayLike, *, permutations: int = 999, seed: int = 1, confidence: float = 0.95, max_missing: float = MAX_MISSING
) -> Largest:
    """Find the marker with the largest area, and judge it as the largest of all.

    Parameters
    ----------
    values : (subject, marker)
        High in group 1: the direction of each marker is known before. NaN: the subject is left out for that marker.
    group : (subject,)
        0, 1, or NaN for neither.
    permutations, seed : int
        The groups are dealt out anew, with all markers of a subject together, so that the likeness of markers is counted.
    confidence, max_missing : float
        As in `auc`.

    Returns
    -------
    Largest

    Notes
    -----
    Areas are compared in standard errors of an area by chance, ``(auc - 0.5) / sqrt((n + 1 - ties) / (12 n0 n1))``. p is ``(1 + permutations
    whose largest reaches the observed) / (1 + permutations)`` (Nichols and Holmes 2002, doi:10.1002/hbm.1058). The interval is `score_interval` with
    the quantile of these largest values as z, or the one of a single marker where that is larger: all areas lie in intervals of this width at once,
    and so does the chosen.

    Examples
    --------
    >>> values = np.random.default_rng(0).normal(size=(40, 100))
    >>> found = largest_auc(values, np.repeat([0, 1], 20))
    >>> round(found.auc, 2), found.p > 0.05, found.low < 0.5, found.markers
    (0.76, True, True, 100)
    """
    x = table(values, where="markers")
    groups = two_groups(group, len(x), where="groups of the markers")
    area = auc(x, group, confidence=confidence, max_missing=max_missing)
    usable = np.flatnonzero(np.isfinite(area.auc))
    if not len(usable):
        return Largest(-1, np.nan, np.nan, np.nan, np.nan, 0, np.zeros(2, np.int64))
    rows = groups.any(axis=0)
    rank, ties = ranks(x[np.ix_(rows, usable)])
    known = np.isfinite(rank)
    count = known.sum(axis=0)
    tied = share(np.nansum(ties**2 - 1, axis=0), count * (count - 1.0))
    one = groups[1, rows].astype(float)
    order = np.random.default_rng(seed).permuted(np.tile(one, (permutations, 1)), axis=1)
    drawn = np.concatenate([one[None], order])
    n1 = drawn @ known
    above = drawn @ np.where(known, rank, 0.0) - n1 * (n1 + 1) / 2 - n1 * (count - n1) / 2
    clear = np.nan_to_num(share(above, np.sqrt((n1 * (count - n1) / 12 * (count + 1 - tied)).clip(0))), nan=0.0).round(9)
    best = int(np.argmax(area.auc[usable]))
    most = np.sort(clear[1:].max(axis=1))[::-1]
    reached = int((most >= clear[0, best]).sum())
    single = float(ndtri((1 + confidence) / 2))
    last = int(np.floor((1 - confidence) * (1 + permutations) + 1e-9))
    z = max(single, float(most[last - 1])) if last else np.inf
    marker = int(usable[best])
    low, high = score_interval(area.auc[[marker]], area.n[:, [marker]], z)
    return Largest(
        marker, float(area.auc[marker]), float(low[0]), float(high[0]), (1 + reached) / (1 + permutations), len(usable), area.n[:, marker]
    )  # fmt: skip


def compare_auc(
    first: ArrayLike, second: ArrayLike, group: ArrayLike, *, confidence: float = 0.95, max_missing: float = MAX_MISSING
) -> AucDifference:
    """DeLong's test of two markers of the same subjects, for many pairs at once.

    Parameters
    ----------
    first, second : (subject, pair), or (subject, 1) to compare one marker with all of the other
        High in group 1. NaN in either: the subject is left out for that pair, of both areas.
    group : (subject,)
        0, 1, or NaN for neither.
    confidence, max_missing : float
        As in `auc`.

    Returns
    -------
    AucDifference
        `difference` is first minus second. Missing: `z`, `p` and interval are NaN where the difference has no spread (a marker with itself), and all
        but `n` with too many missing.

    Raises
    ------
    InputError
        A group has no members, or shapes do not fit.

    Notes
    -----
    ``z = difference / sqrt(var1 + var2 - 2 cov)`` with the sample covariance of the placement values, see `auc`; p is two-sided. That variance is
    a sum of two sample variances, one of each group, so z is held against Student's t with their degrees of freedom (Satterthwaite 1946,
    doi:10.2307/3002019), which comes to the normal distribution in large groups: of ten people each, 1.8 % of differences had p below 0.007 by that
    one, and 0.8 % by t (20,000 studies of two unrelated markers without effect).

    Examples
    --------
    >>> x = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0], [2.5, 4.0], [4.0, 3.0], [5.0, 4.5]])
    >>> found = compare_auc(x[:, :1], x[:, 1:], [0, 0, 0, 1, 1, 1])
    >>> found.difference.round(4).tolist(), found.p.round(4).tolist()
    ([0.2222], [0.4382])
    """
    a, b = (table(v, where="markers") for v in (first, second))
    groups = two_groups(group, len(a), where="groups of the markers")
    both = np.isnan(a + b)
    a, b = (np.where(both, np.nan, v) for v in (a, b))
    (area_a, v_a, n), (area_b, v_b, _) = _placements(a, groups), _placements(b, groups)
    valid = np.where(enough(groups, n, max_missing), 0.0, np.nan)
    difference = area_a - area_b + valid
    moved = [p - q for p, q in zip(v_a, v_b, strict=True)]
    parts = [_covariance(m, m, k) / k.clip(1) for m, k in zip(moved, n, strict=True)]
    variance = sum(parts, valid)
    variance = np.where(variance > ROUNDING, variance, variance * 0)
    se = np.sqrt(variance)
    df = share(variance**2, sum((part**2 / (k - 1).clip(1) for part, k in zip(parts, n, strict=True)), valid))
    z = share(difference, se)
    step = stdtrit(df, (1 + confidence) / 2) * np.where(se > 0, se, np.nan)
    return AucDifference(area_a + valid, area_b + valid, difference, se, difference - step, difference + step, z, df, 2 * stdtr(df, -np.abs(z)), n)


def _one(values: ArrayLike, group: ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Values of one marker from high to low, without missing ones, and whether each is of group 1."""
    x = numbers(values, where="marker").ravel()
    groups = two_groups(group, len(x), where="groups of the marker")
    order = _falling(x, groups)
    two_groups(np.where(groups[1], 1.0, 0.0)[order], len(order), where="groups of the marker's values that are not missing")
    return x[order], groups[1, order]


def _falling(x: FloatArray, groups: BoolArray) -> NDArray[np.intp]:
    """Who has a value and a group, from the highest value down."""
    known = np.flatnonzero(~np.isnan(x) & groups.any(axis=0))
    return known[np.argsort(-x[known], kind="stable")]


def _ends(x: FloatArray) -> NDArray[np.intp]:
    """Last position of each distinct value in order."""
    return np.flatnonzero(np.append(np.diff(x) != 0, True))


def _counts(x: FloatArray, one: BoolArray) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """Last position of each distinct value, and how many of group 1 and group 0 lie at or above it."""
    last = _ends(x)
    return last, np.cumsum(one)[last].astype(float), np.cumsum(~one)[last].astype(float)


def curve(values: ArrayLike, group: ArrayLike) -> Curve:
    """ROC curve of one marker (subject,): sensitivity and specificity at infinity and at each distinct value.

    Raises
    ------
    InputError
        A group has no members with a value.

    Examples
    --------
    >>> c = curve([1.0, 2.0, 3.0, 2.0], [0, 0, 1, 1])
    >>> c.threshold.tolist(), c.sensitivity.tolist(), c.specificity.tolist()
    ([inf, 3.0, 2.0, 1.0], [0.0, 0.5, 1.0, 1.0], [1.0, 1.0, 0.5, 0.0])
    """
    x, one = _one(values, group)
    last, hits, alarms = _counts(x, one)
    n = np.array([(~one).sum(), one.sum()])
    return Curve(np.append(np.inf, x[last]), np.append(0.0, hits / n[1]), np.append(1.0, 1 - alarms / n[0]), n)


def precision_recall(values: ArrayLike, group: ArrayLike) -> PrecisionRecall:
    """Precision and recall of one marker (subject,) at each distinct value, and their average.

    The average precision is the sum of precision times the step in recall, without interpolation. What chance reaches is the share of group 1.

    Raises
    ------
    InputError
        A group has no members with a value.

    Examples
    --------
    >>> found = precision_recall([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> found.precision.round(4).tolist(), found.recall.tolist(), round(found.average, 4)
    ([1.0, 0.5, 0.6667, 0.5], [0.5, 0.5, 1.0, 1.0], 0.8333)
    """
    x, one = _one(values, group)
    last, hits, alarms = _counts(x, one)
    precision, recall = hits / (hits + alarms), hits / one.sum()
    return PrecisionRecall(x[last], precision, recall, float(np.diff(recall, prepend=0.0) @ precision), np.array([(~one).sum(), one.sum()]))


def best_threshold(
    values: ArrayLike, group: ArrayLike, *, resamples: int = 1000, seed: int = 1, confidence: float = 0.95, max_missing: float = MAX_MISSING
) -> Threshold:
    """Threshold with the largest Youden index (sensitivity + specificity - 1) of every marker, and how uncertain it is.

    Parameters
    ----------
    values : (subject, marker)
        High in group 1; NaN: the subject is left out for that marker.
    group : (subject,)
        0, 1, or NaN for neither.
    resamples, seed : int
        Bootstrap within the groups; the threshold is chosen anew in each resample.
    confidence, max_missing : float
        As in `auc`.

    Returns
    -------
    Threshold
        `threshold` lies midway between two values. Of equal indices the highest threshold is taken: the most specific one. Percentile intervals.
        Missing: NaN with too many missing, or where no threshold is better than chance.

    Notes
    -----
    An index at a threshold chosen on the same subjects is too high, and so are sensitivity or specificity and their intervals. `optimism` is the
    index less the mean index of each resample's threshold on the subjects that it did not draw (Efron 1983, doi:10.1080/01621459.1983.10477973). It
    errs a little to the careful side, since a resample holds 63 % of the subjects.

    Examples
    --------
    >>> found = best_threshold(np.array([[1.0], [2.0], [4.0], [3.0], [5.0], [6.0]]), [0, 0, 0, 1, 1, 1], resamples=200)
    >>> found.threshold.tolist(), found.sensitivity.round(3).tolist(), found.specificity.tolist()
    ([4.5], [0.667], [1.0])
    """
    x = table(values, where="markers")
    groups = two_groups(group, len(x), where="groups of the markers")
    n = tally(x, groups)
    drawn = np.concatenate([np.ones((1, len(x))), resampling(groups, resamples, seed)])
    weights = np.ascontiguousarray(drawn.T, dtype=np.float32)  # whole numbers, exact
    out = np.full((5, 3, x.shape[1]), np.nan)
    for marker in np.flatnonzero(enough(groups, n, max_missing)):
        draws = _youden(x[:, marker], groups, weights)
        out[:4, 0, marker] = draws[:4, 0]
        if resamples:
            others = draws[4, 1:][np.isfinite(draws[4, 1:])]
            out[4, 0, marker] = draws[1, 0] - others.mean() if len(others) else np.nan
            out[:, 1:, marker] = np.stack(percentiles(draws[:, 1:].T, confidence), axis=1)
    value, interval = out[:, 0], out[:, 1:]
    return Threshold(value[0], value[1], value[2], value[3], value[4], interval[0], interval[1], interval[2], interval[3], n)


def _youden(x: FloatArray, groups: BoolArray, weights: NDArray[np.float32]) -> FloatArray:
    """Best threshold, its index, sensitivity, specificity, and its index for subjects that were not drawn (5, draw), for weights (subject, draw)."""
    order = _falling(x, groups)
    v, w, one = x[order], weights[order], groups[1, order]
    last = _ends(v)
    hits, alarms = (np.cumsum(w * g[:, None], axis=0)[last] for g in (one, ~one))
    gain = hits * alarms[-1].astype(float) - alarms * hits[-1].astype(float)  # whole numbers, so that ties are ties
    best = np.argmax(gain, axis=0)
    later = np.add.reduceat(w, np.append(0, last[:-1] + 1), axis=0) > 0  # distinct values that were drawn
    later &= np.arange(len(last))[:, None] > best
    following = np.where(later.any(axis=0), later.argmax(axis=0), len(last) - 1)
    at = (best, np.arange(w.shape[1]))
    cut = (v[last][best] + v[last][following]) / 2
    sensitivity, specificity = share(hits[at], hits[-1]), 1 - share(alarms[at], alarms[-1])
    out = w == 0
    above = out & (np.arange(len(v))[:, None] <= last[best])
    others = [share(np.count_nonzero(above[g], axis=0), np.count_nonzero(out[g], axis=0)) for g in (one, ~one)]
    return np.where(gain[at] > 0, np.stack([cut, sensitivity + specificity - 1, sensitivity, specificity, others[0] - others[1]]), np.nan)
