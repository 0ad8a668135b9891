"""Tidy tables inside a cohort store: ``analysis/<table>/<column>``, whole or absent."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name
from cohort_engine.io.places import local_path, storage_errors
from cohort_engine.store import layout
from cohort_engine.store.records import read_entries
from cohort_engine.store.writer import read_rows

COMPLETE = "complete"
"""Attribute of the group that is written last; without it the tables count as absent."""
COLUMNS = "columns"
MADE_OF = "made_of"
"""Attribute of the group: digest of what the analysis was made of, see `content_digest`."""


def write_tables(url: str, tables: Mapping[str, pd.DataFrame], attributes: Mapping[str, Any]) -> None:
    """Replace the analysis of a store by these tables.

    Parameters
    ----------
    url : str
    tables : mapping of name to DataFrame
        Numbers, yes and no, and text. Columns that name a person are left out: in a store a person is a row (``subject``).
    attributes : mapping
        What made them, as JSON can hold it. No names of people, no paths.

    Raises
    ------
    StoreError, StorageError
        No store, or the place failed: then the store has no analysis.
    """
    root = layout.open_root(url, "r+")
    with storage_errors("writing the analysis"):
        _erase(root, url)
        group = root.create_group(schema.ANALYSIS)
        for name, table in tables.items():
            kept = table[[c for c in table.columns if c not in (schema.PARTICIPANT, schema.SESSION)]]
            place = group.create_group(name, attributes={COLUMNS: list(map(str, kept.columns))})
            for column in kept.columns:
                _write(place, str(column), kept[column], f"{schema.ANALYSIS_ROW}_{name}")
        group.update_attributes({**attributes, MADE_OF: content_digest(url, root), COMPLETE: True})
        if root.attrs.get(layout.FINALISED):
            layout.consolidate(root)


def _write(group: zarr.Group, name: str, column: pd.Series[Any], dim: str) -> None:
    words = column.dtype.kind not in "fiub"
    values = layout.text("" if v is None or v != v else v for v in column) if words else column.to_numpy()
    array = group.create_array(
        name, shape=values.shape, dtype="string" if words else values.dtype, chunks=(max(1, len(values)),), dimension_names=(dim,),
        compressors=layout.TEXT if words else layout.NUMERIC, fill_value="" if words else np.nan if values.dtype.kind == "f" else 0,
    )  # fmt: skip
    layout.whole(array)[:] = values


def content_digest(url: str, root: zarr.Group) -> str:
    """Digest of all that an analysis is made of: keys and recipes of every row and stage, the subject table, and what the study asks for.

    Raises
    ------
    StoreError, StorageError
        The store is damaged.
    """
    h = hashlib.sha256(str(layout.record_of(root, layout.ASKED).get("hash", "")).encode())
    for e in sorted(read_entries(url), key=lambda e: (e.subject, e.stage)):
        h.update(f"{e.subject}\0{e.stage}\0{e.status}\0{e.key}\0{e.recipe}\n".encode())
    part = slice(0, layout.row_count(root))
    for path in sorted(p for p in layout.subject_arrays(root) if p.startswith(f"{schema.SUBJECTS}/")):
        values = read_rows(root, path, part)
        h.update(f"{path}\0{values.shape}".encode())
        h.update(values.tobytes() if values.dtype.kind in "fiub" else "\0".join(map(str, values)).encode())
    return h.hexdigest()[:16]


def read_tables(url: str, *, stale: bool = False) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Read the analysis of a store: its tables and what made them; nothing where there is none, or one whose writing was cut short.

    Parameters
    ----------
    url : str
    stale : bool
        Read it although the store has moved on since.

    Raises
    ------
    StoreError
        The store has moved on: subjects, their columns, results or settings are not those that were analysed.
    StorageError
        A damaged store, or a place that does not answer.
    """
    root = layout.open_root(url)
    with storage_errors("reading the analysis"):
        if schema.ANALYSIS not in root:
            return {}, {}
        group = layout.group_at(root, schema.ANALYSIS)
        attributes: dict[str, Any] = dict(group.attrs)
        if not attributes.pop(COMPLETE, False):
            return {}, {}
        if attributes.pop(MADE_OF, "") != content_digest(url, root) and not stale:
            raise StoreError(
                expected="an analysis of what the store holds now", found="one from before the store changed", where="analysis",
                remedy='Run "cohort-engine analyse" again.',
            )  # fmt: skip
        return {name: _read(place) for name, place in sorted(group.groups())}, attributes


def read_table(url: str, name: str, *, stale: bool = False) -> pd.DataFrame:
    """Read one table of the analysis; a name that is not there is answered with the near ones. Errors as of `read_tables`."""
    tables = read_tables(url, stale=stale)[0]
    if name not in tables:
        raise unknown_name("table of the analysis", name, sorted(tables), where="store")
    return tables[name]


def _read(group: zarr.Group) -> pd.DataFrame:
    names: list[str] = [str(n) for n in np.ravel(np.asarray(group.attrs[COLUMNS], dtype=object))]
    found = {}
    for name in names:
        with layout.damage(f"{group.path}/{name}"):
            found[name] = np.asarray(layout.array_at(group, name)[...])
    return pd.DataFrame(found, columns=names)


def erase_tables(root: zarr.Group, url: str) -> None:
    """Take the analysis out of a store: it was made with somebody who withdrew."""
    if schema.ANALYSIS in root:
        _erase(root, url)
        if root.attrs.get(layout.FINALISED):
            layout.consolidate(root)


def _erase(root: zarr.Group, url: str) -> None:
    """Delete the analysis; on a local disk the empty folders too, which zarr would take for something foreign."""
    if schema.ANALYSIS in root:
        del root[schema.ANALYSIS]
    path = local_path(url)
    if path is not None:
        shutil.rmtree(path / schema.ANALYSIS, ignore_errors=True)
