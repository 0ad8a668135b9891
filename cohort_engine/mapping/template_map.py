"""The template map of an image: for each voxel of the template, the position in the image that corresponds to it.

Geometry first: the centreline gives position and direction, the levels give the place along it, the moments of the two cord masks give shift and
shape in each slice. Then SyN on the straightened block corrects the outline. Masks are compared as ramps over the distance to their contour, not
blurred: blurring wears a convex outline off and would pull the edge inwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.centreline import cord_slices
from cohort_engine.cord.levels import LevelAxis
from cohort_engine.errors import LevelError
from cohort_engine.mapping import ANTS, TORCH, ants, flow
from cohort_engine.mapping.shape import SectionMatch, match_sections, moments, occupancy
from cohort_engine.mapping.straighten import StraightCord, block_depth, bridge
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

REACH = 16.0
"""Half-width (mm) of the window in which the native cord is looked at."""
RAMP = 4.0
"""Width (mm) of the ramp over the contour that SyN sees. On simulated 0.9 x 0.9 x 5 mm masks the MTR of tracts came out 0.57, 0.85, 0.35 and
0.09 points too high with 1, 2, 3 and 4 mm (``tests/benchmarks/test_ramp.py``), likely because a narrow ramp follows the pixels of the mask, which
hold more cord than their neighbours outside. The price is a position error of 0.30 instead of 0.27 mm (median)."""
MARGIN = 4.0
"""Room (mm) around both cords that SyN sees."""
GREY = 0.35
"""Weight of grey matter against the ramp. On five T2* scans the grey matter that others drew fitted the template's with a Dice of 0.68 without it,
and 0.75, 0.76 and 0.78 with 0.25, 0.35 and 0.5; outlines fitted with 0.999, 0.997, 0.996 and 0.992 (``tests/real/test_template_map.py`` prints
those without and with 0.35).
"""
ITERATIONS, ALONG = (10, 3), 4
"""Of SyN at 1 mm, then at 0.5 mm; and it sees every fourth template slice, 2 mm apart: the outline changes slowly along the cord. What is left at the
border `_followed` does, ten times as fast."""
GREY_ITERATIONS, GREY_ALONG = (10, 6), 2
"""The same where grey matter guides SyN: the inside has finer edges."""
FLOW_SIGMA = 1.5
"""Variance of the smoothing of each update, voxels."""
HOLD = 1.5
"""Depth below the outline (mm) from which on the inside keeps to the geometry where no grey matter guides it: outlines say nothing of the inside.
On five T2* scans the grey matter that others drew fits the template's with a Dice of 0.735 so, of 0.682 where SyN moves the inside too, of 0.732 by
geometry alone, and the image is explained as well (``tests/real/test_refine.py``)."""
BORDER = 1.0
"""The same of what is left to the border of the mask: one slice's ragged outline moves only what is next to it."""
ROUNDS, SOFT = 3, 0.5
"""How often what is left is looked at, and the standard deviation of its smoothing, voxels."""
ROUGH, WAVY = 0.29, 0.25
"""Standard deviations: of a mask's border about the cord's, in pixels (evenly within one); and of the cord's border about geometry, mm. They weigh
SyN: by 0.48 in pixels of 0.9 mm, 0.75 of 0.5 mm."""
LEAST_AREA = 0.3
"""At least this part of any area inside the cord is left: the displacement of a slice is scaled down until it is. Ragged masks of compressed slices
drove it to 0.1."""
PAD = 4
"""Slices repeated at both ends, so that the ends are held by what continues there."""
NEIGHBOURS = 4
"""Template slices that are scaled down together."""


