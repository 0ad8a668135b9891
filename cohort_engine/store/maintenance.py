"""What is done with a growing store as a whole, by the one process that holds its lease: gather what tasks recorded, and close it.

Checking is `store.verify`, freezing `store.freeze`, erasing a subject `store.withdrawal`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import zarr

from cohort_engine import schema
from cohort_engine.errors import IncompleteError, StoreError
from cohort_engine.io.places import storage_errors
from cohort_engine.schema import VariableSpec
from cohort_engine.store import layout
from cohort_engine.store.lease import lease
from cohort_engine.store.people import rows_of
from cohort_engine.store.records import (
    ENTRY_BLOCK,
    STAGE_VALUES,
    Entry,
    Record,
    delete_records,
    list_ledger,
    now,
    read_block,
    read_entries,
    read_records,
    write_block,
)
from cohort_engine.store.state import States, judge, mixture, science_of

_LISTED = 20
NUMBERS = "biuf"
"""Kinds of dtype of which a chunk that changes as a whole need not be read first."""
TOGETHER = 4 * ENTRY_BLOCK
"""Subjects whose records are folded together: an array is opened once for all of them."""


# --- gather -----------------------------------------------------------------------------------------------------------
def gather(url: str, written: Collection[tuple[int, str]] | None = None) -> int:
    """Fold single records into the store, and say how many there were: arrays into their chunks, entries into blocks, then the records go.

    Cheap where few are new, harmless when done again, and safe when it is cut short: a record goes before what was gathered, and is deleted last.
    No task may write to the same subjects meanwhile. Then `science`, `mixed` and `recipes` are brought up to date.

    Parameters
    ----------
    url : str
    written : collection of (row, stage), optional
        Only what these have left, without asking for a listing, which may lag: a build gathers the subjects that have ended while it goes on. The
        attributes are then left to the end.

    Raises
    ------
    StoreError
        No store, a freeze, or another process writes to it.
    StorageError
        The place failed; nothing is lost.
    """
    with lease(url, "gather") as held:
        root = layout.open_root(url, "r+")
        if words := layout.frozen(root):
            raise StoreError(expected="a store that grows", found=words, where="store", remedy="It is gathered already.")
        total = layout.row_count(root)
        places = [p for p in (list_ledger(url)[0] if written is None else sorted(written)) if p[0] < total]
        folded = 0
        for _, listed in groupby(places, key=lambda p: p[0] // TOGETHER):
            records = sorted((r for r in read_records(url, list(listed)) if isinstance(r, Record)), key=lambda r: r.entry.subject)
            held.check()
            if not records:
                continue
            _fold(root, records)
            for block, own in groupby(records, key=lambda r: r.entry.subject // ENTRY_BLOCK):
                first = block * ENTRY_BLOCK
                entries = {(e.subject, e.stage): e for e in (*read_block(url, first), *(r.entry for r in own))}
                write_block(url, first, entries.values())
            delete_records(url, [(r.entry.subject, r.entry.stage) for r in records])
            folded += len(records)
        if written is None:
            describe(url, root)
    return folded


def _fold(root: zarr.Group, records: list[Record]) -> None:
    """Write the arrays of records, and how their stages ended, into the store; a record without an array leaves fill."""
    by_stage: dict[str, list[Record]] = {}
    for record in records:
        by_stage.setdefault(record.entry.stage, []).append(record)
    _grow(root, records)
    sizes = layout.record_of(root, layout.SIZES)
    for path, spec in layout.stored_specs(root).items():
        if spec.gathered and spec.stage in by_stage:
            _update(root, path, {r.entry.subject: _row(r, spec, sizes) for r in by_stage[spec.stage]})
    names = [str(n) for n in np.asarray(layout.array_at(root, layout.STAGE_NAMES.path)[...])]
    known = [(r.entry.subject, names.index(stage), r.entry) for stage, found in by_stage.items() if stage in names for r in found]
    for name, value in STAGE_VALUES.items():
        _update(root, f"{schema.STAGES}/{name}", {(row, at): value(e) for row, at, e in known})


def _row(record: Record, spec: VariableSpec, sizes: Mapping[str, int]) -> Any:
    """Row of an array, filled up along the axes that grow."""
    values = record.arrays.get(spec.path)
    if values is None or schema.GROWN.keys().isdisjoint(spec.dims):
        return spec.fill if values is None else values
    return layout.filled_up(values, tuple(sizes.get(d, n) for d, n in _lengths(spec, values)), spec.fill)


def _lengths(spec: VariableSpec, values: Any) -> list[tuple[str, int]]:
    return list(zip(spec.dims[1:], np.shape(values), strict=True))


def _grow(root: zarr.Group, records: list[Record]) -> None:
    """Make ragged axes as long as the longest row: every array that has them, each of its chunks written, and then what the store says of them."""
    specs = {path: spec for path, spec in layout.stored_specs(root).items() if not schema.GROWN.keys().isdisjoint(spec.dims)}
    sizes = layout.record_of(root, layout.SIZES)
    rows = [pair for r in records for path, values in r.arrays.items() if path in specs for pair in _lengths(specs[path], values)]
    longer = {d: max(n for dim, n in rows if dim == d) for d in schema.GROWN if any(dim == d and n > sizes.get(d, 1) for dim, n in rows)}
    if not longer:
        return
    for path, spec in specs.items():
        if longer.keys().isdisjoint(spec.dims):
            continue
        with storage_errors(path), layout.damage(path):
            array = layout.array_at(root, path)
            array.resize(tuple(longer.get(d, n) for d, n in zip(spec.dims, array.shape, strict=True)))
            for first in range(0, array.shape[0], array.chunks[0]):
                part = slice(first, first + array.chunks[0])
                layout.whole(array)[part] = np.asarray(array[part])
    root.update_attributes({layout.SIZES: json.dumps(sizes | longer)})


def _update(root: zarr.Group, path: str, changes: Mapping[Any, Any]) -> None:
    """Read, change and write the chunks that hold the changed rows (or elements)."""
    with storage_errors(path), layout.damage(path):
        array = layout.array_at(root, path)
        size = array.chunks[0]

        def chunk(at: Any) -> int:
            return int(at[0] if isinstance(at, tuple) else at) // size

        for first, group in groupby(sorted(changes), key=chunk):
            part, places = slice(first * size, min((first + 1) * size, array.shape[0])), list(group)
            every = len(places) == part.stop - part.start and not isinstance(places[0], tuple) and array.dtype.kind in NUMBERS
            values = np.empty((len(places), *array.shape[1:]), array.dtype) if every else np.array(array[part])
            for at in places:
                values[(at[0] - part.start, *at[1:]) if isinstance(at, tuple) else at - part.start] = changes[at]
            layout.whole(array)[part] = values


def describe(url: str, root: zarr.Group) -> None:
    """Bring the attributes up to date that say what the rows were made with."""
    entries = read_entries(url)
    asked, recipes = layout.record_of(root, layout.ASKED), layout.record_of(root, layout.RECIPES)
    rows = rows_of(root)
    used = {e.recipe for e in entries} | {s["recipe"] for s in asked["stages"].values()}
    mixed = mixture(entries, asked, recipes, rows)
    if root.attrs.get(layout.COMPACTED):  # which keys its results took, a freeze does not know any more
        mixed = mixed or str(root.attrs.get(layout.MIXED, ""))
    said = {
        layout.SCIENCE: json.dumps(science_of(entries, recipes, rows), sort_keys=True), layout.MIXED: mixed,
        layout.RECIPES: json.dumps({h: r for h, r in recipes.items() if h in used}, sort_keys=True),
    }  # fmt: skip
    if any(root.attrs.get(k) != v for k, v in said.items()):
        with storage_errors("store"):
            root.update_attributes(said)


# --- judge, close -----------------------------------------------------------------------------------------------------
def states_of(url: str, entries: list[Entry] | None = None) -> States:
    """Judge every stage of every subject by what the last build asked for; files are not looked at.

    Raises
    ------
    StoreError, StorageError
        No store, or a damaged one.
    """
    root = layout.open_root(url)
    asked, recipes = layout.record_of(root, layout.ASKED), layout.record_of(root, layout.RECIPES)
    return judge(read_entries(url) if entries is None else entries, asked, recipes, rows_of(root))


def finalise(url: str, *, tabulate: Callable[[], None] | None = None, allow_missing: bool = False, allow_mixed: bool = False) -> None:
    """Close a store: gather, fill the template tables, consolidate the metadata, and set the time in the root attribute `finalised`.

    Metadata is consolidated here and nowhere else, because consolidated metadata that is not renewed goes stale in silence; `init_store` ends
    both. Closing again is harmless.

    Parameters
    ----------
    url : str
    tabulate : callable, optional
        Makes the tables that are not those of the maps, once all is gathered (`reduce.cohort.tabulate`).
    allow_missing : bool
        Close although stages are not done, failed, or lack an input.
    allow_mixed : bool
        Close although subjects were made with different settings, or with others than the study asks for now.

    Raises
    ------
    IncompleteError
        Some subject lacks a stage, or was made otherwise. Rows of people who left or withdrew do not count.
    StoreError, StorageError
        No store, a freeze, another process that writes to it, or a place that does not answer.
    """
    with lease(url, "finalise"):
        gather(url)
        root = layout.open_root(url, "r+")
        states = states_of(url)
        _refuse(states, str(root.attrs.get(layout.MIXED, "")), allow_missing, allow_mixed)
        if tabulate is not None:
            tabulate()
        with storage_errors("closing the store"):
            root = layout.open_root(url, "r+")
            stale = {stage: rows for stage in states.stages if (rows := states.rows_in(stage, schema.STALE))}
            root.update_attributes({layout.FINALISED: now(), layout.STALE: json.dumps(stale)})
            layout.consolidate(root)


def _refuse(states: States, mixed: str, allow_missing: bool, allow_mixed: bool) -> None:
    waiting = [s for s in schema.STATES if s in schema.OPEN and s != schema.STALE]
    lines, total = [], int(states.rows.present.sum())
    if not allow_missing:
        counts = states.counts()
        for stage in states.stages:
            if rows := states.rows_in(stage, *waiting):
                found = ", ".join(f"{n} {state}" for state, n in counts[stage].items() if state in waiting)
                lines.append(f"{stage}: {len(rows)} of {total} subjects ({found}): {_some(rows)}")
    if lines:
        raise IncompleteError(
            expected="every stage done for every subject", found="; ".join(lines), where="store",
            remedy='Run "cohort-engine retry", or close as it is with --allow-missing.',
        )  # fmt: skip
    lines = [] if allow_mixed else [*states.reasons(), *filter(None, [mixed])]
    if lines:
        raise IncompleteError(
            expected="every subject made with the settings of the study", found="; ".join(lines), where="store",
            remedy='Run "cohort-engine build", which makes what is stale again, or close as it is with --allow-mixed.',
        )  # fmt: skip


def _some(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:_LISTED])) + (" ..." if len(rows) > _LISTED else "")
