"""The centreline as one optimal curve through a heat map: all slices decide together, so that an empty or noisy slice cannot lead it astray.

The path p minimises, over all slices at once,

    sum_k -log(heat_k(p_k) + floor) + stiffness * sum_k |p_k - p_(k-1)|^2 / gap_k,

exactly, by dynamic programming with a quadratic distance transform a slice (min-plus, one axis after the other). What is left of the pixel
grid goes by the local mean of the heat and a smoothing spline weighted with the confidence of each slice.

References
----------
Gros C, De Leener B et al. Automatic spinal cord localization, robust to MRI contrasts using global curve optimization.
Medical Image Analysis 2018;44:215-227. doi:10.1016/j.media.2017.12.001 (the idea of one curve for all slices).
Felzenszwalb PF, Huttenlocher DP. Distance transforms of sampled functions. Theory of Computing 2012;8:415-428. doi:10.4086/toc.2012.v008a019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.template.packing import FloatArray

STIFFNESS = 0.35
"""Cost of a step of d mm across a gap of g mm is this times d^2 / g."""
FLOOR = 1e-3
"""Heat that a slice without any counts as."""
STEEPEST = 1.2
"""A step is at most this times the gap, and `SLACK` pixels."""
SLACK = 2
REACH = 6.0
"""The local mean of the heat is taken within this distance of the path, mm."""
WAVE = 30.0
"""Wavelength along the cord that the spline keeps half of where the heat is certain, mm."""
LEAST = 1e-3
"""Weight of a slice without heat."""
NEUTRAL = 0.1
"""Heat that speaks neither for a cord nor against it."""
SAYS = 10.0
"""A slice's heat makes a cord at most this many times as likely, or as unlikely: spots of heat occur without a cord, and cords without."""
DRAWN, UNDRAWN = 2.5, 4.5
"""So many times as likely makes a slice a cord that is drawn on the curve, and as unlikely if nothing is."""
PERSISTS = 100.0
"""A cord goes on for this long on average, mm."""
ALIKE = 15.0
"""Slices nearer than this do not judge independently of one another, mm."""
FEWEST = 5
"""Slices that a spline needs."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve through a stack of slices.

    Attributes
    ----------
    z : (n,) array
        Height of the slices, mm, increasing.
    x, y : (n,) array
        Position in the plane, mm from the centre of the first pixel.
    confidence : (n,) array
        Heat on the path, 0 to 1: how certain this slice is by itself.

    Examples
    --------
    >>> curve = Curve(np.array([0.0, 10.0]), np.array([1.0, 2.0]), np.array([5.0, 5.0]), np.array([1.0, 0.5]))
    >>> [v.tolist() for v in curve.at(np.array([5.0, 12.0]))]
    [[1.5, 2.0], [5.0, 5.0], [0.75, 0.5]]
    """

    z: FloatArray
    x: FloatArray
    y: FloatArray
    confidence: FloatArray

    def at(self, z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Interpolate x, y and confidence at heights `z` (mm); constant beyond the ends."""
        x, y, confidence = (np.interp(z, self.z, v) for v in (self.x, self.y, self.confidence))
        return x, y, confidence


def optimal_curve(heat: NDArray[Any], spacing: float, z: FloatArray, *, stiffness: float = STIFFNESS, wave: float = WAVE) -> Curve:
    """Find the smooth curve that passes through the most heat.

    Parameters
    ----------
    heat : (n, y, x) array
        0 to 1, one map a slice: how likely the cord's centre lies here. NaN counts as 0.
    spacing : float
        Pixel size, mm.
    z : (n,) array
        Height of the slices, mm, increasing.
    stiffness, wave : float
        See above; `wave` in mm.

    Returns
    -------
    Curve

    Examples
    --------
    A slice that shows something far away does not bend the curve.

    >>> heat = np.full((5, 9, 9), 0.01)
    >>> heat[:, 4, 4] = 0.9
    >>> heat[2] = 0.01
    >>> heat[2, 0, 0] = 0.9
    >>> curve = optimal_curve(heat, 2.0, np.arange(5) * 2.0)
    >>> curve.x.round(1).tolist(), curve.confidence.round(2).tolist()
    ([8.0, 8.0, 8.0, 8.0, 8.0], [0.9, 0.9, 0.01, 0.9, 0.9])
    """
    heat = np.nan_to_num(np.asarray(heat, np.float32), nan=0.0).clip(0.0, 1.0)
    z = np.asarray(z, float)
    path = optimal_path(-np.log(heat + FLOOR), spacing, np.diff(z), stiffness=stiffness)
    confidence, centre = np.zeros(len(z)), path * spacing
    reach = round(REACH / spacing)
    for k, (j, i) in enumerate(path):
        rows, columns = (np.arange(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip((j, i), heat.shape[1:], strict=True))
        near = heat[k][np.ix_(rows, columns)].astype(float)
        near = near * ((rows[:, None] - j) ** 2 + (columns - i) ** 2 <= reach**2)
        confidence[k] = near.max()
        sharp = np.where(near > 0.3 * confidence[k], near, 0.0)
        if confidence[k] > 10 * FLOOR:
            centre[k] = np.array([(sharp.sum(1) * rows).sum(), (sharp.sum(0) * columns).sum()]) / sharp.sum() * spacing
    smooth = _smoothed(z, centre, confidence, wave)
    return Curve(z, smooth[:, 1], smooth[:, 0], confidence)


def refined_curve(curve: Curve, slices: NDArray[np.int64], x: FloatArray, y: FloatArray, *, wave: float = WAVE) -> Curve:
    """Draw a curve again through centres that are better known, and straight on beyond them.

    Parameters
    ----------
    curve : Curve
    slices : (n,) array
        Slices whose centre is known, increasing. With fewer than five the curve stays as it is.
    x, y : (n,) arrays
        Centres, mm.
    wave : float
        As in `optimal_curve`, mm.

    Examples
    --------
    >>> z = np.arange(8.0)
    >>> curve = Curve(z, np.zeros(8), np.array([0, 0, 0, 0, 0, 0, 5.0, 9.0]), np.ones(8))
    >>> better = refined_curve(curve, np.arange(6), np.arange(6.0), np.zeros(6))
    >>> better.x.round(3).tolist(), bool(abs(better.y).max() < 1e-9)
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], True)
    """
    if len(slices) < FEWEST:
        return curve
    from scipy.interpolate import make_smoothing_spline

    at = curve.z[slices]
    across, forwards = (make_smoothing_spline(at, c, lam=_penalty(at, wave))(curve.z) for c in (x, y))
    return Curve(curve.z, across, forwards, curve.confidence)


def presence(heat: NDArray[Any], gaps: FloatArray, drawn: NDArray[np.bool_] | None = None) -> FloatArray:
    """Probability that a cord is on the curve in each slice, given what all of them show.

    A slice speaks for a cord by the odds of its heat over those of `NEUTRAL`, but by no more than `SAYS`, and against it by no more. Either there is
    a cord along the curve, which begins and ends every `PERSISTS` mm on average, or there is none, beforehand as many times as likely as there are
    independent slices in which something else could look like one. The forward-backward algorithm adds up all possibilities. So little heat in
    many slices along one smooth curve is as good as much in a few, and none in a slice between others that are sure does not part them.

    Parameters
    ----------
    heat : (n,) array
        On the curve, 0 to 1. NaN: the slice says nothing.
    gaps : (n - 1,) array
        Between neighbouring slices, mm.
    drawn : (n,) bool array, optional
        Slices in which a cross-section was drawn on the curve: that speaks, too.

    Returns
    -------
    (n,) array

    Examples
    --------
    >>> presence(np.array([0.35] * 6), np.full(5, 5.0)).round(2).tolist(), presence(np.array([0.35]), np.empty(0)).round(2).tolist()
    ([0.73, 0.74, 0.75, 0.75, 0.74, 0.73], [0.62])
    >>> heat, gaps = np.array([0.9, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0]), np.full(9, 5.0)
    >>> presence(heat, gaps, heat > 0).round(1).tolist()
    [0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.5, 0.2, 0.1, 0.1]
    >>> float(presence(np.full(9, 0.002), np.full(8, 5.0)).max().round(2))
    0.0
    """
    heat, gaps = np.clip(heat, FLOOR, 1 - FLOOR), np.asarray(gaps, float)
    n, spans = len(heat), (np.r_[gaps[:1], gaps] + np.r_[gaps, gaps[-1:]]) / 2 if len(gaps) else np.array([ALIKE])
    says = np.where(np.isnan(heat), 0.0, np.clip(_logit(heat) - _logit(NEUTRAL), -np.log(SAYS), np.log(SAYS)))
    if drawn is not None:
        says += np.where(np.isnan(heat), 0.0, np.where(drawn, np.log(DRAWN), -np.log(UNDRAWN)))
    factor = np.exp(says * np.minimum(1.0, spans / ALIKE))
    stay = np.exp(-gaps / PERSISTS)
    ahead, behind, scale = np.empty((n, 2)), np.ones((n, 2)), -float(np.log1p(gaps.sum() / ALIKE))
    for k in range(n):  # absent, present
        before = np.array([0.5, 0.5]) if k == 0 else ahead[k - 1] * stay[k - 1] + ahead[k - 1][::-1] * (1 - stay[k - 1])
        ahead[k] = before * [1.0, factor[k]]
        scale += np.log(ahead[k].sum())
        ahead[k] /= ahead[k].sum()
    for k in range(n - 2, -1, -1):
        after = behind[k + 1] * [1.0, factor[k + 1]]
        behind[k] = after * stay[k] + after[::-1] * (1 - stay[k])
        behind[k] /= behind[k].sum()
    both = ahead * behind
    out: FloatArray = both[:, 1] / both.sum(axis=1) / (1 + np.exp(np.clip(-scale, -700, 700)))
    return out


def _logit(p: Any) -> Any:
    return np.log(p / (1 - p))


def optimal_path(cost: NDArray[Any], spacing: float, gaps: FloatArray, *, stiffness: float = STIFFNESS) -> NDArray[np.int64]:
    """Pixels (n, 2), as (row, column), of the path of least cost through slices (n, y, x); `gaps` (n - 1,) and `spacing` in mm.

    Examples
    --------
    >>> cost = np.ones((3, 1, 5))
    >>> cost[0, 0, 1] = cost[2, 0, 1] = cost[1, 0, 4] = 0
    >>> optimal_path(cost, 1.0, np.array([1.0, 1.0]))[:, 1].tolist()
    [1, 1, 1]
    """
    total = np.asarray(cost[0], np.float32)
    back: list[tuple[NDArray[np.int16], NDArray[np.int16]]] = []
    for here, gap in zip(cost[1:], gaps, strict=True):
        reach = int(np.ceil(STEEPEST * gap / spacing)) + SLACK
        penalty = stiffness * (np.arange(-reach, reach + 1) * spacing) ** 2 / max(gap, 0.5)
        total, rows = _least(total, 0, penalty.astype(np.float32))
        total, columns = _least(total, 1, penalty.astype(np.float32))
        back.append((rows, columns))
        total = total + here
    j, i = (int(v) for v in np.unravel_index(int(total.argmin()), total.shape))
    path = [(j, i)]
    for rows, columns in reversed(back):
        i += int(columns[j, i])
        j += int(rows[j, i])
        path.append((j, i))
    return np.array(path[::-1])


def _least(cost: NDArray[np.float32], axis: int, penalty: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Least of neighbour's cost plus penalty along one axis, and the step to that neighbour."""
    n, reach = cost.shape[axis], len(penalty) // 2
    best, step = np.full(cost.shape, np.inf, np.float32), np.zeros(cost.shape, np.int16)
    for d in range(max(-reach, 1 - n), min(reach, n - 1) + 1):
        to, of = slice(max(0, -d), n - max(0, d)), slice(max(0, d), n - max(0, -d))
        at, source = ((to, slice(None)), (of, slice(None))) if axis == 0 else ((slice(None), to), (slice(None), of))
        found = cost[source] + penalty[d + reach]
        better = found < best[at]
        best[at] = np.where(better, found, best[at])
        step[at] = np.where(better, np.int16(d), step[at])
    return best, step


def _smoothed(z: FloatArray, centre: FloatArray, confidence: FloatArray, wave: float) -> FloatArray:
    """Weighted smoothing spline through the centres (n, 2) at heights `z`; a line through fewer than five."""
    weight = np.clip(confidence, LEAST, 1.0) ** 2
    if len(z) < FEWEST:
        degree = min(1, len(z) - 1)
        fit = np.polynomial.polynomial.polyfit(z - z[0], centre, degree, w=np.sqrt(weight)) if len(z) > 2 else None
        return centre if fit is None else np.polynomial.polynomial.polyval(z - z[0], fit).T
    from scipy.interpolate import make_smoothing_spline

    return np.stack([make_smoothing_spline(z, c, w=weight, lam=_penalty(z, wave))(z) for c in centre.T], axis=1)


def _penalty(z: FloatArray, wave: float) -> float:
    """Weight of the curvature that halves waves of this length."""
    return float((wave / (2 * np.pi)) ** 4 / np.median(np.diff(z)))
