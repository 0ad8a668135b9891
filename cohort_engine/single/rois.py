"""Regions of the DTI study in one diffusion image: who drew them, on which voxels they lie, and what a map says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, warn
from cohort_engine.io.label_folder import NativeAtlas
from cohort_engine.io.volume import Volume
from cohort_engine.reduce.native import level_tables
from cohort_engine.reduce.sums import LevelSums
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.template.atlas import Naming

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]

NAMES = tuple(map(schema.ROI_REGION.format, schema.ROIS))
NAMING = Naming((), {}, {}, drawn=NAMES).masks
"""Each region is a label, and its own tissue."""
WHAT = schema.words(schema.DWI_ROIS)


# --- on which voxels ----------------------------------------------------------------------------------------------------
def numbers_of(masks: BoolArray) -> NDArray[np.uint8]:
    """Give each voxel (x, y, z) of masks (roi, x, y, z) that people drew the number of its region, see `numbered`.

    Raises
    ------
    InputError
        All are empty.

    Warns
    -----
    CohortWarning
        Voxels that lie in two masks; they are in no region then.

    Examples
    --------
    >>> masks = np.zeros((8, 1, 1, 3), bool)
    >>> masks[0, 0, 0, 1] = masks[7, 0, 0, 2] = True
    >>> numbers_of(masks).tolist()
    [[[0, 1, 8]]]
    """
    twice = masks.sum(axis=0) > 1
    if twice.any():
        warn(f"{int(twice.sum())} voxels lie in two masks, and are left out of both", where=WHAT)
    if not masks.any():
        raise InputError(expected="masks of regions", found="no voxel in any of them", where=WHAT, remedy="Draw the regions, or leave the masks out.")
    return numbered(masks & ~twice)


def numbered(masks: BoolArray, heat: Array | None = None) -> NDArray[np.uint8]:
    """Give each voxel the number of its region.

    Parameters
    ----------
    masks : (roi, ...) bool array
    heat : (roi, ...) array, optional
        Which of several regions has a voxel: the one of the most heat, the first without.

    Returns
    -------
    (...) uint8 array
        Place of the region counted from 1, 0 where there is none.

    Examples
    --------
    >>> masks, heat = np.array([[True, True, False], [False, True, False]]), np.array([[0.9, 0.5, 0.1], [0.1, 0.6, 0.2]])
    >>> numbered(masks, heat).tolist(), numbered(masks).tolist()
    ([1, 2, 0], [1, 1, 0])
    """
    strength = np.where(masks, 1.0 if heat is None else np.nan_to_num(heat), -np.inf)
    return np.where(masks.any(axis=0), strength.argmax(axis=0) + 1, 0).astype(np.uint8)


def slices_of(images: Mapping[str, Array], cord: BoolArray, spacing: Array, prior: Array | None = None) -> tuple[RoiSlices, NDArray[np.intp]]:
    """Cut images into the slices that networks know, those with cord.

    Parameters
    ----------
    images : mapping of name to (x, y, z) array
        `schema.B0_IMAGE`, `schema.FA`, ...; NaN where there is no value.
    cord : (x, y, z) bool array
    spacing : (3,) array
        Voxel size, mm.
    prior : (roi, x, y, z) array, optional
        Share of each voxel that belongs to each part by the template map.

    Returns
    -------
    slices : RoiSlices
        Without drawn regions.
    where : (n,) int array
        Place of each along z.

    Raises
    ------
    InputError
        No cord, or an image without a single value in it.

    Examples
    --------
    >>> cord = np.zeros((4, 5, 3), bool)
    >>> cord[1:3, 2:4, 1] = True
    >>> found, where = slices_of({"fa": np.ones((4, 5, 3))}, cord, np.ones(3))
    >>> found.images["fa"].shape, where.tolist()
    ((1, 4, 5), [1])
    """
    where = np.flatnonzero(cord.any(axis=(0, 1)))
    for name, image in images.items():
        if not np.isfinite(image[cord]).any():
            raise InputError(
                expected="numbers in the cord", found="none" if len(where) else "no cord", where=f"{name.upper()} image",
                remedy="Check the image and the cord mask.",
            )  # fmt: skip
    return RoiSlices(
        {name: np.moveaxis(image[:, :, where], 2, 0).astype(np.float32) for name, image in images.items()},
        np.zeros((len(where), len(schema.ROIS), *cord.shape[:2]), bool), np.moveaxis(cord[:, :, where], 2, 0),
        np.zeros(len(where), np.int64), np.arange(len(where)), np.asarray(spacing[:2], float),
        None if prior is None else np.moveaxis(prior[..., where], 3, 0).astype(np.float32),
    ), where  # fmt: skip


# --- what maps say of them ------------------------------------------------------------------------------------------------
def as_atlas(numbers: Array, affine: Array) -> NativeAtlas:
    """Regions as labels of an image: what `single.extract` reduces a map over."""
    volume = Volume(numbers, affine)
    voxel = np.flatnonzero(numbers)
    return NativeAtlas(NAMING, volume.grid, voxel, _one_hot(numbers.ravel()[voxel]))


def _one_hot(numbers: Array) -> NDArray[np.float64]:
    """Weight (roi, voxel) of voxels, all of which lie in a region."""
    return np.asarray(numbers[None] == np.arange(1, len(schema.ROIS) + 1)[:, None], np.float64)


def levels_reached(numbers: Array, level: NDArray[np.int64], reach: Array, levels: Sequence[int]) -> NDArray[np.float64]:
    """How much of each region's levels was drawn: (2, level, roi), what is there and what would be.

    Parameters
    ----------
    numbers : (x, y, z) array
    level : (z,) int array
        Level number of each slice.
    reach : (2, level, label) array
        Of the template: how much of each level lies in the image, and all of it.
    levels : sequence of int

    Formula
        ``there = seen * (slices of the level with the region) / (slices of the level)``: an image that holds half of a level, and a region that was
        drawn in half of the slices there, leave a quarter.

    Examples
    --------
    >>> numbers = np.zeros((1, 2, 4), int)
    >>> numbers[0, 0, 1:] = 1
    >>> levels_reached(numbers, np.array([3, 3, 2, 2]), np.ones((2, 2, 1)), [2, 3])[:, :, 0].tolist()
    [[1.0, 0.5], [1.0, 1.0]]
    """
    seen, held = np.asarray(reach, float).sum(axis=2)
    drawn = np.stack([(numbers == i).any(axis=(0, 1)) for i in range(1, len(schema.ROIS) + 1)])
    here = level == np.asarray(levels)[:, None]
    share = np.divide(here.astype(float) @ drawn.T, here.sum(axis=1, keepdims=True), out=np.zeros((len(levels), len(drawn))),
                      where=here.any(axis=1, keepdims=True))  # fmt: skip
    return np.stack([seen[:, None] * share, np.broadcast_to(held[:, None], share.shape)])


def roi_tables(
    values: Array, se: Array | None, numbers: Array, level: NDArray[np.int64], reach: Array, levels: Sequence[int], *, estimators: Sequence[str],
    min_coverage: float, weighted: bool = False,
) -> tuple[dict[str, dict[str, NDArray[np.float32]]], LevelSums]:  # fmt: skip
    """Reduce a map over the regions, level by level.

    Parameters
    ----------
    values, se : (x, y, z) arrays
        The map, NaN where it has no value to rely on, and the standard error of each voxel.
    numbers : (x, y, z) array
        Region of each voxel, see `numbered`.
    level, reach, levels
        See `levels_reached`.
    estimators : sequence of str
        A voxel lies in one region or in none, so all but ``median`` and ``max`` are its mean, with the standard error that the estimator's tables
        have.
    min_coverage : float
    weighted : bool
        Whether voxels count by how well they are measured (`reduce.precision`).

    Returns
    -------
    tables : dict of estimator to dict of (level, roi) float32 arrays
        See `reduce.native.level_tables`.
    sums : LevelSums
    """
    from cohort_engine.reduce.precision import precision

    voxel = np.flatnonzero(numbers)
    places = np.stack(np.unravel_index(voxel, numbers.shape), axis=-1)
    weights, y = _one_hot(numbers.ravel()[voxel]), values.ravel()[voxel].astype(np.float64)
    more: dict[str, Any] = {}
    if se is not None:
        more["se"] = se.ravel()[voxel].astype(np.float64)
        if weighted:
            more["precision"] = precision(y, more["se"], weights)
    labels = [(i,) for i in range(len(schema.ROIS))]
    image = weights, level[places[:, 2]], levels_reached(numbers, level, reach, levels), levels
    sums = LevelSums.of(y, *image, labels, places=places, **more)
    tables = {
        name: level_tables(y, *image, labels, labels, estimator=name, min_coverage=min_coverage, places=places, sums=sums, **more)
        for name in estimators
    }
    return tables, sums


def boxed(numbers: Array, cord: BoolArray, affine: Array) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut the regions to a box around them and the cord, and give the affine (3, 4) of its voxels.

    Examples
    --------
    >>> numbers = np.zeros((9, 9, 2), np.uint8)
    >>> numbers[4, 5, 1] = 3
    >>> box, place = boxed(numbers, numbers > 0, np.eye(4))
    >>> box.tolist(), place[:, 3].tolist()
    ([[[0, 3]]], [4.0, 5.0, 0.0])
    """
    there = np.argwhere((cord | (numbers > 0)).any(axis=2))
    low, high = (there.min(axis=0), there.max(axis=0) + 1) if len(there) else (np.zeros(2, int), np.ones(2, int))
    place = np.array(affine, float)
    place[:3, 3] += place[:3, :2] @ low
    return numbers[low[0] : high[0], low[1] : high[1]].astype(np.uint8), place[:3]
