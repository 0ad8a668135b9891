"""What template tables were made from: a digest for each block of subjects, kept as an attribute of the table and compared wherever it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from cohort_engine import schema
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import digest
from cohort_engine.store import layout
from cohort_engine.store.records import Entry

MADE_FROM = "made_from"
"""Attribute of a table: a digest for each block of `schema.SUBJECT_BLOCK` rows; empty where the block was never made, or is being made."""


def table_digest(atlas: str, voxels: str, estimator: str, min_coverage: float, keys: Sequence[str]) -> str:
    """Digest of all that a block of a table depends on: 16 hex digits.

    Parameters
    ----------
    atlas, voxels : str
        Content hashes of the store (`layout.ATLAS_DIGEST`, `layout.VOXELS_DIGEST`).
    estimator : str
    min_coverage : float
    keys : sequence of str
        Key of the stage that made the map of each row of the block; empty where there is no map.

    Examples
    --------
    >>> table_digest("a", "v", "wa", 0.75, ["k", ""]) == table_digest("a", "v", "wa", 0.75, ["k", "k"])
    False
    """
    return digest(atlas, voxels, estimator, float(min_coverage), list(keys))


def row_keys(entries: Iterable[Entry], stage: str, rows: int) -> list[str]:
    """Key of a stage of each row; empty where it is not done.

    Examples
    --------
    >>> row_keys([Entry(1, "mtr", schema.DONE, "k"), Entry(2, "mtr", schema.FAILED, "f")], "mtr", 3)
    ['', 'k', '']
    """
    keys = [""] * rows
    for e in entries:
        if e.stage == stage and e.status == schema.DONE and e.subject < rows:
            keys[e.subject] = e.key
    return keys


def wanted_digests(attributes: Mapping[str, Any], entries: Iterable[Entry], stage: str, estimator: str, min_coverage: float) -> list[str]:
    """Digests that the blocks of a table have if they were made from what is there now, first block first.

    Parameters
    ----------
    attributes : mapping
        Of the store's root.
    entries : iterable of Entry
        All of the store's.
    stage : str
        That makes the metric's map.
    estimator : str
    min_coverage : float
    """
    keys = row_keys(entries, stage, int(str(attributes[layout.ROWS])))
    atlas, voxels = (str(attributes[k]) for k in (layout.ATLAS_DIGEST, layout.VOXELS_DIGEST))
    block = schema.SUBJECT_BLOCK
    return [table_digest(atlas, voxels, estimator, min_coverage, keys[i : i + block]) for i in range(0, len(keys), block)]


def stored_digests(root: zarr.Group, path: str) -> list[str]:
    """Digests that the blocks of a table were made with; none where it was never made.

    Raises
    ------
    UnknownNameError
        No such table.
    """
    found: list[str] = [str(d) for d in np.ravel(np.asarray(layout.array_at(root, path).attrs.get(MADE_FROM, []), dtype=object))]
    return found


def mark_tables(root: zarr.Group, paths: Iterable[str], digests: Sequence[str]) -> None:
    """Say what tables (a value and its companions) were made from. Call it with ``""`` for each block that is about to be written, and with the
    digests when all are: a crash between leaves blocks that nobody takes for finished.
    """
    for path in paths:
        with storage_errors(path):
            layout.array_at(root, path).update_attributes({MADE_FROM: list(digests)})
