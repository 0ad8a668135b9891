"""A cohort store as one lazy Dataset, and the questions it answers: ``ds.cohort``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name
from cohort_engine.io.exclusions import ALL
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.progress import working
from cohort_engine.query import cells as kernel
from cohort_engine.query.answer import IDENTITY
from cohort_engine.query.cells import CELL, Cells, LeftOut, Names
from cohort_engine.query.choice import choose
from cohort_engine.query.reader import AXES, NATIVE_PREFIX, CohortReader, groups_of, metrics_of, name_of, reading
from cohort_engine.reduce.cohort import atlas_of
from cohort_engine.store import layout
from cohort_engine.template.atlas import Atlas, Naming

if TYPE_CHECKING:
    import pandas as pd

    from cohort_engine.query.plot import CohortPlots
    from cohort_engine.query.question import Query

EXCLUSIONS = "exclusions"
"""Attribute of an opened cohort: whose values are left out by ratings, as JSON; the variables of profiles have none of theirs, maps have all."""
SPACE = "space"
"""Attribute of an opened cohort: the space of its tables."""
CURRENT = "current"
"""Ending of a variable (subject,): whether the row of a table is that of the maps and settings of now."""


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
        with reading(self.path):
            return np.asarray(_open_array(self.url, self.path, self.shape)[key]).astype(self.dtype, copy=False)


@lru_cache(maxsize=256)
def _open_array(url: str, path: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """One handle a process; `shape` makes a new one after the store has grown."""
    return layout.array_at(layout.open_root(url), path)


def open_cohort(url: str | PathLike[str], *, block: int = schema.SUBJECT_BLOCK, space: str = "") -> xr.Dataset:
    """Open a cohort store as one Dataset; nothing but names, subjects and shapes is read.

    Parameters
    ----------
    url : str or path
        Folder or URL; with ``@TAG`` the freeze of that tag.
    block : int
        Subjects in one Dask block of maps and tables (64 PAM50 maps are 65 MB). Reading one subject reads one subject.
    space : str
        Of which space alone the tables are wanted. By default both are there, and questions take the least biased value (`query.choice.choose`).

    Returns
    -------
    Dataset
        Dimensions subject, voxel, level, region, z, stage. Coordinates: every column of the subject table and the row number along subject, index,
        position and level along voxel, names along level, region and stage, the number of a level beside its name (``level_number``), mm along z and
        its level number (``z_level``). Variables: maps (``mtr``), tables (``mtr_wa``, ``mtr_wa_std``, ``mtr_wa_n``, ``mtr_wa_coverage``; in native
        space ``native_mtr_map`` ...), profiles (``profile_area``) and their tables by level (``area``, ``area_std``, ``slices``), quality numbers
        (``mt_dice``), the stages (``stages_status``) and the atlas (``atlas_weight``).
        A subject column whose name is taken (or is that of a table cell, ``n``) is called ``subjects_<name>``. Attributes are the store's;
        ``finalised`` is empty until it is closed, ``mixed`` is empty unless rows were made with different settings. Rows of people who left the
        study or withdrew are left out; the others keep their number.

    Raises
    ------
    StoreError
        Nothing there, not a cohort store, or one of another format.
    StorageError
        The place does not answer, or a chunk is damaged.
    UnknownNameError
        A space that does not exist.
    """
    reader = CohortReader(fspath(url), space=space)
    url = reader.url
    everybody = reader.total == reader.subjects
    unshaped = _unshaped(reader.left_out)
    data: dict[str, xr.Variable] = {schema.SUBJECT: xr.Variable(schema.SUBJECT, np.arange(reader.total), {"long_name": "row of the store"})}
    coords: dict[str, xr.Variable] = {schema.SUBJECT: data[schema.SUBJECT]}
    for group in groups_of(space)[:-1]:
        for stored in reader.names(group):
            path, name = f"{group}/{stored}", name_of(f"{group}/{stored}", space)
            array = reader.array(path)
            if array is None or (stored in AXES and stored in data):
                continue  # the same axis
            name = stored if stored in AXES else name
            variable = _variable(url, path, array, reader.total, block)
            if not reader.closed and reader.is_waiting(path):
                values = reader.with_waiting(path, variable.to_numpy(), np.arange(reader.total))
                variable = xr.Variable(variable.dims, values, variable.attrs)  # of a ragged row perhaps longer
            name = f"{group}_{name}" if name in data or name in CELL else name
            if unshaped and group in (schema.PROFILES, f"{schema.TABLES}/{schema.SHAPE}"):
                variable = _without(variable, unshaped.get(stored, unshaped[schema.SHAPE]))
            data[name] = variable
            if group == schema.VOXELS or variable.dims == (name,) or name == schema.Z_LEVEL:
                coords[name] = variable
    template = schema.SPACE_TEMPLATE
    for metric, estimator in ((m, e) for m in reader.metrics for e in kernel.estimators_of(reader, m, template) if space in ("", template)):
        words = {"long_name": f"whether the row of {schema.table_name(metric, estimator)} is that of the maps and settings of now"}
        current = reader.rows_current(metric, estimator, template)
        data[f"{schema.table_name(metric, estimator)}_{CURRENT}"] = xr.Variable(schema.SUBJECT, current, words)
    words = {"long_name": "whether the stage is done as it is asked for now, and so is all that it took"}
    made = np.stack([reader.rows_made(n) for n in reader.stages], axis=1) if reader.stages else np.zeros((reader.total, 0), bool)
    data[f"{schema.STAGES}_{CURRENT}"] = xr.Variable((schema.SUBJECT, schema.STAGE), made, words)
    if schema.LEVEL in data:
        coords[schema.LEVEL_NUMBER] = _numbers(data[schema.LEVEL].to_numpy())
    for name, stored in reader.covariates.items():
        coords[name] = xr.Variable(schema.SUBJECT, reader.whole_column(stored), dict(reader.about(f"{schema.SUBJECTS}/{stored}")))
    unions, clusters = reader.parts
    extra: dict[str, Any] = {layout.UNIONS: json.dumps(unions), layout.CLUSTERS: json.dumps(clusters), SPACE: space}
    extra |= {k: np.ravel(v).tolist() for k, v in reader.grid.items()}
    extra |= {EXCLUSIONS: json.dumps([[row, metric, why] for (row, metric), why in reader.left_out.items()])} if reader.left_out else {}
    ds = xr.Dataset({n: v for n, v in data.items() if n not in coords}, coords, {layout.MIXED: "", **reader.attributes, **extra})
    return ds if everybody else ds.isel({schema.SUBJECT: reader.rows})


def _numbers(levels: Iterable[Any]) -> xr.Variable:
    """Numbers beside the names of levels, so that they can be an axis."""
    words = {"long_name": "vertebral level number, 1 = C1, 8 = T1; of a range its middle"}
    return xr.Variable(schema.LEVEL, np.array([schema.level_position(str(n)) for n in levels], float), words)


def _unshaped(left_out: LeftOut) -> dict[str, list[int]]:
    """Rows whose measures of the cord are left out: all of them (`schema.SHAPE`), and those of single measures besides; {} where nobody's are."""
    whole = [row for row, metric in left_out if metric in (ALL, schema.SHAPE)]
    single: dict[str, list[int]] = {}
    for row, metric in left_out:
        if metric in schema.MEASURES:
            single.setdefault(metric, [*whole]).append(row)
    return {schema.SHAPE: whole, **single} if whole or single else {}


