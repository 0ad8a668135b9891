"""Read a whole store again, every byte of every array, and say what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import CohortError
from cohort_engine.io import objects
from cohort_engine.io.places import object_store, storage_errors
from cohort_engine.schema import VariableSpec
from cohort_engine.store import by_region, layout, tags
from cohort_engine.store.people import rows_of
from cohort_engine.store.records import Entry, Record, list_ledger, read_records, scan_entries
from cohort_engine.store.state import Rows
from cohort_engine.store.tables import current_digests, made_from, old_blocks

BLOCK_BYTES = 8 * 2**20
"""Data held at once."""
_CODES = {text: code for code, text in schema.STATUS_CODES.items()}
LEDGER = "ledger"
Deep = Callable[[int], Mapping[str, NDArray[Any]]]


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


def verify(url: str, *, deep: Deep | None = None) -> list[Problem]:
    """Re-read a whole store and list what is wrong; an empty list says that every byte was read and fits.

    Checked: each array with its shape, dims, dtype, fill, chunks and attributes against the store's own specifications; the hashes of atlas and
    voxel axis, recomputed from the stored arrays (the template's own hash covers dense maps that a store does not hold, so it is only compared where
    tasks write); every chunk that must exist does, and every chunk decodes, with its checksum; values lie in their valid range and are never
    infinite; a row whose stage is not done, or whose person withdrew, has none; the ledger is readable and agrees with ``stages/*``; records that
    are not gathered hold what they should; tables say that they were made from the maps that are there.

    Parameters
    ----------
    url : str
    deep : callable of the first row of a block to {path: (block, ...) array}, optional
        Makes the template tables of a block again, which are then compared.

    Raises
    ------
    StoreError, StorageError
        There is no store at all. Problems of data never raise.
    """
    root = layout.open_root(url)
    problems = [*_check_layout(root), *_check_hashes(url, root)]
    try:
        rows = rows_of(root)
    except CohortError as error:
        rows = Rows.of(layout.row_count(root))
        problems.append(Problem(layout.PARTICIPANTS, _reason(error)))
    ledger, found = _read_ledger(url, root)
    problems += found
    problems += _check_stages(root, ledger)
    with storage_errors("store"):
        names = set(objects.names_below(object_store(url)))
    specs = _specs(root)
    for path, array in layout.arrays(root).items():
        spec = specs.get(path)
        problems += _check_chunks(path, array, spec, names, ledger, layout.row_count(root))
        problems += _check_data(root, path, array, spec, ledger, rows)
    problems += _check_names(root)
    problems += _check_tables(root, ledger, deep, rows)
    problems += _check_by_region(root)
    if root.attrs.get(layout.TAG):
        problems += [Problem("freeze", f"{name}: {what}") for name, what in tags.check(url)]
    return problems


# --- layout -----------------------------------------------------------------------------------------------------------
def _specs(root: zarr.Group) -> dict[str, VariableSpec]:
    try:
        return layout.stored_specs(root)
    except (KeyError, ValueError, TypeError):
        return {}


def _check_layout(root: zarr.Group) -> Iterator[Problem]:
    present, specs = layout.arrays(root), _specs(root)
    if not specs:
        yield Problem("store", "the stored specifications cannot be read")
        return
    joined = bool(root.attrs.get(layout.COMPACTED))
    identity = {s.path: s for s in (*layout.NAMES, layout.LEFT, *(schema.subject_spec(c, "str") for c in (schema.PARTICIPANT, schema.SESSION)))}
    specs = specs | identity
    lengths: dict[str, int] = {**layout.record_of(root, layout.SIZES), schema.SUBJECT: layout.row_count(root)}
    for path, array in present.items():  # another dimension is as long as the variable of its name, or as the first that has it
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
        fill = array.fill_value
        pairs: dict[str, tuple[Any, Any]] = {
            "dims": (spec.dims, layout.dims_of(array)),
            "shape": (shape, array.shape),
            "dtype": ("text" if spec.dtype == "str" else spec.dtype, "text" if layout.is_text(array) else str(array.dtype)),
            "fill": (True, fill == spec.fill or (fill != fill and spec.fill != spec.fill)),
            "chunks": (layout.chunks_of(spec, shape), array.chunks),
        }
        expected, held = pairs["chunks"]
        if joined and held and held[0] % max(1, expected[0]) == 0 and held[1:] == expected[1:]:
            del pairs["chunks"]
        said, found = layout.attributes_of(spec), dict[str, Any](array.attrs)
        pairs |= {f"attribute {k}": (v, found.get(k)) for k, v in said.items() if k != "units"}
        yield from (Problem(path, f"{what}: expected {a}, found {b}") for what, (a, b) in pairs.items() if a != b)


def _check_hashes(url: str, root: zarr.Group) -> Iterator[Problem]:
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


# --- ledger -----------------------------------------------------------------------------------------------------------
@dataclass
class _Ledger:
    """How each stage ended, (subject,) codes by stage: as gathered, and with the records that are not."""

    rows: int
    gathered: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    current: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    all: list[Entry] = field(default_factory=list)
    readable: bool = True

    def of(self, spec: VariableSpec) -> NDArray[np.int8]:
        """Status by row that the stored array must agree with."""
        known = self.gathered if spec.gathered else self.current
        return known.get(spec.stage, np.zeros(self.rows, np.int8))


def _read_ledger(url: str, root: zarr.Group) -> tuple[_Ledger, list[Problem]]:
    total = layout.row_count(root)
    ledger = _Ledger(total)
    try:
        entries, broken = scan_entries(url)
        waiting = [] if root.attrs.get(layout.COMPACTED) else list_ledger(url)[0]
    except CohortError as error:
        ledger.readable = False
        return ledger, [Problem(LEDGER, str(error))]
    problems = [Problem(LEDGER, f"the record of stage {stage} is not readable and counts as absent", row) for row, stage in broken]
    problems += [Problem(LEDGER, f"stage {e.stage} of a row the store does not have", e.subject) for e in entries if e.subject >= total]
    places = set(waiting)
    if places and root.attrs.get(layout.FINALISED):
        problems.append(Problem(LEDGER, f"{len(places)} records are not gathered although the store is closed: finalise again"))
    for e in entries:
        if e.subject < total:
            for known in (ledger.current, ledger.gathered) if (e.subject, e.stage) not in places else (ledger.current,):
                known.setdefault(e.stage, np.zeros(total, np.int8))[e.subject] = _CODES[e.status]
    ledger.all = entries
    ledger.entries = [e for e in entries if e.subject < total and (e.subject, e.stage) not in places]
    for place in waiting:  # what was gathered of these is on its way out
        if (stage := ledger.gathered.get(place[1])) is not None and place[0] < total:
            stage[place[0]] = -1
        elif place[0] < total:
            ledger.gathered.setdefault(place[1], np.zeros(total, np.int8))[place[0]] = -1
    specs, sizes = _specs(root), layout.record_of(root, layout.SIZES)
    for record in read_records(url, waiting):
        if isinstance(record, Record) and record.entry.subject < total:
            problems += _check_record(record, specs, sizes)
    return ledger, problems


def _check_record(record: Record, specs: Mapping[str, VariableSpec], sizes: Mapping[str, int]) -> Iterator[Problem]:
    for path, values in record.arrays.items():
        spec, row = specs.get(path), record.entry.subject
        if spec is None or spec.stage != record.entry.stage or not layout.fits(values.shape, spec.dims[1:], sizes):
            yield Problem(path, f"the record of stage {record.entry.stage} does not fit the store", row)
        elif values.dtype.kind == "f":
            yield from _check_values(path, values[None], row, _limits(layout.attributes_of(spec)))


def _check_stages(root: zarr.Group, ledger: _Ledger) -> Iterator[Problem]:
    """Compare ``stages/*`` with the entries that were gathered."""
    if root.attrs.get(layout.COMPACTED) or not ledger.readable:
        return
    try:
        names = [str(n) for n in np.asarray(layout.array_at(root, layout.STAGE_NAMES.path)[...])]
        status, key, recipe = (
            np.asarray(layout.array_at(root, f"{schema.STAGES}/{n}")[: ledger.rows]) for n in (schema.STATUS, schema.KEY, schema.RECIPE)
        )
    except Exception:  # told where the array is read
        return
    at = {n: i for i, n in enumerate(names)}
    expected = np.zeros_like(status)
    texts = [np.full(status.shape, "", dtype=object) for _ in range(2)]
    for e in ledger.entries:
        if e.stage in at:
            place = e.subject, at[e.stage]
            expected[place], texts[0][place], texts[1][place] = _CODES[e.status], e.key, e.recipe
    differs = (status != expected) | (key.astype(object) != texts[0]) | (recipe.astype(object) != texts[1])
    for name, codes in ledger.gathered.items():
        if name in at:
            differs[:, at[name]] &= codes >= 0
    for row, stage in np.argwhere(differs):
        found, said = (
            f"{schema.STATUS_CODES.get(int(s[row, stage]), '?')} {k[row, stage]}".strip() for s, k in ((status, key), (expected, texts[0]))
        )
        yield Problem(schema.STAGES, f"{names[stage]} is {found}, the ledger says {said}: finalise again", int(row))


# --- chunks and values ------------------------------------------------------------------------------------------------
def _check_chunks(
    path: str, array: zarr.Array[Any], spec: VariableSpec | None, names: Collection[str], ledger: _Ledger, total: int
) -> Iterator[Problem]:  # fmt: skip
    """Report chunks that must be there and are not, and those of a stage that is not done."""
    size = array.shards or array.chunks
    counts = [math.ceil((min(n, total) if i == 0 and _by_subject(array) else n) / c) for i, (n, c) in enumerate(zip(array.shape, size, strict=True))]
    if not counts:
        return
    made = made_from(array).get("blocks", [])
    status = ledger.of(spec) if spec is not None and spec.stage else None
    for at in product(*map(range, counts)):
        there = f"{path}/c/{'/'.join(map(str, at))}" in names
        rows = slice(at[0] * size[0], (at[0] + 1) * size[0])
        due = True
        if spec is not None and _by_subject(array):
            if status is not None:
                due = bool((status[rows] == _CODES[schema.DONE]).any())
                if there and not due and not spec.gathered and not array.shards and ledger.readable:
                    code = int(status[at[0]])
                    yield Problem(path, f"holds data although stage {spec.stage} is {schema.STATUS_CODES[code]}", at[0])
            elif spec.group == schema.STAGES:
                due = any((codes[rows] > 0).any() for codes in ledger.gathered.values())
            elif spec.group.startswith(schema.TABLES):
                blocks = made[rows.start // schema.SUBJECT_BLOCK : math.ceil(rows.stop / schema.SUBJECT_BLOCK)]
                due = any(blocks)
        if due and not there:
            single = _by_subject(array) and size[0] == 1
            part = "" if single or not _by_subject(array) else f" of rows {rows.start} to {min(rows.stop, total) - 1}"
            yield Problem(path, f"the chunk{part} is lost" if any(counts) else "lost", at[0] if single else None)


def _by_subject(array: zarr.Array[Any]) -> bool:
    return layout.dims_of(array)[:1] == (schema.SUBJECT,)


def _check_data(
    root: zarr.Group, path: str, array: zarr.Array[Any], spec: VariableSpec | None, ledger: _Ledger, rows: Rows
) -> Iterator[Problem]:  # fmt: skip
    """Read an array in blocks; where a block does not decode, chunk by chunk."""
    limits = _limits(dict(array.attrs))
    if not _by_subject(array):
        try:
            values = np.asarray(array[...])
        except Exception as error:
            yield Problem(path, _reason(error))
            return
        if values.dtype.kind == "f" and spec is not None:
            yield from (Problem(path, p.message) for p in _check_values(path, values.reshape(1, -1), 0, limits))
        return
    total = min(layout.row_count(root), array.shape[0])
    row_bytes = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, min(BLOCK_BYTES // row_bytes, layout.COLUMN_BLOCK) // array.chunks[0]) * array.chunks[0]
    status = ledger.of(spec) if spec is not None and spec.stage and spec.gathered and ledger.readable else None
    for first in range(0, total, step):
        for start, block in _blocks(path, array, first, min(first + step, total)):
            if isinstance(block, Problem):
                yield block
                continue
            yield from _check_block(path, block, start, spec, limits, rows, status, array.fill_value)


def _check_block(
    path: str, values: NDArray[Any], first: int, spec: VariableSpec | None, limits: tuple[float, float], rows: Rows, status: NDArray[np.int8] | None,
    fill: Any,
) -> Iterator[Problem]:  # fmt: skip
    part = slice(first, first + len(values))
    gone = rows.withdrawn[part]
    held: NDArray[np.bool_]
    if values.dtype.kind == "f":
        low, high = _range(values)
        held = ~np.isnan(high)
        bad = (low < limits[0]) | (high > limits[1]) | np.isinf(low) | np.isinf(high)
        for at in np.flatnonzero(bad):
            yield from _check_values(path, values[at : at + 1], first + int(at), limits)
        if status is not None:
            code = status[part]
            for at in np.flatnonzero(held & (code != _CODES[schema.DONE]) & (code >= 0) & ~gone):
                assert spec is not None
                yield Problem(path, f"holds data although stage {spec.stage} is {schema.STATUS_CODES[int(code[at])]}", first + int(at))
    elif path == layout.ROW.path:
        yield from (Problem(path, "is not its row", first + int(at)) for at in np.flatnonzero(values != np.arange(first, first + len(values))))
        return
    else:
        empty = "" if values.dtype.kind not in "iub" else fill
        held = np.any(np.asarray(values != empty).reshape(len(values), -1), axis=1)
    yield from (Problem(path, "holds data although the person withdrew", first + int(at)) for at in np.flatnonzero(held & gone))


def _range(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest value of each row, NaN where it has none."""
    flat = values.reshape(len(values), -1)
    if not flat.shape[1]:
        nothing = np.full(len(flat), np.nan)
        return nothing, nothing
    return np.fmin.reduce(flat, axis=1), np.fmax.reduce(flat, axis=1)


def _check_values(path: str, values: NDArray[Any], row: int, limits: tuple[float, float]) -> Iterator[Problem]:
    finite = np.isfinite(values)
    bad = int(np.isinf(values).sum() + np.sum((values < limits[0]) | (values > limits[1]), where=finite))
    if bad:
        yield Problem(path, f"{bad} values outside [{limits[0]:g}, {limits[1]:g}]", row)


def _blocks(path: str, array: zarr.Array[Any], first: int, stop: int) -> Iterator[tuple[int, NDArray[Any] | Problem]]:
    try:
        yield first, np.asarray(array[first:stop])
    except Exception as error:
        size = array.chunks[0]
        if stop - first <= size:
            yield first, Problem(path, ("" if size == 1 else f"rows {first} to {stop - 1}: ") + _reason(error), first)
            return
        middle = first + max(1, (stop - first) // size // 2) * size
        yield from _blocks(path, array, first, middle)
        yield from _blocks(path, array, middle, stop)


def _limits(attributes: Mapping[str, Any]) -> tuple[float, float]:
    low, high = attributes.get("valid_range", (attributes.get("valid_min", -math.inf), math.inf))
    return float(low), float(high)


def _check_names(root: zarr.Group) -> Iterator[Problem]:
    """Who is who stands twice: beside the columns, and at the root for xarray."""
    for spec in layout.NAMES:
        try:
            a, b = (np.asarray(layout.array_at(root, p)[...]) for p in (spec.path, f"{schema.SUBJECTS}/{spec.path}"))
        except Exception:  # told where the array is read
            continue
        if a.shape == b.shape:
            differs = np.flatnonzero(a != b)
            yield from (Problem(spec.path, f"is not that of {schema.SUBJECTS}/{spec.path}", int(row)) for row in differs)


def _check_by_region(root: zarr.Group) -> Iterator[Problem]:
    """Compare the maps of a freeze, which stand twice: by subject and by region."""
    with suppress(Exception):  # what does not decode is told where the array is read
        yield from (Problem(by_region.place_of(path), "is not what the map is") for path in by_region.differing(root))


# --- tables -----------------------------------------------------------------------------------------------------------
def _check_tables(root: zarr.Group, ledger: _Ledger, deep: Deep | None, rows: Rows) -> Iterator[Problem]:
    total, block = layout.row_count(root), schema.SUBJECT_BLOCK
    for path, array in layout.arrays(root).items() if ledger.readable else ():
        if made := made_from(array):
            wanted = current_digests(dict(root.attrs), ledger.all, made)
            for first in old_blocks(made["blocks"], wanted) if root.attrs.get(layout.FINALISED) else ():
                yield Problem(path, f"rows {first} to {min(first + block, total) - 1} were made from other maps than are there: finalise again")
    for first in range(0, total, block) if deep is not None else ():
        assert deep is not None
        try:
            again = deep(first)
        except CohortError as error:
            yield Problem(schema.TABLES, f"rows {first} to {min(first + block, total) - 1} cannot be made again: {error}")
            continue
        for path, values in again.items():
            try:
                stored = np.asarray(layout.array_at(root, path)[first : first + len(values)])
            except Exception as error:
                yield Problem(path, _reason(error))
                continue
            same = np.isclose(stored, values, rtol=1e-4, atol=1e-5, equal_nan=True).reshape(len(values), -1).all(axis=1)
            same |= rows.withdrawn[first : first + len(values)]  # what they hold is looked at elsewhere
            yield from (Problem(path, "is not what its map gives", first + int(at)) for at in np.flatnonzero(~same))


def _reason(error: Exception) -> str:
    """Return the first line of an error, without a path."""
    if isinstance(error, CohortError):
        return str(error)
    return f"cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"
