"""A freeze: a closed store copied into few large objects, for keeping and for reading."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import IncompleteError, StoreError
from cohort_engine.io.places import storage_errors
from cohort_engine.store import by_region, layout
from cohort_engine.store.lease import lease
from cohort_engine.store.records import now

SHARD = 64
"""Subjects in one object of a freeze where a chunk is one subject."""
SHARD_BYTES = 32 * 2**20
"""Size (uncompressed) of a chunk of a freeze that has several subjects, at most."""
BLOCK_BYTES = 64 * 2**20
"""Data held at once."""


def require_closed(root: zarr.Group, *, allow_mixed: bool) -> None:
    """Refuse to freeze what still changes, or was made in two ways.

    Raises
    ------
    IncompleteError
        The store is open; rows were made with different settings, unless that is allowed.
    """
    if not root.attrs.get(layout.FINALISED):
        raise IncompleteError(expected="a finalised store", found="an open one", where="store", remedy='Run "cohort-engine finalise" first.')
    if root.attrs.get(layout.MIXED) and not allow_mixed:
        raise IncompleteError(
            expected="subjects made alike", found=str(root.attrs[layout.MIXED]), where="store",
            remedy='Run "cohort-engine build" first, or freeze it as it is with --allow-mixed.',
        )  # fmt: skip


def compact(url: str, out_url: str, *, allow_mixed: bool = False) -> None:
    """Copy a closed store into a freeze: chunks of one subject go `SHARD` into an object, larger ones are joined up to `SHARD_BYTES`, so that a
    table is read at once; every block is read back.

    A map of one subject stays a chunk, so a freeze reads like the store it was made from, with a fraction of the objects; and it has the maps
    once more, cut by voxels, for questions about single tracts and levels (`store.by_region`). It is for
    reading: tasks cannot write to it, and `withdraw` works on it. Of the ledger it keeps what is in ``stages/*``. The root's attributes are written
    last, so a copy that was cut short is no store, and the next try replaces it. Memory: twice `BLOCK_BYTES`, and three times the largest object,
    which zarr puts together in memory (noisy PAM50 template maps, objects of 135 MB: 0.65 GiB), and the maps of `by_region.ROWS` subjects twice.

    Parameters
    ----------
    url, out_url : str
    allow_mixed : bool
        Freeze although subjects were made with different settings; the freeze says so.

    Raises
    ------
    IncompleteError
        The store is not finalised, or mixed.
    StoreError
        No store, something else at `out_url`, another process that writes to either, or a copy that differs.
    StorageError
        A place failed.
    """
    root = layout.open_root(url)
    require_closed(root, allow_mixed=allow_mixed)
    with lease(url, "compact"), lease(out_url, "compact"), storage_errors("making a freeze"):
        out, there = layout.claim(out_url)
        if there:
            raise StoreError(expected="an empty place for the freeze", found="a cohort store", where="freeze", remedy="Choose another place.")
        for path, node in root.members(max_depth=None):
            if isinstance(node, zarr.Group) and path != by_region.GROUP:
                out.require_group(path).update_attributes(dict(node.attrs))
        for path, array in layout.arrays(root).items():
            if not path.startswith(f"{by_region.GROUP}/"):
                _copy(path, array, layout.like(out, path, array, *rows_together(array)))
        by_region.arrange(out, url)
        out.update_attributes({**dict(root.attrs), layout.COMPACTED: now()})
        layout.consolidate(out)


def rows_together(array: zarr.Array[Any]) -> tuple[int, int]:
    """Subjects in a chunk and in an object of the freeze (0: a chunk is an object): large arrays keep their chunks of one subject, and
    what is cut along other axes too its chunks, many in an object; of a table, which is read whole, as many chunks as fit are one.
    """
    chunk = array.chunks[0] if array.ndim else 0
    fits = all(n and n % c == 0 for n, c in zip(array.shape[1:], array.chunks[1:], strict=True))
    if layout.dims_of(array)[:1] != (schema.SUBJECT,) or layout.is_text(array) or not fits:
        return chunk, 0
    if chunk == 1 and array.shape[1:]:
        return chunk, SHARD
    size = chunk * max(1, math.prod(array.shape[1:])) * array.dtype.itemsize
    joined = chunk * max(1, min(SHARD_BYTES // size, layout.COLUMN_BLOCK // chunk))
    if array.chunks[1:] == array.shape[1:]:
        return joined, 0
    return chunk, joined if joined > chunk else 0


def _copy(path: str, source: zarr.Array[Any], target: zarr.Array[Any]) -> None:
    """Copy block by block; a shard of several blocks is written again with each of them, and is the same in the end."""
    by_subject = layout.dims_of(source)[:1] == (schema.SUBJECT,)
    step = target.chunks[0] if by_subject else source.shape[0]
    if target.shards:
        shard, row_bytes = target.shards[0], max(1, math.prod(source.shape[1:]) * source.dtype.itemsize)
        step = max(step, math.ceil(shard / math.ceil(shard * row_bytes / BLOCK_BYTES) / step) * step)
    for first in range(0, source.shape[0], max(1, step)):
        block = slice(first, min(first + step, source.shape[0]))
        with layout.damage(path):
            values = np.asarray(source[block])
        layout.whole(target)[block] = values
        if not _same(values, np.asarray(target[block])):
            raise StoreError(
                expected="an equal copy", found=f"a difference in rows from {first}", where=path, remedy="Check the disk and make the freeze again."
            )


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
