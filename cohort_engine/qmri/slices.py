"""Windows around the cord in every slice of every volume, with a margin as wide as motion may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cohort_engine.errors import CordError
from cohort_engine.qmri.series import EDGE, evaluate, spline

FloatArray = NDArray[Any]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
CLOSE = 0.8
"""Where the region has more than this weight there are cord and cerebrospinal fluid alone."""
ROUND = 4.0
"""What a template holds around the region, mm."""
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class View:
    """Windows around the cord, with a margin as wide as the search.

    Attributes
    ----------
    data : (t, z, i, j) float32
        Smoothed.
    coefficients : (t z, i, j) float32
        Of its spline.
    valid : (z, i, j) bool
        Inside the image.
    span : (z, 2, 2)
        First and last voxel inside the image along both axes.
    weight : (z, a, b)
        The region, without the margin.
    near : (z, a, b) float32
        Weight of the cord and what touches it.
    margin : (2,) int
    spacing : (3,) mm
    centre : (z, 2)
        Middle of the window from the middle of the slice, mm.
    independent : float
        Part of the samples that are independent.
    signal : (t, z) bool
        Slices with any contrast.
    region : (z,) bool
        Slices with a region.
    """

    data: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    valid: BoolArray
    span: IntArray
    weight: FloatArray
    near: NDArray[np.float32]
    margin: IntArray
    spacing: FloatArray
    centre: FloatArray
    independent: float
    signal: BoolArray
    region: BoolArray


def view_of(series: FloatArray, weight: FloatArray, spacing: FloatArray, max_shift: float, smooth: float) -> View:
    """Cut windows out of a series (x, y, z, t) around the region `weight` (x, y, z), each slice about its own middle; mm.

    Raises
    ------
    CordError
        An empty region, or nothing in it.
    """
    nx, ny, nz, nt = series.shape
    total = weight.sum((0, 1))
    region = total > 0
    if not region.any():
        raise CordError(
            expected="a region around the cord", found="an empty one", where="motion of a series", remedy="Check the cord mask of the series."
        )
    grid = [np.arange(n) for n in (nx, ny)]
    mid = np.stack([np.einsum("xyz,x->z", weight, grid[0]), np.einsum("xyz,y->z", weight, grid[1])], -1) / np.maximum(total, _TINY)[:, None]
    known = np.flatnonzero(region)
    mid = np.stack([np.interp(np.arange(nz), known, mid[known, a]) for a in (0, 1)], -1)
    half = np.zeros(2, int)
    for a, n in enumerate((nx, ny)):
        some = weight.any(1 - a)
        reach = np.where(some, np.abs(np.arange(n)[:, None] - np.rint(mid[:, a])), 0).max()
        half[a] = max(int(reach), 2)
    margin = np.ceil(max_shift / spacing[:2]).astype(int)
    start = np.rint(mid).astype(int) - half - margin
    index = [start[:, a, None] + np.arange(2 * (half[a] + margin[a]) + 1) for a in (0, 1)]
    inside = [(i >= 0) & (i < n) for i, n in zip(index, (nx, ny), strict=True)]
    held = [np.clip(i, 0, n - 1) for i, n in zip(index, (nx, ny), strict=True)]
    pick = held[0][:, :, None], held[1][:, None, :], np.arange(nz)[:, None, None]
    data = np.moveaxis(np.asarray(series, np.float32)[pick], 3, 0)
    finite = np.isfinite(data)
    if not finite.all():
        data = np.where(finite, data, 0)
    level = float(np.abs(data).mean())
    if level <= 0:
        raise CordError(
            expected="signal around the cord",
            found="only zeros or NaN",
            where="motion of a series",
            remedy="Check that mask and series belong together.",
        )
    data = np.ascontiguousarray(data / level)
    data = gaussian_filter(data, (0, 0, *(smooth / spacing[:2])), mode="nearest", truncate=3.0)
    valid = inside[0][:, :, None] & inside[1][:, None, :]
    inner = tuple(slice(m, m + 2 * h + 1) for m, h in zip(margin, half, strict=True))
    own = weight[pick] * valid
    own = own[:, inner[0], inner[1]]
    spread = data[:, :, inner[0], inner[1]].std((2, 3))
    signal = (spread > 1e-3) & finite.all((2, 3)) & region
    area = spacing[0] * spacing[1]
    centre = (start + half + margin - (np.array([nx, ny]) - 1) / 2) * spacing[:2]
    span = np.stack([np.stack([-start[:, a], n - 1 - start[:, a]], -1) for a, n in enumerate((nx, ny))], 1)
    fine = spline(data.reshape(nt * nz, *data.shape[2:]))
    near = np.maximum(own - CLOSE, 0).astype(np.float32)
    return View(data, fine, valid, span, own, near, margin, spacing, centre, area / (area + 4 * np.pi * smooth**2), signal, region)


def sample(view: View, shift: FloatArray, scale: FloatArray, axis: int, more: IntArray | None = None) -> tuple[FloatArray, BoolArray]:
    """Windows (t, z, a, b), with `more` voxels around, at shifts (t, z, 2) mm, and which of their places lie inside the image."""
    nt, nz = shift.shape[:2]
    more = np.zeros(2, int) if more is None else more
    size = np.array(view.weight.shape[1:]) + 2 * more
    own = [np.arange(n) + m - k for n, m, k in zip(size, view.margin, more, strict=True)]
    at = [o + (shift[..., a].reshape(-1, 1) / view.spacing[a]) for a, o in enumerate(own)]
    data = view.coefficients
    if axis == 0:
        data, at, own = data.swapaxes(1, 2), at[::-1], own[::-1]
    at_u, at_v = at[0], at[1][:, None, :]
    if scale.any():
        u, v = ((o - o.mean()) * s for o, s in zip(own, view.spacing[[1 - axis, axis]], strict=True))
        bent = scale.reshape(-1, 2) / view.spacing[axis]
        at_v = at_v + bent[:, 0, None, None] * v + bent[:, 1, None, None] * u[:, None]
    out = evaluate(data, at_u, at_v)
    if axis == 0:
        out = out.swapaxes(1, 2)
    moved = shift / view.spacing[:2]
    places = [moved[..., a, None] + np.arange(n) + m - k for a, (n, m, k) in enumerate(zip(size, view.margin, more, strict=True))]
    ok = [(p >= view.span[:, a, 0, None] - EDGE) & (p <= view.span[:, a, 1, None] + EDGE) for a, p in enumerate(places)]
    return out.reshape(nt, nz, *size), ok[0][..., :, None] & ok[1][..., None, :]


def wider(view: View) -> IntArray:
    """Voxels that a template holds around the region, along both axes."""
    return np.asarray(np.minimum(view.margin, np.ceil(ROUND / view.spacing[:2]).astype(int)))


def edges(image: FloatArray, view: View) -> FloatArray:
    """Orientation of edges (..., 2, a, b), weighted by how clear they are: the same whichever side is bright."""
    gx, gy = (np.gradient(image, s, axis=a) for a, s in ((-2, view.spacing[0]), (-1, view.spacing[1])))
    size = gx**2 + gy**2
    floor = np.mean(size, (-2, -1), keepdims=True) + _TINY
    return np.asarray(np.stack([gx**2 - gy**2, 2 * gx * gy], -3) / (size + floor)[..., None, :, :])