def _without(variable: xr.Variable, rows: list[int]) -> xr.Variable:
    """Take the values of these rows away, of a variable of numbers with a subject axis."""
    if variable.dims[:1] != (schema.SUBJECT,) or variable.dtype.kind != "f":
        return variable
    keep = np.ones(variable.sizes[schema.SUBJECT], bool)
    keep[rows] = False
    import dask.array as da

    mask = keep.reshape(-1, *[1] * (variable.ndim - 1))
    return xr.Variable(variable.dims, da.where(mask, variable.data, variable.dtype.type(np.nan)), variable.attrs)


def _variable(url: str, path: str, array: zarr.Array[Any], rows: int, block: int) -> xr.Variable:
    """Names are read; everything else waits."""
    import dask.array as da

    dims = layout.dims_of(array)
    text = array.dtype.kind not in "fiub"
    stored = StoredArray(url, path, array.shape, np.dtype(object) if text else array.dtype)
    by_subject = dims[:1] == (schema.SUBJECT,)
    attrs = {k: v for k, v in array.attrs.items() if not k.startswith("_")}
    if text:
        values = stored[:]
        return xr.Variable(dims, values[:rows] if by_subject else values, attrs)
    chunks = tuple(block if d == schema.SUBJECT and len(dims) > 1 else n for d, n in zip(dims, array.shape, strict=True))
    values = da.from_array(stored, chunks=chunks, name=False, meta=np.empty((0,) * array.ndim, array.dtype))
    return xr.Variable(dims, values[:rows] if by_subject else values, attrs)