@dataclass(frozen=True, eq=False)
class TemplateMap:
    """Where the template lies in one image.

    Attributes
    ----------
    block : (bx, by, bz, 3) float32 array
        Position in the image (RAS+ mm) of every voxel of ``template.block_grid``; NaN in slices beyond the cord mask, and in those that lie where
        an image slice has no mask.
    quality : mapping
        The numbers of `schema.FIT_QC`.
    """

    block: NDArray[np.float32]
    quality: dict[str, float]

    def packed(self, template: Template) -> NDArray[np.float32]:
        """Positions (voxel, 3) of the packed voxels, NaN where the image has nothing."""
        i, j, k = (template.packing.ijk.astype(int) - np.asarray(template.corner)).T
        packed: NDArray[np.float32] = self.block[i, j, k]
        return packed

    def slab(self) -> tuple[FloatArray, int]:
        """Positions from the first to the last slice that the map covers, those between filled linearly, and the block index of the first."""
        known = np.flatnonzero(self.covered)
        first, last = int(known[0]), int(known[-1]) + 1
        held = self.covered[first:last]
        return np.ascontiguousarray(bridge(self.block[:, :, first:last][:, :, held].astype(float), held, axis=2)), first

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Slices (bz,) that the map covers."""
        return np.isfinite(self.block[0, 0, :, 0])


def fit_template_map(
    cord: NDArray[Any], affine: FloatArray, levels: LevelAxis, template: Template, *, grey: NDArray[Any] | None = None, deformable: bool = True,
    likely: bool = False, engine: str = ANTS, seed: int = 1, what: str = "cord mask",
) -> TemplateMap:  # fmt: skip
    """Fit the template map of an image from its cord mask and the levels along its centreline, and from its grey matter where that shows.

    Parameters
    ----------
    cord : (x, y, z) array
        Mask, 0 to 1.
    affine : (4, 4) array
        Of the image, RAS+ mm.
    levels : LevelAxis
        On the centreline of this mask (`cord.levels.level_axis`, or `transfer` from another image of the session).
    template : Template
    grey : (x, y, z) array, optional
        Part of each voxel that is grey matter, 0 to 1: SyN moves the inside of the cord by it. Without it the inside follows the outline.
    deformable : bool
        Match the outlines after the geometric steps.
    likely : bool
        Follow the border of the mask as far as its pixels can tell, where an image refines the map afterwards (`mapping.refine`); by default all the
        way.
    engine : {"ants", "torch"}
        What runs it.
    seed : int
        Of ANTs.
    what : str
        Words of the mask's role, for messages.

    Returns
    -------
    TemplateMap
        Covers the template slices whose place lies within the mask, to half a slice beyond its outer slices. Through slices without mask the outline
        is that of their neighbours, so that what lies beside them does not change; the map itself is NaN there. Its Dice compares outlines, those
        of the image interpolated along the cord; sampling the mask itself gives less where slices are thick and lean (0.98 against 0.998 in 5 mm
        slices).

    Raises
    ------
    CordError
        See `cord.centreline.cord_slices`.
    LevelError
        The mask and the template have no slices in common.
    """
    fit = MapFit.of(cord, affine, levels, template, grey=grey, deformable=deformable, engine=engine, seed=seed, what=what)
    return fit.map(likely=likely)


@dataclass(frozen=True, eq=False)
class MapFit:
    """All of a fit but how far it follows the border of the mask: see `fit_template_map`. Make it with `MapFit.of`."""

    template: Template
    levels: LevelAxis
    straight: StraightCord
    match: SectionMatch
    affine: FloatArray
    shape: tuple[int, ...]
    slices: NDArray[np.int64]
    grey: NDArray[Any] | None
    first: int
    arc: FloatArray
    move: NDArray[np.float32] | None

    @classmethod
    def of(
        cls, cord: NDArray[Any], affine: FloatArray, levels: LevelAxis, template: Template, *, grey: NDArray[Any] | None = None,
        deformable: bool = True, engine: str = ANTS, seed: int = 1, what: str = "cord mask",
    ) -> MapFit:  # fmt: skip
        """Measure the sections of both cords, and run SyN; parameters and errors are those of `fit_template_map`."""
        cord, slices = cord_slices(cord, affine=affine, what=what)
        spacing = template.block_grid.spacing
        x, y, z = template_lines(template)
        arc = levels.arc(z)
        seen = np.flatnonzero((arc >= 0) & (arc <= levels.centreline.length) & (template.cord >= 0.5).any(axis=(0, 1)))
        if len(seen) < 2:
            low, high = levels.z(np.array([0.0, levels.centreline.length]))
            raise LevelError(
                expected=f"a cord within the template, z {z[0]:.0f} to {z[-1]:.0f} mm", found=f"z {low:.0f} to {high:.0f} mm", where=what,
                remedy="Check the numbers of the landmarks, and that template and image show the same part of the spine.",
            )  # fmt: skip
        first, last = int(seen[0]), int(seen[-1]) + 1
        arc = arc[first:last]
        straight = StraightCord.of_mask(cord, affine, slices, levels.centreline, reach=REACH, step=float(spacing[0]))
        depth = template_depth(template, first, last)
        match = _match_sections(straight, depth, x, y, arc, spacing)
        move = None
        if deformable:
            a, b = match.place(x[:, None, None], y[None, :, None])
            fixed, moving = occupancy(depth, RAMP), occupancy(straight.depth(a, b, arc), RAMP)
            if grey is not None:
                fixed, moving = fixed + GREY * template.gm[:, :, first:last], moving + GREY * straight.look(grey, a, b, arc)
            move = _deformed(fixed, moving, spacing, engine, seed, *((ITERATIONS, ALONG) if grey is None else (GREY_ITERATIONS, GREY_ALONG)))
        return cls(template, levels, straight, match, affine, cord.shape, slices, grey, first, arc, move)

    def map(self, *, likely: bool) -> TemplateMap:
        """Follow the border of the mask, `likely` or all the way."""
        template, straight, match, arc, grey = self.template, self.straight, self.match, self.arc, self.grey
        some, spacing = slice(self.first, self.first + len(arc)), template.block_grid.spacing
        (x, y, _), solid = template_lines(template), template.cord[:, :, some] >= 0.5
        a, b = match.place(x[:, None, None], y[None, :, None])
        held = straight.supported(arc)
        before = after = _dice((straight.depth(a, b, arc) > 0)[..., held], solid[..., held])
        jacobian, inner, move = (np.nan, np.nan), np.nan, self.move
        if move is not None:
            if grey is None:
                depth = template_depth(template, some.start, some.stop)
                move = move * (_outline_share(depth, HOLD)[..., None] * np.float32(_credible(self.affine)))
                if not likely:
                    move = _followed(move, depth, lambda m: straight.depth(*_placed(match, x, y, m), arc), spacing)
                move *= _bounded(move, spacing, solid)[:, None]
            a, b = _placed(match, x, y, move)
            after = _dice((straight.depth(a, b, arc) > 0)[..., held], solid[..., held])
            if grey is not None:
                inner = _dice((straight.look(grey, a, b, arc) >= 0.5)[..., held], (template.gm[:, :, some] >= 0.5)[..., held])
            jacobian = _jacobian_extremes(move[:, :, held], spacing, solid[..., held])
        block = np.full((*template.block_grid.shape, 3), np.nan, np.float32)
        block[:, :, some] = np.where(held[:, None], straight.world(a, b, arc), np.nan)
        inside = _inside(block[template.cord >= 0.5], _grid(self.shape, self.affine))
        line = self.levels.centreline
        quality = {
            schema.DICE: after, schema.DICE_GEOMETRY: before, schema.RESIDUAL: self.levels.residual, schema.JACOBIAN_MIN: jacobian[0],
            schema.JACOBIAN_MAX: jacobian[1], schema.FIT_COVERAGE: float(inside.mean()), schema.GREY_DICE: inner,
            schema.GAPS: float(self.slices[-1] - self.slices[0] + 1 - len(self.slices)),
            schema.CENTRELINE_ERROR: float(np.max(line.standard_error(arc[~held]))) if not held.all() else np.nan,
        }  # fmt: skip
        return TemplateMap(block, quality)


def template_lines(template: Template) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Position of the voxels of a template's block along x, y and z, mm."""
    grid = template.block_grid
    x, y, z = (grid.affine[i, 3] + grid.affine[i, i] * np.arange(n) for i, n in enumerate(grid.shape))
    return x, y, z


