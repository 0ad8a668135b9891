"""The only writer of a cohort store: lay it out, then write whole chunks and records. Gathering, closing, checking and freezing are in
`store.maintenance`, `store.verify` and `store.freeze`.

``init_store`` runs in one process, which holds the lease, and before the tasks. A task calls ``write_subject`` for its row: chunks first, record
second, so that a crash anywhere leaves a row that is simply not done. Nothing here guesses: path, shape, dtype, chunk border and template are
checked before the first byte, because two workers that share a chunk lose data in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import AlignmentError, StoreError, TemplateError, unknown_name
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import versions
from cohort_engine.schema import VariableSpec
from cohort_engine.store import layout
from cohort_engine.store.lease import lease
from cohort_engine.store.records import Entry, now, read_entry, read_record, write_record
from cohort_engine.template.base import Template

IDENTITY = (schema.PARTICIPANT, schema.SESSION)
GONE = "no longer in the table of subjects"
"""Why a subject has left, where the caller does not say."""
_TAKEN = {schema.SUBJECT, schema.VOXEL, schema.LEVEL, schema.REGION, layout.LEFT.name}
"""Columns of these names would hide a coordinate from xarray, or the store's own column."""


# --- laying out -------------------------------------------------------------------------------------------------------
def init_store(
    url: str, *, template: Template, subjects: pd.DataFrame, specs: Sequence[VariableSpec], asked: Mapping[str, Any],
    recipes: Mapping[str, Mapping[str, Any]], units: Mapping[str, str] | None = None, left: Mapping[tuple[str, str], str] | None = None,
    renamed: Mapping[tuple[str, str], tuple[str, str]] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Lay out a store, or bring an existing one up to date, and say which row each subject has.

    Doing it again is harmless. A subject is known by (participant_id, session_id) and keeps its row for ever; new ones are appended; those that left
    the table stay, with the reason in ``subjects/left``, and come back when they are in the table again. Columns of the subjects in the table are
    replaced. Arrays of new stages are added; those of stages that are no longer asked for stay.

    Order, so that a crash leaves nothing wrong: the end of `finalised` (and of consolidated metadata), arrays, columns, and last, in one put,
    the root's attributes with the number of rows. Until then new rows do not count, and the next call writes them again.

    Parameters
    ----------
    url : str
        Path or URL.
    template : Template
    subjects : DataFrame
        participant_id, session_id (may be absent or empty) and covariates: numbers become float64 with NaN, anything else text with ``""``. A
        column called ``subject``, ``voxel``, ``level``, ``region`` or ``left`` is stored as ``subjects_<name>``.
    specs : sequence of VariableSpec
        What the stages write, and the template tables. Names along their axes are added.
    asked : mapping
        What the study asks for, as JSON can hold it: ``{"science": ..., "hash": ..., "stages": {name: {"recipe": hash, "needs": [...], "makes": role,
        "section": ..., "writes": [paths]}}}``, stages in order, upstream first. No paths, no names.
    recipes : mapping of hash to recipe
        ``{"stage": ..., "version": ..., "params": {...}, "template": ...}`` of each recipe in `asked`.
    units : mapping, optional
        Unit of a covariate; ``"1"`` where not given.
    left : mapping of (participant_id, session_id) to str, optional
        Why subjects are not in the table.
    renamed : mapping of (participant_id, session_id) to (participant_id, session_id), optional
        Subjects of the table who are in the store under another name: they keep that row, and lend it their name.

    Returns
    -------
    rows : (len(subjects),) int64
        Row of each subject, in the order of the table.

    Raises
    ------
    StoreError
        The place holds something else, another format or a freeze; another process writes to it; the table is not usable; a variable is laid out
        otherwise.
    TemplateError
        The store was built with another template.
    StorageError
        The place cannot be written.
    """
    columns = _columns(subjects)
    _check_asked(specs, asked, recipes)
    with lease(url, "lay out"), storage_errors("laying out the store"):
        root, there = layout.claim(url)
        if there:
            check_template(root, template.digest)
            _check_writable(root)
            root.update_attributes({layout.FINALISED: ""})
        else:
            _write_groups(root, template)
        known = layout.stored_specs(root) if there else {}
        grown = layout.grown_sizes(root if there else None)
        rows, total = _rows(root, columns, renamed or {}, there=there)
        laid_out = _lay_out(root, template, specs, asked, total, known)
        _write_columns(root, columns, rows, total, units or {}, left or {})
        stamp = now()
        root.update_attributes(
            {
                layout.VERSION: schema.FORMAT_VERSION, layout.ROWS: total, layout.FINALISED: "",
                layout.TEMPLATE_NAME: template.name, layout.TEMPLATE_VERSION: template.version, layout.TEMPLATE_DIGEST: template.digest,
                layout.ATLAS_DIGEST: template.atlas.digest, layout.VOXELS_DIGEST: layout.voxels_digest(template.packing),
                layout.SIZES: json.dumps(layout.sizes_of(template) | grown), layout.SPECS: json.dumps([s.to_json() for s in laid_out.values()]),
                layout.ASKED: json.dumps(asked), layout.RECIPES: json.dumps({**layout.record_of(root, layout.RECIPES), **recipes}, sort_keys=True),
                layout.SCIENCE: root.attrs.get(layout.SCIENCE, "{}"), layout.MIXED: root.attrs.get(layout.MIXED, ""),
                layout.VERSIONS: json.dumps(versions(), sort_keys=True), layout.CREATED: root.attrs.get(layout.CREATED, stamp), layout.UPDATED: stamp,
                "coordinates": " ".join(s.name for s in layout.NAMES),
            }
        )  # fmt: skip
    return rows


def holds(
    root: zarr.Group, *, subjects: pd.DataFrame, rows: Sequence[int], specs: Sequence[VariableSpec], asked: Mapping[str, Any],
    units: Mapping[str, str] | None = None, left: Mapping[tuple[str, str], str] | None = None,
) -> bool:  # fmt: skip
    """Tell whether a store is laid out for the very same already, so that `init_store` would change nothing.

    Parameters
    ----------
    root : Group
    rows : sequence of int
        Row of each subject.
    subjects, specs, asked, units, left
        As of `init_store`.
    """
    known = layout.stored_specs(root)
    if json.loads(json.dumps(asked)) != layout.record_of(root, layout.ASKED) or any(known.get(s.path) != s for s in specs):
        return False
    columns, at = _columns(subjects), np.asarray(rows, np.int64)
    group = layout.group_at(root, schema.SUBJECTS)
    if set(group.array_keys()) != {*columns, layout.LEFT.name}:
        return False
    for name, values in columns.items():
        array = layout.array_at(root, f"{schema.SUBJECTS}/{name}")
        words = values.dtype == object
        spec = schema.subject_spec(name, "str" if words else "float64", (units or {}).get(name, "1"))
        if layout.is_text(array) != words or array.attrs.get("units") != spec.units:
            return False
        stored = np.asarray(array[:])[at]
        if not (list(stored) == list(values) if words else np.array_equal(stored, values, equal_nan=True)):
            return False
    here = set(at.tolist())
    people = zip(*(np.asarray(layout.array_at(root, f"{schema.SUBJECTS}/{c}")[:]).tolist() for c in (*IDENTITY, layout.LEFT.name)), strict=True)
    return all(why == ("" if row in here or not p else (left or {}).get((p, s), GONE)) for row, (p, s, why) in enumerate(people))


def _check_asked(specs: Sequence[VariableSpec], asked: Mapping[str, Any], recipes: Mapping[str, Any]) -> None:
    """Refuse stages that write what nobody says, and what nobody writes."""
    stages = asked["stages"]
    lacking = [f"recipe of {n}" for n, s in stages.items() if s["recipe"] not in recipes]
    paths = {s.path for s in specs}
    lacking += [f"specification of {p}" for s in stages.values() for p in s["writes"] if p not in paths]
    if lacking:
        raise StoreError(expected="a whole description of the stages", found=f"no {', no '.join(lacking)}", where="store", remedy="Report this.")


def _write_groups(root: zarr.Group, template: Template) -> None:
    for group, attributes in layout.group_attributes(template).items():
        root.require_group(group).update_attributes(attributes)


def _columns(subjects: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Columns of the table as float64 or text, identity first."""
    if schema.PARTICIPANT not in subjects:
        raise StoreError(
            expected=f"a column {schema.PARTICIPANT}",
            found=", ".join(map(str, subjects.columns)) or "no column",
            where="subject table",
            remedy="Index the study again.",
        )
    frame = subjects if schema.SESSION in subjects else subjects.assign(**{schema.SESSION: ""})
    out: dict[str, NDArray[Any]] = {}
    for name in (*IDENTITY, *(c for c in frame.columns if c not in IDENTITY)):
        if not isinstance(name, str) or not name or "/" in name:
            raise StoreError(expected="column names without '/'", found=repr(name), where="subject table", remedy="Rename the column.")
        column = frame[name]
        name = f"{schema.SUBJECTS}_{name}" if name in _TAKEN else name
        if name not in IDENTITY and pd.api.types.is_numeric_dtype(column):
            out[name] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            out[name] = layout.text("" if missing else v for v, missing in zip(column, column.isna(), strict=True))
    keys = list(zip(*(out[c] for c in IDENTITY), strict=True))
    bad = [i for i, key in enumerate(keys) if not key[0] or key in keys[:i]] if len(set(keys)) < len(keys) or any(not k[0] for k in keys) else []
    if bad:
        raise StoreError(
            expected="one row for each participant and session", found=f"an empty or repeated one in rows {_some(bad)}", where="subject table",
            remedy="Give each participant (and session) one row.",
        )  # fmt: skip
    return out


def _rows(
    root: zarr.Group, columns: Mapping[str, NDArray[Any]], renamed: Mapping[tuple[str, str], tuple[str, str]], *, there: bool
) -> tuple[NDArray[np.int64], int]:  # fmt: skip
    """Return the row of each subject of the table, and the length of the axis."""
    known: dict[tuple[str, ...], int] = {}
    total = 0
    if there:
        total = layout.row_count(root)
        stored = zip(*(layout.array_at(root, f"{schema.SUBJECTS}/{c}")[:total] for c in IDENTITY), strict=True)
        known = {tuple(map(str, key)): i for i, key in enumerate(stored)}
        known.pop(("", ""), None)  # rows of people who withdrew are never given to somebody else
    rows = []
    for key in zip(*(columns[c] for c in IDENTITY), strict=True):
        row = known.get(key, known.get(renamed.get(key, key)))
        if row is None:
            row, total = total, total + 1
        rows.append(row)
    return np.asarray(rows, np.int64), total


def _lay_out(
    root: zarr.Group, template: Template, specs: Sequence[VariableSpec], asked: Mapping[str, Any], total: int, known: Mapping[str, VariableSpec]
) -> dict[str, VariableSpec]:  # fmt: skip
    """Create what is missing, make every axis of subjects and stages as long as it has to be, and return all that is laid out."""
    present = layout.arrays(root)
    fixed = {spec.path: (spec, values) for spec, values in layout.fixed_arrays(template, specs)}
    names = [str(n) for n in np.asarray(present[layout.STAGE_NAMES.path][...])] if known else []
    names += [n for n in asked["stages"] if n not in names]
    fixed[layout.STAGE_NAMES.path] = layout.STAGE_NAMES, layout.text(names)
    fixed[layout.ROW.path] = layout.ROW, np.arange(total)
    wanted = {s.path: s for s in (*specs, *schema.FIXED)} | {p: s for p, (s, _) in fixed.items()}
    grown = layout.grown_sizes(root if known else None)
    sizes = {**layout.sizes_of(template), **grown, schema.SUBJECT: total, schema.STAGE: len(names)}
    for path, spec in wanted.items():
        if path in fixed:
            shape = fixed[path][1].shape
        elif set(spec.dims) <= set(sizes):
            shape = tuple(sizes[d] for d in spec.dims)
        else:
            raise StoreError(
                expected=f"dimensions {', '.join(sizes)}", found=", ".join(spec.dims), where=path,
                remedy="Write arrays along axes that the store has.",
            )  # fmt: skip
        array = present.get(path)
        if array is None:
            array = layout.create(root, spec, shape)
        elif path in known:
            _check_same(spec, known[path])
            if known[path] != spec:
                array.update_attributes(layout.attributes_of(spec))
        if array.shape != shape:
            array.resize(shape)
        if path in fixed and (path not in known or spec.dims[0] in (schema.SUBJECT, schema.STAGE)):
            layout.whole(array)[...] = fixed[path][1]
    for path, array in present.items():
        shape = tuple(sizes.get(d, n) if d in (schema.SUBJECT, schema.STAGE) else n for d, n in zip(layout.dims_of(array), array.shape, strict=True))
        if path not in wanted and shape != array.shape:
            array.resize(shape)
    return {**known, **wanted}


def _check_same(spec: VariableSpec, known: VariableSpec) -> None:
    """Refuse a variable that lies on disk in another form."""
    form = [(s.dims, s.dtype, dict(s.chunks), repr(s.fill), s.gathered) for s in (spec, known)]
    if form[0] != form[1]:
        raise StoreError(
            expected=f"{known.dtype} {known.dims}", found=f"{spec.dtype} {spec.dims}, or other chunks", where=spec.path,
            remedy="The stage writes this array in another form than when the store was laid out: build a new store, or give the array another name.",
        )  # fmt: skip


def _write_columns(
    root: zarr.Group, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], total: int, units: Mapping[str, str],
    left: Mapping[tuple[str, str], str],
) -> None:  # fmt: skip
    """Give the table's rows exactly the table's values: a column it does not have becomes empty there. Rows that it lacks have left."""
    present = {a.basename: a for a in layout.subject_arrays(root).values() if a.path.startswith(f"{schema.SUBJECTS}/")}
    present.pop(layout.LEFT.name, None)
    identity: list[NDArray[Any]] = []
    for name in (*columns, *(n for n in present if n not in columns)):
        old, new = present.get(name), columns.get(name)
        words = new.dtype == object if new is not None else layout.is_text(present[name])
        spec = schema.subject_spec(name, "str" if words else "float64", units.get(name, "1"))
        values = np.full(total, spec.fill, dtype=object if words else np.float64)
        if old is not None:
            values[:] = _as_kind(np.asarray(old[:]), words)
        values[rows] = spec.fill if new is None else new
        if old is None or layout.is_text(old) != words:
            array = layout.create(root, spec, (total,), overwrite=True)
        else:
            array = old
            if new is not None:
                array.update_attributes(layout.attributes_of(spec))
        layout.whole(array)[:] = values
        if name in IDENTITY:
            identity.append(values)
            _write_column(root, next(s for s in layout.NAMES if s.name == name), values)
    why = [left.get((str(p), str(s)), GONE) if p else "" for p, s in zip(*identity, strict=True)]
    gone = layout.text(why)
    gone[rows] = ""
    _write_column(root, layout.LEFT, gone)