# --- asking -----------------------------------------------------------------------------------------------------------
class OpenedCohort:
    """An opened Dataset, or a selection of its subjects, as a source of `query.cells`."""

    def __init__(self, ds: xr.Dataset) -> None:
        self.ds = ds if schema.SUBJECT in ds.dims else ds.expand_dims(schema.SUBJECT)
        self.space = str(ds.attrs.get(SPACE, ""))

    @property
    def attributes(self) -> Mapping[str, Any]:
        return {str(k): v for k, v in self.ds.attrs.items()}

    @property
    def subjects(self) -> int:
        return int(self.ds.sizes[schema.SUBJECT])

    @property
    def rows(self) -> NDArray[np.intp]:
        return np.asarray(self.ds[schema.SUBJECT].to_numpy(), np.intp)

    @property
    def left_out(self) -> LeftOut:
        return {(int(row), str(metric)): str(why) for row, metric, why in json.loads(str(self.ds.attrs.get(EXCLUSIONS, "[]")))}

    @property
    def columns(self) -> list[str]:
        names = [str(n) for n, c in self.ds.coords.items() if c.dims == (schema.SUBJECT,) and n != schema.SUBJECT]
        return [*(n for n in IDENTITY if n in names), *(n for n in names if n not in IDENTITY)]

    def column(self, name: str) -> NDArray[Any]:
        return self.ds[name].to_numpy()

    def select(self, at: NDArray[np.intp]) -> OpenedCohort:
        return OpenedCohort(self.ds.isel({schema.SUBJECT: at}))

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        maps = {str(n): v for n, v in self.ds.data_vars.items() if set(v.dims) == {schema.SUBJECT, schema.VOXEL}}
        return metrics_of({n: v.attrs for n, v in maps.items() if "units" in v.attrs and schema.ERROR_OF not in v.attrs}, self.attributes)

    @cached_property
    def naming(self) -> Naming:
        atlas = self.atlas()
        drawn = tuple(map(str, self.ds[schema.ROI].to_numpy())) if schema.ROI in self.ds.variables else ()
        return Naming(atlas.labels, atlas.unions, atlas.clusters, drawn=drawn)

    def atlas(self) -> Atlas:
        return atlas_of(self.ds)

    def names(self, group: str) -> list[str]:
        """Names in the store of the variables that are tables of a group."""
        region = schema.REGIONS_OF[group.rpartition("/")[2]]
        tables = [str(n) for n, v in self.ds.data_vars.items() if v.dims == (schema.SUBJECT, schema.LEVEL, region)]
        prefix = name_of(f"{group}/", self.space)
        return [n.removeprefix(prefix) for n in tables if n.startswith(prefix) and (prefix or not n.startswith(NATIVE_PREFIX))]

    def has(self, path: str) -> bool:
        group = path.rpartition("/")[0]
        elsewhere = self.space and group in (f"{schema.TABLES}/{s}" for s in schema.SPACES if s != self.space)
        return not elsewhere and self._name(path) in self.ds.variables

    def about(self, path: str) -> Mapping[str, Any]:
        return self.ds[self._name(path)].attrs

    def read(self, path: str, rows: NDArray[np.intp] | None = None, inner: slice | None = None) -> NDArray[Any]:
        variable = self.ds[self._name(path)]
        if schema.SUBJECT in variable.dims:
            variable = variable.transpose(schema.SUBJECT, ...)
            variable = variable if rows is None else variable.isel({schema.SUBJECT: rows})
            variable = variable if inner is None else variable.isel({variable.dims[1]: inner})
        return variable.to_numpy()

    def cut(self, path: str) -> bool:
        del path
        return False

    def read_voxels(self, path: str, rows: NDArray[np.intp], voxels: NDArray[np.intp]) -> NDArray[Any]:
        return self.read(path, rows)[:, voxels]

    def current(self, metric: str, estimator: str, space: str) -> NDArray[np.bool_]:
        if space == schema.SPACE_NATIVE:
            return self.made(schema.native_stage(metric))
        name = f"{schema.table_name(metric, estimator)}_{CURRENT}"
        return np.asarray(self.ds[name].to_numpy(), bool) if name in self.ds.variables else np.zeros(self.subjects, bool)

    def made(self, stage: str) -> NDArray[np.bool_]:
        made = self.ds.get(f"{schema.STAGES}_{CURRENT}")
        if made is None or stage not in self.ds[schema.STAGE].to_numpy().tolist():
            return np.zeros(self.subjects, bool)
        return np.asarray(made.sel({schema.STAGE: stage}).to_numpy(), bool)

    def _name(self, path: str) -> str:
        """Name in the dataset of a variable of the store."""
        name = path.rpartition("/")[2]
        return name if name in AXES else name_of(path, self.space)


