"""The centreline of the cord: from a mask to a smooth curve in scanner millimetres, parametrised by arc length.

A slice of an image is a step along array axis 2, the axis that runs closest to bottom-to-top in RAS+ order. The smoothing is a length
in millimetres, so that a curve does not change with the voxels it was measured in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import CordError, GeometryError
from cohort_engine.template.packing import FloatArray, apply_affine

HAZE = 0.1
"""Values of a soft mask below this are background. A slice holds cord where a voxel reaches `HALF`."""
HALF = 0.5
SPECK = 0.15
"""A body apart from the cord whose largest section is smaller than this share of the cord's median section is a speck."""
ASIDE, SLOPE, AHEAD = 8.0, 0.5, 20.0
"""A body apart from the cord is cord within 8 mm, and half of the distance along it, of where the cord leaves off, going on as in its last 20 mm."""
SMOOTHING = 30.0
"""Wavelength (mm) along the cord that the centreline keeps half of; a wave twice as long keeps 94 %."""
STEP = 0.25
"""Distance (mm) between points of a centreline: the chord error is 0.1 um at 100 mm radius."""
BLOCK = 100
"""Points projected onto a centreline at a time: their distances to all its points fit the cache."""


@dataclass(frozen=True, eq=False)
class Centreline:
    """A curve through the cord.

    Attributes
    ----------
    points : (n, 3) array
        RAS+ mm, from bottom to top.
    arc : (n,) array
        Length along the curve from its first point, mm.
    tangent : (n, 3) array
        Unit direction, upwards.
    error : (n,) array, optional
        Standard error of the position, mm; None where nobody knows it.

    Notes
    -----
    Beyond its ends the curve goes straight on.

    Examples
    --------
    >>> line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]))
    >>> line.length, line.position(2.5).tolist(), line.project(np.array([[7.0, 3.0, 4.0]]))
    (5.0, [0.0, 1.5, 2.0], (array([5.]), array([7.])))
    """

    points: FloatArray
    arc: FloatArray
    tangent: FloatArray
    error: FloatArray | None = None

    @classmethod
    def through(cls, points: FloatArray, error: FloatArray | None = None) -> Centreline:
        """Join points (n, 3), bottom to top; the tangent is the central difference along the arc."""
        points = np.asarray(points, float)
        arc = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
        return cls(points, arc, _unit(np.gradient(points, arc, axis=0)), error)

    @property
    def length(self) -> float:
        """Arc length from end to end, mm."""
        return float(self.arc[-1])

    def position(self, arc: FloatArray | float) -> FloatArray:
        """Position (..., 3), RAS+ mm, at arc length (...), mm; straight on beyond the ends."""
        arc = np.asarray(arc, float)
        beyond = (arc - np.clip(arc, 0.0, self.length))[..., None]
        on: FloatArray = _interpolate(arc, self.arc, self.points) + beyond * np.where(beyond > 0, self.tangent[-1], self.tangent[0])
        return on

    def direction(self, arc: FloatArray | float) -> FloatArray:
        """Return the unit tangent (..., 3) at arc length (...)."""
        return _unit(_interpolate(np.asarray(arc, float), self.arc, self.tangent))

    def standard_error(self, arc: FloatArray | float) -> FloatArray:
        """Return the standard error of the position, mm, at arc length (...); NaN where it is not known, and beyond the ends."""
        if self.error is None:
            return np.full(np.shape(arc), np.nan)
        return np.asarray(np.interp(arc, self.arc, self.error, left=np.nan, right=np.nan))

    def frame(self, arc: FloatArray | float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Axes across and along the cord at arc length (...).

        Returns
        -------
        e_x, e_y, tangent : (..., 3) arrays
            Orthonormal and right-handed: e_x is +x (to the right) made orthogonal to the tangent, e_y points to the front.
        """
        tangent = self.direction(arc)
        e_x = _unit(np.array([1.0, 0.0, 0.0]) - tangent * tangent[..., :1])
        return e_x, np.cross(tangent, e_x), tangent

    def project(self, xyz: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Nearest point of the curve, exact between its points, the ends prolonged.

        Parameters
        ----------
        xyz : (m, 3) array
            RAS+ mm.

        Returns
        -------
        arc, distance : (m,) arrays
            Arc length of the nearest point (negative or above `length` beyond the ends), and distance to it, mm.
        """
        xyz = np.atleast_2d(np.asarray(xyz, float))
        power = (self.points**2).sum(axis=1)
        blocks = np.array_split(xyz, 1 + len(xyz) // BLOCK)
        nearest = np.concatenate([np.argmin(power - 2 * b @ self.points.T, axis=1) for b in blocks])
        best_arc, best = np.zeros(len(xyz)), np.full(len(xyz), np.inf)
        last = len(self.points) - 2
        for segment in (np.clip(nearest - 1, 0, last), np.clip(nearest, 0, last)):
            start, along = self.points[segment], self.points[segment + 1] - self.points[segment]
            size = np.linalg.norm(along, axis=1)
            s = ((xyz - start) * along).sum(axis=1) / size
            s = np.clip(s, np.where(segment == 0, -np.inf, 0.0), np.where(segment == last, np.inf, size))
            distance = np.linalg.norm(start + along * (s / size)[:, None] - xyz, axis=1)
            nearer = distance < best
            best_arc, best = np.where(nearer, self.arc[segment] + s, best_arc), np.where(nearer, distance, best)
        return best_arc, best


def cord_slices(mask: NDArray[Any], *, what: str, affine: FloatArray | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the cord of a mask: one piece a slice. Slices between may be empty.

    Parameters
    ----------
    mask : (x, y, z) array
        0 to 1, soft or binary. NaN and values below `HAZE` are background.
    what : str
        Words of the mask's role, for messages.
    affine : (4, 4) array, optional
        Voxel centres to RAS+ mm: how far apart things are. By default voxels of 1 mm.

    Returns
    -------
    cord : (x, y, z) float32 array
        The mask, and 0 outside the kept pieces (8-connected in the plane). The largest body (26-connected) is cord. Another one is, too, unless it
        is a speck (`SPECK`) or lies aside from the line through what is kept (`ASIDE`, `SLOPE`). Where a slice then holds several pieces, that of
        the larger body stays; of one body, the one with the larger sum.
    slices : (n,) int array
        Indices on axis 2 of the slices that hold cord (a voxel of at least 0.5), ascending.

    Raises
    ------
    CordError
        Not 3-D, values outside 0 to 1, empty, or fewer than two slices.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 8))
    >>> mask[2:6, 2:6, [0, 1, 2, 5, 6]] = 1  # slices 3 and 4 are empty
    >>> mask[8, 8, [1, 7]] = 1  # specks
    >>> cord, slices = cord_slices(mask, what="cord mask")
    >>> cord.sum(axis=(0, 1)).tolist(), slices.tolist()
    ([16.0, 16.0, 16.0, 0.0, 0.0, 16.0, 16.0, 0.0], [0, 1, 2, 5, 6])
    """
    if mask.ndim != 3:
        raise CordError(expected="a 3-D mask", found=f"shape {mask.shape}", where=what, remedy="Give one volume.")
    cord = np.nan_to_num(np.asarray(mask, np.float32), nan=0.0)
    low, high = (float(cord.min()), float(cord.max())) if cord.size else (0.0, 0.0)
    if high > 1.001 or low < -0.001:
        raise CordError(
            expected="values from 0 to 1",
            found=f"{low:g} to {high:g}",
            where=what,
            remedy="Give the cord alone, 1 inside and 0 outside (or the fraction).",
        )
    if not (cord >= HALF).any():
        raise CordError(
            expected="a cord of at least two slices",
            found="an empty mask",
            where=what,
            remedy="Segment the cord, or exclude the image from the study.",
        )
    haze = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(cord >= HAZE))
    within = cord[haze]
    within[within < HAZE] = 0.0
    kept = _cord_pieces(within.transpose(2, 0, 1), np.eye(4) if affine is None else np.asarray(affine, float))
    out = np.zeros_like(cord)
    out[haze] = np.where(kept.transpose(1, 2, 0), within, 0.0)
    present = (out >= HALF).any(axis=(0, 1))
    slices = np.flatnonzero(present)
    out[:, :, ~present] = 0.0
    if len(slices) < 2:
        raise CordError(
            expected="a cord of at least two slices",
            found=f"slice {slices[0]} only",
            where=what,
            remedy="A direction along the cord cannot be told from one slice.",
        )
    return out, slices


def _cord_pieces(weight: NDArray[np.float32], affine: FloatArray) -> NDArray[np.bool_]:
    """Voxels (slice, x, y) of the pieces that `cord_slices` keeps."""
    piece, count = number_pieces(weight > 0)
    held = np.nonzero(piece)
    of = piece[held] - 1
    home, body = np.zeros(count, np.int64), np.zeros(count, np.int64)
    home[of] = held[0]
    if count == 1:
        return piece > 0
    body[of] = number_pieces(weight > 0, across=True)[0][held] - 1

    def total(values: NDArray[Any]) -> FloatArray:
        return np.bincount(of, values, count).astype(float)

    size = total(weight[held])
    solid = total(weight[held] >= HALF) > 0
    step = np.linalg.norm(affine[:3, :3], axis=0)
    centre = np.stack([total(weight[held] * held[1 + a]) / size * step[a] for a in (0, 1)], axis=1)
    volume = np.bincount(body, np.where(solid, size, 0.0), count)
    bodies = np.argsort(-volume, kind="stable")
    bodies = bodies[volume[bodies] > 0]
    chosen = np.zeros(weight.shape[0], np.int64) - 1  # the piece of each slice

    def offer(number: int) -> NDArray[np.int64]:
        """Largest piece of a body in each slice that has none yet."""
        own = np.flatnonzero((body == number) & solid & (chosen[home] < 0))
        own = own[np.lexsort((-size[own], home[own]))]
        first: NDArray[np.int64] = own[np.unique(home[own], return_index=True)[1]]
        return first

    for rank, number in enumerate(bodies):
        own = offer(int(number))
        if rank == 0:
            speck = SPECK * float(np.median(size[own]))
        elif not len(own) or size[own].max() < speck or not _aligned(centre[own], home[own], centre[chosen], np.flatnonzero(chosen >= 0), step[2]):
            continue
        chosen[home[own]] = own
    return np.asarray((piece == (chosen + 1)[:, None, None]) & (piece > 0))


def _aligned(centre: FloatArray, at: NDArray[np.int64], line: FloatArray, slices: NDArray[np.int64], step: float) -> bool:
    """Whether a body goes on where a line of centres (slice, 2), mm, known in some slices, leaves off: judged where it comes nearest to them."""
    distance = np.abs(at[:, None] - slices).min(axis=1)
    k = int(distance.argmin())
    below, above = slices[slices < at[k]], slices[slices > at[k]]
    if len(below) and len(above):
        share = (at[k] - below[-1]) / (above[0] - below[-1])
        there = line[below[-1]] * (1 - share) + line[above[0]] * share
    else:
        end = below[below >= below[-1] - AHEAD / step] if len(below) else above[above <= above[0] + AHEAD / step]
        design = np.stack([np.ones(len(end)), end - at[k]], axis=1)
        there = np.linalg.lstsq(design, line[end], rcond=None)[0][0] if len(end) > 2 else line[end].mean(axis=0)
    return bool(np.linalg.norm(centre[k] - there) <= ASIDE + SLOPE * step * distance[k])


def number_pieces(inside: NDArray[np.bool_], *, across: bool = False) -> tuple[NDArray[np.int32], int]:
    """Label the pieces of each slice, 8-connected in its plane, by numbers.

    Parameters
    ----------
    inside : (slice, x, y) bool array
    across : bool
        Pieces go on from slice to slice (26-connected).

    Returns
    -------
    piece : (slice, x, y) int32 array
        0 outside, and from 1 in the order of the first voxel of each piece. Unless `across`, no piece has two slices.
    count : int

    Examples
    --------
    >>> number_pieces(np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]], bool))[0].tolist()
    [[[1, 0, 0], [0, 1, 0], [0, 0, 0], [2, 2, 0]]]
    """
    padded = np.pad(inside, ((0, int(across)), (0, 1), (0, 1)))  # so that the neighbours of a border voxel are outside
    flat, row, plane = padded.ravel(), padded.shape[2], padded.shape[1] * padded.shape[2]
    steps = [1, row - 1, row, row + 1, *(plane + i * row + j for i in (-1, 0, 1) for j in (-1, 0, 1) if across)]
    at = np.flatnonzero(flat)
    number = np.zeros(flat.size, np.int32)
    number[at] = np.arange(len(at))
    pairs = [np.stack([at, at + step])[:, flat[at + step]] for step in steps]
    here, there = number[np.concatenate(pairs, axis=1)]
    root = np.arange(len(at))  # a voxel points to an earlier one of its piece, the first one to itself
    while (apart := root[here] != root[there]).any():
        a, b = root[here[apart]], root[there[apart]]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while ((further := root[root]) != root).any():
            root = further
    first, name = np.unique(root, return_inverse=True)
    piece = np.zeros(padded.shape, np.int32)
    piece.ravel()[at] = name + 1
    return piece[: len(inside), :-1, :-1], len(first)


def runs(numbers: NDArray[np.int64]) -> str:
    """Write sorted integers as runs.

    Examples
    --------
    >>> runs(np.array([3, 4, 5, 9]))
    '3-5, 9'
    """
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def centreline_from_mask(mask: NDArray[Any], affine: FloatArray, *, what: str, smoothing: float = SMOOTHING) -> Centreline:
    """Fit a smooth centreline through the slice centres of a cord mask.

    Parameters
    ----------
    mask : (x, y, z) array
        0 to 1, soft or binary; see `cord_slices` for which voxels count. The centre of a slice is the mean position weighted by the mask.
    affine : (4, 4) array
        Voxel centres to RAS+ mm; may be oblique.
    what : str
        Words of the mask's role, for messages.
    smoothing : float
        Wavelength in mm that the curve keeps half of.

    Returns
    -------
    Centreline
        From half a slice below the lowest centre to half a slice above the highest.

    Raises
    ------
    CordError
        See `cord_slices`.

    Notes
    -----
    Each coordinate f(u), u the distance across the slices in mm, minimises

        h * sum (p_i - f(u_i))^2 + lambda * integral f''^2 du,    lambda = (smoothing / 2 pi)^4,

    h the distance between slices. As h * sum approaches the integral, a wave of length L keeps 1 / (1 + (smoothing / L)^4) of its height
    whatever the voxels. Solved exactly (Reinsch), for any number of slices from two. Through empty slices the curve takes the least bend; its
    standard error is that of the spline as a posterior mean (`spline_error`).

    References
    ----------
    Green PJ, Silverman BW. Nonparametric Regression and Generalized Linear Models. Chapman & Hall 1994, sections 2.3 and 3.8.

    Examples
    --------
    >>> line = centreline_from_mask(np.ones((3, 3, 4)), np.diag([1.0, 1.0, 5.0, 1.0]), what="cord mask")
    >>> line.length, line.position(0.0).tolist()
    (20.0, [1.0, 1.0, -2.5])
    """
    affine = np.asarray(affine, float)
    cord, slices = cord_slices(mask, what=what, affine=affine)
    return _curve(slice_centres(cord, slices), affine, smoothing)


def slice_centres(cord: FloatArray, slices: NDArray[np.int64]) -> FloatArray:
    """Weighted centre (n, 3) of each slice, in voxels."""
    weights = np.asarray(cord, float)[:, :, slices]
    total = weights.sum(axis=(0, 1))
    x, y = (np.tensordot(np.arange(n), weights.sum(axis=other), (0, 0)) / total for n, other in ((weights.shape[0], 1), (weights.shape[1], 0)))
    return np.stack([x, y, slices.astype(float)], axis=1)


def slice_arc(centreline: Centreline, affine: FloatArray, at: FloatArray | NDArray[np.integer[Any]]) -> FloatArray:
    """Arc length at which the centreline crosses the planes of slices.

    Parameters
    ----------
    centreline : Centreline
    affine : (4, 4) array
        Voxel centres to RAS+ mm.
    at : (...) array
        Slice numbers on axis 2; may be fractional or beyond the ends, where the centreline goes straight on.

    Returns
    -------
    (...) array
        Arc length, mm.

    Raises
    ------
    GeometryError
        When the centreline does not climb through the slices.

    Examples
    --------
    >>> line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 30.0, 40.0]]))
    >>> slice_arc(line, np.diag([1.0, 1.0, 4.0, 1.0]), np.array([0, 1, 20])).tolist()
    [0.0, 5.0, 100.0]
    """
    to_voxel = np.linalg.inv(affine)
    k = apply_affine(to_voxel, centreline.points)[:, 2]
    if not (np.diff(k) > 0).all():
        raise GeometryError(
            expected="a centreline that crosses each slice once, upwards", found="one that turns back between slices", where="cord mask",
            remedy="Give the image in RAS+ order with slices across the cord.",
        )  # fmt: skip
    at = np.asarray(at, float)
    beyond = at - np.clip(at, k[0], k[-1])
    climb = (to_voxel[:3, :3] @ centreline.tangent[[0, -1]].T)[2]
    return np.asarray(np.interp(at, k, centreline.arc) + beyond / np.where(beyond < 0, climb[0], climb[1]))


def _curve(centres: FloatArray, affine: FloatArray, smoothing: float) -> Centreline:
    points = apply_affine(affine, centres)
    across = np.cross(affine[:3, 0], affine[:3, 1])
    spacing = abs(float(across @ affine[:3, 2])) / float(np.linalg.norm(across))
    u = (centres[:, 2] - centres[0, 2]) * spacing
    values, bend = smooth(u, points, spacing, smoothing)
    h = np.diff(u)
    fine = np.linspace(0.0, u[-1], max(2, int(np.ceil(u[-1] / STEP)) + 1))
    below = np.clip(np.searchsorted(u, fine, side="right") - 1, 0, len(h) - 1)
    t = ((fine - u[below]) / h[below])[:, None]
    cubic = (((1 - t) ** 3 - (1 - t)) * bend[below] + (t**3 - t) * bend[below + 1]) * h[below, None] ** 2 / 6
    inner = (1 - t) * values[below] + t * values[below + 1] + cubic
    ends = (np.diff(values, axis=0) / h[:, None])[[0, -1]] + np.array([[-1.0], [1.0]]) * bend[[1, -2]] * h[[0, -1], None] / 6
    half = np.linspace(0.0, 0.5 * spacing, int(np.ceil(0.5 * spacing / STEP)) + 1)[1:, None]
    curve = np.concatenate([inner[0] - half[::-1] * ends[0], inner, inner[-1] + half * ends[1]])
    at, error = spline_error(u, points - values, spacing, smoothing)
    return Centreline.through(curve, np.asarray(np.interp(np.r_[-half[::-1, 0], fine, u[-1] + half[:, 0]], at, error)))


def smooth(u: FloatArray, values: FloatArray, spacing: float, wavelength: float = SMOOTHING) -> tuple[FloatArray, FloatArray]:
    """Natural cubic smoothing spline at its knots; see `centreline_from_mask` for the penalty.

    Parameters
    ----------
    u : (n,) array
        Knots, mm, increasing; may have gaps.
    values : (n, m) array
        Finite, any unit.
    spacing : float
        Distance between slices, mm.
    wavelength : float
        That keeps half of its height, mm.

    Returns
    -------
    smooth, bend : (n, m) arrays
        Values, and second derivatives by u. Fewer than three values stay as they are.

    Notes
    -----
    ``scipy.interpolate.make_smoothing_spline`` is the same spline, of one column and of at least five knots.

    Examples
    --------
    >>> u = np.array([0.0, 5.0, 10.0, 20.0])
    >>> straight, bend = smooth(u, np.stack([2 * u, u * 0 + 1], axis=1), 5.0)
    >>> straight.round(9).tolist(), bool(abs(bend).max() < 1e-12)
    ([[0.0, 1.0], [10.0, 1.0], [20.0, 1.0], [40.0, 1.0]], True)
    """
    n = len(u)
    bend = np.zeros(values.shape)
    if n < 3:
        return values, bend
    penalty = (max(wavelength, 0.0) / (2 * np.pi)) ** 4 / spacing
    h = np.diff(u)
    q = np.diff(np.diff(np.eye(n), axis=0) / h[:, None], axis=0)  # (n - 2, n): second differences
    r = np.diag((h[:-1] + h[1:]) / 3) + np.diag(h[1:-1] / 6, 1) + np.diag(h[1:-1] / 6, -1)
    bend[1:-1] = np.linalg.solve(r + penalty * q @ q.T, q @ values)
    return values - penalty * q.T @ bend[1:-1], bend


def spline_error(u: FloatArray, residual: FloatArray, spacing: float, wavelength: float = SMOOTHING) -> tuple[FloatArray, FloatArray]:
    """Give the standard error of a smoothing spline at its knots and at the slices between them that have none.

    Parameters
    ----------
    u : (n,) array
        Knots, mm, increasing: multiples of `spacing` from the first, with gaps.
    residual : (n, m) array
        Values minus `smooth`.
    spacing, wavelength : float
        As of `smooth`.

    Returns
    -------
    at, error : (slices,) arrays
        Every multiple of the spacing from the first knot to the last, and the error there: the root of the sum over columns. NaN with fewer than
        five knots.

    Notes
    -----
    The spline is the posterior mean of a line with a random bend: with W the knots among the slices and lambda K the penalty, the covariance is
    s^2 (W + lambda K)^-1, s^2 the residual variance over its degrees of freedom. Neighbouring slices err alike: s^2 is multiplied by
    (1 + r) / (1 - r), r the correlation of neighbours' residuals (0 to 0.8). On four real masks with 3 to 40 mm taken out, the curve moved there by
    0.3 to 2.5 times this error (root mean square; ``tests/real/test_gaps.py``).

    References
    ----------
    Wahba G. Bayesian "confidence intervals" for the cross-validated smoothing spline. J R Stat Soc B 1983;45:133-150.

    Examples
    --------
    >>> u = np.array([0.0, 1, 2, 3, 4, 5, 15, 16, 17, 18, 19, 20])
    >>> at, error = spline_error(u, np.resize([0.1, -0.1], (12, 1)), 1.0)
    >>> len(at), bool(error[10] > 1.1 * error[5]), bool(error[10] > error[8] > error[6])
    (21, True, True)
    """
    knot = np.rint((u - u[0]) / spacing).astype(int)
    n = int(knot[-1]) + 1
    at = u[0] + spacing * np.arange(n)
    if len(u) < 5:
        return at, np.full(n, np.nan)
    penalty = (max(wavelength, 0.0) / (2 * np.pi)) ** 4 / spacing
    q = np.diff(np.eye(n), 2, axis=0) / spacing
    r = spacing * (np.diag(np.full(n - 2, 2 / 3)) + np.diag(np.full(n - 3, 1 / 6), 1) + np.diag(np.full(n - 3, 1 / 6), -1))
    held = np.zeros(n)
    held[knot] = 1.0
    spread = np.diag(np.linalg.inv(np.diag(held) + penalty * q.T @ np.linalg.solve(r, q)))
    square = float((residual**2).sum())
    side = np.diff(knot) == 1
    alike = float((residual[1:] * residual[:-1])[side].sum() / max(square * side.mean(), np.finfo(float).tiny))
    alike = min(max(alike, 0.0), 0.8)
    freedom = max(len(u) - float(spread[knot].sum()), 1.0)
    return at, np.sqrt(np.maximum(spread, 0.0) * square / freedom * (1 + alike) / (1 - alike))


def _interpolate(at: FloatArray, knots: FloatArray, values: FloatArray) -> FloatArray:
    """Linear interpolation of (n, 3) values, constant beyond the ends."""
    return np.stack([np.interp(at, knots, values[:, k]) for k in range(3)], axis=-1)


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
