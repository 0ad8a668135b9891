"""The in-plane map of a cord refined by the image: where white matter, grey matter, CSF and the rest explain its grey values best.

A map that was fitted to a mask knows the outline and guesses the inside. Here each slice may move by a few smooth modes: the whole section by an
affine map and by third and fourth order bends of its outline, the inside against the outline by shift, turn and scale. The amplitudes are those of
greatest posterior probability: the likelihood of the image as a mixture of the tissues (`mapping.likelihood`), against a Gaussian prior that holds
them at zero and ties them along the cord. Where the image says nothing the map stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.mapping.fractions import tissue_maps
from cohort_engine.mapping.inverse import invert, refine
from cohort_engine.mapping.likelihood import FEWEST, Explained, around, explained, with_rest
from cohort_engine.mapping.modes import ALONG, INNER, PRIOR, displacements, weight_of_inside
from cohort_engine.mapping.rim import with_rim
from cohort_engine.mapping.template_map import TemplateMap, area_change, template_depth
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

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
UNEVEN = 0.1
"""How much brighter an image may become from the middle of the cord to its border, as part of its value, by one standard deviation: receive coils
lie to one side, and white matter is not the same in front and behind. Unknown, it passes for a shift of the cord and of its inside."""
LEAST_AREA = 0.5
"""The refinement takes away no more than this part of any area inside the cord: amplitudes of a slice are scaled down until it does not."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined template map, and what the image says of it.

    Attributes
    ----------
    before, after : Explained
        What the tissues explain of the image, slice by slice; values of tissues as parts of the cord's median.
    tissues : (x, y, z, 3) float32 array
        Part of each voxel that is white matter, grey matter and CSF by the refined map; NaN away from the cord.
    amplitudes : (slice, mode) array
        Of the modes of `PRIOR`, in the image's slices `slices`.
    slices : (slice,) int array
    area : (2,) tuple
        Smallest and largest area change of the refinement inside the cord.
    shift : float
        Largest displacement inside the cord, mm of the template.
    carry : callable
        Makes `fitted`.
    """

    before: Explained
    after: Explained
    tissues: FloatArray
    amplitudes: FloatArray
    slices: NDArray[np.int64]
    area: tuple[float, float]
    shift: float
    carry: Callable[[], TemplateMap]

    @cached_property
    def fitted(self) -> TemplateMap:
        """The refined map; quality as of the map that was refined."""
        return self.carry()


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
    Tissue reaches beyond the outline that the map follows, as `mapping.rim` says; the refined map, too, brings outlines onto each other.

    In each slice, with the gain (the median of the cord) taken out, ``y = F(p) b (1 + g'u) + e``: F the fractions of the tissues under the amplitudes
    p, b their values, u the place in the slice, 0 in the middle of the cord and about 1 at its border, and g Gaussian with `UNEVEN`. e is Student's
    t, its scale the slice's own, shrunk to the median of all. A voxel counts as ``n_eff / n`` of one, by the in-plane correlation of the residuals:
    ``(1 - r) / (1 + r)`` for each axis. b is Gaussian about the values of the whole image, so that a slice of little contrast keeps the sign and
    about the size of its contrast. p is Gaussian with `PRIOR`, its correlation along the cord ``exp(-d / ALONG)``. b and g are eliminated (variable
    projection), p found by Gauss-Newton on all slices together.
    """
    points = _look(with_rim(fitted, template), template, np.asarray(image), np.asarray(affine, float), np.nan_to_num(np.asarray(cord, float)))
    if points is None:
        return None
    section = _Section.of(template, points)
    amplitudes = _amplitudes(points, section)
    carrier = _Carrier(fitted, template, section, points, affine)
    for _ in range(12):
        move = carrier.displacement(amplitudes)
        area, shift = carrier.inside(move)
        folded = area[0] < LEAST_AREA
        if not folded.any():
            break
        amplitudes[folded] *= 0.85
    image, region = points.spread(points.values), points.spread(np.ones(len(points.values))) == 1
    before, after = (points.spread(section.fractions(points, at)) for at in (points.at, section.place(points, amplitudes)))
    tissues = np.full((*points.shape, 3), np.nan, np.float32)
    tissues[points.window] = after
    extremes = float(area[0].min()), float(area[1].max())
    judged = explained(image, before, region), explained(image, after, region)
    return Refinement(*judged, tissues, amplitudes, points.slices, extremes, shift, partial(carrier.carried, move))