_DEPTHS: WeakKeyDictionary[Template, NDArray[np.float32]] = WeakKeyDictionary()
"""Depth of the cord of a template, slice by slice as it was asked for; NaN in the others. A worker fits many images to one template."""


def template_depth(template: Template, first: int, last: int) -> NDArray[np.float32]:
    """Depth (x, y, slice) of the template's cord in slices ``first ... last - 1`` of its block, see `straighten.block_depth`."""
    if template not in _DEPTHS:
        _DEPTHS[template] = np.full(template.cord.shape, np.nan, np.float32)
    known = _DEPTHS[template]
    missing = first + np.flatnonzero(np.isnan(known[0, 0, first:last]))
    if len(missing):
        known[:, :, missing] = block_depth(template.cord[:, :, missing], template.block_grid.spacing[:2])
    return known[:, :, first:last]


def _match_sections(straight: StraightCord, depth: FloatArray, x: FloatArray, y: FloatArray, arc: FloatArray, spacing: FloatArray) -> SectionMatch:
    """Compare centres and second moments of the two cords, slice by slice, both measured in the same way."""
    line = straight.origin + straight.step * np.arange(straight.contours.shape[0])
    a, b, _ = np.broadcast_arrays(line[:, None, None], line[None, :, None], arc)
    here = moments(occupancy(depth, float(spacing[0])), x, y)
    there = moments(occupancy(straight.depth(a, b, arc), float(spacing[0])), line, line)
    return match_sections(here, there, float(spacing[2]))


