"""The atlas in the image: template weights brought onto the native grid through a stored template map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from cohort_engine import schema
from cohort_engine.errors import GeometryError
from cohort_engine.mapping.displaced import displaced_weights
from cohort_engine.mapping.fractions import atlas_columns, native_fractions, scatter
from cohort_engine.mapping.inverse import invert
from cohort_engine.mapping.rim import RIM, with_rim
from cohort_engine.mapping.template_map import TemplateMap
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

WHOLE = 0.99
"""Share of a voxel that labels must fill for nothing else to count in it."""


@dataclass(frozen=True, eq=False)
class WarpedAtlas:
    """Label weights on the voxels of one image, those in any label.

    Attributes
    ----------
    voxel : (n,) int64
        Flat C-order index into the image.
    weights : (label, n) float64, 0 to 1; of displaced images a little more or less
    level : (n,) int
        Vertebral level of the voxel's slice, 0 outside the levels: a level takes whole slices, by the middle of the cord in each.
    reach : (2, template level, label) float64
        Template weight of the label in the level that lies in the image, and all of it; levels as in ``template.levels``.
    excess : (n,) float64, optional
        What a voxel's value has beyond the mean of its labels' by `weights`, to be taken off (`reduce.tensors`).
    """

    voxel: NDArray[np.int64]
    weights: FloatArray
    level: NDArray[np.int64]
    reach: FloatArray
    excess: FloatArray | None = None

    def filled(self) -> WarpedAtlas:
        """Leave out voxels that labels do not fill to `WHOLE`, or in which the edge of what lies beyond them rings.

        Examples
        --------
        >>> atlas = WarpedAtlas(np.array([4, 7]), np.array([[1.0, 0.4]]), np.array([3, 3]), np.ones((2, 1, 1)))
        >>> atlas.filled().voxel.tolist()
        [4]
        """
        kept = np.abs(self.weights.sum(axis=0) - 1) <= 1 - WHOLE
        excess = None if self.excess is None else self.excess[kept]
        return replace(self, voxel=self.voxel[kept], weights=self.weights[:, kept], level=self.level[kept], excess=excess)


def native_atlas(
    positions: FloatArray, template: Template, affine: FloatArray, shape: tuple[int, int, int], *, how: str = schema.INTEGRAL, rim: float = RIM,
    shifts: FloatArray | None = None, widths: tuple[float, float] = (1.0, 1.0),
) -> WarpedAtlas:  # fmt: skip
    """Bring the atlas of a template into an image.

    Parameters
    ----------
    positions : (voxel, 3) array
        Template map: where each packed voxel lies, RAS+ mm, NaN where the image has nothing.
    template : Template
    affine : (4, 4) array
        Of the image, RAS+ mm.
    shape : (3,) tuple
        Its grid; slices along the last axis.
    how : str
        `schema.INTEGRAL`: mean of the template's weights over the extent of each voxel. `schema.INTERPOLATE`: the weight at its centre, SCT's way.
    rim : float
        How far tissue reaches beyond the borders of mask and atlas (`mapping.rim`), mm; SCT's way does not know of it.
    shifts : (t, z, 2) array, optional
        Of an image that was put together of displaced ones (`mapping.displaced`), mm: its weights are blurred as it is. SCT's way does not know
        of it.
    widths : pair of float
        Of what was measured along the first two axes, in voxels of an image that the scanner interpolated (`qmri.acquired`). Nor of this.

    Returns
    -------
    WarpedAtlas

    Raises
    ------
    GeometryError
        The map has no place in this image.
    """
    level, held = image_levels(positions, template, affine, shape)
    fitted = TemplateMap(dense_positions(positions, template), {})
    if how == schema.INTEGRAL and (shifts is not None or max(widths) > 1):
        moved = np.zeros((1, shape[2], 2)) if shifts is None else shifts
        voxel, weights = displaced_weights(with_rim(fitted, template, rim), template, affine, shape, moved, widths)
        return WarpedAtlas(voxel, weights, level[voxel % shape[2]], held)
    if how == schema.INTEGRAL:
        fractions = native_fractions(with_rim(fitted, template, rim), template, affine, shape, columns=atlas_columns(template))
    else:
        fractions = _centres(fitted, template, affine, shape)
    warped = scatter(fractions, template, template.atlas.weights)
    voxel = np.unique(warped.indices).astype(np.int64)
    return WarpedAtlas(voxel, warped[:, voxel].toarray().astype(np.float64), level[voxel % shape[2]], held)


def image_levels(
    positions: FloatArray, template: Template, affine: FloatArray, shape: tuple[int, int, int]
) -> tuple[NDArray[np.int64], FloatArray]:  # fmt: skip
    """Vertebral level (z,) of each slice of an image, 0 where there is none, and `reach` of the template in it; as of `native_atlas`.

    Raises
    ------
    GeometryError
        The map has no place in this image.
    """
    seen = np.isfinite(positions).all(axis=1)
    at = np.full(positions.shape, -1.0)
    at[seen] = Grid(shape, np.asarray(affine, float)).voxel(np.asarray(positions[seen], float))
    inside: NDArray[np.bool_] = np.asarray(seen & ((at > -0.5) & (at < np.asarray(shape) - 0.5)).all(axis=1))
    if not inside.any():
        raise GeometryError(
            expected="a template map that lies in the image", found="no voxel inside", where="template map",
            remedy="Fit the map on a mask of this image, or check that its units are mm.",
        )  # fmt: skip
    level = slice_levels(at[inside, 2], template.packing.ijk[inside, 2], template.slice_level, shape[2])
    return level, reach(inside, template)


def native_shares(
    positions: FloatArray, template: Template, weights: NDArray[Any], affine: FloatArray, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Bring weights (k, voxel) of packed voxels into an image: their mean over the extent of each voxel, (k, x, y, z).

    Other arguments are those of `native_atlas`. They end where masks end: what people draw has no rim.
    """
    fitted = TemplateMap(dense_positions(positions, template), {})
    fractions = native_fractions(fitted, template, affine, shape, columns=atlas_columns(template))
    return np.asarray(scatter(fractions, template, sparse.csr_array(weights)).toarray(), np.float32).reshape(len(weights), *shape)