def _write_column(root: zarr.Group, spec: VariableSpec, values: NDArray[Any]) -> None:
    array = root.get(spec.path)
    if not isinstance(array, zarr.Array):
        array = layout.create(root, spec, values.shape)
    layout.whole(array)[:] = values


def _as_kind(values: NDArray[Any], words: bool) -> NDArray[Any]:
    """Carry an old column over when its kind has changed."""
    if words and values.dtype.kind == "f":
        return layout.text("" if np.isnan(v) else f"{v:g}" for v in values)
    return layout.text(values) if words else np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"), np.float64)


# --- writing ----------------------------------------------------------------------------------------------------------
def write_subject(
    url: str, row: int, arrays: Mapping[str, Any], entry: Entry, *, template_digest: str, before: Entry | Literal["look"] | None = "look"
) -> None:
    """Write how a stage of a subject ended, and its arrays where it is done: large ones as chunks, and then the record with the others.

    Everything is checked before anything is written. Writing the same row again replaces it. What the stage had before and does not give now is
    erased. Where a stage that was done is written again, a record that says it is not comes first: a crash between leaves a stage to be done, never
    an old record with new data.

    Parameters
    ----------
    url : str
    row : int
    arrays : {path: array without the subject axis}
        ``{"fit/mt": (voxel, 3), "qc/mt_dice": scalar}``, all of the entry's stage; nothing unless it is done.
    entry : Entry
    template_digest : str
        Of the template the arrays were made with.
    before : Entry, optional
        What was recorded of this stage, if the caller knows it.

    Raises
    ------
    TemplateError, AlignmentError, StoreError, UnknownNameError
        The arrays do not fit the store, or hold infinite values.
    StorageError
        The place failed; the row may be half written, and is not done before its record is there.
    """
    root = layout.open_root(url, "r+")
    check_template(root, template_digest)
    _check_writable(root)
    _check_row(root, row, f"stage {entry.stage}")
    if entry.subject != row or (arrays and entry.status != schema.DONE):
        raise StoreError(
            expected=f"an entry of row {row}, and arrays of a stage that is done alone", found=f"row {entry.subject}, {entry.status}",
            where=f"stage {entry.stage}", remedy="Report this.",
        )  # fmt: skip
    if entry.stage not in layout.record_of(root, layout.ASKED)["stages"]:
        raise unknown_name("stage of the store", entry.stage, list(layout.record_of(root, layout.ASKED)["stages"]), where="store")
    own = {p: s for p, s in layout.stored_specs(root).items() if s.stage == entry.stage}
    sizes = layout.record_of(root, layout.SIZES)
    values = {path: _checked(root, own, sizes, path, value, entry.stage) for path, value in arrays.items()}
    large = [path for path, spec in own.items() if not spec.gathered]
    if large:
        before = read_entry(url, row, entry.stage) if before == "look" else before
        if before is not None and before.status == schema.DONE:
            write_record(url, Entry(row, entry.stage, schema.NOT_RUN, "", entry.recipe))
    for path in large:
        with storage_errors(path):
            array = layout.array_at(root, path)
            if entry.status == schema.DONE:
                layout.whole(array)[row] = values.pop(path, array.fill_value)
            else:  # also what a write that was cut short has left without a record
                array[row] = array.fill_value
    write_record(url, entry, values)


