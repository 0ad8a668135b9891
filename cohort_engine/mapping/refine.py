"""The in-plane map of a cord refined by the image: where white matter, grey matter, CSF and the rest explain its grey values best.

A map that was fitted to a mask knows the outline and guesses the inside. Here each slice may move by a few smooth modes: the whole section by an
affine map and by third and fourth order bends of its outline, the inside against the outline by shift, turn and scale. The amplitudes are those of
greatest posterior probability: the likelihood of the image as a mixture of the tissues (`mapping.likelihood`), against a Gaussian prior that holds
them at zero and ties them along the cord. Where the image says nothing the map stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.mapping.fractions import tissue_maps
from cohort_engine.mapping.inverse import invert, refine
from cohort_engine.mapping.likelihood import FEWEST, Explained, around, explained, with_rest
from cohort_engine.mapping.template_map import TemplateMap, area_change, template_depth
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

PRIOR = {
    "shift right": 0.06, "shift forward": 0.06, "turn": 0.03, "width": 0.015, "depth": 0.015, "shear": 0.015,
    "inside right": 0.20, "inside forward": 0.25, "inside turn": 0.06, "inside width": 0.08, "inside depth": 0.12,
    "triangle": 0.05, "triangle, turned": 0.05, "square": 0.05, "square, turned": 0.05,
}  # fmt: skip
"""Modes and the standard deviation of their amplitudes: mm, radians, or parts of 1; the bends in mm at the outline. Those of the inside were set
before any result was seen. Those of the outline were at first twice as large; 1, 1/2 and 1/4 of that gave simulated tracts within 0.77, 0.75 and 0.73
points, and explained a T1w image that was not fitted by 0.752, 0.748 and 0.730: the half leaves the mask more of its say."""
ALONG = 15.0
"""Distance along the cord (mm) at which the correlation of amplitudes falls to 1/e."""
RIM = 2.0
"""Depth below the outline (mm) from which on the inside moves as a whole; at the outline it does not move against it."""
FINE, THICK = 0.45, 1.7
"""Distance (mm) of the points at which the template is looked up in a voxel, across and through the slice."""
STEPS = 8
"""Of Gauss-Newton: further ones change the objective by less than 0.3 %."""
SPREAD = 0.05
"""Least standard deviation of a tissue's value from slice to slice, as part of the cord's median."""
POOLED = 10.0
"""Voxels' worth of noise that a slice borrows from the others."""
HEAVY = 8.0
"""Degrees of freedom of the residuals (Student's t): vessels, roots and lesions count less."""
LEAST_AREA = 0.5
"""The refinement takes away no more than this part of any area inside the cord: amplitudes of a slice are scaled down until it does not."""
FARTHEST = 1.3
"""Radii from the middle at which the bends stop growing."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined template map, and what the image says of it.

    Attributes
    ----------
    fitted : TemplateMap
        Quality as of the map that was refined.
    before, after : Explained
        What the tissues explain of the image, slice by slice; values of tissues as parts of the cord's median.
    tissues : (x, y, z, 3) array
        Part of each voxel that is white matter, grey matter and CSF by the refined map; NaN away from the cord.
    amplitudes : (slice, mode) array
        Of the modes of `PRIOR`, in the image's slices `slices`.
    slices : (slice,) int array
    area : (2,) tuple
        Smallest and largest area change of the refinement inside the cord.
    shift : float
        Largest displacement inside the cord, mm of the template.
    """

    fitted: TemplateMap
    before: Explained
    after: Explained
    tissues: FloatArray
    amplitudes: FloatArray
    slices: NDArray[np.int64]
    area: tuple[float, float]
    shift: float


