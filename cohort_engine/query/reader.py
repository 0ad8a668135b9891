"""A cohort store for questions: its arrays by path, opened when they are read, for the people who count."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import unknown_name
from cohort_engine.io import objects
from cohort_engine.io.exclusions import NOBODY, Exclusions, exclusions_among, exclusions_url, read_exclusions
from cohort_engine.io.places import object_store, storage_errors
from cohort_engine.query.answer import IDENTITY
from cohort_engine.query.cells import CELL, MEASURES, LeftOut, own_limit, own_weights
from cohort_engine.store import by_region, layout
from cohort_engine.store.tables import old_blocks, stored_digests, table_digest, way_of
from cohort_engine.store.tags import at_tag
from cohort_engine.template.atlas import Atlas, Naming

if TYPE_CHECKING:
    from cohort_engine.store.records import Entry, Record
    from cohort_engine.store.state import States

LEFT = layout.LEFT.name
NATIVE_TABLES, NATIVE_PREFIX = f"{schema.TABLES}/{schema.SPACE_NATIVE}", f"{schema.SPACE_NATIVE}_"
DRAWN_TABLES, DRAWN_PREFIX = f"{schema.TABLES}/{schema.DRAWN}", f"{schema.DRAWN}_"
AXES = (schema.LEVEL, schema.REGION, schema.ROI)
"""Axes of tables, whose names lie beside each group of them."""
PROFILE_VARIABLES = {m: f"profile_{m}" for m in MEASURES}
"""Measure -> name of its profile in an opened cohort; the plain name is its table by level."""
ATLAS_VARIABLES = {name: f"{schema.ATLAS}_{name}" for name in (schema.INDPTR, schema.INDICES, schema.WEIGHT, schema.LABEL_NAME)}
"""Names of the atlas' arrays in an opened cohort: a body weight among the covariates is then no clash."""
NAMES: Mapping[str, Mapping[str, str]] = {
    schema.PROFILES: PROFILE_VARIABLES,
    schema.ATLAS: ATLAS_VARIABLES,
    schema.STAGES: {s.name: f"{schema.STAGES}_{s.name}" for s in schema.FIXED if s.group == schema.STAGES},
    schema.MOTION: {s.name: f"{schema.MOTION}_{s.name}" for s in schema.MOTION_SPECS.values()},
    schema.ROI_GROUP: {s.name: f"{schema.ROI_GROUP}_{s.name}" for s in schema.ROI_SPECS.values()},
}
"""Group -> name of a variable in the store -> its name in an opened cohort, where that is another."""


def groups_of(space: str) -> tuple[str, ...]:
    """List the groups of the store that an opened cohort shows, those first whose names come first; without a space, the tables of both."""
    tables = [f"{schema.TABLES}/{s}" for s in schema.SPACES if space in ("", s)]
    tables += [DRAWN_TABLES] * (space != schema.SPACE_TEMPLATE) + [f"{schema.TABLES}/{schema.SHAPE}"]
    found = (schema.PROFILES, schema.MAPS, schema.QC, schema.MOTION, schema.ROI_GROUP)
    return (*tables, *found, schema.VOXELS, schema.ATLAS, schema.STAGES, schema.SUBJECTS)