def dense_positions(positions: FloatArray, template: Template) -> NDArray[np.float32]:
    """Continue a packed template map (voxel, 3) over the slices of the template's block: (bx, by, bz, 3), NaN in slices without the cord.

    See `continue_slices`.
    """
    block = np.full((*template.cord.shape, 3), np.nan, np.float32)
    block[tuple((template.packing.ijk.astype(int) - np.asarray(template.corner)).T)] = positions
    return continue_slices(block)


def continue_slices(block: NDArray[Any]) -> NDArray[Any]:
    """Continue known positions (x, y, z, 3) over whole slices, in place: around them, the affine map of the slice plus the nearest residual.

    A slice that knows fewer than six voxels becomes NaN.
    """
    plane = np.stack([np.ones(block.shape[:2]), *np.indices(block.shape[:2])], axis=-1)
    for k in range(block.shape[2]):
        known = np.isfinite(block[:, :, k, 0])
        if known.sum() < 6:
            block[:, :, k] = np.nan
            continue
        values = block[:, :, k].astype(float)
        affine = plane @ np.linalg.lstsq(plane[known], values[known], rcond=None)[0]
        near = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        block[:, :, k] = np.where(known[..., None], values, affine + (values - affine)[tuple(near)])
    return block


def slice_levels(native: FloatArray, template: NDArray[Any], level: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Vertebral level of each native slice (n,), 0 where there is none: that of the template slice in the middle of the cord there.

    Parameters
    ----------
    native, template : (voxel,) arrays
        Slice, fractional, of the image, and slice of the template, of the same places.
    level : (template z,) int array
    n : int
        Slices of the image.

    Examples
    --------
    >>> slice_levels(np.array([0.0, 1.0, 2.0]), np.array([4, 5, 6]), np.array([0, 0, 0, 0, 3, 3, 2]), 4).tolist()
    [3, 3, 2, 0]
    """
    slices, which = np.unique(template, return_inverse=True)
    middle = np.bincount(which, native) / np.bincount(which)
    order = np.argsort(middle)
    at = np.interp(np.arange(n), middle[order], slices[order].astype(float), left=np.nan, right=np.nan)
    known = np.isfinite(at)
    out = np.zeros(n, np.int64)
    out[known] = np.asarray(level)[np.rint(at[known]).astype(int)]
    return out


def reach(inside: NDArray[np.bool_], template: Template) -> FloatArray:
    """Weight of each label in each level that lies in the image, and all of it: (2, level, label). `inside` is per packed voxel."""
    numbers = [schema.level_number(name) for name in template.levels]
    of_level = (template.packing.level[None] == np.asarray(numbers)[:, None]).astype(float)
    return np.stack([np.asarray(template.atlas.weights @ (of_level * some).T).T for some in (inside, np.ones(len(inside)))])


def _centres(fitted: TemplateMap, template: Template, affine: FloatArray, shape: tuple[int, int, int]) -> sparse.csr_array:
    """Trilinear weights of the block's voxels at the centre of each native voxel: (x * y * z, bx * by * bz) CSR."""
    positions = invert(fitted, template, affine, shape).reshape(-1, 3)
    rows = np.flatnonzero(np.isfinite(positions).all(axis=1))
    at = template.block_grid.voxel(positions[rows].astype(float))
    low = np.floor(at).astype(int)
    size = fitted.block.shape[:3]
    total = sparse.csr_array((int(np.prod(shape)), int(np.prod(size))), dtype=np.float64)
    for corner in np.ndindex(2, 2, 2):
        voxel = low + corner
        weight = np.prod(np.where(corner, at - low, 1 - (at - low)), axis=1)
        there = ((voxel >= 0) & (voxel < size)).all(axis=1) & (weight > 0)
        column = np.ravel_multi_index(tuple(voxel[there].T), size)
        total = total + sparse.coo_array((weight[there], (rows[there], column)), shape=total.shape).tocsr()
    return total
