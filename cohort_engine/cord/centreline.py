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

    @classmethod
    def through(cls, points: FloatArray) -> Centreline:
        """Join points (n, 3), bottom to top; the tangent is the central difference along the arc."""
        points = np.asarray(points, float)
        arc = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
        return cls(points, arc, _unit(np.gradient(points, arc, axis=0)))

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


def cord_slices(mask: NDArray[Any], *, what: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the cord of a mask: one piece a slice, on an unbroken run of slices.

    Parameters
    ----------
    mask : (x, y, z) array
        0 to 1, soft or binary. NaN and values below `HAZE` are background.
    what : str
        Words of the mask's role, for messages.

    Returns
    -------
    cord : (x, y, z) float32 array
        The mask, and 0 outside the kept pieces. Where a slice holds several pieces (8-connected in the plane), the one with the largest sum stays.
    slices : (n,) int array
        Indices on axis 2 of the slices that hold cord (a voxel of at least 0.5), consecutive.

    Raises
    ------
    CordError
        Not 3-D, values outside 0 to 1, empty, fewer than two slices, or slices missing in between (they are named).

    Examples
    --------
    >>> mask = np.array([[1.0, 1.0], [0.0, 0.0], [0.6, 0.0]])[:, None]
    >>> cord, slices = cord_slices(mask, what="cord mask")
    >>> cord[:, 0, 0].tolist(), slices.tolist()
    ([1.0, 0.0, 0.0], [0, 1])
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
    box = tuple(slice(int(i.min()), int(i.max()) + 1) if i.size else slice(0, 0) for i in np.nonzero(cord >= HALF))
    if cord[box].size == 0:
        raise CordError(
            expected="a cord of at least two slices",
            found="an empty mask",
            where=what,
            remedy="Segment the cord, or exclude the image from the study.",
        )
    haze = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(cord >= HAZE))
    within = cord[haze]
    within[within < HAZE] = 0.0
    piece, count = number_pieces((within > 0).transpose(2, 0, 1))
    if count > within.shape[2]:
        piece = piece.transpose(1, 2, 0)
        sums = np.bincount(piece.ravel(), weights=within.ravel())
        within[sums[piece] < sums[piece].max(axis=(0, 1))] = 0.0
    out = np.zeros_like(cord)
    out[haze] = within
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
    gap = np.setdiff1d(np.arange(slices[0], slices[-1]), slices)
    if len(gap):
        raise CordError(
            expected="an unbroken cord",
            found=f"no cord in slices {runs(gap)} (counted from 0 at the bottom)",
            where=what,
            remedy="Complete the mask there.",
        )
    return out, slices


def number_pieces(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Label the pieces of each slice, 8-connected in its plane, by numbers.

    Parameters
    ----------
    inside : (slice, x, y) bool array

    Returns
    -------
    piece : (slice, x, y) int32 array
        0 outside, and from 1 in the order of the first voxel of each piece. No piece has two slices.
    count : int

    Examples
    --------
    >>> number_pieces(np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]], bool))[0].tolist()
    [[[1, 0, 0], [0, 1, 0], [0, 0, 0], [2, 2, 0]]]
    """
    padded = np.pad(inside, ((0, 0), (0, 1), (0, 1)))  # so that the neighbours of a border voxel are outside
    flat, row = padded.ravel(), padded.shape[2]
    at = np.flatnonzero(flat)
    number = np.zeros(flat.size, np.int32)
    number[at] = np.arange(len(at))
    pairs = [np.stack([at, at + step])[:, flat[at + step]] for step in (1, row - 1, row, row + 1)]
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
    return piece[:, :-1, :-1], len(first)


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
    whatever the voxels. Solved exactly (Reinsch), for any number of slices from two.

    References
    ----------
    Green PJ, Silverman BW. Nonparametric Regression and Generalized Linear Models. Chapman & Hall 1994, section 2.3.

    Examples
    --------
    >>> line = centreline_from_mask(np.ones((3, 3, 4)), np.diag([1.0, 1.0, 5.0, 1.0]), what="cord mask")
    >>> line.length, line.position(0.0).tolist()
    (20.0, [1.0, 1.0, -2.5])
    """
    cord, slices = cord_slices(mask, what=what)
    return _curve(slice_centres(cord, slices), np.asarray(affine, float), smoothing)


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
    fine = np.linspace(0.0, u[-1], max(2, int(np.ceil(u[-1] / STEP)) + 1))
    below = np.clip((fine / spacing).astype(int), 0, len(u) - 2)
    t = (fine / spacing - below)[:, None]
    cubic = (((1 - t) ** 3 - (1 - t)) * bend[below] + (t**3 - t) * bend[below + 1]) * spacing**2 / 6
    inner = (1 - t) * values[below] + t * values[below + 1] + cubic
    rise = np.diff(values, axis=0)[[0, -1]] / spacing
    ends = rise + np.array([[-1.0], [1.0]]) * bend[[1, -2]] * spacing / 6
    half = np.linspace(0.0, 0.5 * spacing, int(np.ceil(0.5 * spacing / STEP)) + 1)[1:, None]
    curve = np.concatenate([inner[0] - half[::-1] * ends[0], inner, inner[-1] + half * ends[1]])
    return Centreline.through(curve)


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


def _interpolate(at: FloatArray, knots: FloatArray, values: FloatArray) -> FloatArray:
    """Linear interpolation of (n, 3) values, constant beyond the ends."""
    return np.stack([np.interp(at, knots, values[:, k]) for k in range(3)], axis=-1)


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
