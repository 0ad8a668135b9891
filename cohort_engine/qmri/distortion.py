"""Distortion of echo-planar images along phase encoding, from a pair with opposite directions: plain arrays in, plain arrays out.

What lies at p is found at p + d in one image and at p - d in the other, and where d grows its signal is spread over more voxels: with the right d,
``forward(p + d) (1 + dd/dp)`` and ``backward(p - d) (1 - dd/dp)`` are one image, half-way between both. A displacement of the whole slice is found
first, by correlation, along all slices at once; then a smooth field of splines, from blurred images to sharp ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter

from cohort_engine.errors import CordError, GeometryError
from cohort_engine.qmri.correlation import shifted_correlation
from cohort_engine.qmri.series import EDGE, evaluate, spline

FloatArray = NDArray[Any]
LARGEST = 15.0
"""Largest displacement that is looked for, mm."""
ASIDE = 4.0
"""Largest displacement of one image against the other across phase encoding, mm: the subject moved."""
KNOTS = 10.0
"""Distance of the knots of the field in the plane, mm."""
LEVELS = (2.5, 2.5, 1.5, 1.5, 1.0, 0.7, 0.7, 0.7)
"""Standard deviation of the smoothing of what is compared in each round, mm."""
BEND, SLOPE, ALONG = 0.8, 2.0, 2.0
"""What is expected of the field: standard deviation of its second and first difference between knots, and of its second difference between slices
5 mm apart, mm."""
AGAINST = 0.5
"""Standard deviation of the motion of a slice across phase encoding about that of all, mm."""
STEPPING = 2.0
"""Standard deviation of the first difference between slices 5 mm apart in the search, mm."""
STEEPEST = 0.8
"""Largest slope of the field: beyond 1, space would fold."""
_TINY = 1e-12


def estimate_distortion(
    forward: FloatArray, backward: FloatArray, weight: FloatArray, spacing: FloatArray | tuple[float, float, float], *, axis: int,
    largest: float = LARGEST,
) -> NDArray[np.float64]:  # fmt: skip
    """Estimate the displacement along phase encoding from two images with opposite directions of it.

    Parameters
    ----------
    forward, backward : (x, y, z) arrays
        Of one contrast, without diffusion weighting; NaN counts as no data.
    weight : (x, y, z) array
        Region that is compared, 0 to 1, as it lies in `forward`; slices without region follow the others.
    spacing : (3,) floats
        Voxel size, mm.
    axis : int
        Array axis of the phase encoding, 0 or 1.
    largest : float
        Largest displacement that is looked for, mm.

    Returns
    -------
    (x, y, z) float64
        d, mm along `axis`: ``corrected(p) = forward(p + d) (1 + dd/dp)``, see `qmri.series.resample_series`. It is found where the region is, and
        continued smoothly beyond.

    Raises
    ------
    GeometryError
        Images that are not on one grid, or an axis that is not in the slices.
    CordError
        An empty region, or nothing in it in one of the images.

    Notes
    -----
    Motion along phase encoding between the images is half a displacement, and cannot be told from it; motion across it is found and left out.
    The field is a cubic B-spline in each slice, with knots every `KNOTS` mm. Its coefficients in all slices are found together by Gauss and Newton,
    with the weighted squared difference of the two sides over its own variance, and a Gaussian prior, about what the search found, on bending, slope
    and change along z.

    Examples
    --------
    >>> x, y = np.mgrid[-20:21, -20:21]
    >>> def image(d):
    ...     return np.repeat(np.exp(-(x**2 + (y - d) ** 2) / 40)[..., None], 3, axis=2)
    >>> weight = np.repeat((np.hypot(x, y - 3) < 12)[..., None], 3, axis=2)
    >>> found = estimate_distortion(image(3.0), image(-3.0), weight, (1.0, 1.0, 5.0), axis=1)
    >>> bool(np.abs(found[20, 20] - 3).max() < 0.1)
    True
    """
    forward, backward, weight, spacing = (np.asarray(a, float) for a in (forward, backward, weight, spacing))
    _check(forward, backward, weight, axis)
    if axis == 0:
        first, second, where = (np.swapaxes(a, 0, 1) for a in (forward, backward, weight))
        return np.swapaxes(estimate_distortion(first, second, where, spacing[[1, 0, 2]], axis=1, largest=largest), 0, 1)
    margin = np.ceil(np.array([ASIDE + KNOTS / 2, 2 * largest]) / spacing[:2]).astype(int)
    ranges = [np.flatnonzero((weight > 0).any((1 - a, 2))) for a in (0, 1)]
    near = [slice(max(r[0] - m, 0), r[-1] + 1 + m) for r, m in zip(ranges, margin, strict=True)]
    beyond = [(s.start, max(n - s.stop, 0)) for s, n in zip(near, forward.shape, strict=False)]
    pair = [np.moveaxis(np.nan_to_num(a[near[0], near[1]]), 2, 0) for a in (forward, backward)]
    weight = np.moveaxis(weight[near[0], near[1]], 2, 0)
    levels = [float((np.abs(p) * weight).sum() / weight.sum()) for p in pair]
    if min(levels) <= 0:
        raise CordError(
            expected="signal around the cord in both images", found="only zeros or NaN in one", where="pair of opposite phase encoding",
            remedy="Check that both show the cord.",
        )  # fmt: skip
    pair = [p / level for p, level in zip(pair, levels, strict=True)]
    rigid, aside = _whole(pair[0], pair[1], weight, spacing, largest)
    field = _Field(pair[0].shape, spacing)
    state = np.concatenate([np.repeat(rigid[:, None], field.size, 1), aside[:, None]], 1)
    centre = state.copy()
    for smooth in LEVELS:
        state = _refined(pair, weight, spacing, field, state, centre, smooth)
    return np.pad(np.moveaxis(field.values(state[:, :-1])[0], 0, 2), (*beyond, (0, 0)), mode="edge")


class _Field:
    """Cubic B-splines over a slice: coefficients (z, knots) to displacement and slope (z, x, y)."""

    def __init__(self, shape: tuple[int, ...], spacing: FloatArray) -> None:
        self.shape = shape
        (self.x, _), (self.y, self.slope) = (_splines(n, s) for n, s in zip(shape[1:], spacing, strict=False))
        self.knots = self.x.shape[1], self.y.shape[1]
        self.size = self.knots[0] * self.knots[1]
        one, two = ([_differences(n, order) for n in self.knots] for order in (1, 2))
        eye = [np.eye(n) for n in self.knots]
        self.plane = sum(
            scale**-2 * (np.kron(d[0], eye[1]) + np.kron(eye[0], d[1])) for d, scale in ((one, SLOPE), (two, BEND))
        ) + 1e-6 * np.eye(self.size)  # fmt: skip
        step = spacing[2] / 5.0
        self.along = _differences(shape[0], 2) / (ALONG * step**1.5) ** 2 + _differences(shape[0], 1) / (2 * STEPPING * step) ** 2

    def values(self, coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Displacement (z, x, y), mm, and its slope along y."""
        c = coefficients.reshape(-1, *self.knots)
        part = np.einsum("xk,zkl->zxl", self.x, c)
        return part @ self.y.T, part @ self.slope.T