def write_block(url: str, first_row: int, arrays: Mapping[str, Any]) -> None:
    """Write one whole block of template tables: `schema.SUBJECT_BLOCK` rows, or fewer at the end of the axis.

    Parameters
    ----------
    url : str
    first_row : int
        A multiple of `schema.SUBJECT_BLOCK`.
    arrays : {path: (block, ...) array}
        All with the same number of rows.

    Raises
    ------
    AlignmentError, StoreError, UnknownNameError
        The arrays do not fit the store, or hold infinite values.
    StorageError
        The place failed.
    """
    root = layout.open_root(url, "r+")
    _check_writable(root)
    total = layout.row_count(root)
    rows = min(schema.SUBJECT_BLOCK, total - first_row)
    checked = []
    for path, value in arrays.items():
        with storage_errors(path):
            array = layout.array_at(root, path)
        _check_row(root, first_row, path)
        values = np.asarray(value)
        _check_block(array, path, values, first_row, rows, total)
        checked.append((path, array, _finite(values, array.dtype, path)))
    for path, array, values in checked:
        with storage_errors(path):
            layout.whole(array)[first_row : first_row + rows] = values


def read_subject(url: str, row: int, path: str) -> NDArray[Any]:
    """Read one subject's array without the subject axis: fill (NaN) where nothing was written. What is not gathered yet is read from its record.

    Raises
    ------
    UnknownNameError, StoreError
        No such variable, or no such row.
    StorageError
        The place failed, or the chunk is damaged.
    """
    root = layout.open_root(url)
    _check_row(root, row, path)
    spec = layout.stored_specs(root).get(path)
    if spec is not None and spec.gathered and not root.attrs.get(layout.COMPACTED):
        record = read_record(url, row, spec.stage)
        if record is not None:
            return record.arrays[path] if path in record.arrays else _empty(spec, layout.record_of(root, layout.SIZES))
    values: NDArray[Any] = np.asarray(read_rows(root, path, slice(row, row + 1))[0])
    return values