@dataclass(frozen=True, eq=False)
class _Points:
    """Voxels in and around the cord, slice after slice, and the template points of their parts.

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

    @cached_property
    def beside(self) -> FloatArray:
        """Place (n, 2) of each voxel in its slice: 0 in the middle of the cord, 1 two standard deviations of the cord's voxels away along an axis."""
        count = np.bincount(self.node, self.inside)

        def mean(values: FloatArray) -> FloatArray:
            return np.stack([np.bincount(self.node, self.inside * v) / count for v in values.T], axis=1)[self.node]

        at = self.voxel[:, :2].astype(float)
        away = at - mean(at)
        return np.asarray(away / np.maximum(2 * np.sqrt(mean(away**2)), 1.0))

    @cached_property
    def neighbours(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        """Voxels and their neighbours along x and along y: for each axis two index arrays into the voxels."""
        number = np.full(self.shape, -1)
        number[tuple(self.voxel.T)] = np.arange(len(self.voxel))
        pairs = ((np.delete(number, -1, axis), np.delete(number, 0, axis)) for axis in (0, 1))
        return tuple((one[both], other[both]) for one, other in pairs for both in [(one >= 0) & (other >= 0)])

    @cached_property
    def window(self) -> tuple[slice, slice]:
        """The part of the image across that holds the voxels."""
        low, high = self.voxel[:, :2].min(axis=0), self.voxel[:, :2].max(axis=0) + 1
        return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))

    def spread(self, values: FloatArray) -> FloatArray:
        """Put values (n, ...) of the voxels on the image's grid in `window`, NaN elsewhere."""
        x, y = self.window
        out = np.full((x.stop - x.start, y.stop - y.start, self.shape[2], *values.shape[1:]), np.nan)
        out[tuple((self.voxel - (x.start, y.start, 0)).T)] = values
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
    voxel = np.argwhere(wanted.transpose(2, 0, 1))[:, [1, 2, 0]]
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
    """The template across, from block slice `first` on.

    tissues (slice, x, y, 3), their derivatives by mm (slice, x, y, 6: along x, then along y) and the weight of the inside (slice, x, y, 1).
    """

    tissues: NDArray[np.float32]
    slopes: NDArray[np.float32]
    inner: NDArray[np.float32]
    first: int
    spacing: FloatArray
    middle: FloatArray
    half: FloatArray

    @classmethod
    def of(cls, template: Template, points: _Points) -> _Section:
        first, last = int(points.row.min()), int(points.row.max()) + 1
        spacing = template.block_grid.spacing[:2]
        tissues = np.ascontiguousarray(tissue_maps(template, slice(first, last)).transpose(3, 1, 2, 0), np.float32)
        slopes = np.concatenate(np.gradient(tissues, *spacing.astype(np.float32), axis=(1, 2)), axis=-1)
        inner = weight_of_inside(template_depth(template, first, last)).transpose(2, 0, 1)[..., None]
        cord, line = template.cord[..., first:last], [np.arange(n) * s for n, s in zip(template.cord.shape, spacing, strict=False)]
        weight = [cord.sum(axis=(1 - a, 2)) / cord.sum() for a in (0, 1)]
        middle = np.array([(w * x).sum() for w, x in zip(weight, line, strict=True)])
        half = np.array([2 * np.sqrt((w * (x - m) ** 2).sum()) for w, x, m in zip(weight, line, middle, strict=True)])
        return cls(tissues, slopes, np.ascontiguousarray(inner, np.float32), first, spacing, middle, half)

    def look(self, maps: NDArray[np.float32], points: _Points, at: FloatArray) -> NDArray[np.float32]:
        return _bilinear(maps, points.row - self.first, at)

    def modes(self, at: FloatArray) -> list[tuple[int, int, NDArray[np.float32]]]:
        """`displacements` at fractional block indices (..., 2)."""
        x, y = ((at[..., a] * self.spacing[a] - self.middle[a]).astype(np.float32) for a in (0, 1))
        return displacements(x, y, self.half)

    def displacement(self, at: FloatArray, inner: NDArray[np.float32], amplitudes: FloatArray) -> FloatArray:
        """Displacement (..., 2), mm, at fractional block indices (..., 2) by amplitudes (mode, ...) that broadcast against the places."""
        out = np.zeros((2, *np.broadcast_shapes(at.shape[:-1], amplitudes.shape[1:])))
        for mode, axis, values in self.modes(at):
            out[axis] += values * (amplitudes[mode] * inner if mode >= INNER else amplitudes[mode])
        return np.moveaxis(out, 0, -1)

    def place(self, points: _Points, amplitudes: FloatArray) -> FloatArray:
        """Template index (n, part, 2) that the moved template brings to each point: ``t + v(t)`` is where the point was."""
        at, here = points.at, amplitudes[points.node].T[..., None]
        for _ in range(2):
            inner = self.look(self.inner, points, at)[..., 0]
            at = points.at - self.displacement(at, inner, here) / self.spacing
        return at

    def fractions(self, points: _Points, at: FloatArray) -> FloatArray:
        """Tissues (n, 3) of the voxels whose parts lie at template indices (n, part, 2)."""
        return np.asarray(self.look(self.tissues, points, at).mean(axis=1), float)

    def pull(self, points: _Points, at: FloatArray, value: FloatArray) -> FloatArray:
        """Differentiate the voxels' grey values by the amplitudes (n, mode), where tissues and the rest have values (n, 4)."""
        found, step = self.look(self.slopes, points, at), (value[:, :3] - value[:, 3:]).astype(np.float32)
        rise = [np.einsum("nst,nt->ns", found[..., 3 * a : 3 * a + 3], step) for a in (0, 1)]
        inner = self.look(self.inner, points, at)[..., 0]
        out = np.zeros((len(PRIOR), len(at)))
        for mode, axis, values in self.modes(at):
            out[mode] -= np.einsum("ns,ns->n", values, rise[axis] * inner if mode >= INNER else rise[axis])
        return np.asarray(out.T / at.shape[1])


