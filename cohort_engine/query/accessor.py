"""A cohort store as one lazy Dataset, and the questions it answers: ``ds.cohort``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.reduce.cohort import ATLAS_VARIABLES, CELL, atlas_of, template_levels, tract_table
from cohort_engine.store import layout
from cohort_engine.template.atlas import Region
from cohort_engine.template.levels import LevelRange

if TYPE_CHECKING:
    import pandas as pd

MIN_COVERAGE = 0.75
"""Coverage limit where a store does not say which one its tables were made with."""

PROFILE_VARIABLES = {m: f"profile_{m}" for m in schema.MEASURES if m not in schema.SUMMED}
"""Measure -> name of its profile in an opened cohort; the plain name is its table by level."""
SPACE = "space"
"""Attribute of an opened cohort: the space of its tables."""
CORD = "spinal cord"
"""Region of whole cross-sections."""

Names = str | Sequence[str]


# --- opening ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class StoredArray:
    """An array of a store that opens itself where it is read: it travels to workers as text.

    Attributes
    ----------
    url, path : str
    shape : tuple of int
    dtype : numpy dtype
        Text is ``object``.
    """

    url: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        with storage_errors(self.path):
            return np.asarray(_open_array(self.url, self.path, self.shape)[key]).astype(self.dtype, copy=False)


@lru_cache(maxsize=256)
def _open_array(url: str, path: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """One handle a process; `shape` makes a new one after the store has grown."""
    return layout.array_at(layout.open_root(url), path)


def open_cohort(url: str, *, block: int = schema.SUBJECT_BLOCK, space: str = schema.SPACE_TEMPLATE) -> xr.Dataset:
    """Open a cohort store as one Dataset; nothing but names, subjects and shapes is read.

    Parameters
    ----------
    url : str
        Folder or URL.
    block : int
        Subjects in one Dask block of maps and tables (64 PAM50 maps are 65 MB). Reading one subject reads one subject.
    space : str
        Which tables.

    Returns
    -------
    Dataset
        Dimensions subject, voxel, level, region, z, stage. Coordinates: every column of the subject table and the row number along subject, index,
        position and level along voxel, names along level, region and stage, mm along z and its level number (``z_level``). Variables: maps
        (``mtr``), tables (``mtr_wa``, ``mtr_wa_std``, ``mtr_wa_n``, ``mtr_wa_coverage``), profiles (``profile_area``) and their tables by level
        (``area``, ``area_std``, ``slices``), quality numbers (``mt_dice``), the stages (``stages_status``) and the atlas (``atlas_weight``).
        A subject column whose name is taken (or is that of a table cell, ``n``) is called ``subjects_<name>``. Attributes are the store's;
        ``finalised`` is empty until it is closed. Rows of people who withdrew are left out; the others keep their number.

    Raises
    ------
    StoreError
        Nothing there, not a cohort store, or one of a newer format.
    StorageError
        The place does not answer.
    UnknownNameError
        A space that does not exist.
    """
    if space not in schema.SPACES:
        raise unknown_name("space", space, list(schema.SPACES), where="query")
    root = layout.open_root(url)
    rows = layout.row_count(root)
    tables = f"{schema.TABLES}/{space}"
    shape = f"{schema.TABLES}/{schema.SHAPE}"
    groups = (tables, shape, schema.PROFILES, schema.MAPS, schema.QC, schema.VOXELS, schema.ATLAS, schema.STAGES, schema.SUBJECTS)
    with storage_errors("store"):
        found = {path: array for path, array in layout.arrays(root).items() if path.rpartition("/")[0] in groups}
        atlas, voxels = (dict[str, Any](root[group].attrs) for group in (schema.ATLAS, schema.VOXELS))
    extra: dict[str, Any] = {k: json.dumps(atlas[k]) for k in (layout.UNIONS, layout.CLUSTERS)}
    extra |= {k: np.ravel(voxels[k]).tolist() for k in (layout.GRID_SHAPE, layout.GRID_AFFINE)}
    names = {
        schema.PROFILES: PROFILE_VARIABLES,
        schema.ATLAS: ATLAS_VARIABLES,
        schema.STAGES: {s.name: f"{schema.STAGES}_{s.name}" for s in schema.FIXED if s.group == schema.STAGES},
    }
    data: dict[str, xr.Variable] = {schema.SUBJECT: xr.Variable(schema.SUBJECT, np.arange(rows), {"long_name": "row of the store"})}
    coords: dict[str, xr.Variable] = {schema.SUBJECT: data[schema.SUBJECT]}
    for path in sorted(found, key=lambda p: (groups.index(p.rpartition("/")[0]), p)):
        group, _, name = path.rpartition("/")
        if group == shape and name == schema.LEVEL and name in data:
            continue  # the same axis
        variable = _variable(url, path, found[path], rows, block, lazy=group != schema.SUBJECTS)
        name = names.get(group, {}).get(name, name)
        name = f"{group}_{name}" if name in data or name in CELL else name
        data[name] = variable
        if group in (schema.SUBJECTS, schema.VOXELS) or variable.dims == (name,) or name == schema.Z_LEVEL:
            coords[name] = variable
    ds = xr.Dataset({n: v for n, v in data.items() if n not in coords}, coords, dict(root.attrs) | extra | {SPACE: space})
    present = ds[schema.PARTICIPANT].to_numpy() != ""
    return ds if present.all() else ds.isel({schema.SUBJECT: np.flatnonzero(present)})


def _variable(url: str, path: str, array: zarr.Array[Any], rows: int, block: int, *, lazy: bool) -> xr.Variable:
    """Columns of subjects and names are read; everything else waits."""
    import dask.array as da

    dims = layout.dims_of(array)
    text = array.dtype.kind not in "fiub"
    stored = StoredArray(url, path, array.shape, np.dtype(object) if text else array.dtype)
    by_subject = dims[:1] == (schema.SUBJECT,)
    attrs = {k: v for k, v in array.attrs.items() if not k.startswith("_")}
    if text or not lazy:
        values = stored[:]
        return xr.Variable(dims, values[:rows] if by_subject else values, attrs)
    chunks = tuple(block if d == schema.SUBJECT and len(dims) > 1 else n for d, n in zip(dims, array.shape, strict=True))
    values = da.from_array(stored, chunks=chunks, name=False, meta=np.empty((0,) * array.ndim, array.dtype))
    return xr.Variable(dims, values[:rows] if by_subject else values, attrs)


# --- asking -----------------------------------------------------------------------------------------------------------
@xr.register_dataset_accessor("cohort")  # type: ignore[no-untyped-call]
class CohortAccessor:
    """Questions to a cohort, as ``ds.cohort``; `ds` is what `open_cohort` returned, or a selection of its subjects."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    @property
    def levels(self) -> list[str]:
        """Levels of the template, from the top down."""
        return template_levels(self._ds)

    @property
    def regions(self) -> list[str]:
        """Every label and union of the atlas."""
        return [r.name for r in atlas_of(self._ds).regions]

    @property
    def metrics(self) -> list[str]:
        """Metrics that have maps."""
        return [str(n) for n in self._ds.data_vars if n in schema.METRICS]

    @property
    def min_coverage(self) -> float:
        """Coverage limit that the tables were made with."""
        science = json.loads(self._ds.attrs.get(layout.SCIENCE, "{}"))
        return float(science.get("stages", {}).get("reduce", {}).get("min_coverage", MIN_COVERAGE))

    def row(self, participant: str, session: str | None = None) -> int:
        """Row number of a participant: a value of the coordinate ``subject``.

        Raises
        ------
        UnknownNameError
            Nobody of that name in the dataset, with the near ones.
        StoreError
            Several sessions, and none was chosen.
        """
        names, sessions = (self._ds[k].to_numpy() for k in (schema.PARTICIPANT, schema.SESSION))
        hit = names == participant
        if not hit.any():
            raise unknown_name("participant", participant, [str(n) for n in names], where="cohort dataset")
        if session is not None:
            known = sorted({str(s) for s in sessions[hit]})
            hit &= sessions == session
            if not hit.any():
                raise unknown_name("session", session, known, where="cohort dataset")
        if hit.sum() > 1:
            raise StoreError(
                expected="one subject", found=f"{hit.sum()} sessions: {', '.join(map(str, sessions[hit]))}", where="cohort dataset",
                remedy="Give session=... as well.",
            )  # fmt: skip
        return int(self._ds[schema.SUBJECT].to_numpy()[hit][0])

    def subject(self, who: int | str, session: str | None = None) -> xr.Dataset:
        """Select one subject, by row number or participant."""
        row = self.row(who, session) if isinstance(who, str) else int(who)
        if row not in self._ds[schema.SUBJECT].to_numpy():
            raise unknown_name("row", str(row), [str(r) for r in self._ds[schema.SUBJECT].to_numpy()], where="cohort dataset")
        return self._ds.sel({schema.SUBJECT: row})

    # --- numbers ---
    def table(
        self, metric: str, regions: Names | None = None, levels: Names | None = None, *, estimator: str = schema.WA, min_coverage: float | None = None
    ) -> xr.Dataset:
        """Return ``value``, ``std``, ``n`` and ``coverage`` of every (subject, level, region), lazily.

        Cells that the store's tables hold are taken from there; where one is pooled, summed, or below the tables' coverage limit, or while the
        store is not finalised, they are reduced from the maps with the same operator.

        Parameters
        ----------
        metric : str
        regions : str or sequence of str, optional
            Names, sides together (``"lateral corticospinal tract"``), sums (``"a + b"``); by default all labels and unions.
        levels : str or sequence of str, optional
            ``"C2"``; ``"C2:C3"`` is one pooled cell; ``"C2,C3"`` or a list are several; ``"all"`` pools the whole cord. By default each level.
        estimator : str
        min_coverage : float, optional
            By default the tables' own.

        Returns
        -------
        Dataset of float32, NaN where the coverage is below the limit
        """
        ds, limit = self._ds, self.min_coverage if min_coverage is None else min_coverage
        quantity = schema.metric(metric)
        atlas = atlas_of(ds)
        chosen = atlas.regions if regions is None else tuple(atlas.region(n) for n in _as_list(regions))
        known = self.levels
        ranges = [LevelRange.parse(n, known) for n in (known if levels is None else _as_list(levels, separator=","))]
        names = {key: spec.name for key, spec in schema.table_specs(metric, estimator).items()}
        if self._tabulated(names.values(), ranges, chosen, limit):
            cells = ds[list(names.values())].sel({schema.LEVEL: [r.name for r in ranges], schema.REGION: [r.name for r in chosen]})
            if limit > self.min_coverage:
                enough = cells[names[schema.COVERAGE]] >= np.float32(limit)
                cells = cells.assign({n: cells[n].where(enough) for k, n in names.items() if k not in (schema.N, schema.COVERAGE)})
        elif ds.attrs.get(SPACE, schema.SPACE_TEMPLATE) != schema.SPACE_TEMPLATE:
            raise StoreError(
                expected="cells of the native tables: single levels, labels and unions, of a finalised store", found=f"{metric} elsewhere",
                where="query", remedy="Ask for single levels at the tables' own coverage, or read the template tables, which can be pooled.",
            )  # fmt: skip
        else:
            cells = tract_table(ds, metric=metric, levels=ranges, regions=chosen, estimator=estimator, min_coverage=limit, merge=False)
        cells = cells.rename({v: k for k, v in names.items()})
        about = {"metric": metric, "long_name": quantity.long_name, "units": quantity.units, "estimator": estimator, "min_coverage": limit}
        return cells.assign({k: cells[k].assign_attrs(about if k == schema.VALUE else {}) for k in names}).assign_attrs(about)

    def tract(
        self,
        metric: str,
        region: Names,
        level: Names | None = None,
        *,
        estimator: str = schema.WA,
        min_coverage: float | None = None,
        full: bool = False,
    ) -> xr.DataArray | xr.Dataset:
        """Values of a tract by subject: see `table` for the arguments.

        Returns
        -------
        DataArray
            (subject), with a level axis where several levels and a region axis where several regions were asked for; the choice stays as the
            coordinates ``level`` and ``region``. With ``full=True`` a Dataset of value, std, n and coverage.

        Examples
        --------
        ::

            ds.cohort.tract("mtr", "lateral corticospinal tract", level="C2:C3").groupby("group").mean()
        """
        cells = self.table(metric, region, level, estimator=estimator, min_coverage=min_coverage)
        one = {schema.REGION: isinstance(region, str), schema.LEVEL: isinstance(level, str) and "," not in level}
        cells = cells.isel({dim: 0 for dim, single in one.items() if single})
        return cells if full else cells[schema.VALUE].rename(metric)

    def profile(self, measure: str, levels: Names | None = None, *, min_coverage: float | None = None) -> xr.Dataset:
        """Pool a profile over levels: ``value``, ``std``, ``n`` and ``coverage`` (subject, level, region), lazily.

        Every slice of the template counts the same; the one region is the whole cord.

        Parameters
        ----------
        measure : str
            One of `schema.MEASURES` that has a profile.
        levels : str or sequence of str, optional
            As in `table`.
        min_coverage : float, optional
            Smallest share of the slices with a value; by default the tables' own.

        Returns
        -------
        Dataset of float64, NaN where the coverage is below the limit, or 0
            ``std`` is the population standard deviation along the cord, ``n`` the number of slices.

        Raises
        ------
        UnknownNameError
            No such profile, or no such level.
        """
        ds, limit = self._ds, self.min_coverage if min_coverage is None else min_coverage
        name = PROFILE_VARIABLES.get(measure)
        if name is None or name not in ds:
            raise unknown_name("profile", measure, [m for m, n in PROFILE_VARIABLES.items() if n in ds], where="cohort dataset")
        ranges = [LevelRange.parse(n, self.levels) for n in (self.levels if levels is None else _as_list(levels, separator=","))]
        parts = []
        for r in ranges:
            within = np.flatnonzero(np.isin(ds[schema.Z_LEVEL].to_numpy(), r.numbers))
            values = ds[name].isel({schema.Z: within})
            n = values.notnull().sum(schema.Z)
            coverage = n / max(1, len(within))
            enough = (n > 0) & (coverage >= limit)
            cells = {schema.VALUE: values.mean(schema.Z).where(enough), schema.STD: values.std(schema.Z).where(enough)}
            parts.append(xr.Dataset(cells | {schema.N: n, schema.COVERAGE: coverage}))
        axis = xr.Variable(schema.LEVEL, layout.text(r.name for r in ranges))
        about = {**ds[name].attrs, "measure": measure, "min_coverage": limit}
        pooled = xr.concat(parts, dim=axis).transpose(schema.SUBJECT, ...)
        out = pooled.expand_dims({schema.REGION: layout.text([CORD])}, axis=-1).assign_attrs(about)
        out[schema.VALUE].attrs.update(about)
        return out

    def frame(
        self, metric: str, regions: Names | None = None, levels: Names | None = None, *, estimator: str = schema.WA, min_coverage: float | None = None
    ) -> pd.DataFrame:
        """Tidy table of a metric or a measure of the cord, one row per subject, level and region: see `query.frame.tidy`."""
        from cohort_engine.query.frame import tidy

        if metric in schema.MEASURES:
            return tidy(self.profile(metric, levels, min_coverage=min_coverage))
        return tidy(self.table(metric, regions, levels, estimator=estimator, min_coverage=min_coverage))

    # --- images ---
    def unpack(self, metric: str, subject: int | str | None = None, *, session: str | None = None) -> xr.DataArray:
        """Put a map back on the template grid.

        Parameters
        ----------
        metric : str
            Any (subject, voxel) variable.
        subject : int or str, optional
            Row number or participant. By default the mean over the dataset's subjects, of those that have the voxel.
        session : str, optional
            Where a participant has several.

        Returns
        -------
        (i, j, k) float32 DataArray
            Template grid, RAS+ order; NaN outside the atlas. The attribute ``affine`` (4, 4) takes voxels to mm.
        """
        if metric not in self._ds or schema.VOXEL not in self._ds[metric].dims:
            raise unknown_name("map", metric, self.metrics, where="cohort dataset")
        maps = self._ds if subject is None else self.subject(subject, session)
        flat = maps[metric]
        flat = flat.mean(schema.SUBJECT) if schema.SUBJECT in flat.dims else flat
        shape, affine = self._grid()
        out = np.full(shape, np.nan, np.float32)
        out[tuple(self._ds[n].to_numpy() for n in schema.VOXEL_INDEX)] = flat.to_numpy()
        attrs = {k: v for k, v in self._ds[metric].attrs.items() if k in ("long_name", "units")} | {"affine": affine}
        return xr.DataArray(out, dims=schema.VOXEL_INDEX, name=metric, attrs=attrs)

    def to_nifti(self, metric: str, path: str | Path, subject: int | str | None = None, *, session: str | None = None) -> Path:
        """Write `unpack` as a NIfTI file in template space."""
        image = self.unpack(metric, subject, session=session)
        write_volume(path, Volume(image.to_numpy(), image.attrs["affine"]))
        return Path(path)

    # --- inside ---
    def _grid(self) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        shape, affine = (self._ds.attrs[k] for k in (layout.GRID_SHAPE, layout.GRID_AFFINE))
        return tuple(shape), np.asarray(affine, float).reshape(4, 4)

    def _tabulated(self, names: Iterable[str], ranges: list[LevelRange], regions: tuple[Region, ...], limit: float) -> bool:
        """Whether the tables hold every cell. Before `finalised` they may be empty, and an empty cell looks like a missing one."""
        ds = self._ds
        if not ds.attrs.get(layout.FINALISED) or limit < self.min_coverage or any(n not in ds for n in names):
            return False
        cells = {schema.LEVEL: {r.name for r in ranges}, schema.REGION: {r.name for r in regions}}
        return all(wanted <= set(ds[dim].to_numpy()) for dim, wanted in cells.items())


def _as_list(names: Names, separator: str | None = None) -> list[str]:
    if not isinstance(names, str):
        return list(names)
    return [n.strip() for n in names.split(separator)] if separator else [names]