@xr.register_dataset_accessor("cohort")  # type: ignore[no-untyped-call]
class CohortAccessor:
    """Questions to a cohort, as ``ds.cohort``; `ds` is what `open_cohort` returned, or a selection of its subjects."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __repr__(self) -> str:
        return describe(self.source)

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        title, *lines = describe(self.source).splitlines()
        rows = "".join(f"<tr><th>{escape(line[2:18].strip())}</th><td>{escape(line[18:])}</td></tr>" for line in lines)
        return f"<table><caption>{escape(title)}</caption>{rows}</table>"

    @property
    def source(self) -> OpenedCohort:
        """The dataset as the kernel of questions reads it."""
        return OpenedCohort(self._ds)

    @property
    def levels(self) -> list[str]:
        """Levels of the template, from the top down."""
        return kernel.levels_of(self.source)

    @property
    def regions(self) -> list[str]:
        """Every label and union of the atlas, and every region that is drawn."""
        return [r.name for r in self.source.naming.regions]

    @property
    def metrics(self) -> list[str]:
        """Metrics that have maps."""
        return list(self.source.metrics)

    @property
    def min_coverage(self) -> float:
        """Coverage limit that the tables were made with."""
        return kernel.own_limit(self.source)

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

    def motion(self, who: int | str, session: str | None = None) -> xr.Dataset:
        """Motion of a subject's diffusion series (volume, slice, ...): see `motion_of`."""
        return motion_of(self._ds, who, session)

    # --- numbers ---
    def table(
        self, metric: str, regions: Names | None = None, levels: Names | None = None, *, estimator: str = "", space: str = "",
        min_coverage: float | None = None,
    ) -> xr.Dataset:  # fmt: skip
        """Return ``value``, ``std``, ``n``, ``coverage``, and ``se`` where the estimator has one, of every (subject, level, region), as numbers.

        Where they come from, arguments and errors are those of `query.cells.table`; maps are read in blocks of subjects. (The lazy form, for a
        Dask cluster, is `reduce.cohort.tract_table`.)

        Returns
        -------
        Dataset of float32, NaN where the coverage is below the limit. Its attributes say which ``estimator`` and ``space`` the values are of, and
        ``why`` if they are not the least biased that there can be.
        """
        with working(f"{metric}: reading maps or tables"):
            return self._dataset(kernel.table(self.source, metric, regions, levels, estimator=estimator, space=space, min_coverage=min_coverage))

    def _dataset(self, cells: Cells) -> xr.Dataset:
        dims = (schema.SUBJECT, schema.LEVEL, schema.REGION)
        ds = self.source.ds
        shape = cells.values[schema.VALUE].shape
        values = {n: xr.Variable(dims, np.broadcast_to(v, shape), cells.about if n == schema.VALUE else {}) for n, v in cells.values.items()}
        coords = {n: c.variable for n, c in ds.coords.items() if c.dims in ((schema.SUBJECT,), ())}
        axes = {schema.LEVEL: layout.text(cells.levels), schema.REGION: layout.text(cells.regions), schema.LEVEL_NUMBER: _numbers(cells.levels)}
        out = xr.Dataset(values, {**coords, **axes}, {**cells.about, layout.MIXED: ds.attrs.get(layout.MIXED, "")})
        return out if schema.SUBJECT in self._ds.dims else out.isel({schema.SUBJECT: 0})

    def tract(
        self,
        metric: str,
        region: Names,
        level: Names | None = None,
        *,
        estimator: str = "",
        space: str = "",
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
        cells = self.table(metric, region, level, estimator=estimator, space=space, min_coverage=min_coverage)
        one = {schema.REGION: isinstance(region, str), schema.LEVEL: isinstance(level, str) and "," not in level}
        cells = cells.isel({dim: 0 for dim, single in one.items() if single})
        return cells if full else cells[schema.VALUE].rename(metric)

    def profile(self, measure: str, levels: Names | None = None, *, min_coverage: float | None = None) -> xr.Dataset:
        """Pool a profile over levels: ``value``, ``std``, ``n`` and ``coverage`` (subject, level, region); see `query.cells.profile`."""
        return self._dataset(kernel.profile(self.source, measure, levels, min_coverage=min_coverage))

    def frame(
        self, metric: str, regions: Names | None = None, levels: Names | None = None, *, estimator: str = "", space: str = "",
        min_coverage: float | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Tidy table of a metric or a measure of the cord, one row per subject, level and region: see `query.frame.tidy`."""
        from cohort_engine.query.frame import tidy

        if metric in schema.MEASURES:
            return tidy(self.profile(metric, levels, min_coverage=min_coverage))
        return tidy(self.table(metric, regions, levels, estimator=estimator, space=space, min_coverage=min_coverage))

    def query(self, question: Query | str, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Answer a question in the words of the command line: ``ds.cohort.query("mtr tract='white matter' level=C2:C3 by=group")``.

        See `query.frame.run_query`.
        """
        from cohort_engine.query.frame import run_query

        return run_query(self._ds, question, columns=columns)

    @property
    def plot(self) -> CohortPlots:
        """Figures: ``ds.cohort.plot.profile``, ``.groups`` and ``.heat``."""
        from cohort_engine.query.plot import CohortPlots

        return CohortPlots(self._ds)

    # --- images ---
    def unpack(self, metric: str | xr.DataArray, subject: int | str | None = None, *, session: str | None = None) -> xr.DataArray:
        """Put a map back on the template grid.

        Parameters
        ----------
        metric : str or DataArray
            Any (subject, voxel) variable, by name; or any array with a voxel axis, for instance a t-statistic or ``ds.mtr.mean("subject")``.
        subject : int or str, optional
            Row number or participant. By default the mean over the dataset's subjects, of those that have the voxel.
        session : str, optional
            Where a participant has several.

        Returns
        -------
        (i, j, k) float32 DataArray
            Template grid, RAS+ order; NaN outside the atlas. The attribute ``affine`` (4, 4) takes voxels to mm.

        Raises
        ------
        UnknownNameError
            No such map or subject.
        StoreError
            An array with other axes, or with other voxels than the atlas.
        """
        values = metric if isinstance(metric, xr.DataArray) else self._map(metric)
        if schema.SUBJECT in values.dims:
            flat = (
                values.mean(schema.SUBJECT) if subject is None else values.sel({schema.SUBJECT: int(self.subject(subject, session)[schema.SUBJECT])})
            )
        else:
            flat = values
        if flat.dims != (schema.VOXEL,) or flat.sizes[schema.VOXEL] != self._ds.sizes[schema.VOXEL]:
            raise StoreError(
                expected=f"one value for each of the {self._ds.sizes[schema.VOXEL]} voxels", found=f"{dict(flat.sizes)}", where="map to unpack",
                remedy="Reduce its other axes first, and keep every voxel of the cohort.",
            )  # fmt: skip
        shape, affine = self._grid()
        out = np.full(shape, np.nan, np.float32)
        out[tuple(self._ds[n].to_numpy() for n in schema.VOXEL_INDEX)] = flat.to_numpy()
        attrs = {k: v for k, v in values.attrs.items() if k in ("long_name", "units")} | {"affine": affine}
        return xr.DataArray(out, dims=schema.VOXEL_INDEX, name=values.name, attrs=attrs)

    def to_nifti(self, metric: str | xr.DataArray, path: str | Path, subject: int | str | None = None, *, session: str | None = None) -> Path:
        """Write `unpack` as a NIfTI file in template space."""
        image = self.unpack(metric, subject, session=session)
        write_volume(path, Volume(image.to_numpy(), image.attrs["affine"]))
        return Path(path)

    # --- inside ---
    def _map(self, name: str) -> xr.DataArray:
        if name not in self._ds or schema.VOXEL not in self._ds[name].dims:
            raise unknown_name("map", name, self.metrics, where="cohort dataset")
        return self._ds[name]

    def _grid(self) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        shape, affine = (self._ds.attrs[k] for k in (layout.GRID_SHAPE, layout.GRID_AFFINE))
        return tuple(shape), np.asarray(affine, float).reshape(4, 4)


def motion_of(ds: xr.Dataset, who: int | str, session: str | None = None) -> xr.Dataset:
    """Take the motion of a subject's diffusion series out of a cohort, as long as the series is.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`.
    who : int or str
        Row number or participant.
    session : str, optional
        Where a participant has several.

    Returns
    -------
    Dataset
        ``shift`` (volume, slice, plane), mm to the right and to the front; ``stretch`` and ``shear`` (volume, slice); ``flag`` (volume, slice), bits
        of `schema.MOTION_FLAGS`; ``agreement`` (volume, slice); ``b`` (volume), s/mm2.

    Raises
    ------
    UnknownNameError
        No such subject.
    StoreError
        No series of the subject was corrected here.
    """
    names = {name: f"{schema.MOTION}_{spec.name}" for name, spec in schema.MOTION_SPECS.items()}
    own = ds.cohort.subject(who, session) if names[schema.MOTION_FLAG] in ds else None
    known = np.zeros((0, 0), bool) if own is None else own[names[schema.MOTION_FLAG]].to_numpy() >= 0
    if own is None or not known.any():
        raise StoreError(
            expected="a diffusion series that was corrected here", found="none", where="cohort dataset",
            remedy="Ask for FA in the study file (stages.metrics), and for a subject whose series the study had not corrected itself.",
        )  # fmt: skip
    part = {schema.VOLUME: slice(int(known.any(1).sum())), schema.SLICE: slice(int(known.any(0).sum()))}
    return xr.Dataset({name: own[stored].load() for name, stored in names.items()}).isel(part).reset_coords(drop=True)


def describe(cohort: OpenedCohort) -> str:
    """Say what a cohort holds, a line a thing."""
    attributes = cohort.attributes
    spaces = [s for s in schema.SPACES if cohort.space in ("", s)]
    columns = cohort.columns

    def counted(name: str) -> str:
        words, counts = np.unique(cohort.column(name).astype(str), return_counts=True) if name in columns else ((), ())
        return ", ".join(f"{w or 'none'} {n}" for w, n in zip(words, counts, strict=True))

    regions = [r.name for r in cohort.naming.regions]
    state = f"finalised {attributes[layout.FINALISED]}" if attributes.get(layout.FINALISED) else "not finalised: answers are reduced from the maps"
    lines = {
        "groups": counted(schema.GROUP),
        "sites": counted(schema.SITE),
        "metrics": ", ".join(f"{n} ({about['units']})" for n, about in cohort.metrics.items()),
        "measures": ", ".join(kernel.profiles(cohort)),
        **{f"{s} tables": ", ".join(dict.fromkeys(e for m in cohort.metrics for e in kernel.estimators_of(cohort, m, s))) for s in spaces},
        "values": "; ".join(f"{m} is {choose(cohort, m).words}" for m in cohort.metrics),
        "levels": " ".join(kernel.levels_of(cohort)),
        "regions": f"{len(regions)}: {', '.join(regions[:2])} ... {regions[-1]}" if len(regions) > 3 else ", ".join(regions),
        "cells": f"of at least {kernel.own_limit(cohort):.0%} coverage",
        "state": state,
        "mixed": str(attributes.get(layout.MIXED, "")),
    }
    title = f"cohort of {cohort.subjects} subjects, template {attributes.get(layout.TEMPLATE_NAME)} {attributes.get(layout.TEMPLATE_VERSION)}"
    return "\n".join([title, *(f"  {name:<15} {text}" for name, text in lines.items() if text)])
