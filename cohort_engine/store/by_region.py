"""Maps once more, cut by voxels: what a question about one tract needs lies together, for many subjects.

A map has one subject a chunk, all of its voxels: a tract at a level is a few hundred of a quarter of a million. ``by_region/<map>`` holds the same
values with the voxels of each level in the order of the labels that share them, `ROWS` subjects and `VOXELS` voxels a chunk, many chunks an object:
a reader asks for the chunks that hold the tract, and for little else (PAM50: of all tracts and levels 1.5 times what is needed).
``by_region/position`` says where on the packed axis each voxel lies. Only a freeze has this, which nobody writes to but an erasure: a chunk holds
many subjects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StoreError
from cohort_engine.schema import VariableSpec
from cohort_engine.store import layout
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.packing import Packing

GROUP = schema.BY_REGION
ROWS, VOXELS = 128, 64
"""Subjects and voxels in a chunk."""
SHARD = 16384
"""Voxels in an object."""
DEPTH = 4
"""Labels of a voxel that count for its place."""
POSITION = VariableSpec(f"{GROUP}/{schema.POSITION}", "position on the packed axis", "1", (schema.BY_REGION,), "int32", fill=-1)


def place_of(path: str) -> str:
    """Where the second arrangement of a map lies.

    Examples
    --------
    >>> place_of("maps/mtr")
    'by_region/mtr'
    """
    return f"{GROUP}/{path.rpartition('/')[2]}"


def order_of(atlas: Atlas, packing: Packing) -> NDArray[np.int32]:
    """Put voxels in order: by level, then by the set of labels that share the voxel, then column by column.

    Returns
    -------
    (voxel,) int32 array
        Positions on the packed axis.

    Examples
    --------
    >>> from scipy import sparse
    >>> from cohort_engine.template.packing import Grid
    >>> packing = Packing.of_mask(np.ones((4, 1, 1), bool), Grid((4, 1, 1), np.eye(4)), slice_level=np.array([1]))
    >>> weights = sparse.csr_array(np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.5, 1.0]], np.float32))
    >>> order_of(Atlas(("a", "b"), {}, {}, weights), packing).tolist()
    [2, 0, 1, 3]
    """
    from scipy import sparse  # a question that a table answers comes by here, and does without

    by_voxel = sparse.csc_array(atlas.weights)
    by_voxel.sort_indices()
    count, none = np.diff(by_voxel.indptr), np.iinfo(np.int32).max
    nth = [np.full(len(packing), none, np.int32) for _ in range(DEPTH)]
    for n, labels in enumerate(nth):
        some = count > n
        labels[some] = by_voxel.indices[by_voxel.indptr[:-1][some] + n]
    i, j, k = packing.ijk.T
    order: NDArray[np.int32] = np.lexsort((k, j, i, *reversed(nth), packing.level)).astype(np.int32)
    return order


def arrange(out: zarr.Group, url: str) -> None:
    """Write the second arrangement of every map of a freeze, and read it back.

    Raises
    ------
    StoreError
        It differs from the map.
    """
    maps = {path: array for path, array in layout.arrays(out).items() if _is_map(path, array)}
    if not maps:
        return
    order = order_of(layout.stored_atlas(url), layout.stored_packing(url))
    group = out.require_group(GROUP)
    layout.whole(layout.create(out, POSITION, order.shape))[...] = order
    for path, array in maps.items():
        shard = ROWS, min(SHARD, -(-len(order) // VOXELS) * VOXELS)
        made = group.create_array(
            array.basename, shape=array.shape, dtype=array.dtype, chunks=(ROWS, VOXELS), shards=shard, compressors=layout.NUMERIC,
            fill_value=array.fill_value, dimension_names=(schema.SUBJECT, schema.BY_REGION), attributes=dict(array.attrs),
        )  # fmt: skip
        for rows in _blocks(array):
            with layout.damage(path):
                layout.whole(made)[rows] = np.asarray(array[rows])[:, order]
    for path in differing(out):
        raise StoreError(expected="the values of the map", found="others", where=place_of(path), remedy="Check the disk and make the freeze again.")


def differing(root: zarr.Group) -> Iterator[str]:
    """Compare the second arrangement with the maps, and name those that differ."""
    if GROUP not in root:
        return
    order = np.asarray(layout.array_at(root, POSITION.path)[...])
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        yield POSITION.path
        return
    for path, array in layout.arrays(root).items():
        if _is_map(path, array):
            again = layout.array_at(root, place_of(path))
            if not all(np.array_equal(np.asarray(array[rows])[:, order], np.asarray(again[rows]), equal_nan=True) for rows in _blocks(array)):
                yield path


def read_voxels(array: zarr.Array[Any], position: NDArray[np.integer[Any]], rows: slice | NDArray[np.intp], voxels: NDArray[np.intp]) -> NDArray[Any]:
    """Read some voxels of some subjects of a map's second arrangement.

    Parameters
    ----------
    array : Array
    position : (voxel,) int
        ``by_region/position``.
    rows : slice or int array
    voxels : (some,) int
        On the packed axis.
    """
    place = np.empty(len(position), np.intp)
    place[position] = np.arange(len(position))
    order = np.argsort(place[voxels])
    values = np.asarray(array.oindex[(rows, place[voxels][order])])
    out = np.empty_like(values)
    out[:, order] = values
    return out


def _is_map(path: str, array: zarr.Array[Any]) -> bool:
    return path.startswith(f"{schema.MAPS}/") and layout.dims_of(array) == (schema.SUBJECT, schema.VOXEL)


def _blocks(array: zarr.Array[Any]) -> Iterator[slice]:
    for first in range(0, array.shape[0], ROWS):
        yield slice(first, min(first + ROWS, array.shape[0]))
