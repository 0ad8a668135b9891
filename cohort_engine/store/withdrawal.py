"""Erase a subject who withdrew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zarr

from cohort_engine import schema
from cohort_engine.errors import StoreError
from cohort_engine.io.places import join, local_path, remove_leftovers, storage_errors
from cohort_engine.store import layout, tags
from cohort_engine.store.analysis_tables import erase_tables
from cohort_engine.store.lease import lease
from cohort_engine.store.maintenance import describe
from cohort_engine.store.records import delete_subject, read_entries
from cohort_engine.store.tables import current_digests, made_from, mark_tables

_LAST = (layout.PARTICIPANTS,)


def withdraw(url: str, row: int) -> list[str]:
    """Erase a subject: every array at its row becomes fill, its records, entries and made files go, and so do the remains of writes that a crash cut
    short. The analysis goes as a whole: it was made with this subject.

    The row stays, empty, and is never given to anybody else. The ledger goes first and the name last, so that an erasure that was cut short
    can be found and done again. Its freezes (`store.tags`) are erased likewise; run it on each copy made by `compact` too. It takes the lease of the
    store.

    Parameters
    ----------
    url : str
    row : int
        See `store.people.find_rows`.

    Returns
    -------
    remaining : list of str
        What is out of reach from here and must still expire or be deleted.

    Raises
    ------
    StoreError
        No store, no such row, or another process writes to the store.
    StorageError
        A place failed: run it again.
    """
    total = layout.row_count(layout.open_root(url))
    if not 0 <= row < total:
        raise StoreError(expected=f"a row from 0 to {total - 1}", found=str(row), where="store", remedy="Look the row up by its participant_id.")
    with lease(url, "withdraw"), storage_errors("erasing a subject"):
        root = layout.open_root(url, "r+")
        closed, frozen = bool(root.attrs.get(layout.FINALISED)), bool(root.attrs.get(layout.COMPACTED))
        held = layout.subject_arrays(root)
        marked = _marked(root, held, url, row)
        delete_subject(url, row)
        erase_tables(root, url)
        specs = layout.stored_specs(root)
        for path in sorted(held.keys() - {layout.ROW.path}, key=lambda p: p in _LAST):
            spec = specs.get(path)
            alone = spec is not None and bool(spec.stage) and not spec.gathered and not frozen
            with storage_errors(path):
                (held[path] if alone else layout.whole(held[path]))[row] = held[path].fill_value
        _mark_again(root, url, row, marked)
        remove_leftovers(url)
        describe(url, root)
        if closed:
            layout.consolidate(root)
        if root.attrs.get(layout.TAG):
            tags.renew(url)
        for one in tags.freezes(url):
            if row < one.subjects:
                withdraw(join(tags.folder_of(url, one.tag), tags.STORE), row)
    versions = (
        "backups and snapshots of the disk"
        if local_path(url)
        else "older versions and unfinished uploads in the bucket: let its lifecycle rules expire them"
    )
    return [
        versions,
        "copies made by compact: withdraw the subject there too",
        "images, masks and tables of the study itself: take them out, or the next build adds the subject again",
        "reports, exports and model weights made from the store",
    ]


def _marked(root: zarr.Group, held: Mapping[str, zarr.Array[Any]], url: str, row: int) -> dict[str, dict[str, Any]]:
    """Tables whose block of this row follows from the maps that are there, with what they say they were made from."""
    block, entries, out = row // schema.SUBJECT_BLOCK, read_entries(url), {}
    for path, array in held.items():
        if made := made_from(array):
            stored, wanted = made["blocks"], current_digests(dict(root.attrs), entries, made)
            if block < len(stored) and stored[block] == wanted[block]:
                out[path] = made
    return out


def _mark_again(root: zarr.Group, url: str, row: int, marked: Mapping[str, Mapping[str, Any]]) -> None:
    """Say so again: the row is erased in map and table, and what is left of the block still follows from its maps."""
    block, entries = row // schema.SUBJECT_BLOCK, read_entries(url)
    for path, made in marked.items():
        blocks = list(made["blocks"])
        blocks[block] = current_digests(dict(root.attrs), entries, made)[block]
        settings = {k: made[k] for k in ("stage", "estimator", "min_coverage")}
        mark_tables(root, [path], digests=blocks, **settings)
