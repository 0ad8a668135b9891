"""Tidy tables inside a cohort store: ``analysis/<table>/<column>``, whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cohort_engine import schema
from cohort_engine.errors import unknown_name
from cohort_engine.io.places import local_path, storage_errors
from cohort_engine.store import layout

COMPLETE = "complete"
"""Attribute of the group that is written last; without it the tables count as absent."""
COLUMNS = "columns"


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
        group.update_attributes({**attributes, COMPLETE: True})
        if root.attrs.get(layout.FINALISED):
            layout.consolidate(root)


def _write(group: zarr.Group, name: str, column: pd.Series[Any], dim: str) -> None:
    words = column.dtype.kind not in "fiub"
    values = layout.text("" if v is None or v != v else v for v in column) if words else column.to_numpy()
    array = group.create_array(
        name, shape=values.shape, dtype="string" if words else values.dtype, chunks=(max(1, len(values)),), dimension_names=(dim,),
        compressors=layout.TEXT if words else layout.NUMERIC, fill_value="" if words else np.nan if values.dtype.kind == "f" else 0,
    )  # fmt: skip
    array[:] = values


def read_tables(url: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Read the analysis of a store: its tables and what made them; nothing where there is none, or one whose writing was cut short."""
    root = layout.open_root(url)
    with storage_errors("reading the analysis"):
        if schema.ANALYSIS not in root:
            return {}, {}
        group = root[schema.ANALYSIS]
        assert isinstance(group, zarr.Group)
        attributes: dict[str, Any] = dict(group.attrs)
        if not attributes.pop(COMPLETE, False):
            return {}, {}
        return {name: _read(place) for name, place in sorted(group.groups())}, attributes


def read_table(url: str, name: str) -> pd.DataFrame:
    """Read one table of the analysis; a name that is not there is answered with the near ones."""
    tables = read_tables(url)[0]
    if name not in tables:
        raise unknown_name("table of the analysis", name, sorted(tables), where="store")
    return tables[name]


def _read(group: zarr.Group) -> pd.DataFrame:
    names: list[str] = [str(n) for n in np.ravel(np.asarray(group.attrs[COLUMNS], dtype=object))]
    return pd.DataFrame({n: np.asarray(layout.array_at(group, n)[...]) for n in names}, columns=names)


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