def _splines(count: int, spacing: float) -> tuple[FloatArray, FloatArray]:
    """Cubic B-splines about `KNOTS` apart at `count` voxels, and their slope per mm: (voxel, knot) each."""
    length = max((count - 1) * spacing, spacing)
    parts = max(round(length / KNOTS), 1)
    step = length / parts
    knots = (np.arange(parts + 7) - 3) * step
    at = np.arange(count) * spacing
    basis = [BSpline(knots, row, 3) for row in np.eye(parts + 3)]
    return np.stack([b(at) for b in basis], 1), np.stack([b(at, 1) for b in basis], 1)


def _differences(count: int, order: int) -> FloatArray:
    """D' D of the differences of some order between neighbours."""
    if count <= order:
        return np.zeros((count, count))
    d = np.diff(np.eye(count), order, axis=0)
    return np.asarray(d.T @ d)


def _whole(forward: FloatArray, backward: FloatArray, weight: FloatArray, spacing: FloatArray, largest: float) -> tuple[FloatArray, FloatArray]:
    """Displacement of whole slices: d (z,) along phase encoding, and (z,) of `backward` across it, mm."""
    smooth = (0, *(1.0 / spacing[:2]))
    first, second = (gaussian_filter(a, smooth) for a in (forward, backward))
    reach = [int(np.ceil(ASIDE / spacing[0])), int(np.ceil(2 * largest / spacing[1]))]
    pad = ((0, 0), (reach[0],) * 2, (reach[1],) * 2)
    rho, share = shifted_correlation(first[:, None], weight, np.pad(second, pad)[:, None], np.pad(np.ones_like(second), pad))
    area = spacing[0] * spacing[1]
    samples = weight.sum((1, 2)) * area / (area + 4 * np.pi)
    score = -0.5 * samples[:, None, None] * share * np.log1p(-(np.clip(rho, 0, 0.999) ** 2))
    side = score.max(2).sum(0).argmax()
    ahead = score[:, max(side - 1, 0) : side + 2].max(1)  # z, v
    v = np.arange(-reach[1], reach[1] + 1) * spacing[1]
    cost = (v[:, None] - v) ** 2 / (2 * (2 * STEPPING * spacing[2] / 5.0) ** 2)
    total, back = ahead[0], []
    for row in ahead[1:]:
        ways = total[None, :] - cost
        back.append(ways.argmax(1))
        total = row + ways.max(1)
    path = [int(total.argmax())]
    for way in reversed(back):
        path.append(int(way[path[-1]]))
    return -v[path[::-1]] / 2, np.full(len(ahead), (side - reach[0]) * spacing[0])