def refine_map(fitted: TemplateMap, template: Template, image: NDArray[Any], affine: FloatArray, cord: NDArray[Any]) -> Refinement | None:
    """Refine a template map by the image it belongs to.

    Parameters
    ----------
    fitted : TemplateMap
    template : Template
    image : (x, y, z) array
        Grey values of a contrast that shows grey matter. Missing: NaN takes no part.
    affine : (4, 4) array
        Of the image, RAS+ mm; slices along the last axis.
    cord : (x, y, z) array
        Its mask, 0 to 1. The voxels in it and next to it are explained.

    Returns
    -------
    Refinement, or None where no two slices can be judged.

    Notes
    -----
    In each slice, with the gain (the median of the cord) taken out, ``y = F(p) b + e``: F the fractions of the tissues under the amplitudes p, b
    their values. e is Student's t, its scale the slice's own, shrunk to the median of all. A voxel counts as ``n_eff / n`` of one, by the in-plane
    correlation of the residuals: ``(1 - r) / (1 + r)`` for each axis. b is Gaussian about the values of the whole image, so that a slice of little
    contrast keeps the sign and about the size of its contrast. p is Gaussian with `PRIOR`, its correlation along the cord ``exp(-d / ALONG)``. b is
    eliminated (variable projection), p found by Gauss-Newton on all slices together.
    """
    points = _look(fitted, template, np.asarray(image), np.asarray(affine, float), np.nan_to_num(np.asarray(cord, float)))
    if points is None:
        return None
    section = _Section.of(template, points)
    amplitudes = _amplitudes(points, section)
    for _ in range(12):
        new, area, shift = _moved(fitted, template, section, points, amplitudes, affine)
        folded = area[0] < LEAST_AREA
        if not folded.any():
            break
        amplitudes[folded] *= 0.85
    image, region = points.spread(points.values), points.spread(np.ones(len(points.values))) == 1
    before, tissues = (points.spread(section.fractions(points, p)) for p in (np.zeros_like(amplitudes), amplitudes))
    judged = explained(image, before, region), explained(image, tissues, region)
    return Refinement(new, *judged, tissues, amplitudes, points.slices, (float(area[0].min()), float(area[1].max())), shift)


@dataclass(frozen=True, eq=False)
class _Points:
    """Voxels in and around the cord, and the template points of their parts.

    node (n,) index into `slices`; at (n, part, 2) fractional block index across; row (n, part) block slice; arc (slice,) along the cord, mm.
    """

    voxel: NDArray[np.int64]
    shape: tuple[int, ...]
    values: FloatArray
    inside: NDArray[np.bool_]
    node: NDArray[np.int64]
    slices: NDArray[np.int64]
    arc: FloatArray
    at: FloatArray
    row: NDArray[np.int64]

    def spread(self, values: FloatArray) -> FloatArray:
        """Put values (n, ...) of the voxels on the image's grid, NaN elsewhere."""
        out = np.full((*self.shape, *values.shape[1:]), np.nan)
        out[tuple(self.voxel.T)] = values
        return out


def _look(fitted: TemplateMap, template: Template, image: NDArray[Any], affine: FloatArray, cord: FloatArray) -> _Points | None:
    """Find the template points of the parts of each voxel, by the inverse of the map."""
    grid = Grid(image.shape, affine)
    wanted = around(cord) & np.isfinite(image)
    home = invert(fitted, template, affine, image.shape, where=wanted)
    wanted &= np.isfinite(home).all(axis=-1)
    solid = wanted & (cord >= 0.5)
    middle = np.array([np.median(image[:, :, z][solid[:, :, z]]) if solid[:, :, z].any() else 0.0 for z in range(image.shape[2])])
    wanted[:, :, (wanted.sum(axis=(0, 1)) < FEWEST) | (middle <= 0)] = False
    voxel = np.argwhere(wanted)
    slices, node = np.unique(voxel[:, 2], return_inverse=True)
    if len(slices) < 2:
        return None
    slab, first = fitted.slab()
    start = template.block_grid.voxel(home[tuple(voxel.T)].astype(float)) - (0, 0, first)
    here = np.clip(np.rint(start).astype(int), 1, np.asarray(slab.shape[:3]) - 2)
    slope = np.stack([(slab[tuple((here + e).T)] - slab[tuple((here - e).T)]) / 2 for e in np.eye(3, dtype=int)], axis=-1)
    count = [max(1, int(np.ceil(s / d))) for s, d in zip(grid.spacing, (FINE, FINE, THICK), strict=True)]
    parts = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in count], indexing="ij"), axis=-1).reshape(-1, 3)
    away = parts @ affine[:3, :3].T
    guess = start[:, None] + np.einsum("nij,sj->nsi", np.linalg.inv(slope), away)
    nearest = np.clip(np.rint(guess.reshape(-1, 3)).astype(int), 0, np.asarray(slab.shape[:3]) - 1)
    at = refine(slab, (grid.world(voxel.astype(float))[:, None] + away).reshape(-1, 3), nearest, steps=4)[0].reshape(guess.shape)
    row = np.clip(np.rint(at[..., 2] + first).astype(int), 0, template.cord.shape[2] - 1)
    centres = np.stack([grid.world(voxel[(node == k) & solid[tuple(voxel.T)]].mean(axis=0)) for k in range(len(slices))])
    arc = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(centres, axis=0), axis=1))]
    values = image[tuple(voxel.T)] / middle[voxel[:, 2]]
    return _Points(voxel, image.shape, values.astype(float), solid[tuple(voxel.T)], node, slices, arc, at[..., :2], row)