def read_rows(root: zarr.Group, path: str, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
    """Read rows of an array; a damaged chunk is an error with the array's name.

    Raises
    ------
    UnknownNameError
        No such variable.
    StorageError
        The place failed, or a chunk is damaged.
    """
    with storage_errors(path), layout.damage(path):
        array = layout.array_at(root, path)
        return np.asarray(array[rows] if isinstance(rows, slice) else array.oindex[rows])


def _empty(spec: VariableSpec, sizes: Mapping[str, int]) -> NDArray[Any]:
    return np.full(tuple(sizes[d] for d in spec.dims[1:]), spec.fill, object if spec.dtype == "str" else spec.dtype)


def check_template(root: zarr.Group, template_digest: str) -> None:
    """Refuse arrays of another template."""
    stored = root.attrs.get(layout.TEMPLATE_DIGEST)
    if stored != template_digest:
        raise TemplateError(
            expected=f"template {root.attrs.get(layout.TEMPLATE_NAME)} {root.attrs.get(layout.TEMPLATE_VERSION)} with hash {stored}",
            found=f"hash {template_digest}", where="store", remedy="Use the template the store was built with, or build a new store.",
        )  # fmt: skip


def _check_writable(root: zarr.Group) -> None:
    if words := layout.frozen(root):
        raise StoreError(expected="a store that grows", found=words, where="store", remedy="Work on the store the freeze was made from.")


def _check_row(root: zarr.Group, row: int, path: str) -> None:
    total = layout.row_count(root)
    if not 0 <= row < total:
        raise StoreError(expected=f"a row from 0 to {total - 1}", found=str(row), where=path, remedy="Run build, which appends new subjects first.")


def _checked(root: zarr.Group, own: Mapping[str, VariableSpec], sizes: Mapping[str, int], path: str, value: Any, stage: str) -> NDArray[Any]:
    """Return an array of a stage as it is stored, or refuse it."""
    spec = own.get(path)
    if spec is None:
        theirs = layout.spec_at(root, path).stage
        raise StoreError(
            expected=f"arrays of stage {stage}", found=f"one of stage {theirs}" if theirs else "one that no stage writes", where=path,
            remedy="Correct what the stage says it writes.",
        )  # fmt: skip
    values = np.asarray(value)
    if not layout.fits(values.shape, spec.dims[1:], sizes):
        shape = tuple(sizes[d] for d in spec.dims[1:])
        raise AlignmentError(
            expected=f"shape {shape} for {spec.dims[1:]}", found=str(values.shape), where=path, remedy="Pack with the store's own template."
        )
    return _finite(values, np.dtype(object if spec.dtype == "str" else spec.dtype), path)


def _finite(values: NDArray[Any], dtype: np.dtype[Any], path: str) -> NDArray[Any]:
    """Cast to what is stored, and refuse what becomes infinite: a hole is NaN."""
    if dtype.kind not in "fiub":
        return values.astype(object)
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise StoreError(expected=f"dtype {dtype}", found=str(values.dtype), where=path, remedy="Convert before writing.")
    with np.errstate(over="ignore"):
        out: NDArray[Any] = values.astype(dtype, copy=False)
    bad = int(np.isinf(out).sum()) if dtype.kind == "f" else 0
    if bad:
        raise StoreError(
            expected="finite values, and NaN where there is none", found=f"{bad} infinite", where=path,
            remedy="The stage divides by zero somewhere: it must say NaN where a value cannot be known.",
        )  # fmt: skip
    return out


def _check_block(array: zarr.Array[Any], path: str, value: NDArray[Any], first: int, rows: int, total: int) -> None:
    """Refuse a write that does not cover whole chunks with what the store declares."""
    dims = layout.dims_of(array)
    if dims[:1] != (schema.SUBJECT,):
        raise StoreError(
            expected="a variable with a subject axis",
            found=f"dims {dims}",
            where=path,
            remedy="It was laid out with the template and is not rewritten.",
        )
    block = array.chunks[0]
    if first % block or (rows % block and first + rows != total):
        raise AlignmentError(
            expected=f"whole chunks of {block} subjects", found=f"rows {first} to {first + rows - 1}", where=path,
            remedy=f"Write from a multiple of {block} to the next, or to the end ({total}): two workers that share a chunk lose data in silence.",
        )  # fmt: skip
    if value.shape != (rows, *array.shape[1:]):
        raise AlignmentError(
            expected=f"shape {(rows, *array.shape[1:])} for {dims}", found=str(value.shape), where=path,
            remedy="Pack with the store's own template, and hand over whole blocks: a chunk that is partly written can be lost.",
        )  # fmt: skip


def _some(rows: list[int], limit: int = 20) -> str:
    return ", ".join(map(str, rows[:limit])) + (" ..." if len(rows) > limit else "")
