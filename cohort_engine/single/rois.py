"""Regions of the DTI study in one diffusion image: who draws them, on which voxels they lie, and what maps say of them.

The command `rois` and the stage of that name call the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError, unknown_name, warn
from cohort_engine.io.grids import require_grid
from cohort_engine.io.label_folder import NativeAtlas, read_atlas, read_levels
from cohort_engine.io.roi_masks import read_drawn
from cohort_engine.io.volume import Volume, on_voxels_of, read_mask, read_volume, write_volume
from cohort_engine.reduce.native import level_tables
from cohort_engine.reduce.sums import LevelSums
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.single.columns import Columns
from cohort_engine.single.extract import SLICE, extract
from cohort_engine.template.atlas import Naming

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]

NAMES = tuple(map(schema.ROI_REGION.format, schema.ROIS))
NAMING = Naming((), {}, {}, drawn=NAMES).masks
"""Each region is a label, and its own tissue."""
WHAT, CORD = schema.words(schema.DWI_ROIS), schema.words(schema.DWI_MASK)


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


def atlas_numbers(shares: Array, spacing: Array) -> NDArray[np.uint8]:
    """Draw the regions as cores of the template's parts.

    Parameters
    ----------
    shares : (roi, x, y, z) array
        Share of each voxel that belongs to each part (`slices_of`'s prior).
    spacing : (3,) array
        Voxel size, mm.

    Returns
    -------
    (x, y, z) uint8 array
        See `numbered`.
    """
    from cohort_engine.rois.cores import cores

    out = np.zeros(shares.shape[1:], np.uint8)
    there = np.argwhere(shares.any(axis=(0, 3)))
    box = tuple(slice(max(0, low - 2), high + 3) for low, high in zip(there.min(axis=0), there.max(axis=0), strict=True)) if len(there) else ()
    for z in np.flatnonzero(shares.any(axis=(0, 1, 2))):
        part = shares[(slice(None), *box, z)]
        out[(*box, z)] = numbered(cores(part, spacing[:2]), part)
    return out


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


def drawn_by_network(slices: RoiSlices, *, weights: str | Path | None = None, device: str = "auto") -> NDArray[np.uint8]:
    """Let a network draw the regions of slices; of two regions above their thresholds a pixel has the one of more heat.

    Parameters
    ----------
    slices : RoiSlices
        With all images that the network asks for.
    weights : path, optional
        Of another network than the packaged one.
    device : str
        ``"auto"`` is the GPU where there is one, else the CPU.

    Returns
    -------
    (x, y, slice) uint8 array
        See `numbered`.

    Raises
    ------
    InputError, UnknownNameError, StorageError, ConfigError
        As of `rois.train.load_rois`; an image that the network needs is not there.
    """
    from cohort_engine.rois.train import load_rois

    network = load_rois(weights, device=device)
    heat = network.predict(slices)
    numbers = numbered(np.moveaxis(network.masks(slices, heat), 1, 0), np.moveaxis(heat, 1, 0))
    return np.moveaxis(numbers, 0, 2)


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


# --- one image ------------------------------------------------------------------------------------------------------------
class Regions(NamedTuple):
    """Regions of one scan.

    Attributes
    ----------
    image : Volume
        Number (x, y, z) of the region of each voxel, see `numbered`.
    table : Columns
        ``Metric``, and the columns of `extract`, where the estimate is the ``Mean``: NaN where there is no voxel with a value.
    slices : RoiSlices
        The slices with cord, their maps, and what was drawn.
    """

    image: Volume
    table: Columns
    slices: RoiSlices


def rois_image(
    maps: Mapping[str, str | Path], out: str | Path, *, mask: str | Path, source: str = schema.NETWORK_ROIS, drawn: Sequence[str | Path] = (),
    labels: str | Path | None = None, weights: str | Path | None = None, device: str = "auto", per: str = SLICE,
) -> Regions:  # fmt: skip
    """Draw the regions in the maps of one scan, and reduce the maps over them.

    Parameters
    ----------
    maps : mapping of name to path or URL
        `schema.FA`, `schema.MD`, ..., and `schema.B0_IMAGE`, on one grid; voxels that are NaN have no value.
    out : path or URL
        Image of the regions' numbers (the place in `schema.ROIS` counted from 1) to write, on the voxels of the first map.
    mask : path or URL
        Cord.
    source : str
        `schema.NETWORK_ROIS`, or `schema.ATLAS_ROIS`; with `drawn` people have drawn them.
    drawn : sequence of path or URL
        An image of numbers, masks of single regions, or outlines of ImageJ; see `io.roi_masks.read_drawn`.
    labels : path, optional
        Label folder on this grid, as `register` writes it: needed for the atlas, for levels, and by networks that see the atlas.
    weights, device
        See `drawn_by_network`.
    per : str
        One row a ``slice``, a ``level``, or for ``all`` together.

    Raises
    ------
    GeometryError, InputError, MissingInputError, UnknownNameError, StorageError, ConfigError
        Images on other grids, files that are not there, a source nobody knows; as of the parts.
    """
    if source not in (schema.NETWORK_ROIS, schema.ATLAS_ROIS):
        raise unknown_name("source of regions", source, [schema.NETWORK_ROIS, schema.ATLAS_ROIS], where="--source")
    images = {name: read_volume(path, what=f"{name.upper()} map") for name, path in maps.items()}
    first, frame = next(iter(images.items()))
    like = f"the {first.upper()} map"
    images = {name: on_voxels_of(frame, image, what=f"{name.upper()} map", like=like) for name, image in images.items()}
    cord = on_voxels_of(frame, read_mask(mask, what=CORD), what=CORD, like=like).data > 0.5
    atlas = None if labels is None else read_atlas(labels)
    if atlas is not None:
        require_grid(atlas.grid, frame.grid, what="atlas labels", like=like)
    shares = None if atlas is None else shares_of(atlas)
    data = {name: image.data for name, image in images.items()}
    slices, where = slices_of(data, cord, frame.grid.spacing, shares)
    if drawn:
        numbers = numbers_of(read_drawn(drawn, frame, like=like))
    elif source == schema.ATLAS_ROIS:
        if shares is None:
            raise MissingInputError(
                expected="the atlas in the image", found="no label folder", where="--labels", remedy='"cohort-engine register" writes one.'
            )
        numbers = atlas_numbers(shares, frame.grid.spacing)
    else:
        numbers = np.zeros(cord.shape, np.uint8)
        numbers[:, :, where] = drawn_by_network(slices, weights=weights, device=device)
    regions = frame.with_data(numbers)
    write_volume(out, regions, dtype=np.uint8)
    table = _table(images, regions, None if labels is None else read_levels(labels, required=per == schema.LEVEL), per)
    masks = numbers[:, :, where] == np.arange(1, len(schema.ROIS) + 1)[:, None, None, None]
    return Regions(regions, table, replace(slices, drawn=np.moveaxis(masks, 3, 0), position=where))


def shares_of(atlas: NativeAtlas) -> NDArray[np.float32]:
    """Share (roi, x, y, z) of each voxel that belongs to each part of the cord, of an atlas that lies on an image."""
    from cohort_engine.rois.cores import UNIONS

    naming = atlas.naming
    both = ((f" {side} ", naming.unions[UNIONS[part]]) for side, part in product(schema.SIDES, schema.PARTS))
    rows = [atlas.weights[[m for m in members if side in naming.labels[m]]].sum(axis=0) for side, members in both]
    out = np.zeros((len(rows), int(np.prod(atlas.grid.shape))), np.float32)
    out[:, atlas.voxel] = rows
    return out.reshape(len(rows), *atlas.grid.shape)


def _table(images: Mapping[str, Volume], regions: Volume, levels: Volume | None, per: str) -> Columns:
    """Rows of each map, one after the other."""
    there = as_atlas(regions.data, regions.affine)
    columns: dict[str, list[Any]] = {}
    mean = f"{schema.MAP.upper()}()"
    for name, image in images.items():
        if name == schema.B0_IMAGE:
            continue
        found = extract(image, there, estimator=schema.MAP, per=per, level_map=levels).columns
        rows = {"Metric": [name.upper()] * len(found[mean]), **found}
        for key, values in rows.items():
            columns.setdefault("Mean" if key == mean else key.removesuffix("()"), []).extend(values)
    return Columns(columns)
