"""A template map out of somebody else's warp: checked against the cord, and turned round.

A warp "from the template" lies on the image's grid and says for each of its voxels which template point belongs there. A template map says where
in the image each template voxel lies: the inverse.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.errors import GeometryError, InputError
from cohort_engine.mapping.ants import FARTHEST, TO_LPS, field_positions
from cohort_engine.mapping.inverse import MISS, interpolate, locate
from cohort_engine.mapping.native import continue_slices
from cohort_engine.mapping.straighten import bridge
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

BoolArray = NDArray[np.bool_]

BETTER = 0.05
"""A warp is refused where another reading of its numbers fits the cord better by this much Dice."""
STEPS = 8
"""Of Newton's method: the derivative jumps between thick slices. 4 steps leave up to 0.07 mm in a published warp of 5 mm slices, 8 leave 0.002."""
KNOWN = 0.5
"""Least trilinear weight of voxels that have a position."""
AROUND = 4.0
"""Template voxels beyond the template's block that still help to turn a warp round."""


def predicted_cord(positions: FloatArray, template: Template) -> FloatArray:
    """Template cord (x, y, z), 0 to 1, at the template positions (x, y, z, 3) of an image's voxels; 0 where there is none."""
    out = np.zeros(positions.shape[:3])
    known = np.isfinite(positions).all(axis=-1)
    at = template.block_grid.voxel(positions[known])
    out[known] = ndimage.map_coordinates(np.asarray(template.cord, float), at.T, order=1, mode="constant")
    return out