def metrics_of(maps: Mapping[str, Mapping[str, Any]], attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Put metrics in the order in which the study that a store was last asked by names them; others follow."""
    stages = json.loads(str(attributes.get(layout.ASKED) or "{}")).get(layout.SCIENCE, {}).get("stages", {})
    asked = [*stages.get("metrics", ()), *stages.get("maps", ())]
    return {n: maps[n] for n in (*(n for n in dict.fromkeys(asked) if n in maps), *(n for n in maps if n not in asked))}


def name_of(path: str, space: str) -> str:
    """Name in an opened cohort of a variable of the store; where it shows both spaces, native tables begin with ``native_``; those of drawn regions
    always with ``drawn_``.

    Examples
    --------
    >>> name_of("tables/native/mtr_map", ""), name_of("tables/native/mtr_map", "native"), name_of("profiles/area", "")
    ('native_mtr_map', 'mtr_map', 'profile_area')
    """
    group, _, name = path.rpartition("/")
    if group == DRAWN_TABLES:
        return f"{DRAWN_PREFIX}{name}"
    return f"{NATIVE_PREFIX}{name}" if group == NATIVE_TABLES and not space else NAMES.get(group, {}).get(name, name)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Read an array: the place that fails, or a damaged chunk, is a `StorageError` with its name."""
    with storage_errors(path), layout.damage(path):
        yield


class CohortReader:
    """A store as a source of `query.cells`.

    Parameters
    ----------
    url : str
        Folder or URL; with ``@TAG`` the freeze of that tag.
    space : str
        Of which space alone the tables are read; empty: of both.
    everybody : bool
        Rows of people who left or withdrew count as well.

    Raises
    ------
    StoreError
        Nothing there, not a cohort store, or one of another format.
    StorageError
        The place does not answer, or a chunk is damaged: when it is read.
    UnknownNameError
        A space that does not exist.
    """

    def __init__(self, url: str, *, space: str = "", everybody: bool = False) -> None:
        if space and space not in schema.SPACES:
            raise unknown_name("space", space, list(schema.SPACES), where="query")
        self.url, self.space = at_tag(url), space
        self.root = layout.open_root(self.url)
        self.attributes: dict[str, Any] = dict(self.root.attrs)
        self.total = layout.row_count(self.root)
        self._arrays: dict[str, zarr.Array[Any] | None] = {}
        self._lists: dict[str, list[str]] = {}
        self._columns: dict[str, NDArray[Any]] = {}
        self._done_rows: dict[str, NDArray[np.bool_]] = {}
        here = np.ones(self.total, bool) if everybody else (self.whole_column(schema.PARTICIPANT) != "") & (self.left == "")
        self.rows: NDArray[np.intp] = np.flatnonzero(here)
        if not self.closed:  # the attribute is of the last time that all was gathered
            from cohort_engine.store.state import Rows, judge, mixture

            asked, recipes = (layout.record_of(self.root, k) for k in (layout.ASKED, layout.RECIPES))
            people = Rows(layout.text(self.left), self.whole_column(schema.PARTICIPANT) == "")
            apart = mixture(self.entries, asked, recipes, people), *judge(self.entries, asked, recipes, people).reasons()
            self.attributes[layout.MIXED] = "; ".join(filter(None, apart))

    # --- what waits to be gathered ---
    @property
    def closed(self) -> bool:
        """Whether the store is closed: all that stages left is in its arrays."""
        return bool(self.attributes.get(layout.FINALISED))

    @cached_property
    def entries(self) -> list[Entry]:
        """How each stage of each subject ended."""
        from cohort_engine.store.records import read_entries

        return read_entries(self.url)

    @cached_property
    def waiting(self) -> Mapping[str, list[Record]]:
        """Records that are not gathered yet, by stage: a build is at work, or was cut short."""
        from cohort_engine.store.records import Record, list_ledger, read_records

        found: dict[str, list[Record]] = {}
        places = [] if self.closed else [p for p in list_ledger(self.url)[0] if p[0] < self.total]
        for record in (r for r in read_records(self.url, places) if isinstance(r, Record)):
            found.setdefault(record.entry.stage, []).append(record)
        return found

    def is_waiting(self, path: str) -> bool:
        """Tell whether records say more of a variable than its array."""
        if path.startswith(f"{schema.STAGES}/"):
            return path != layout.STAGE_NAMES.path and bool(self.waiting)
        spec = layout.stored_specs(self.root).get(path)
        return spec is not None and spec.gathered and spec.stage in self.waiting

    def with_waiting(self, path: str, values: NDArray[Any], rows: NDArray[np.intp], inner: slice | None = None) -> NDArray[Any]:
        """Put what records say of a variable into its values (row, ...)."""
        if not self.is_waiting(path):
            return values
        from cohort_engine.store.records import STAGE_VALUES

        values, at = values.copy(), {int(row): i for i, row in enumerate(rows)}
        group, _, name = path.rpartition("/")
        if group == schema.STAGES:
            names = [str(n) for n in self.read(layout.STAGE_NAMES.path)]
            for record in (r for records in self.waiting.values() for r in records):
                if record.entry.subject in at and record.entry.stage in names:
                    values[at[record.entry.subject], names.index(record.entry.stage)] = STAGE_VALUES[name](record.entry)
            return values
        spec = layout.stored_specs(self.root)[path]
        found = {at[r.entry.subject]: r.arrays.get(path) for r in self.waiting[spec.stage] if r.entry.subject in at}
        ragged = not schema.GROWN.keys().isdisjoint(spec.dims)
        if ragged:  # rows that wait may be longer than all that were gathered
            shapes = [values.shape[1:], *(v.shape for v in found.values() if v is not None)]
            values = layout.filled_up(values, (len(values), *(max(n) for n in zip(*shapes, strict=True))), spec.fill)
        for row, own in found.items():
            own = layout.filled_up(own, values.shape[1:], spec.fill) if ragged and own is not None else own
            values[row] = spec.fill if own is None else own if inner is None else own[inner]
        return values

    # --- arrays ---
    def names(self, group: str) -> list[str]:
        """Names of the arrays of a group, sorted."""
        if group not in self._lists:
            with storage_errors(group):
                folders, _ = objects.children(object_store(self.url), group)
            self._lists[group] = sorted(p.rstrip("/").rpartition("/")[2] for p in folders)
        return self._lists[group]

    def array(self, path: str) -> zarr.Array[Any] | None:
        """Open an array, once; None where there is none."""
        if path not in self._arrays:
            with storage_errors(path):
                try:
                    node = self.root[path]
                except KeyError:
                    node = None
            self._arrays[path] = node if isinstance(node, zarr.Array) else None
        return self._arrays[path]

    def has(self, path: str) -> bool:
        return self.array(path) is not None

    def about(self, path: str) -> Mapping[str, Any]:
        array = self.array(path)
        return {} if array is None else {k: v for k, v in array.attrs.items() if not k.startswith("_")}

    def cut(self, path: str) -> bool:
        return self.has(by_region.place_of(path))

    def read_voxels(self, path: str, rows: NDArray[np.intp], voxels: NDArray[np.intp]) -> NDArray[Any]:
        place = by_region.place_of(path)
        array, at = layout.array_at(self.root, place), self.rows[rows]
        whole = bool(len(at)) and at[-1] - at[0] + 1 == len(at)
        with reading(place):
            return by_region.read_voxels(array, self._position, slice(int(at[0]), int(at[-1]) + 1) if whole else at, voxels)

    @cached_property
    def _position(self) -> NDArray[Any]:
        return self.read(by_region.POSITION.path)

    def read(self, path: str, rows: NDArray[np.intp] | None = None, inner: slice | None = None) -> NDArray[Any]:
        array = self.array(path) or layout.array_at(self.root, path)
        with reading(path):
            if layout.dims_of(array)[:1] != (schema.SUBJECT,):
                return _plain(np.asarray(array[...]))
            at = self.rows if rows is None else self.rows[rows]
            whole = bool(len(at)) and at[-1] - at[0] + 1 == len(at)
            cut: tuple[slice, ...] = () if inner is None else (inner,)
            values = _plain(np.asarray(array[(slice(int(at[0]), int(at[-1]) + 1), *cut)] if whole else array.oindex[(at, *cut)]))
        return values if self.closed else self.with_waiting(path, values, at, inner)

    # --- people ---
    @cached_property
    def exclusions(self) -> Exclusions:
        """Ratings of the people of the store (by row) that lie beside its quality pages."""
        ratings = read_exclusions((), optional=[exclusions_url(self.url)])
        if not ratings:
            return NOBODY
        return exclusions_among(ratings, *([str(v) for v in self.whole_column(name)] for name in (schema.PARTICIPANT, schema.SESSION)))

    @property
    def left_out(self) -> LeftOut:
        return self.exclusions.reasons

    @property
    def subjects(self) -> int:
        return len(self.rows)

    def whole_column(self, name: str) -> NDArray[Any]:
        """Values of a column of the store's subject table, everybody's."""
        if name not in self._columns:
            array = layout.array_at(self.root, f"{schema.SUBJECTS}/{name}")
            with reading(f"{schema.SUBJECTS}/{name}"):
                self._columns[name] = _plain(np.asarray(array[: self.total]))
        return self._columns[name]

    @cached_property
    def left(self) -> NDArray[Any]:
        """Why each row of the store (row,) is out of the study; empty for those in it."""
        return self.whole_column(LEFT) if LEFT in self.names(schema.SUBJECTS) else np.full(self.total, "", object)

    @cached_property
    def covariates(self) -> dict[str, str]:
        """Column as it is called here -> name in the subject table: one whose name is taken is ``subjects_<name>``. Identity first."""
        groups = [g for g in groups_of(self.space) if g != schema.SUBJECTS]
        taken = {name_of(f"{g}/{n}", self.space) for g in groups for n in self.names(g)} | {schema.SUBJECT, schema.LEVEL_NUMBER, *CELL}
        names = [n for n in self.names(schema.SUBJECTS) if n not in (*IDENTITY, LEFT)]
        return {f"{schema.SUBJECTS}_{n}" if n in taken else n: n for n in (*IDENTITY, *names)}

    @property
    def columns(self) -> list[str]:
        return list(self.covariates)

    def column(self, name: str) -> NDArray[Any]:
        return self.whole_column(self.covariates[name])[self.rows]

    def select(self, at: NDArray[np.intp]) -> CohortReader:
        out = copy.copy(self)
        out.rows = self.rows[at]
        return out

    # --- what there is ---
    @cached_property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        maps = {n: self.about(f"{schema.MAPS}/{n}") for n in self.names(schema.MAPS) if self.has(f"{schema.MAPS}/{n}")}
        return metrics_of({n: about for n, about in maps.items() if schema.ERROR_OF not in about}, self.attributes)

    @cached_property
    def naming(self) -> Naming:
        names = f"{DRAWN_TABLES}/{schema.ROI}"
        drawn = tuple(map(str, self.read(names))) if self.has(names) else ()
        return Naming(tuple(map(str, self.read(layout.LABELS.path))), *self.parts, drawn=drawn)

    def atlas(self) -> Atlas:
        with reading(schema.ATLAS):
            return layout.stored_atlas(self.url)

    def current(self, metric: str, estimator: str, space: str) -> NDArray[np.bool_]:
        return self.rows_current(metric, estimator, space)[self.rows]

    def made(self, stage: str) -> NDArray[np.bool_]:
        return self.rows_made(stage)[self.rows]

    def rows_current(self, metric: str, estimator: str, space: str) -> NDArray[np.bool_]:
        """Which rows of the store (row,) a table holds as they are now; of a template table none before the store is closed."""
        path = f"{schema.TABLES}/{space}/{schema.table_name(metric, estimator)}"
        if space == schema.SPACE_NATIVE:
            return self.rows_made(layout.spec_at(self.root, path).stage)
        spec = layout.spec_at(self.root, f"{schema.MAPS}/{metric}")
        maker, way = spec.stage, way_of(estimator, own_weights(self), error=schema.has_error(spec))
        if maker not in self.stages or not self.closed:  # maps may change under it
            return np.zeros(self.total, bool)
        key = self._stage_column(schema.KEY, self.stages.index(maker))
        keys = np.where(self._done(maker), key, "").tolist()
        atlas, voxels = (str(self.attributes[k]) for k in (layout.ATLAS_DIGEST, layout.VOXELS_DIGEST))
        block = schema.SUBJECT_BLOCK
        wanted = [table_digest(atlas, voxels, way, own_limit(self), keys[i : i + block]) for i in range(0, self.total, block)]
        current = np.ones(self.total, bool)
        for first in old_blocks(stored_digests(self.root, path), wanted):
            current[first : first + block] = False
        return current

    @cached_property
    def stages(self) -> list[str]:
        """Names of the stages."""
        return [str(n) for n in self.read(layout.STAGE_NAMES.path)]

    def rows_made(self, stage: str) -> NDArray[np.bool_]:
        """Which rows of the store (row,) have a stage that is done as it is asked for now, and so is all that it took.

        A closed store says which of them were stale when it was closed; else everything recorded is judged.
        """
        if stage not in self.stages:
            return np.zeros(self.total, bool)
        if self.closed and layout.STALE in self.attributes:
            out = self._done(stage)
            out[layout.record_of(self.root, layout.STALE).get(stage, [])] = False
            return out
        if stage not in self._states.stages:
            return np.zeros(self.total, bool)
        return np.asarray(self._states.codes[:, self._states.stages.index(stage)] == schema.STATES.index(schema.DONE))

    @cached_property
    def _states(self) -> States:
        from cohort_engine.store.maintenance import states_of

        return states_of(self.url)

    def _done(self, stage: str) -> NDArray[np.bool_]:
        """Which rows of the store (row,) have a stage that is recorded as done."""
        if stage not in self._done_rows:
            code = next(code for code, word in schema.STATUS_CODES.items() if word == schema.DONE)
            self._done_rows[stage] = np.asarray(self._stage_column(schema.STATUS, self.stages.index(stage)) == code)
        return self._done_rows[stage].copy()

    def _stage_column(self, name: str, stage: int) -> NDArray[Any]:
        path = f"{schema.STAGES}/{name}"
        array = layout.array_at(self.root, path)
        with reading(path):
            return _plain(np.asarray(array[: self.total, stage]))

    @cached_property
    def parts(self) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """Unions and clusters of the atlas: names and label rows."""
        attributes = self._group_attributes(schema.ATLAS)
        unions, clusters = ({str(n): tuple(m) for n, m in attributes[k].items()} for k in (layout.UNIONS, layout.CLUSTERS))
        return unions, clusters

    @property
    def grid(self) -> dict[str, Any]:
        """Shape and affine of the template's grid, by their names in the store."""
        attributes = self._group_attributes(schema.VOXELS)
        return {k: attributes[k] for k in (layout.GRID_SHAPE, layout.GRID_AFFINE)}

    def _group_attributes(self, group: str) -> dict[str, Any]:
        with storage_errors(group):
            return dict(self.root[group].attrs)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Text as an object array, which everybody takes."""
    return values if values.dtype.kind in "fiub" else values.astype(object)
