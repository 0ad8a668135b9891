"""Template maps turned round: where in a block of positions a given position lies, and the template position of an image's voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.mapping.template_map import TemplateMap, largest_steps
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

MISS = 0.02
"""Largest distance (mm) at which `invert` calls a voxel found."""
FOUND = 1e-5
"""A place that is found to this distance (mm) takes no more steps."""
STEPS = 10
"""Of Newton's method, at most: four are enough for all but some places at the rim of the block in thick slices."""


def invert(
    fitted: TemplateMap, template: Template, affine: FloatArray, shape: tuple[int, int, int], *, where: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Template position of the voxels of the image.

    Parameters
    ----------
    fitted : TemplateMap
    template : Template
    affine : (4, 4) array
    shape : (3,) tuple
        Grid of the image.
    where : (x, y, z) bool array, optional
        Voxels that are asked for; by default all.

    Returns
    -------
    (x, y, z, 3) float32 array
        Template world, RAS+ mm; NaN for voxels that the map's block does not reach, that are not asked for, and where it does not cover the slice.

    Notes
    -----
    Only voxels next to one that a block voxel lies in are looked for: no other can lie between block voxels. That block voxel is the first guess.
    """
    grid = Grid(shape, np.asarray(affine, float))
    slab, first = fitted.slab()
    block, last = grid.voxel(slab), np.asarray(shape) - 1
    reach = np.floor(0.5 * largest_steps(block).sum(axis=0) + 0.5 + MISS / grid.spacing).astype(int)
    home = np.clip(np.rint(block), 0, last).astype(int).reshape(-1, 3)
    low = np.maximum(home.min(axis=0) - reach, 0)
    guess = np.full(tuple(np.minimum(home.max(axis=0) + reach, last) - low + 1), -1, np.int32)
    guess[tuple((home - low).T)] = np.arange(len(home))
    guess = np.where(guess >= 0, guess, ndimage.maximum_filter(guess, tuple(2 * reach + 1), mode="constant", cval=-1))
    wanted = guess >= 0
    if where is not None:
        wanted &= where[tuple(slice(a, a + n) for a, n in zip(low, guess.shape, strict=True))]
    ijk = np.argwhere(wanted)
    start = np.stack(np.unravel_index(guess[tuple(ijk.T)], slab.shape[:3]), axis=1)
    ijk += low
    at, miss = refine(slab, grid.world(ijk.astype(float)), start, steps=STEPS)
    kept = (miss < MISS) & fitted.covered[first + np.clip(np.rint(at[:, 2]).astype(int), 0, slab.shape[2] - 1)]
    out = np.full((*shape, 3), np.nan, np.float32)
    out[tuple(ijk[kept].T)] = template.block_grid.world(at[kept] + np.array([0, 0, first]))
    return out


def locate(block: FloatArray, wanted: FloatArray, *, every: tuple[int, int, int] = (1, 1, 1), steps: int = STEPS) -> tuple[FloatArray, FloatArray]:
    """Find where an array of positions takes given values: the nearest mapped voxel is the first guess of `refine`.

    Parameters
    ----------
    block : (x, y, z, 3) array
        Positions, mm, finite and smooth; linear between voxels.
    wanted : (n, 3) array
        Mm.
    every : (3,) tuple of int
        Stride at which the first guess is searched.
    steps : int
        Of Newton's method.

    Returns
    -------
    at, miss
        As of `refine`.
    """
    from scipy.spatial import cKDTree

    stride = tuple(slice(None, None, n) for n in every)
    start = np.moveaxis(np.indices(block.shape[:3]), 0, -1)[stride].reshape(-1, 3)
    return refine(block, wanted, start[cKDTree(block[stride].reshape(-1, 3)).query(wanted)[1]], steps=steps)


def refine(block: FloatArray, wanted: FloatArray, start: NDArray[Any], *, steps: int = STEPS) -> tuple[FloatArray, FloatArray]:
    """Find where an array of positions takes given values by Newton's method from a first guess.

    Parameters
    ----------
    block : (x, y, z, 3) array
        Positions, mm, finite and smooth; linear between voxels.
    wanted : (n, 3) array
        Mm.
    start : (n, 3) array
        Index into the block, a few voxels off at most.
    steps : int
        At most; a place that is found to `FOUND` takes no more of them.

    Returns
    -------
    at : (n, 3) array
        Fractional index into the block, at most half a voxel outside.
    miss : (n,) array
        Distance between ``block[at]`` and what was wanted, mm.

    Notes
    -----
    The derivative is that at the voxel next to the guess, by central differences.

    Examples
    --------
    >>> block = 2.0 * np.moveaxis(np.indices((4, 4, 4)), 0, -1)
    >>> at, miss = refine(block, np.array([[3.0, 5.0, 1.0], [9.0, 0.0, 0.0]]), np.array([[1, 1, 1], [1, 1, 1]]))
    >>> at.tolist(), miss.tolist()
    ([[1.5, 2.5, 0.5], [3.5, 0.0, 0.0]], [0.0, 3.0])
    """
    at, top = start.astype(float), np.asarray(block.shape[:3]) - 0.5
    off = wanted - interpolate(block, at)
    left = np.arange(len(at))
    for _ in range(steps):
        at[left] = np.clip(at[left] + _solve(_derivative(block, at[left]), off[left]), -0.5, top)
        off[left] = wanted[left] - interpolate(block, at[left])
        left = left[(off[left] ** 2).sum(axis=1) > FOUND**2]
    return at, np.linalg.norm(off, axis=1)


def _derivative(block: FloatArray, at: FloatArray) -> list[FloatArray]:
    """Take the derivatives (n, 3) along the axes of a block at the voxels next to fractional indices (n, 3): central, at the ends one-sided."""
    size = block.shape[:3]
    here = np.clip(np.rint(at).astype(int), 0, np.asarray(size) - 1).T
    flat, out = block.reshape(-1, 3), []
    for axis in range(3):
        below, above = here.copy(), here.copy()
        below[axis], above[axis] = np.maximum(here[axis] - 1, 0), np.minimum(here[axis] + 1, size[axis] - 1)
        rise = flat[np.ravel_multi_index(tuple(above), size)] - flat[np.ravel_multi_index(tuple(below), size)]
        out.append(rise / np.maximum(above[axis] - below[axis], 1)[:, None])
    return out


def _solve(columns: list[FloatArray], values: FloatArray) -> FloatArray:
    """Solve 3 x 3 systems by Cramer's rule: three columns (n, 3), right-hand sides (n, 3); zero where a system is singular.

    Examples
    --------
    >>> a = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 4.0]])
    >>> _solve([column[None] for column in a.T], (a @ [1.0, 2.0, 3.0])[None]).tolist()
    [[1.0, 2.0, 3.0]]
    """
    x, y, z = columns
    yz = np.cross(y, z)
    determinant = (x * yz).sum(axis=1, keepdims=True)
    top = np.stack([(values * yz).sum(axis=1), (x * np.cross(values, z)).sum(axis=1), (x * np.cross(y, values)).sum(axis=1)], axis=1)
    out = np.zeros_like(top)
    np.divide(top, determinant, out=out, where=determinant != 0)
    return out


def interpolate(values: FloatArray, index: FloatArray) -> FloatArray:
    """Linear interpolation of (x, y, z, ...) values at fractional indices (n, 3)."""
    flat = values.reshape(*values.shape[:3], -1)
    out = np.stack([ndimage.map_coordinates(flat[..., k], index.T, order=1, mode="nearest") for k in range(flat.shape[-1])], axis=-1)
    return out.reshape(len(index), *values.shape[3:])