def cord_dice(positions: FloatArray, cord: BoolArray, template: Template) -> float:
    """Dice of a cord (x, y, z) with the template's, brought there by positions, over the slices both have; 0 where they have none."""
    there = predicted_cord(positions, template) >= 0.5
    both = there.any(axis=(0, 1)) & cord.any(axis=(0, 1))
    a, b = there[:, :, both], cord[:, :, both]
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def check_convention(field: FloatArray, affine: FloatArray, cord: BoolArray, template: Template, *, least: float, what: str, like: str) -> float:
    """Refuse a warp whose numbers do not bring the template's cord to the image's.

    Parameters
    ----------
    field : (x, y, z, 3) array
        Displacements as stored; they should be LPS mm.
    affine : (4, 4) array
        Of the image, RAS+ mm.
    cord : (x, y, z) bool array
    template : Template
    least : float
        Dice below which the warp is refused.
    what, like : str
        Words of the warp and of the cord, for messages.

    Returns
    -------
    float
        Dice.

    Raises
    ------
    InputError
        It says whether another sign or unit would fit.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    readings: Mapping[str, FloatArray] = {
        "RAS in place of LPS": TO_LPS, "metres in place of mm": np.full(3, 1000.0), "voxels in place of mm": spacing,
        "voxels in place of mm, RAS in place of LPS": spacing * TO_LPS,
    }  # fmt: skip
    found = cord_dice(field_positions(field, affine), cord, template)
    if found > 1 - BETTER:
        return found
    others = {
        name: cord_dice(field_positions(np.where(np.abs(field) < FARTHEST, field * factor, np.inf), affine), cord, template)
        for name, factor in readings.items()
    }
    best, lps = max(others, key=lambda name: others[name]), f"as mm LPS {found:.2f}"
    if others[best] > found + BETTER:
        raise InputError(
            expected="displacements in mm, LPS, as ITK and ANTs write them", where=what,
            found=f"numbers that fit as {best} (Dice with the {like} {others[best]:.2f}, {lps})",
            remedy="Write the warp again with the tool that made it, without conversion.",
        )  # fmt: skip
    if found < least:
        raise InputError(
            expected=f"a warp that brings the template's cord onto the {like} (Dice {least:g})", found=f"Dice {found:.2f}", where=what,
            remedy="Check that warp and image belong together, and that the warp is from the template to the image and of this template.",
        )  # fmt: skip
    return found


def packed_by_inversion(
    positions: FloatArray, affine: FloatArray, template: Template, slices: BoolArray, *, what: str
) -> tuple[NDArray[np.float32], FloatArray]:
    """Turn a warp round: where in the image each packed template voxel lies.

    Parameters
    ----------
    positions : (x, y, z, 3) array
        Template position of the image's voxels, RAS+ mm, NaN where there is none; linear between voxels.
    affine : (4, 4) array
        Of the image, RAS+ mm.
    template : Template
    slices : (z,) bool array
        Slices of the image to be used: those of the cord.
    what : str
        Words of the warp, for messages.

    Returns
    -------
    map : (voxel, 3) float32 array
        RAS+ mm. Missing: NaN beyond half a slice from the outer slices, where less than half of the weight has a position, and where the
        inverse is not found to `inverse.MISS`.
    residual : (n,) array
        Distance (mm) between a template voxel and the warp at its place, of those voxels whose place lies in the slices.

    Raises
    ------
    GeometryError
        Fewer than two slices, or nothing of the template in them.
    """
    at = template.block_grid.voxel(positions)
    with np.errstate(invalid="ignore"):
        near: BoolArray = np.asarray(((at > -AROUND) & (at < np.asarray(template.cord.shape) + AROUND)).all(axis=-1))
    chosen = np.flatnonzero(slices & (near.sum(axis=(0, 1)) > 6))
    if len(chosen) < 2:
        raise GeometryError(
            expected="a warp that reaches the template in two slices or more", found=f"{len(chosen)}", where=what,
            remedy="Check that the warp belongs to this image and this template.",
        )  # fmt: skip
    (x0, x1), (y0, y1) = ((int(f[0]), int(f[-1]) + 1) for f in (np.flatnonzero(near.any(axis=(1 - a, 2))) for a in (0, 1)))
    first, last = int(chosen[0]), int(chosen[-1])
    box = positions[x0:x1, y0:y1, first : last + 1]
    known = np.isfinite(box).all(axis=-1)
    block = continue_slices(box.copy())
    filled = np.isfinite(block[0, 0, :, 0])
    block = bridge(block[:, :, filled], filled, axis=2)
    block = np.pad(block, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect", reflect_type="odd")
    weight = np.pad(known.astype(float), ((0, 0), (0, 0), (1, 1)), mode="edge")[..., None]
    xyz = template.packing.xyz
    z = block[..., 2]
    some = np.flatnonzero((xyz[:, 2] >= z.min()) & (xyz[:, 2] <= z.max()))
    index, miss = locate(block, xyz[some], every=(2, 2, 1), steps=STEPS)
    index_in_image = index + np.array([x0, y0, first - 1])
    inside = (index_in_image[:, 2] >= first - 0.5) & (index_in_image[:, 2] <= last + 0.5) & (interpolate(weight, index)[:, 0] >= KNOWN)
    kept = inside & (miss < MISS)
    out = np.full(xyz.shape, np.nan, np.float32)
    out[some[kept]] = Grid(positions.shape[:3], np.asarray(affine, float)).world(index_in_image[kept])
    return out, miss[inside]


def packed_by_opposite(
    opposite: FloatArray, opposite_affine: FloatArray, positions: FloatArray, affine: FloatArray, template: Template, slices: BoolArray
) -> tuple[NDArray[np.float32], FloatArray]:
    """Read a template map off the warp from the image to the template, which lies on the template's grid.

    Parameters
    ----------
    opposite : (i, j, k, 3) array
        Image position, RAS+ mm, of the voxels of a grid in template space; NaN where there is none.
    opposite_affine : (4, 4) array
    positions, affine, template, slices
        The other warp, as for `packed_by_inversion`.

    Returns
    -------
    map, residual
        As of `packed_by_inversion`; the residual is how far the two warps disagree.
    """
    xyz = template.packing.xyz
    grid = Grid(opposite.shape[:3], np.asarray(opposite_affine, float))
    home = grid.world(np.moveaxis(np.indices(grid.shape, dtype=float), 0, -1))
    image = Grid(positions.shape[:3], np.asarray(affine, float))
    out = np.full(xyz.shape, np.nan, np.float32)
    moved, known = _blend(opposite - home, grid, xyz)
    found = xyz + moved
    at = image.voxel(found)
    first, last = (int(i) for i in np.flatnonzero(slices)[[0, -1]])
    low, high = np.array([-0.5, -0.5, first - 0.5]), np.array([image.shape[0] - 0.5, image.shape[1] - 0.5, last + 0.5])
    inside = known & ((at >= low) & (at <= high)).all(axis=1)
    out[inside] = found[inside]
    back, there = _blend(positions, image, found[inside])
    return out, np.linalg.norm(back - xyz[inside], axis=1)[there]


def _blend(values: FloatArray, grid: Grid, xyz: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Values (x, y, z, 3) at positions (n, 3), and whether all that is interpolated is known there."""
    known: BoolArray = np.asarray(np.isfinite(values).all(axis=-1))
    at = grid.voxel(xyz)
    inside = ((at >= -0.01) & (at <= np.asarray(grid.shape) - 0.99)).all(axis=1)
    weight = interpolate(known[..., None].astype(float), at)[:, 0]
    there = inside & (weight > 0.99)
    found = interpolate(np.where(known[..., None], values, 0.0), at) / np.where(there, weight, 1.0)[:, None]
    return found, there