def _placed(match: SectionMatch, x: FloatArray, y: FloatArray, move: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cord coordinates (x, y, z) of the template's voxels after a displacement (x, y, z, 2), mm."""
    return match.place(x[:, None, None] + move[..., 0], y[None, :, None] + move[..., 1])


def _outline_share(depth: FloatArray, reach: float) -> NDArray[np.float32]:
    """Part of a displacement of the border that is kept at depths of the template (mm): all outside, falling to 0 at `reach` inside."""
    down = np.clip(depth / np.float32(reach), 0.0, 1.0)
    return np.asarray(1 - down * down * (3 - 2 * down), np.float32)


def _credible(affine: FloatArray) -> float:
    """Part of SyN's displacement that the pixels of a mask can tell."""
    pixel = float(np.linalg.norm(np.asarray(affine, float)[:3, :2], axis=0).mean())
    return WAVY**2 / (WAVY**2 + (ROUGH * pixel) ** 2)


def _followed(move: NDArray[np.float32], depth: FloatArray, native: Callable[[FloatArray], FloatArray], spacing: FloatArray) -> NDArray[np.float32]:
    """Bring the template's border all the way to the mask's.

    `move` (x, y, z, 2), mm; `native` tells the depth of the mask where a displacement leads: there it is to be that of the template.
    """
    inward = np.stack(np.gradient(depth, *spacing[:2], axis=(0, 1)), axis=-1)
    inward /= np.maximum(np.linalg.norm(inward, axis=-1, keepdims=True), 1e-3)
    share = _outline_share(depth, BORDER)
    for _ in range(ROUNDS):
        left = ndimage.gaussian_filter(share * np.clip(native(move) - depth, -1, 1), SOFT)
        move = move - left[..., None] * inward
    return move


def _bounded(move: FloatArray, spacing: FloatArray, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Factor (z,) of an in-plane displacement with which no area inside the cord falls below `LEAST_AREA`; smooth along the cord."""
    scale = np.ones(move.shape[2], np.float32)
    left = np.flatnonzero(inside.any(axis=(0, 1)))
    for _ in range(20):
        change = np.where(inside[:, :, left], area_change(move[:, :, left] * scale[left, None], spacing), 1.0).min(axis=(0, 1))
        left = left[change < LEAST_AREA]
        if not len(left):
            break
        scale[left] *= 0.85
    return np.asarray(ndimage.gaussian_filter1d(ndimage.minimum_filter1d(scale, NEIGHBOURS), NEIGHBOURS / 4), np.float32)


def _deformed(
    template: FloatArray, native: FloatArray, spacing: FloatArray, engine: str, seed: int, iterations: tuple[int, ...], along: int,
) -> NDArray[np.float32]:  # fmt: skip
    """In-plane displacement (x, y, z, 2), mm, that brings the native cord onto the template's; both are more than 0.5 inside the outline."""
    cords = np.maximum(native, template) > 0.5
    window = tuple(_around(np.asarray(cords.any(axis=(1 - i, 2))), int(np.ceil(MARGIN / spacing[i]))) for i in (0, 1))
    rows = np.arange(0, template.shape[2], along)
    padded = np.pad(rows, PAD, mode="edge")
    if engine == TORCH:
        pair = (ramp[window][:, :, rows] for ramp in (template, native))
        coarse = flow.deform(*(p[None] for p in pair), iterations=iterations, flow_sigma=FLOW_SIGMA**0.5)[0] * spacing[:2].astype(np.float32)
    else:
        fixed, moving = (ramp[window][:, :, padded] for ramp in (template, native))
        coarse = ants.deform(fixed, moving, spacing * (1, 1, along), seed=seed, iterations=iterations, flow_sigma=FLOW_SIGMA)[:, :, PAD:-PAD, :2]
    out = np.zeros((*template.shape, 2), np.float32)
    at = np.clip(np.arange(template.shape[2]) / along, 0, len(rows) - 1)
    low = np.minimum(at.astype(int), max(len(rows) - 2, 0))
    part = (at - low)[:, None].astype(np.float32)
    out[window] = coarse[:, :, low] * (1 - part) + coarse[:, :, np.minimum(low + 1, len(rows) - 1)] * part
    return out


def _around(line: NDArray[np.bool_], margin: int) -> slice:
    """From the first to the last true entry, and `margin` more where there are."""
    true = np.flatnonzero(line)
    return slice(max(int(true[0]) - margin, 0), int(true[-1]) + 1 + margin)


def area_change(move: FloatArray, spacing: FloatArray) -> FloatArray:
    """Jacobian determinant (x, y, ...) of an in-plane displacement (x, y, ..., 2), mm."""
    (ux, uy), (vx, vy) = (np.gradient(move[..., k], *spacing[:2], axis=(0, 1)) for k in (0, 1))
    return np.asarray((1 + ux) * (1 + vy) - uy * vx)


def _jacobian_extremes(move: FloatArray, spacing: FloatArray, inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Smallest and largest area change of the in-plane displacement inside the cord."""
    change = area_change(move, spacing)[inside]
    return float(change.min()), float(change.max())


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _grid(shape: tuple[int, ...], affine: FloatArray) -> Grid:
    x, y, z = shape
    return Grid((x, y, z), np.asarray(affine, float))


def packed_index(template: Template) -> tuple[NDArray[np.int64], ...]:
    """Index of the packed voxels in arrays on the block."""
    i, j, k = (template.packing.ijk.astype(np.int64) - np.asarray(template.corner)).T
    return i, j, k


def steps(block: FloatArray) -> Iterator[list[FloatArray]]:
    """Distance of the neighbours of a block (x, y, z, coordinate), one axis after the other: a list by coordinate of (x, y, z), one shorter there."""
    coordinates = [np.ascontiguousarray(c) for c in np.moveaxis(block, -1, 0)]  # in memory one after the other: several times as fast to search
    return ([np.abs(np.diff(c, axis=axis)) for c in coordinates] for axis in range(3))


def largest_steps(block: FloatArray) -> FloatArray:
    """Largest distance (axis, coordinate) of the neighbours of a block (x, y, z, coordinate) along each of its axes."""
    return np.array([[c.max(initial=0.0) for c in along] for along in steps(block)])


def _inside(xyz: FloatArray, grid: Grid) -> NDArray[np.bool_]:
    """Tell which positions (..., 3) lie in a voxel of the grid; NaN does not."""
    voxel = grid.voxel(xyz)
    with np.errstate(invalid="ignore"):
        return np.asarray(((voxel >= -0.5) & (voxel <= np.asarray(grid.shape) - 0.5)).all(axis=-1))


# --- apply ------------------------------------------------------------------------------------------------------------
def sample(data: NDArray[Any], affine: FloatArray, xyz: FloatArray, *, order: int = 1) -> NDArray[np.float32]:
    """Interpolate an image at positions.

    Parameters
    ----------
    data : (x, y, z) array
    affine : (4, 4) array
        RAS+ mm.
    xyz : (..., 3) array
        RAS+ mm.
    order : int
        Of the spline; 1 is trilinear.

    Returns
    -------
    (...) float32 array
        NaN where the position is NaN or in no voxel of the image. NaN voxels carry no weight: where the others have at least half of the
        trilinear weight the result is their weighted mean (order 1), or the spline through the image with its holes filled from the nearest
        voxel (higher orders); elsewhere it is NaN.

    Examples
    --------
    >>> image = np.array([10.0, 20.0, np.nan])[:, None, None]
    >>> sample(image, np.eye(4), np.array([[0.5, 0, 0], [1.25, 0, 0], [1.75, 0, 0], [-1.0, 0, 0]])).tolist()
    [15.0, 20.0, nan, nan]
    """
    xyz = np.asarray(xyz)
    out = np.full(xyz.shape[:-1], np.nan, np.float32)
    grid = _grid(data.shape, affine)
    inside = _inside(xyz, grid)
    at = grid.voxel(xyz[inside]).T
    missing = ~np.isfinite(data)
    values = np.asarray(data, np.float32)
    if not missing.any():
        out[inside] = _spline(values, at, order)
        return out
    weight = _spline((~missing).astype(np.float32), at, 1)
    if order == 1:
        found = _spline(np.where(missing, np.float32(0), values), at, 1) / np.maximum(weight, 0.5)
    else:
        nearest = ndimage.distance_transform_edt(missing, sampling=grid.spacing, return_distances=False, return_indices=True)
        found = _spline(values[tuple(nearest)], at, order)
    out[inside] = np.where(weight >= 0.5, found, np.nan)
    return out


def _spline(values: NDArray[np.float32], at: FloatArray, order: int) -> NDArray[np.float32]:
    return np.asarray(ndimage.map_coordinates(values, at, np.float32, order=order, mode="nearest"))  # type: ignore[call-overload]
