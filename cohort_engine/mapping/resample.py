"""Images brought onto another grid through positions: the mean over each voxel, the vote of labels, and which of them an image asks for.

A voxel that is larger than those of the image that is looked up takes the mean over its extent, from as many places as it has of the other's voxels:
a template of 0.5 mm does not become slices of 5 mm by a look at their middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.mapping.template_map import sample
from cohort_engine.template.packing import FloatArray, Grid

NEAREST, LINEAR, SPLINE, LABELS = "nearest", "linear", "spline", "labels"
INTERPOLATIONS = (NEAREST, LINEAR, SPLINE, LABELS)
MOST_LABELS = 100
"""Images of whole numbers with more values than this show grey values."""
OVERSHOOT = 0.01
"""How far beyond 0 and 1 interpolation may have carried a part."""
MOST_PLACES = 12
"""Places looked at along one edge of a voxel, at most."""


def interpolation_of(data: NDArray[Any]) -> str:
    """Say what an image is by its values: `LABELS` (whole numbers from 0, few of them), `LINEAR` (parts, 0 to 1), or `SPLINE` (grey values).

    Examples
    --------
    >>> levels, cord, mtr = np.array([0, 3, 3, 4]), np.array([0, 0.25, 1.0]), np.array([41.5, np.nan, 50.25])
    >>> interpolation_of(levels), interpolation_of(cord), interpolation_of(mtr)
    ('labels', 'linear', 'spline')
    """
    finite = np.asarray(data)[np.isfinite(data)]
    if not finite.size or finite.min() < -OVERSHOOT:
        return SPLINE
    if finite.min() >= 0 and np.array_equal(finite, np.rint(finite)) and len(np.unique(finite)) <= MOST_LABELS:
        return LABELS
    return LINEAR if finite.max() <= 1 + OVERSHOOT else SPLINE


class Pull:
    """Brings images onto a grid through positions.

    Parameters
    ----------
    field : (x, y, z, 3) array
        Where in the images the voxels of `home` lie, RAS+ mm; NaN where nothing is known.
    home : Grid
        Of the field.
    grid : Grid
        Of the results; by default `home`.

    Examples
    --------
    Voxels of 2 mm over voxels of 1 mm, side by side.

    >>> image = np.array([0, 1, 1, 0, 7.0, 0])[:, None, None]
    >>> fine, coarse = Grid((6, 1, 1), np.eye(4)), Grid((3, 1, 1), np.array([[2, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    >>> pull = Pull(np.moveaxis(np.indices((6, 1, 1), dtype=float), 0, -1), fine, coarse)
    >>> pull(image, np.eye(4), how="linear").ravel().tolist()
    [0.5, 0.5, 3.5]
    >>> pull(image.astype(int), np.eye(4), how="labels").ravel().tolist()
    [1, 1, 7]
    """

    def __init__(self, field: FloatArray, home: Grid, grid: Grid | None = None) -> None:
        self.field, self.home, self.grid = field, home, grid or home
        self._box = _reached(field, home, self.grid)
        self._moved: FloatArray | None = None
        self._known: tuple[tuple[int, ...], list[FloatArray]] = ((), [])

    def __call__(self, data: NDArray[Any], affine: FloatArray, *, how: str) -> NDArray[Any]:
        """Bring an image over.

        Parameters
        ----------
        data : (x, y, z) array
            NaN counts as no data.
        affine : (4, 4) array
            Of the image, RAS+ mm.
        how : str
            `NEAREST`: the image's voxel in which the centre lies. `LINEAR`, `SPLINE` (cubic): the mean over the voxel. `LABELS`: the number with most
            weight in the voxel, 0 being one of them; a label that wins nowhere keeps the voxel next to its centre, where that is in view.

        Returns
        -------
        (x, y, z) array
            Labels and `NEAREST` in the type of `data`, 0 where the image has nothing (NaN, where the type is real); else float32 with NaN there.
        """
        data, affine = np.asarray(data), np.asarray(affine, float)
        kept = how in (NEAREST, LABELS)
        empty = 0.0 if kept and data.dtype.kind != "f" else np.nan
        out = np.full(self.grid.shape, empty, data.dtype if kept else np.float32)
        if self._box is None:
            return out
        places = self._places((1, 1, 1) if how == NEAREST else _counts(self.grid, affine))
        if how == NEAREST:
            out[self._box] = _nearest(data, affine, places[0], empty)
        elif how == LABELS:
            out[self._box] = _voted(data, affine, places, self.grid.spacing, empty)
        else:
            out[self._box] = _mean(data, affine, places, 1 if how == LINEAR else 3)
        return out

    def _places(self, counts: tuple[int, ...]) -> list[FloatArray]:
        """Positions (x, y, z, 3) of places spread over each voxel of the box; those of the last image are kept."""
        if self._known[0] != counts:
            offsets = product(*((np.arange(n) + 0.5) / n - 0.5 for n in counts))
            self._known = (counts, [self.at(np.array(offset)) for offset in offsets])
        return self._known[1]

    def at(self, offset: NDArray[np.float64]) -> FloatArray:
        """Positions in the images of a place in each voxel of the box, by its offset (3,) from the centre, in voxels.

        Between the field's voxels its displacements, which are smooth and small, are interpolated linearly, each component on its own.
        """
        assert self._box is not None
        if not offset.any() and self.grid.shape == self.home.shape and np.allclose(self.grid.affine, self.home.affine, rtol=0, atol=1e-5):
            return self.field[self._box]
        if self._moved is None:
            self._moved = np.asarray(self.field - _centres(self.home), np.float32)
        moved = self._moved
        here = self.grid.world(np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in self._box), indexing="ij"), axis=-1) + offset)
        return here + np.stack([sample(moved[..., c], self.home.affine, here) for c in range(3)], axis=-1)


def _counts(grid: Grid, affine: FloatArray) -> tuple[int, ...]:
    """How many places to look at along each edge of a voxel: as many as it has lengths of the smallest edge of the image's."""
    fine = np.linalg.norm(affine[:3, :3], axis=0).min()
    return tuple(np.clip(np.rint(grid.spacing / fine), 1, MOST_PLACES).astype(int).tolist())


def _reached(field: FloatArray, home: Grid, grid: Grid) -> tuple[slice, slice, slice] | None:
    """Box of a grid's voxels that a field of positions can say something of."""
    known = np.argwhere(np.isfinite(field).all(axis=-1))
    if not len(known):
        return None
    at = grid.voxel(home.world(known.astype(float)))
    low = np.maximum(np.floor(at.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(at.max(axis=0)) + 2, grid.shape).astype(int)
    if (high <= low).any():
        return None
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _centres(grid: Grid) -> FloatArray:
    return grid.world(np.moveaxis(np.indices(grid.shape, dtype=float), 0, -1))


def _indices(data: NDArray[Any], affine: FloatArray, xyz: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Turn positions to indices into an image, and say which lie in it."""
    at = Grid(data.shape, affine).voxel(xyz)
    with np.errstate(invalid="ignore"):
        return at, np.asarray(((at >= -0.5) & (at <= np.asarray(data.shape) - 0.5)).all(axis=-1))


def _nearest(data: NDArray[Any], affine: FloatArray, xyz: FloatArray, empty: float) -> NDArray[Any]:
    at, inside = _indices(data, affine, xyz)
    out = np.full(xyz.shape[:3], empty, data.dtype)
    out[inside] = data[tuple(np.clip(np.rint(at[inside]).astype(int), 0, np.asarray(data.shape) - 1).T)]
    return out


def _mean(data: NDArray[Any], affine: FloatArray, places: Sequence[FloatArray], order: int) -> NDArray[np.float32]:
    """Mean over the places that have a value, where at least half of them have."""
    total, count = (np.zeros(places[0].shape[:3]) for _ in range(2))
    for xyz in places:
        value = sample(data, affine, xyz, order=order)
        known = np.isfinite(value)
        total[known] += value[known]
        count += known
    return np.where(2 * count >= len(places), total / np.maximum(count, 1), np.nan).astype(np.float32)


def _voted(data: NDArray[Any], affine: FloatArray, places: Sequence[FloatArray], spacing: FloatArray, empty: float) -> NDArray[Any]:
    """Label with most trilinear weight in each voxel, over all its places; background has what is left."""
    source = Grid(data.shape, affine)
    looked = [_indices(data, affine, xyz) for xyz in places]
    seen = sum(inside.astype(float) for _, inside in looked)
    best, left = np.zeros(places[0].shape[:3]), np.array(seen)
    won = np.where(2 * seen >= len(places), 0, empty).astype(data.dtype)
    labels = np.unique(data[np.isfinite(data) & (data != 0)])
    where = {}
    for label in labels:
        index = np.argwhere(data == label)
        where[label], low, high = index.mean(axis=0), np.maximum(index.min(axis=0) - 1, 0), index.max(axis=0) + 2
        crop = np.asarray(data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == label, np.float32)
        vote = np.zeros(best.shape)
        for at, inside in looked:
            with np.errstate(invalid="ignore"):
                near = inside & ((at > low - 1) & (at < high)).all(axis=-1)
            vote[near] += ndimage.map_coordinates(crop, (at[near] - low).T, order=1, mode="nearest")
        more = vote > best
        best[more], won[more] = vote[more], label
        left -= vote
    won[(best < left) & (seen > 0)] = 0
    middle = np.mean([at for at, _ in looked], axis=0)
    for label in set(labels.tolist()) - set(np.unique(won).tolist()):
        distance = np.linalg.norm((middle - where[label]) * source.spacing, axis=-1)
        nearest = np.unravel_index(int(np.nan_to_num(distance, nan=np.inf).argmin()), distance.shape)
        if distance[nearest] <= np.linalg.norm(spacing):
            won[nearest] = label
    return won