class _Sides(NamedTuple):
    """Both images at the place of a field: values, slopes along and across phase encoding, and which are inside; (z, x, y) each."""

    values: FloatArray
    ahead: FloatArray
    across: FloatArray
    inside: NDArray[np.bool_]


def _refined(
    pair: list[FloatArray], weight: FloatArray, spacing: FloatArray, field: _Field, state: FloatArray, centre: FloatArray, smooth: float
) -> FloatArray:
    """One step of Gauss and Newton on the coefficients (z, knots + 1), the last `backward` across phase encoding; the prior is about `centre`."""
    nz, nx, ny = weight.shape
    d, slope = field.values(state[:, :-1])
    slope = np.clip(slope, -STEEPEST, STEEPEST)
    blurred = [gaussian_filter(p, (0, *(smooth / spacing[:2])), mode="nearest") for p in pair]
    first, second = (_side(b, sign * d, side, spacing) for b, sign, side in zip(blurred, (1, -1), (np.zeros(nz), state[:, -1]), strict=True))
    here = np.clip(evaluate(spline(weight), np.tile(np.arange(nx), (nz, 1)), np.arange(ny) + d / spacing[1]), 0, 1)
    w = here * first.inside * second.inside
    rest = first.values * (1 + slope) - second.values * (1 - slope)
    total = w.sum((1, 2))
    area = spacing[0] * spacing[1]
    variance = max(float((w * rest**2).sum() / max(total.sum(), _TINY)), 1e-6)
    w = w * (area / (area + 4 * np.pi * smooth**2) / variance)
    by_place = first.ahead * (1 + slope) + second.ahead * (1 - slope)
    by_slope = first.values + second.values
    columns = np.empty((nz, nx * ny, field.size + 1))
    basis = np.einsum("xk,yl->xykl", field.x, field.y).reshape(nx, ny, -1)
    sloped = np.einsum("xk,yl->xykl", field.x, field.slope).reshape(nx, ny, -1)
    columns[..., :-1] = (by_place[..., None] * basis + by_slope[..., None] * sloped).reshape(nz, nx * ny, -1)
    columns[..., -1] = (-second.across * (1 - slope)).reshape(nz, -1)
    weighted = columns * w.reshape(nz, -1, 1)
    normal, right = np.swapaxes(weighted, 1, 2) @ columns, np.einsum("zpk,zp->zk", weighted, rest.reshape(nz, -1))
    size = field.size + 1
    prior = np.kron(field.along, np.eye(size)) / field.size**0.5
    parts = [slice(z * size, (z + 1) * size) for z in range(nz)]
    for part in parts:
        prior[part, part][:-1, :-1] += field.plane
        prior[part, part][-1, -1] += 1 / AGAINST**2
    whole = prior.copy()
    for part, own in zip(parts, normal, strict=True):
        whole[part, part] += own
    about = state - centre
    step = np.linalg.solve(whole, -(right.ravel() + prior @ about.ravel())).reshape(nz, size)
    return np.asarray(state + step.clip(-2.5, 2.5))


def _side(image: FloatArray, d: FloatArray, aside: FloatArray, spacing: FloatArray) -> _Sides:
    _, nx, ny = image.shape
    at_x = np.arange(nx) + aside[:, None] / spacing[0]
    at_y = np.arange(ny) + d / spacing[1]
    parts = [evaluate(spline(a), at_x, at_y) for a in (image, np.gradient(image, spacing[1], axis=2), np.gradient(image, spacing[0], axis=1))]
    inside = ((at_x > -EDGE) & (at_x < nx - 1 + EDGE))[:, :, None] & (at_y > -EDGE) & (at_y < ny - 1 + EDGE)
    return _Sides(parts[0], parts[1], parts[2], inside)


def _check(forward: FloatArray, backward: FloatArray, weight: FloatArray, axis: int) -> None:
    where = "pair of opposite phase encoding"
    if not forward.shape == backward.shape == weight.shape or forward.ndim != 3:
        raise GeometryError(
            expected="two images and a region on one grid", found=f"shapes {forward.shape}, {backward.shape}, {weight.shape}", where=where,
            remedy="Give the image of the same slices that was scanned with the opposite phase encoding.",
        )  # fmt: skip
    if axis not in (0, 1) or min(forward.shape[:2]) < 4:
        raise GeometryError(
            expected="a phase-encoding axis within the slices (0 or 1), of at least four voxels", found=f"axis {axis} of shape {forward.shape}",
            where=where, remedy="Turn the images so that their slices lie on the third axis.",
        )  # fmt: skip
    if not (weight > 0).any():
        raise CordError(expected="a region around the cord", found="an empty one", where=where, remedy="Check the cord mask.")
