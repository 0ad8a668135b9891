"""What template tables were made from: a digest for each block of subjects, kept as an attribute of the table and compared wherever it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import zarr

from cohort_engine import schema
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import digest
from cohort_engine.store import layout

if TYPE_CHECKING:
    from cohort_engine.store.records import Entry  # a question reads digests alone

MADE_FROM = "made_from"
"""Attribute of a table: ``{"stage", "estimator", "min_coverage", "blocks": [digest, ...]}``, a digest for each block of `schema.SUBJECT_BLOCK` rows,
empty where the block was never made, or is being made."""


def way_of(estimator: str, weights: str, *, error: bool) -> str:
    """Write an estimator with the weights of voxels, where a metric has standard errors for them to follow: what `MADE_FROM` says of a table.

    Examples
    --------
    >>> way_of("wa", "none", error=True), way_of("wa", "precision", error=False), way_of("wa", "precision", error=True)
    ('wa', 'wa', 'wa, precision')
    """
    return f"{estimator}, {weights}" if error and weights != "none" else estimator


def table_digest(atlas: str, voxels: str, estimator: str, min_coverage: float, keys: Sequence[str]) -> str:
    """Digest of all that a block of a table depends on: 16 hex digits.

    Parameters
    ----------
    atlas, voxels : str
        Content hashes of the store (`layout.ATLAS_DIGEST`, `layout.VOXELS_DIGEST`).
    estimator : str
        `way_of` it.
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
    >>> from cohort_engine.store.records import Entry
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


def made_from(array: zarr.Array[Any]) -> dict[str, Any]:
    """Read what a table says it was made from; nothing where it was never made, or is no template table."""
    return dict(dict[str, Any](array.attrs).get(MADE_FROM) or {})


def stored_digests(root: zarr.Group, path: str) -> list[str]:
    """Digests that the blocks of a table were made with; none where it was never made.

    Raises
    ------
    UnknownNameError
        No such table.
    """
    return [str(d) for d in made_from(layout.array_at(root, path)).get("blocks", [])]


def current_digests(attributes: Mapping[str, Any], entries: Iterable[Entry], made: Mapping[str, Any]) -> list[str]:
    """Digests that a table would have if it were made now with the settings that it says it was made with (`made_from`)."""
    return wanted_digests(attributes, entries, str(made["stage"]), str(made["estimator"]), float(made["min_coverage"]))


def old_blocks(stored: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """First rows of the blocks that are not as wanted: to be made again, or not to be read.

    Examples
    --------
    >>> old_blocks(["a", "", "c"], ["a", "b", "x", "d"])
    [64, 128, 192]
    """
    return [i * schema.SUBJECT_BLOCK for i, d in enumerate(wanted) if (stored[i] if i < len(stored) else "") != d]


def mark_tables(root: zarr.Group, paths: Iterable[str], *, stage: str, estimator: str, min_coverage: float, digests: Sequence[str]) -> None:
    """Say what tables (a value and its companions) were made from.

    Call it with ``""`` for each block that is about to be written, and with its digest when all are: a crash between leaves blocks that nobody takes
    for finished.
    """
    said: dict[str, Any] = {"stage": stage, "estimator": estimator, "min_coverage": float(min_coverage), "blocks": list(digests)}
    for path in paths:
        with storage_errors(path):
            layout.array_at(root, path).update_attributes({MADE_FROM: said})
