"""The only writer of a cohort store: lay it out, then write whole chunks. Closing, checking and freezing are in `store.maintenance`.

``init_store`` runs in one process and before the tasks. A task calls ``write_subject`` for its row and then writes its ledger entry: chunks
first, witness second, so that a crash anywhere leaves a row that is simply not done. Nothing here guesses: path, shape, dtype, chunk border
and template are checked before the first byte, because two workers that share a chunk lose data in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import Config
from cohort_engine.errors import AlignmentError, StoreError, TemplateError
from cohort_engine.io.places import storage_errors
from cohort_engine.provenance import versions
from cohort_engine.store import layout
from cohort_engine.store.ledger import now
from cohort_engine.template.base import Template

IDENTITY = (schema.PARTICIPANT, schema.SESSION)


# --- laying out -------------------------------------------------------------------------------------------------------
def init_store(url: str, *, template: Template, config: Config, subjects: pd.DataFrame, units: Mapping[str, str] | None = None) -> NDArray[np.int64]:
    """Lay out a store, or bring an existing one up to date, and say which row each subject has.

    Doing it again is harmless. A subject is known by (participant_id, session_id) and keeps its row for ever; new ones are appended; those
    that left the table stay. Columns of the subjects in the table are replaced. Arrays of new metrics, contrasts and estimators are added.

    Order, so that a crash leaves nothing wrong: the end of `finalised` (and of consolidated metadata), arrays, columns, and last, in one put,
    the root's attributes with the number of rows. Until then new rows do not count, and the next call writes them again.
    It must be the only writer while it runs.

    Parameters
    ----------
    url : str
        Path or URL.
    template : Template
    config : Config
        Its `science()` and hash are stored: no paths, no names.
    subjects : DataFrame
        participant_id, session_id (may be absent or empty) and covariates: numbers become float64 with NaN, anything else text with ``""``.
    units : mapping, optional
        Unit of a covariate; ``"1"`` where not given.

    Returns
    -------
    rows : (len(subjects),) int64
        Row of each subject, in the order of the table.

    Raises
    ------
    StoreError
        The place holds something else, a newer format or a freeze; the table is not usable.
    TemplateError
        The store was built with another template.
    StorageError
        The place cannot be written.
    """
    columns = _columns(subjects)
    with storage_errors("laying out the store"):
        root, there = layout.claim(url)
        if there:
            check_template(root, template.digest)
            _check_writable(root)
            root.update_attributes({layout.FINALISED: ""})
        else:
            _write_template(root, template)
        rows, total = _rows(root, columns, there=there)
        _lay_out(root, template, config, total)
        _write_columns(root, columns, rows, total, units or {})
        stamp = now()
        root.update_attributes(
            {
                layout.VERSION: schema.FORMAT_VERSION, layout.ROWS: total, layout.FINALISED: "",
                layout.TEMPLATE_NAME: template.name, layout.TEMPLATE_VERSION: template.version, layout.TEMPLATE_DIGEST: template.digest,
                layout.ATLAS_DIGEST: template.atlas.digest, layout.VOXELS_DIGEST: layout.voxels_digest(template.packing),
                layout.SCIENCE: json.dumps(config.science(), sort_keys=True), layout.SCIENCE_HASH: config.science_hash,
                layout.VERSIONS: json.dumps(versions(), sort_keys=True), layout.CREATED: root.attrs.get(layout.CREATED, stamp), layout.UPDATED: stamp,
            }
        )  # fmt: skip
    return rows


def _write_template(root: zarr.Group, template: Template) -> None:
    for spec, values in layout.fixed_arrays(template):
        layout.create(root, spec, values.shape)[...] = values
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


def _rows(root: zarr.Group, columns: Mapping[str, NDArray[Any]], *, there: bool) -> tuple[NDArray[np.int64], int]:
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
        row = known.get(key)
        if row is None:
            row, total = total, total + 1
        rows.append(row)
    return np.asarray(rows, np.int64), total


def _lay_out(root: zarr.Group, template: Template, config: Config, total: int) -> None:
    """Create what is missing, and make every subject axis `total` long."""
    sizes = {
        schema.SUBJECT: total, schema.VOXEL: len(template.packing), schema.AXIS: 3, schema.STAGE: 0,
        schema.LEVEL: len(template.levels), schema.REGION: len(template.atlas.regions), schema.Z: len(template.z),
    }  # fmt: skip
    specs = layout.specs_of(config.science())
    present = layout.arrays(root)
    for spec, values in (pair for space in config.stages.reduce.spaces for pair in layout.table_names(template, space)):
        if spec.path not in present:
            layout.create(root, spec, values.shape)[...] = values
    for path, spec in specs.items():
        if path not in present and set(spec.dims) <= set(sizes):
            layout.create(root, spec, tuple(sizes[d] for d in spec.dims))
    for spec, values in layout.template_axes(template):
        if spec.path in specs:
            layout.array_at(root, spec.path)[...] = values
    for array in present.values():
        if layout.dims_of(array)[:1] == (schema.SUBJECT,) and array.shape[0] != total:
            array.resize((total, *array.shape[1:]))


def _write_columns(root: zarr.Group, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], total: int, units: Mapping[str, str]) -> None:
    """Give the table's rows exactly the table's values: a column it does not have becomes empty there."""
    present = {a.basename: a for a in layout.subject_arrays(root).values() if a.path.startswith(f"{schema.SUBJECTS}/")}
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
        array[:] = values


def _as_kind(values: NDArray[Any], words: bool) -> NDArray[Any]:
    """Carry an old column over when its kind has changed."""
    if words and values.dtype.kind == "f":
        return layout.text("" if np.isnan(v) else f"{v:g}" for v in values)
    return layout.text(values) if words else np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"), np.float64)


# --- writing ----------------------------------------------------------------------------------------------------------
def write_subject(url: str, row: int, arrays: Mapping[str, Any], *, template_digest: str) -> None:
    """Write one subject's arrays, each a whole chunk. Write the ledger entry after it returns.

    Everything is checked before anything is written. Writing the same row again replaces it; an array that is all fill is not stored.

    Parameters
    ----------
    url : str
    row : int
    arrays : {path: array without the subject axis}
        ``{"maps/mtr": (voxel,), "fit/mt": (voxel, 3), "qc/mt_dice": scalar}``.
    template_digest : str
        Of the template the arrays were made with.

    Raises
    ------
    TemplateError, AlignmentError, StoreError, UnknownNameError
        The arrays do not fit the store.
    StorageError
        The place failed; the row may be half written, and is not done before its ledger entry is there.
    """
    root = layout.open_root(url, "r+")
    check_template(root, template_digest)
    _write(root, row, {p: np.asarray(a)[None] for p, a in arrays.items()}, rows=1)


def write_block(url: str, first_row: int, arrays: Mapping[str, Any]) -> None:
    """Write one whole block of tables: `schema.SUBJECT_BLOCK` rows, or fewer at the end of the axis.

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
        The arrays do not fit the store.
    StorageError
        The place failed.
    """
    root = layout.open_root(url, "r+")
    rows = min(schema.SUBJECT_BLOCK, layout.row_count(root) - first_row)
    _write(root, first_row, {p: np.asarray(a) for p, a in arrays.items()}, rows=rows)


def read_subject(url: str, row: int, path: str) -> NDArray[Any]:
    """Read one subject's array without the subject axis: fill (NaN) where nothing was written.

    Raises
    ------
    UnknownNameError, StoreError
        No such variable, or no such row.
    StorageError
        The place failed, or the chunk is damaged.
    """
    root = layout.open_root(url)
    with storage_errors(path):
        array = layout.array_at(root, path)
        _check_row(root, row, path)
        return np.asarray(array[row])


def check_template(root: zarr.Group, template_digest: str) -> None:
    """Refuse arrays of another template."""
    stored = root.attrs.get(layout.TEMPLATE_DIGEST)
    if stored != template_digest:
        raise TemplateError(
            expected=f"template {root.attrs.get(layout.TEMPLATE_NAME)} {root.attrs.get(layout.TEMPLATE_VERSION)} with hash {stored}",
            found=f"hash {template_digest}", where="store", remedy="Use the template the store was built with, or build a new store.",
        )  # fmt: skip


def _check_writable(root: zarr.Group) -> None:
    if root.attrs.get(layout.COMPACTED):
        raise StoreError(
            expected="a store that grows", found="a freeze made by compact", where="store", remedy="Work on the store the freeze was made from."
        )


def _write(root: zarr.Group, first: int, values: Mapping[str, NDArray[Any]], *, rows: int) -> None:
    _check_writable(root)
    checked = []
    for path, value in values.items():
        with storage_errors(path):
            array = layout.array_at(root, path)
        _check_row(root, first, path)
        _check(array, path, value, first, rows, layout.row_count(root))
        checked.append((path, array, value))
    for path, array, value in checked:
        with storage_errors(path):
            array[first : first + rows] = value.astype(array.dtype, copy=False)


def _check_row(root: zarr.Group, row: int, path: str) -> None:
    total = layout.row_count(root)
    if not 0 <= row < total:
        raise StoreError(expected=f"a row from 0 to {total - 1}", found=str(row), where=path, remedy="Run build, which appends new subjects first.")


def _check(array: zarr.Array[Any], path: str, value: NDArray[Any], first: int, rows: int, total: int) -> None:
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
    if not np.can_cast(value.dtype, array.dtype, "same_kind"):
        raise StoreError(expected=f"dtype {array.dtype}", found=str(value.dtype), where=path, remedy="Convert before writing.")


def _some(rows: list[int], limit: int = 20) -> str:
    return ", ".join(map(str, rows[:limit])) + (" ..." if len(rows) > limit else "")