def _bilinear(maps: NDArray[Any], row: NDArray[np.int64], at: FloatArray) -> NDArray[Any]:
    """Values (..., channel) of maps (slice, x, y, channel) at slices (...) and fractional indices (..., 2), clipped to the maps."""
    size = maps.shape[1:3]
    at = np.clip(at, 0, np.asarray(size) - 1.001)
    low = at.astype(int)
    x, y = ((at - low)[..., a, None].astype(maps.dtype) for a in (0, 1))
    flat, here = maps.reshape(-1, maps.shape[-1]), (row * size[0] + low[..., 0]) * size[1] + low[..., 1]
    near, far = (a + (b - a) * y for a, b in ((flat[here], flat[here + 1]), (flat[here + size[1]], flat[here + size[1] + 1])))
    return np.asarray(near + (far - near) * x)


def _amplitudes(points: _Points, section: _Section) -> FloatArray:
    """Amplitudes (slice, mode) of greatest posterior probability."""
    deviation = np.array(list(PRIOR.values()))
    within, between = _chain(points.arc)
    node, count = points.node, np.bincount(points.node)
    first = np.r_[0, np.cumsum(count)[:-1]]
    p: FloatArray = np.zeros((len(count), len(deviation)))
    weight: FloatArray = np.ones(len(points.values))
    noise: FloatArray = np.ones(len(count))
    usual: FloatArray = np.zeros(6)  # four tissues, and how uneven the image is along both axes
    spread: FloatArray = np.r_[np.full(4, np.inf), [UNEVEN] * 2]
    value: FloatArray = np.zeros((len(count), 6))
    effective = 1.0

    def total(a: FloatArray, b: FloatArray) -> FloatArray:
        """Sum over the voxels of each slice of the products of a (n, i) and b (n, j): (slice, i, j)."""
        return np.stack([a[k : k + n].T @ b[k : k + n] for k, n in zip(first, count, strict=True)])

    for _ in range(STEPS):
        at = section.place(points, p)
        tissues = with_rest(section.fractions(points, at))
        design = np.concatenate([tissues, (tissues * value[node, :4]).sum(axis=1)[:, None] * points.beside], axis=1)
        squares: FloatArray = total(design * weight[:, None], design) + 1e-6 * np.eye(6)
        held = (noise / effective)[:, None] / spread**2
        right = total(design * weight[:, None], points.values[:, None])[..., 0] + held * usual
        value = np.linalg.solve(squares + held[:, None] * np.eye(6), right[..., None])[..., 0]
        error = np.diagonal(np.linalg.inv(squares[:, :4, :4]), axis1=1, axis2=2)
        left = points.values - (design * value[node]).sum(axis=1)
        own = np.add.reduceat(weight * left**2, first) / np.maximum(count - 4, 1)
        noise = np.maximum((own * count + np.median(own) * POOLED) / (count + POOLED), 1e-12)
        weight = (HEAVY + 1) / (HEAVY + left**2 / noise[node])
        effective = _effective(points, left * np.sqrt(weight / noise[node]))
        usual[:4], spread[:4] = _usual(value[:, :4], error * noise[:, None] / effective)
        by, w = section.pull(points, at, value[node, :4]), (weight * effective / noise[node])[:, None]
        cross = total(by * w, design)
        squares = total(design * w, design) + np.diag(1 / spread**2)
        block = total(by * w, by) - cross @ np.linalg.solve(squares, cross.transpose(0, 2, 1)) + within[:, None, None] * np.diag(deviation**-2)
        tied = within[:, None] * p
        tied[1:] += between[:, None] * p[:-1]
        tied[:-1] += between[:, None] * p[1:]
        step = _solve_chain(block, between[:, None] / deviation**2, total(by * w, left[:, None])[..., 0] - tied / deviation**2)
        p += np.clip(step, -deviation, deviation)
    return p