@dataclass(frozen=True, eq=False)
class _Section:
    """The template across: tissues, their derivatives (per mm) and the weight of the inside, (slice, x, y, 3 + 6 + 1), from slice `first` on."""

    maps: NDArray[np.float32]
    first: int
    spacing: FloatArray
    middle: FloatArray
    half: FloatArray

    @classmethod
    def of(cls, template: Template, points: _Points) -> _Section:
        first, last = int(points.row.min()), int(points.row.max()) + 1
        spacing = template.block_grid.spacing[:2]
        tissues = tissue_maps(template)[..., first:last]
        slopes = np.gradient(tissues, *spacing, axis=(1, 2))
        share = np.clip(template_depth(template, first, last) / RIM, 0.0, 1.0)
        maps = np.concatenate([tissues, *slopes, (share * share * (3 - 2 * share))[None]]).transpose(3, 1, 2, 0)
        cord, line = template.cord[..., first:last], [np.arange(n) * s for n, s in zip(template.cord.shape, spacing, strict=False)]
        weight = [cord.sum(axis=(1 - a, 2)) / cord.sum() for a in (0, 1)]
        middle = np.array([(w * x).sum() for w, x in zip(weight, line, strict=True)])
        half = np.array([2 * np.sqrt((w * (x - m) ** 2).sum()) for w, x, m in zip(weight, line, middle, strict=True)])
        return cls(np.ascontiguousarray(maps, np.float32), first, spacing, middle, half)

    def look(self, points: _Points, at: FloatArray) -> NDArray[np.float32]:
        return _bilinear(self.maps, points.row - self.first, at)

    def modes(self, at: FloatArray, inner: NDArray[np.float32]) -> FloatArray:
        """Displacement (..., mode, 2), mm, of each mode of amplitude 1 at fractional block indices (..., 2)."""
        x, y = (at[..., a] * self.spacing[a] - self.middle[a] for a in (0, 1))
        one, none = np.ones_like(x), np.zeros_like(x)
        z = x / self.half[0] + 1j * y / self.half[1]
        z = z / np.maximum(np.abs(z) / FARTHEST, 1.0)
        bends = [c for n in (2, 3) for c in (np.conj(z**n), 1j * np.conj(z**n))]
        pairs = [
            (one, none), (none, one), (-y, x), (x, none), (none, y), (y, x),
            (inner, none), (none, inner), (-y * inner, x * inner), (x * inner, none), (none, y * inner), *((b.real, b.imag) for b in bends),
        ]  # fmt: skip
        return np.stack([np.stack(pair, axis=-1) for pair in pairs], axis=-2)

    def place(self, points: _Points, amplitudes: FloatArray) -> FloatArray:
        """Template index (n, part, 2) that the moved template brings to each point: ``t + v(t)`` is where the point was."""
        at = points.at
        for _ in range(2):
            modes = self.modes(at, self.look(points, at)[..., -1])
            at = points.at - np.einsum("nskc,nk->nsc", modes, amplitudes[points.node]) / self.spacing
        return at

    def fractions(self, points: _Points, amplitudes: FloatArray) -> FloatArray:
        """Tissues (n, 3) of the voxels."""
        return np.asarray(self.look(points, self.place(points, amplitudes))[..., :3].mean(axis=1), float)

    def slopes(self, points: _Points, amplitudes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Tissues and the rest (n, 4), and their derivatives (n, 4, mode) by the amplitudes."""
        at = self.place(points, amplitudes)
        found = self.look(points, at)
        by_place = np.stack([found[..., 3:6], found[..., 6:9]], axis=-1)
        slope = -np.einsum("nstc,nskc->ntk", by_place, self.modes(at, found[..., -1]), optimize=True) / found.shape[1]
        return with_rest(found[..., :3].mean(axis=1).astype(float)), np.concatenate([slope, -slope.sum(axis=1, keepdims=True)], axis=1)


def _bilinear(maps: NDArray[Any], row: NDArray[np.int64], at: FloatArray) -> NDArray[Any]:
    """Values (..., channel) of maps (slice, x, y, channel) at slices (...) and fractional indices (..., 2), clipped to the maps."""
    size = maps.shape[1:3]
    at = np.clip(at, 0, np.asarray(size) - 1.001)
    low = np.floor(at).astype(int)
    x, y = ((at - low)[..., a, None].astype(maps.dtype) for a in (0, 1))
    flat, here = maps.reshape(-1, maps.shape[-1]), (row * size[0] + low[..., 0]) * size[1] + low[..., 1]
    near, far = flat[here] * (1 - y) + flat[here + 1] * y, flat[here + size[1]] * (1 - y) + flat[here + size[1] + 1] * y
    return np.asarray(near * (1 - x) + far * x)


def _amplitudes(points: _Points, section: _Section) -> FloatArray:
    """Amplitudes (slice, mode) of greatest posterior probability."""
    deviation = np.array(list(PRIOR.values()))
    within, between = _chain(points.arc)
    p: FloatArray = np.zeros((len(points.slices), len(deviation)))
    rows = [np.flatnonzero(points.node == k) for k in range(len(points.slices))]
    weight: FloatArray = np.ones(len(points.values))
    noise: FloatArray = np.ones(len(rows))
    usual: FloatArray = np.zeros(4)
    spread: FloatArray = np.full(4, np.inf)
    effective = 1.0
    for _ in range(STEPS):
        design, slope = section.slopes(points, p)
        value, error = np.empty((len(rows), 4)), np.empty((len(rows), 4))
        for k, r in enumerate(rows):
            squares = (design[r].T * weight[r]) @ design[r] + 1e-6 * np.eye(4)
            held = noise[k] / effective / spread**2
            value[k] = np.linalg.solve(squares + np.diag(held), (design[r].T * weight[r]) @ points.values[r] + held * usual)
            error[k] = np.diag(np.linalg.inv(squares))
        left = points.values - (design * value[points.node]).sum(axis=1)
        own = np.array([(weight[r] * left[r] ** 2).sum() / max(len(r) - 4, 1) for r in rows])
        count = np.array([len(r) for r in rows])
        noise = np.maximum((own * count + np.median(own) * POOLED) / (count + POOLED), 1e-12)
        weight = (HEAVY + 1) / (HEAVY + left**2 / noise[points.node])
        effective = _effective(points, left * np.sqrt(weight / noise[points.node]))
        error *= noise[:, None] / effective
        usual, spread = _usual(value, error)
        block, rhs = np.empty((len(rows), len(deviation), len(deviation))), np.empty_like(p)
        for k, r in enumerate(rows):
            w = weight[r] * effective / noise[k]
            by = slope[r].transpose(0, 2, 1) @ value[k]
            cross = (by.T * w) @ design[r]
            squares = (design[r].T * w) @ design[r] + np.diag(1 / spread**2)
            block[k] = (by.T * w) @ by - cross @ np.linalg.solve(squares, cross.T) + np.diag(within[k] / deviation**2)
            pull = within[k] * p[k]
            pull += between[k - 1] * p[k - 1] if k else 0.0
            pull += between[k] * p[k + 1] if k < len(between) else 0.0
            rhs[k] = by.T @ (w * left[r]) - pull / deviation**2
        p += np.clip(_solve_chain(block, between[:, None] / deviation**2, rhs), -deviation, deviation)
    return p


def _usual(value: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Value (tissue,) of each tissue in the whole image and how far slices spread about it, from those of slices and the variances of these."""
    weight = 1.0 / (error + 0.1**2)
    usual = (weight * value).sum(axis=0) / weight.sum(axis=0)
    known = np.where(error <= np.median(error, axis=0), np.abs(value - usual), np.nan)
    return usual, np.maximum(1.4826 * np.nanmedian(known, axis=0), SPREAD)


def _effective(points: _Points, residual: FloatArray) -> float:
    """Independent voxels' worth of a voxel, by the in-plane correlation of neighbouring residuals (n,)."""
    image = np.full((*points.shape[:2], len(points.slices)), np.nan)
    image[points.voxel[:, 0], points.voxel[:, 1], points.node] = residual
    share = 1.0
    for axis in (0, 1):
        ahead, behind = np.delete(image, 0, axis), np.delete(image, -1, axis)
        r = float(np.clip(np.nanmean(ahead * behind) / np.nanmean(image**2), 0.0, 0.9))
        share *= (1 - r) / (1 + r)
    return share


def _chain(arc: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Diagonal (n,) and off-diagonal (n - 1,) of the inverse of the correlation ``exp(-distance / ALONG)`` of places along the cord.

    Examples
    --------
    >>> within, between = _chain(np.array([0.0, 5.0, 20.0]))
    >>> d = np.abs(np.subtract.outer([0.0, 5.0, 20.0], [0.0, 5.0, 20.0]))
    >>> np.allclose(np.diag(within) + np.diag(between, 1) + np.diag(between, -1), np.linalg.inv(np.exp(-d / ALONG)))
    True
    """
    r = np.exp(-np.diff(arc) / ALONG)
    gain = r**2 / (1 - r**2)
    return 1.0 + np.r_[gain, 0.0] + np.r_[0.0, gain], -r / (1 - r**2)


def _solve_chain(blocks: FloatArray, links: FloatArray, right: FloatArray) -> FloatArray:
    """Solve a symmetric block tridiagonal system: blocks (n, k, k), off-diagonal blocks diagonal (n - 1, k), right-hand sides (n, k).

    Examples
    --------
    >>> blocks, links = np.array([[[4.0]], [[5.0]]]), np.array([[1.0]])
    >>> _solve_chain(blocks, links, np.array([[6.0], [11.0]])).ravel().tolist()
    [1.0, 2.0]
    """
    blocks, out = blocks.copy(), right.copy()
    for k, link in enumerate(links):
        carried = np.linalg.solve(blocks[k], np.column_stack([np.diag(link), out[k]]))
        blocks[k + 1] -= link[:, None] * carried[:, :-1]
        out[k + 1] -= link * carried[:, -1]
    out[-1] = np.linalg.solve(blocks[-1], out[-1])
    for k in range(len(links) - 1, -1, -1):
        out[k] = np.linalg.solve(blocks[k], out[k] - links[k] * out[k + 1])
    return out


def _moved(
    fitted: TemplateMap, template: Template, section: _Section, points: _Points, amplitudes: FloatArray, affine: FloatArray
) -> tuple[TemplateMap, FloatArray, float]:
    """Carry the template map along: the map, smallest and largest area change (2, slice of the image), and the largest displacement (mm)."""
    slab, first = fitted.slab()
    into = np.linalg.inv(np.asarray(affine, float))[2]
    level = slab @ into[:3] + into[3]
    room = int(np.ceil(2.0 / section.spacing.min()))
    wide = np.pad(slab, [(room, room), (room, room), (0, 0), (0, 0)], mode="reflect", reflect_type="odd").transpose(2, 0, 1, 3).copy()
    at = np.moveaxis(np.indices(slab.shape[:2], float), 0, -1)
    out, area, shift = np.full_like(fitted.block, np.nan), np.ones((2, len(points.slices))), 0.0
    for k in range(slab.shape[2]):
        held = section.maps[np.clip(first + k - section.first, 0, len(section.maps) - 1), ..., -1]
        here = np.stack([np.interp(level[:, :, k], points.slices, mode) for mode in amplitudes.T], axis=-1)
        v = np.einsum("xykc,xyk->xyc", section.modes(at, held), here)
        out[:, :, first + k] = _bilinear(wide, np.array(k), at + v / section.spacing + room)
        inside = template.cord[:, :, first + k] >= 0.5
        if inside.any():
            change = area_change(v, section.spacing)[inside]
            shift = max(shift, float(np.hypot(*v[inside].T).max()))
            near = np.argmin(np.abs(points.slices - level[:, :, k][inside].mean()))
            area[:, near] = min(area[0, near], change.min()), max(area[1, near], change.max())
    out[:, :, ~fitted.covered] = np.nan
    return TemplateMap(out, fitted.quality), area, shift
