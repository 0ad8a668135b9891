"""What is done with a store as a whole, by one process and while no task writes: close, check, freeze, erase."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import CohortError, IncompleteError, StorageError, StoreError
from cohort_engine.io.places import local_path, remove_leftovers, storage_errors
from cohort_engine.store import layout
from cohort_engine.store.analysis_tables import erase_tables
from cohort_engine.store.ledger import LedgerEntry, delete_entries, now, read_ledger, scan_ledger

SHARD = 64
"""Subjects in one object of a freeze."""
BLOCK_BYTES = 64 * 2**20
"""Data held at once by `verify` and `compact`."""
_LISTED = 20


# --- finalise ---------------------------------------------------------------------------------------------------------
def finalise(url: str, stages: Sequence[str] | None = None, *, allow_missing: bool = False) -> None:
    """Close a store: gather the ledger into ``stages/*``, consolidate the metadata, and set the time in the root attribute `finalised`.

    Metadata is consolidated here and nowhere else, because consolidated metadata that is not renewed goes stale in silence; `init_store` ends
    both. Closing again is harmless.

    Parameters
    ----------
    url : str
    stages : sequence of str, optional
        Stages that must be done, in order; by default those that write the template maps and metrics of the store's configuration.
    allow_missing : bool
        Close although stages are not done.

    Raises
    ------
    IncompleteError
        Some subject lacks a stage. Rows of people who withdrew do not count.
    StoreError, StorageError
        No store, a freeze, or a place that does not answer.
    """
    root = layout.open_root(url, "r+")
    if root.attrs.get(layout.COMPACTED):
        raise StoreError(expected="a store that grows", found="a freeze made by compact", where="store", remedy="It is closed already.")
    names = tuple(stages) if stages is not None else due_stages(root)
    with storage_errors("closing the store"):
        values = _gather(read_ledger(url), names, layout.row_count(root))
        present = ~withdrawn(root)
        if not allow_missing:
            _refuse_missing(names, values[schema.STATUS], present)
        for spec in (layout.STAGE_NAMES, *(s for s in schema.FIXED if s.group == schema.STAGES)):
            data = layout.text(names) if spec is layout.STAGE_NAMES else values[spec.name]
            layout.create(root, spec, data.shape, overwrite=True)[...] = data
        root.update_attributes({layout.FINALISED: now()})
        layout.consolidate(root)


def due_stages(root: zarr.Group) -> tuple[str, ...]:
    """Stages that write the template maps and metrics of the store's configuration, upstream first."""
    return tuple(dict.fromkeys(stage for path in layout.declared(root) if (stage := layout.stage_of(path))))


def withdrawn(root: zarr.Group) -> NDArray[np.bool_]:
    """Rows (subject,) that belong to nobody: their people withdrew."""
    names = np.asarray(layout.array_at(root, f"{schema.SUBJECTS}/{schema.PARTICIPANT}")[: layout.row_count(root)])
    return np.array([not name for name in names], dtype=bool)


def _gather(entries: Iterable[LedgerEntry], names: Sequence[str], total: int) -> dict[str, NDArray[Any]]:
    """Lay the ledger out as (subject, stage) arrays, by name of the variable."""
    shape = (total, len(names))
    codes = {text: code for code, text in schema.STATUS_CODES.items()}
    out: dict[str, NDArray[Any]] = {
        schema.STATUS: np.zeros(shape, np.int8), schema.SECONDS: np.full(shape, np.nan, np.float32),
        schema.PEAK_MEMORY: np.full(shape, np.nan, np.float32), schema.KEY: np.full(shape, "", dtype=object),
    }  # fmt: skip
    column = {name: i for i, name in enumerate(names)}
    for e in entries:
        if e.subject < total and e.stage in column:
            at = e.subject, column[e.stage]
            out[schema.STATUS][at], out[schema.SECONDS][at], out[schema.PEAK_MEMORY][at], out[schema.KEY][at] = (
                codes[e.status],
                e.seconds,
                e.peak_memory,
                e.key,
            )
    return out


def _refuse_missing(names: Sequence[str], status: NDArray[np.int8], present: NDArray[np.bool_]) -> None:
    lines = []
    settled = [code for code, text in schema.STATUS_CODES.items() if text in (schema.DONE, schema.NOT_NEEDED)]
    for name, column in zip(names, status.T, strict=True):
        open_rows = np.flatnonzero(present & ~np.isin(column, settled))
        if open_rows.size:
            counts = ", ".join(
                f"{np.sum(column[open_rows] == code)} {text}" for code, text in schema.STATUS_CODES.items() if (column[open_rows] == code).any()
            )
            lines.append(f"{name}: {open_rows.size} of {present.sum()} subjects ({counts}): {_some(open_rows.tolist())}")
    if lines:
        raise IncompleteError(
            expected="every stage done for every subject", found="; ".join(lines), where="store",
            remedy='Run "cohort-engine retry", or close as it is with --allow-missing.',
        )  # fmt: skip


# --- verify -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """Something `verify` found.

    Attributes
    ----------
    path : str
        Variable or part of the store.
    message : str
    row : int, optional
        Subject it concerns.

    Examples
    --------
    >>> print(Problem("maps/mtr", "the chunk cannot be decoded", 17))
    maps/mtr, subject 17: the chunk cannot be decoded
    """

    path: str
    message: str
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.path}{'' if self.row is None else f', subject {self.row}'}: {self.message}"


def verify(url: str) -> list[Problem]:
    """Re-read a whole store and list what is wrong; an empty list says that every byte was read and fits.

    Checked: each declared array with its shape, dims, dtype, fill, chunks and attributes; the hashes of atlas and voxel axis, recomputed from the
    stored arrays (the template's own hash covers dense maps that a store does not hold, so it is only compared where tasks write); every chunk
    decodes, with its checksum; values lie in their valid range and are never infinite; a row whose stage is done has data, unless its quality
    number says that the image covers none of the cord; a row whose stage is not done, or whose person withdrew, has none; the ledger is
    readable and agrees with ``stages/*``.

    Raises
    ------
    StoreError, StorageError
        There is no store at all. Problems of data never raise.
    """
    root = layout.open_root(url)
    problems = [*_check_layout(root), *_check_digests(url, root)]
    ledger, found = _check_ledger(url, root)
    problems += found
    try:
        gone = withdrawn(root)
    except Exception as error:
        return [*problems, Problem(f"{schema.SUBJECTS}/{schema.PARTICIPANT}", _reason(error))]
    for path, array in layout.subject_arrays(root).items():
        problems += _check_data(root, path, array, ledger, gone)
    return problems


def _check_layout(root: zarr.Group) -> Iterator[Problem]:
    present = layout.arrays(root)
    try:
        specs = layout.declared(root)
    except (CohortError, KeyError, ValueError, TypeError) as error:
        yield Problem("store", f"the stored configuration cannot be read: {_reason(error)}")
        return
    lengths: dict[str, int] = {schema.SUBJECT: layout.row_count(root), schema.AXIS: 3}
    for path, array in present.items():  # a dimension is as long as the variable of its name, or as the first that has it
        for dim, n in zip(layout.dims_of(array), array.shape, strict=False):
            if path.endswith(f"/{dim}"):
                lengths[dim] = n
            lengths.setdefault(dim, n)
    yield from (Problem(path, "missing") for path in specs if path not in present)
    for path, array in present.items():
        spec = specs.get(path)
        if spec is None:
            if layout.dims_of(array)[:1] == (schema.SUBJECT,) and array.shape[0] != lengths[schema.SUBJECT]:
                yield Problem(path, f"{array.shape[0]} rows, the store has {lengths[schema.SUBJECT]}: an append was cut short, run build again")
            continue
        shape = tuple(lengths.get(d, -1) for d in spec.dims)
        dtype = "text" if spec.dtype == "str" else spec.dtype
        fill = array.fill_value
        pairs = {
            "dims": (spec.dims, layout.dims_of(array)),
            "shape": (shape, array.shape),
            "dtype": (dtype, "text" if layout.is_text(array) else str(array.dtype)),
            "fill": (True, fill == spec.fill or (fill != fill and spec.fill != spec.fill)),
            "chunks": (layout.chunks_of(spec, shape), array.chunks),
            "attributes": ({}, {k: v for k, v in layout.attributes_of(spec).items() if k != "units" and dict(array.attrs).get(k) != v}),
        }
        yield from (Problem(path, f"{what}: expected {a}, found {b}") for what, (a, b) in pairs.items() if a != b)


def _check_digests(url: str, root: zarr.Group) -> Iterator[Problem]:
    recompute: Mapping[str, tuple[str, Callable[[], str]]] = {
        schema.ATLAS: (layout.ATLAS_DIGEST, lambda: layout.stored_atlas(url).digest),
        schema.VOXELS: (layout.VOXELS_DIGEST, lambda: layout.voxels_digest(layout.stored_packing(url))),
    }
    for path, (attribute, digest) in recompute.items():
        try:
            found = digest()
        except Exception as error:
            yield Problem(path, _reason(error))
            continue
        if found != root.attrs.get(attribute):
            yield Problem(path, f"hash: expected {root.attrs.get(attribute)}, found {found}: the stored arrays are not those of the template")


Ledger = dict[tuple[int, str], tuple[str, str]]


def _check_ledger(url: str, root: zarr.Group) -> tuple[Ledger, list[Problem]]:
    """Read how each stage ended, {(row, stage): (status, key)}, and compare the two records of it. A freeze has ``stages/*`` alone."""
    problems: list[Problem] = []
    stored: Ledger = {}
    if root.attrs.get(layout.FINALISED):
        try:
            status, key = (np.asarray(layout.array_at(root, f"{schema.STAGES}/{n}")[...]) for n in (schema.STATUS, schema.KEY))
            names = [str(n) for n in np.asarray(layout.array_at(root, layout.STAGE_NAMES.path)[...])]
            stored = {(int(r), names[s]): (schema.STATUS_CODES[int(status[r, s])], str(key[r, s])) for r, s in np.argwhere(status != 0)}
        except Exception as error:
            problems.append(Problem(schema.STAGES, _reason(error)))
    if root.attrs.get(layout.COMPACTED):
        return stored, problems
    try:
        entries, broken = scan_ledger(url)
    except StorageError as error:
        return stored, [*problems, Problem("ledger", str(error))]
    problems += [Problem("ledger", f"the entry of stage {stage} is not readable and counts as absent", row) for row, stage in broken]
    total = layout.row_count(root)
    problems += [Problem("ledger", f"stage {e.stage} of a row the store does not have", e.subject) for e in entries if e.subject >= total]
    ledger = {(e.subject, e.stage): (e.status, e.key) for e in entries}
    if root.attrs.get(layout.FINALISED):
        names_kept = {stage for _, stage in stored}
        for place in sorted(set(stored) | {p for p in ledger if p[1] in names_kept}):
            if stored.get(place) != ledger.get(place):
                problems.append(
                    Problem(
                        schema.STAGES, f"{place[1]} is {_status(stored, place)}, the ledger says {_status(ledger, place)}: finalise again", place[0]
                    )
                )
    return ledger, problems


def _status(ledger: Ledger, place: tuple[int, str]) -> str:
    status, key = ledger.get(place, (schema.NOT_RUN, ""))
    return f"{status} {key}".strip()


def _check_data(root: zarr.Group, path: str, array: zarr.Array[Any], ledger: Ledger, gone: NDArray[np.bool_]) -> Iterator[Problem]:
    """Read every row of an array, in blocks; where a block does not decode, row by row."""
    low, high = _limits(array)
    stage = layout.stage_of(path)
    covered = _coverage(root, path) if stage else None
    total = min(layout.row_count(root), array.shape[0])
    row_bytes = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, min(BLOCK_BYTES // row_bytes, layout.COLUMN_BLOCK) // array.chunks[0]) * array.chunks[0]
    for first in range(0, total, step):
        for row, values in _rows(path, array, first, min(first + step, total)):
            if isinstance(values, Problem):
                yield values
                continue
            if values.dtype.kind != "f":
                if gone[row] and any(bool(v) for v in values.ravel()):
                    yield Problem(path, "holds data although the person withdrew", row)
                continue
            finite = np.isfinite(values)
            bad = int(np.sum(np.isinf(values)) + np.sum((values < low) | (values > high), where=finite))
            if bad:
                yield Problem(path, f"{bad} values outside [{low:g}, {high:g}]", row)
            if gone[row] and finite.any():
                yield Problem(path, "holds data although the person withdrew", row)
            elif stage is not None:
                status = ledger.get((row, stage), (schema.NOT_RUN, ""))[0]
                if status == schema.DONE and not finite.any() and (covered is None or covered(row)):
                    yield Problem(path, f"no data although stage {stage} is done", row)
                if status != schema.DONE and finite.any():
                    yield Problem(path, f"holds data although stage {stage} is {status}", row)


def _rows(path: str, array: zarr.Array[Any], first: int, stop: int) -> Iterator[tuple[int, NDArray[Any] | Problem]]:
    try:
        yield from zip(range(first, stop), map(np.asarray, np.asarray(array[first:stop])), strict=True)
    except Exception as error:
        size = array.chunks[0]
        if stop - first <= size:
            yield first, Problem(path, ("" if size == 1 else f"rows {first} to {stop - 1}: ") + _reason(error), first)
            return
        middle = first + max(1, (stop - first) // size // 2) * size
        yield from _rows(path, array, first, middle)
        yield from _rows(path, array, middle, stop)


def _limits(array: zarr.Array[Any]) -> tuple[float, float]:
    attributes: Mapping[str, Any] = dict(array.attrs)
    low, high = attributes.get("valid_range", (attributes.get("valid_min", -math.inf), math.inf))
    return float(low), float(high)


def _coverage(root: zarr.Group, path: str) -> Callable[[int], bool]:
    """Whether a row must have data where its stage is done: its image covers some of the cord, by the quality number of the contrast.

    Unknown counts as yes. Of the profiles, the area is in every imported table; the others need not be.
    """
    group, _, name = path.rpartition("/")
    if group == schema.PROFILES:
        return lambda row: name == schema.AREA
    contrast = schema.METRICS[name].contrast if group == schema.MAPS and name in schema.METRICS else name
    try:
        values = np.asarray(layout.array_at(root, f"{schema.QC}/{contrast}_{schema.FIT_COVERAGE}")[...])
    except Exception:
        return lambda row: True
    return lambda row: bool(values[row] != 0)


def _reason(error: Exception) -> str:
    """Return the first line of an error, without a path."""
    if isinstance(error, CohortError):
        return str(error)
    return f"cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"


# --- compact ----------------------------------------------------------------------------------------------------------
def compact(url: str, out_url: str) -> None:
    """Copy a closed store into a freeze: what has one subject a chunk gets `SHARD` subjects an object, and every block is read back and compared.

    The chunk inside a shard stays one subject, so a freeze reads like the store it was made from, with a 64th of the objects. It is for
    reading: tasks cannot write to it, and `withdraw` works on it. The root's attributes are written last, so a copy that was cut short is no
    store, and the next try replaces it. Memory: twice `BLOCK_BYTES`, and three times the largest object, which zarr puts together in memory
    (noisy PAM50 template maps, objects of 135 MB: 0.65 GiB).

    Raises
    ------
    IncompleteError
        The store is not finalised.
    StoreError
        No store, something else at `out_url`, or a copy that differs.
    StorageError
        A place failed.
    """
    root = layout.open_root(url)
    if not root.attrs.get(layout.FINALISED):
        raise IncompleteError(expected="a finalised store", found="an open one", where="store", remedy='Run "cohort-engine finalise" first.')
    with storage_errors("making a freeze"):
        out, there = layout.claim(out_url)
        if there:
            raise StoreError(expected="an empty place for the freeze", found="a cohort store", where="freeze", remedy="Choose another place.")
        for path, node in root.members(max_depth=None):
            if isinstance(node, zarr.Group):
                out.require_group(path).update_attributes(dict(node.attrs))
        for path, array in layout.arrays(root).items():
            _copy(path, array, layout.like(out, path, array, shard=SHARD))
        out.update_attributes({**dict(root.attrs), layout.COMPACTED: now()})
        layout.consolidate(out)


def _copy(path: str, source: zarr.Array[Any], target: zarr.Array[Any]) -> None:
    """Copy block by block; a shard of several blocks is written again with each of them, and is the same in the end."""
    shard = (target.shards or source.shape)[0]
    row_bytes = max(1, math.prod(source.shape[1:]) * source.dtype.itemsize)
    step = max(1, shard // math.ceil(shard * row_bytes / BLOCK_BYTES) if target.shards else shard)
    for first in range(0, source.shape[0], step):
        block = slice(first, first + step)
        values = np.asarray(source[block])
        target[block] = values
        if not _same(values, np.asarray(target[block])):
            raise StoreError(
                expected="an equal copy", found=f"a difference in rows from {first}", where=path, remedy="Check the disk and make the freeze again."
            )


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


# --- withdraw ---------------------------------------------------------------------------------------------------------
def withdraw(url: str, row: int) -> list[str]:
    """Erase a subject: every array at its row becomes fill, its ledger entries go, and so do the remains of writes that a crash cut short.
    The analysis goes as a whole: it was made with this subject.

    The row stays, empty, and is never given to anybody else. The ledger goes first and the name last, so that an erasure that was cut short
    can be found and done again. Run it on each freeze too. No task may write meanwhile: a block of a table is read, changed and written.

    Parameters
    ----------
    url : str
    row : int

    Returns
    -------
    remaining : list of str
        What is out of reach from here and must still expire or be deleted.

    Raises
    ------
    StoreError
        No store, or no such row.
    StorageError
        A place failed: run it again.
    """
    root = layout.open_root(url, "r+")
    total = layout.row_count(root)
    if not 0 <= row < total:
        raise StoreError(expected=f"a row from 0 to {total - 1}", found=str(row), where="store", remedy="Look the row up by its participant_id.")
    with storage_errors("erasing a subject"):
        if not root.attrs.get(layout.COMPACTED):
            delete_entries(url, row)
        identity = f"{schema.SUBJECTS}/{schema.PARTICIPANT}"
        erase_tables(root, url)
        for path, array in sorted(layout.subject_arrays(root).items(), key=lambda item: item[0] == identity):
            with storage_errors(path):
                array[row] = array.fill_value
        remove_leftovers(url)
    versions = (
        "backups and snapshots of the disk"
        if local_path(url)
        else "older versions and unfinished uploads in the bucket: let its lifecycle rules expire them"
    )
    return [
        versions,
        "freezes made by compact: withdraw the subject there too",
        "images, masks and tables of the study itself: take them out, or the next build adds the subject again",
        "reports, exports and model weights made from the store",
    ]


def _some(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:_LISTED])) + (" ..." if len(rows) > _LISTED else "")