def _usual(value: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Value (tissue,) of each tissue in the whole image and how far slices spread about it, from those of slices and the variances of these."""
    weight = 1.0 / (error + 0.1**2)
    usual = (weight * value).sum(axis=0) / weight.sum(axis=0)
    known = np.where(error <= np.median(error, axis=0), np.abs(value - usual), np.nan)
    return usual, np.maximum(1.4826 * np.nanmedian(known, axis=0), SPREAD)


def _effective(points: _Points, residual: FloatArray) -> float:
    """Independent voxels' worth of a voxel, by the in-plane correlation of neighbouring residuals (n,)."""
    share = 1.0
    for one, other in points.neighbours:
        r = float(np.clip((residual[one] * residual[other]).mean() / (residual**2).mean(), 0.0, 0.9))
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


class _Carrier:
    """Carries a template map along by the modes of the image's slices."""

    def __init__(self, fitted: TemplateMap, template: Template, section: _Section, points: _Points, affine: FloatArray) -> None:
        self.fitted, self.section, self.slices = fitted, section, points.slices
        self.slab, self.first = fitted.slab()
        rows = self.first + np.arange(self.slab.shape[2])
        into = np.linalg.inv(np.asarray(affine, float))[2]
        self.level = np.clip(self.slab @ into[:3] + into[3], self.slices[0], self.slices[-1])
        self.inner = section.inner[np.clip(rows - section.first, 0, len(section.inner) - 1), ..., 0].transpose(1, 2, 0)
        self.at = np.moveaxis(np.indices(self.slab.shape[:2], float), 0, -1)
        cord = template.cord[:, :, rows] >= 0.5
        self.window = tuple(slice(max(int(i.min()) - 1, 0), int(i.max()) + 2) for i in np.nonzero(cord.any(axis=2)))
        self.cord, level = cord[self.window], self.level[self.window]
        middle = (level * self.cord).sum(axis=(0, 1)) / np.maximum(self.cord.sum(axis=(0, 1)), 1)
        self.nearest = np.abs(self.slices - middle[:, None]).argmin(axis=1)

    def displacement(self, amplitudes: FloatArray) -> NDArray[np.float32]:
        """Displacement (x, y, block slice, 2), mm, by amplitudes (slice of the image, mode), linear between the slices."""
        every = np.arange(self.slices[0], self.slices[-1] + 1)
        here = np.stack([np.interp(every, self.slices, mode) for mode in amplitudes.T])[:, None, None]
        whole, both = (self.section.displacement(self.at[:, :, None], np.full((), w, np.float32), here).astype(np.float32) for w in (0, 1))
        low = np.minimum((self.level - every[0]).astype(int), max(len(every) - 2, 0))
        part = (self.level - every[0] - low).astype(np.float32)[..., None]
        x, y = (i[..., None] for i in np.indices(low.shape[:2], sparse=True))
        whole, inner = (near + (far - near) * part for near, far in ((v[x, y, low], v[x, y, low + 1]) for v in (whole, both - whole)))
        return np.asarray(whole + self.inner[..., None] * inner)

    def inside(self, move: NDArray[np.float32]) -> tuple[FloatArray, float]:
        """Smallest and largest area change in the cord (2, slice of the image), and the largest displacement there, mm."""
        change, area = area_change(move[self.window], self.section.spacing), np.ones((2, len(self.slices)))
        for out, extreme in ((area[0], np.minimum), (area[1], np.maximum)):
            extreme.at(out, self.nearest, extreme.reduce(np.where(self.cord, change, 1.0), axis=(0, 1)))
        return area, float(np.hypot(*move[self.window][self.cord].T).max())

    def carried(self, move: NDArray[np.float32]) -> TemplateMap:
        """Look up the map where the template was moved to."""
        room = int(np.ceil(2.0 / self.section.spacing.min()))
        wide = np.pad(self.slab, [(room, room), (room, room), (0, 0), (0, 0)], mode="reflect", reflect_type="odd").transpose(2, 0, 1, 3).copy()
        out = np.full_like(self.fitted.block, np.nan)
        for k in range(len(wide)):
            out[:, :, self.first + k] = _bilinear(wide[k : k + 1], np.array(0), self.at + move[:, :, k] / self.section.spacing + room)
        out[:, :, ~self.fitted.covered] = np.nan
        return TemplateMap(out, self.fitted.quality)
