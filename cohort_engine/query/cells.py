"""The cells of a cohort: one number per subject, level and region, from the tables where they hold it, else from the maps.

This is the one kernel of every answer. It knows a *source*, which reads variables by their path in the store: `query.reader.CohortReader`
is one (a store), `query.accessor` makes another of an opened Dataset. Nothing here imports dask, xarray, pandas; scipy only where maps are
reduced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import StoreError, unknown_name
from cohort_engine.io.exclusions import ALL
from cohort_engine.quality import vocabulary
from cohort_engine.query.choice import Choice, choose, is_summed
from cohort_engine.query.question import WHERE, Query
from cohort_engine.template.atlas import Atlas, Naming, Region
from cohort_engine.template.levels import LevelRange

CORD = "spinal cord"
"""Region of whole cross-sections."""
CELL = (schema.VALUE, *schema.COMPANIONS, vocabulary.DOUBT)
"""What a cell of a table may have: value, std, se, noise, n, coverage; and `doubt`, how much the value changes without its doubtful slices."""
MEASURES = tuple(m for m in schema.MEASURES if m not in schema.SUMMED)
"""Measures of the cord that have a profile."""
VOXEL_LEVEL = f"{schema.VOXELS}/{schema.VOXEL_LEVEL}"
SUMS_AT_ONCE = 2048
"""Subjects times levels whose sums are read together: some 30 MB, and 32 chunks of a level at a time rather than one."""
VOXEL_BLOCK = 1024
"""Subjects of whom some voxels are read at once."""

Names = str | Sequence[str]
LeftOut = Mapping[tuple[int, str], str]
"""(row of the store, metric) -> why it is left out; the metric may be `exclusions.ALL`, or `schema.SHAPE` for every measure of the cord."""


class Source(Protocol):
    """Reads the variables of a cohort by their path in the store; the subject axis is that of the people asked about."""

    space: str
    """Space of the tables, where it was opened for one of them."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Root attributes of the store."""

    @property
    def subjects(self) -> int:
        """Length of the subject axis."""

    @property
    def rows(self) -> NDArray[np.intp]:
        """Rows of the store."""

    @property
    def left_out(self) -> LeftOut:
        """Whose values people who looked have left out, and why."""

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Attributes of every ``maps/<metric>`` (subject, voxel), by name."""

    @property
    def naming(self) -> Naming:
        """Names of the atlas."""

    def names(self, group: str) -> list[str]:
        """Names of the variables of a group of tables."""

    def has(self, path: str) -> bool:
        """Whether there is such a variable."""

    def about(self, path: str) -> Mapping[str, Any]:
        """Attributes of a variable."""

    def read(self, path: str, rows: NDArray[np.intp] | None = None, inner: slice | None = None) -> NDArray[Any]:
        """Values of a variable; of one with a subject axis these rows, by position among the people asked about, and `inner` of its next axis."""

    def cut(self, path: str) -> bool:
        """Whether single voxels of a map can be read without the others."""

    def read_voxels(self, path: str, rows: NDArray[np.intp], voxels: NDArray[np.intp]) -> NDArray[Any]:
        """Values (row, voxel) of some voxels of a map that is `cut`."""

    def atlas(self) -> Atlas:
        """Read the weights."""

    def current(self, metric: str, estimator: str, space: str) -> NDArray[np.bool_]:
        """Whether the row (subject,) of a table is that of the maps and settings of now."""

    def made(self, stage: str) -> NDArray[np.bool_]:
        """Whether a stage of each person (subject,) is done as it is asked for now, and so is all that it took."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of (subject, level, region).

    Attributes
    ----------
    levels, regions : tuple of str
    values : mapping of name to (subject, level, region) array
        ``value``, ``std``, ``n``, ``coverage``; ``se`` where the estimator has one, ``noise`` where voxels have errors. NaN where the
        coverage is below the limit.
    about : mapping
        ``metric`` (or ``measure``), ``long_name``, ``units``, ``estimator``, ``space``, ``why`` (of `choice.Choice`), ``min_coverage``.
    stale : (n,) int array
        Positions of subjects whose rows were made with other settings than the store now asks for, and are therefore missing.
    """

    levels: tuple[str, ...]
    regions: tuple[str, ...]
    values: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any]
    stale: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))


# --- what there is ----------------------------------------------------------------------------------------------------
def own_limit(source: Source) -> float:
    """Coverage limit that the tables were made with."""
    return float(_reduction(source).get("min_coverage", schema.LEAST_COVERAGE))


def own_weights(source: Source) -> str:
    """How the tables weight voxels that have standard errors."""
    return str(_reduction(source).get("weights", "none"))


def _reduction(source: Source) -> Mapping[str, Any]:
    """Section ``stages.reduce`` that the store was last asked by."""
    asked = json.loads(str(source.attributes.get("asked") or "{}")).get("science", {})
    try:
        return dict(asked["stages"]["reduce"])
    except (KeyError, TypeError):
        return {}


def profiles(source: Source) -> list[str]:
    """Measures of the cord that have a profile here."""
    return [m for m in MEASURES if source.has(f"{schema.PROFILES}/{m}")]


def estimators_of(source: Source, metric: str, space: str) -> list[str]:
    """Estimators that have a table of a metric in a space."""
    names = [n for n in source.names(f"{schema.TABLES}/{space}") if n.startswith(f"{metric}_")]
    values = [n for n in names if not n.endswith(tuple(f"_{c}" for c in schema.COMPANIONS))]
    return [n[len(metric) + 1 :] for n in values if f"{n}_{schema.N}" in names]


def levels_of(source: Source) -> list[str]:
    """Names of the levels that the template's voxels lie in, from the top down."""
    return [schema.LEVEL_NAMES[n - 1] for n in np.flatnonzero(np.bincount(source.read(VOXEL_LEVEL))) if n > 0]


def as_list(names: Names, separator: str | None = None) -> list[str]:
    """Several names, or one that may hold several."""
    if not isinstance(names, str):
        return list(names)
    return [n.strip() for n in names.split(separator)] if separator else [names]


def regions_of(source: Source, metric: str) -> tuple[Region, ...]:
    """Regions that a metric has values of: all of the atlas, and those that are drawn where there are tables of them."""
    drawn = source.space != schema.SPACE_TEMPLATE and source.has(schema.sums_path(metric, schema.DRAWN))
    return tuple(r for r in source.naming.regions if drawn or source.naming.in_masks(r) is None)


def level_ranges(source: Source, levels: Names | None) -> list[LevelRange]:
    """Read levels and pooled ranges; by default each level."""
    known = levels_of(source)
    return [LevelRange.parse(n, known) for n in (known if levels is None else as_list(levels, separator=","))]


# --- answers ----------------------------------------------------------------------------------------------------------
def ask(source: Source, query: Query, *, wanted: Sequence[str] = CELL, choice: Choice | None = None) -> Cells:
    """Cells of a question: of a metric in regions, or of a measure of the cord; `wanted` says which of the cell's numbers are needed.

    `choice` is that of the whole cohort, where `source` is only some of it.
    """
    if query.metric in MEASURES and query.metric not in source.metrics:
        return profile(source, query.metric, query.levels or None, min_coverage=query.min_coverage)
    return table(
        source, query.metric, query.tracts or None, query.levels or None, estimator=query.estimator, space=query.space,
        min_coverage=query.min_coverage, wanted=wanted, choice=choice,
    )  # fmt: skip


def table(
    source: Source, metric: str, regions: Names | None = None, levels: Names | None = None, *, estimator: str = "", space: str = "",
    min_coverage: float | None = None, wanted: Sequence[str] = CELL, choice: Choice | None = None,
) -> Cells:  # fmt: skip
    """Cells of a metric.

    Rows that the store's tables hold are taken from there. In template space, where a cell is pooled, summed, or below the tables' coverage limit,
    where the store is not finalised, or where a table was made from other maps or settings, they are reduced with the same operator from the maps, or
    from the sums that were kept of them (`reduce.maps`).
    In native space they then follow from the sums of levels (`reduce.sums`).

    Parameters
    ----------
    source : Source
    metric : str
        One of the metrics that the cohort holds.
    regions : str or sequence of str, optional
        Names, sides together (``"lateral corticospinal tract"``), sums (``"a + b"``); by default all labels and unions, and the drawn
        regions of a metric that has them. These have values in the image alone: in template space they are NaN, and without voxels.
    levels : str or sequence of str, optional
        ``"C2"``; ``"C2:C3"`` is one pooled cell; ``"C2,C3"`` or a list are several; ``"all"`` pools the whole cord. By default each level.
    estimator, space : str
        By default those of the least biased value of the cohort (`choice.choose`).
    min_coverage : float, optional
        By default the tables' own.
    wanted : sequence of str
        Which of `CELL` to read.
    choice : Choice, optional
        What was chosen for the whole cohort, where `source` is only some of it.

    Returns
    -------
    Cells
        float32.

    Raises
    ------
    UnknownNameError
        A metric, level, region or estimator that does not exist, with the near names.
    StoreError
        Native values were asked for, and the store cannot give these cells.
    """
    known = source.metrics
    if metric not in known:
        raise unknown_name("metric", metric, [*known, *profiles(source)], where=WHERE)
    limit = own_limit(source) if min_coverage is None else min_coverage
    chosen = regions_of(source, metric) if regions is None else tuple(source.naming.region(n) for n in as_list(regions))
    ranges = level_ranges(source, levels)
    here = choice or choose(source, metric, estimator=estimator, space=space)
    drawn = [source.naming.in_masks(r) for r in chosen]
    masks = [r for r in drawn if r is not None]
    if chosen and len(masks) == len(chosen) and space != schema.SPACE_TEMPLATE:
        here = replace(here, space=schema.SPACE_NATIVE, why="")
    about = {
        "metric": metric, "long_name": known[metric].get("long_name", metric), "units": known[metric].get("units", "1"),
        "estimator": here.estimator, "space": here.space, "why": here.note, "min_coverage": limit,
    }  # fmt: skip
    names = tuple(r.name for r in ranges), tuple(r.name for r in chosen)
    parts = []
    if len(masks) < len(chosen) or not chosen:
        labelled = [r for r, mask in zip(chosen, drawn, strict=True) if mask is None]
        parts.append(_of_atlas(source, metric, here, ranges, labelled, limit, wanted))
    if masks:
        there = schema.SPACE_TEMPLATE not in (space, source.space) and source.has(schema.sums_path(metric, schema.DRAWN))
        parts.append(_of_masks(source, metric, here.estimator, ranges, masks, limit, wanted, there=there))
    order = np.argsort([i for kind in (False, True) for i, mask in enumerate(drawn) if (mask is not None) == kind], kind="stable")
    stale = np.unique(np.concatenate([stale for _, stale in parts]))
    return Cells(*names, _without(left_out_of(source, metric), _side_by_side([cells for cells, _ in parts], order)), about, stale)


def left_out_of(source: Source, metric: str) -> dict[int, str]:
    """Of whom a metric, or a measure of the cord, is left out: position among the people asked about -> why."""
    names = (ALL, metric, *((schema.SHAPE,) if metric in schema.MEASURES else ()))
    told = source.left_out
    if not told:
        return {}
    found = {i: next((told[int(row), name] for name in names if (int(row), name) in told), "") for i, row in enumerate(source.rows)}
    return {i: why for i, why in found.items() if why}


def _without(people: Mapping[int, str], cells: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Take the values of people who are left out away; how much of a cell their images hold stays."""
    if not people:
        return dict(cells)
    at, kept = list(people), (schema.N, schema.COVERAGE)
    out = {name: values if name in kept else np.array(values, copy=True) for name, values in cells.items()}
    for name in out.keys() - set(kept):
        out[name][at] = np.nan
    return out


Found = tuple[dict[str, NDArray[Any]], NDArray[np.intp]]
"""Cells (subject, level, region), and who has none since the rows were made otherwise than is now asked for."""


def _side_by_side(parts: Sequence[Mapping[str, NDArray[Any]]], order: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Join cells along their regions, and put these in order; NaN where a part does not have a number."""
    if len(parts) == 1:
        return dict(parts[0])
    out = {}
    for name in (n for n in CELL if any(n in p for p in parts)):
        columns = [p[name] if name in p else np.full(p[schema.VALUE].shape, np.nan, np.float32) for p in parts]
        out[name] = np.concatenate(columns, axis=2)[:, :, order]
    return out


def _of_atlas(
    source: Source, metric: str, choice: Choice, ranges: Sequence[LevelRange], chosen: Sequence[Region], limit: float, wanted: Sequence[str]
) -> Found:
    """Cells of regions of the atlas."""
    estimator, space, own = choice.estimator, choice.space, own_limit(source)
    shape = (source.subjects, len(ranges), len(chosen))
    if space == schema.SPACE_NATIVE:
        held = source.made(schema.native_stage(metric))
        found = _native(source, metric, estimator, ranges, chosen, limit, np.flatnonzero(held), wanted)
        return _joined([(np.flatnonzero(held), found)], shape), np.flatnonzero(~held)
    path = partial(schema.table_path, metric, estimator, space)
    at = None if limit < own else _in_table(source, path(), ranges, chosen)
    held = np.zeros(source.subjects, bool) if at is None else source.current(metric, estimator, space)
    parts: list[tuple[NDArray[np.intp], Mapping[str, NDArray[Any]]]] = []
    if at is not None and held.any():
        rows = np.flatnonzero(held)
        parts.append((rows, _from_table(source, path, at, rows, wanted, limit if limit > own else None)))
    if not (held.all() and parts):
        rows = np.flatnonzero(~held)
        parts.append((rows, _from_template(source, metric, estimator, ranges, chosen, limit, rows)))
    return _joined(parts, shape), np.empty(0, np.intp)


def _of_masks(
    source: Source, metric: str, estimator: str, ranges: Sequence[LevelRange], masks: Sequence[Region], limit: float, wanted: Sequence[str],
    *, there: bool,
) -> Found:  # fmt: skip
    """Cells of drawn regions: where the metric or the space has none, NaN, and neither voxels nor coverage."""
    shape = (source.subjects, len(ranges), len(masks))
    held = source.made(schema.ROI_STAGE) if there else np.zeros(source.subjects, bool)
    if not held.any():
        nothing = {schema.VALUE: np.nan, schema.STD: np.nan, schema.N: 0.0, schema.COVERAGE: 0.0}
        return {name: np.full(shape, value, np.float32) for name, value in nothing.items()}, np.flatnonzero(~held) if there else np.empty(0, np.intp)
    found = _native(source, metric, estimator, ranges, masks, limit, np.flatnonzero(held), wanted, space=schema.DRAWN)
    return _joined([(np.flatnonzero(held), found)], shape), np.flatnonzero(~held)


def _in_table(
    source: Source, path: str, ranges: Iterable[LevelRange], regions: Iterable[Region]
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:  # fmt: skip
    """Where in the table the cells are: positions of its levels and of its regions, or None where it does not hold all of them."""
    if not source.has(path):
        return None
    places = []
    for axis, items in ((schema.LEVEL, ranges), (schema.REGIONS_OF[path.split("/")[1]], regions)):
        place = _places(source, path, axis)
        if any(item.name not in place for item in items):
            return None
        places.append(np.array([place[item.name] for item in items], np.intp))
    return places[0], places[1]


def _places(source: Source, path: str, axis: str) -> dict[str, int]:
    """Position of each name along an axis of a table."""
    return {str(n): i for i, n in enumerate(source.read(f"{path.rpartition('/')[0]}/{axis}"))}


def _from_table(
    source: Source, path: Callable[..., str], at: tuple[NDArray[np.intp], NDArray[np.intp]], rows: NDArray[np.intp], wanted: Sequence[str],
    limit: float | None,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    companions = [c for c in schema.COMPANIONS if source.has(path(c))]
    needed = [c for c in companions if c in wanted or (limit is not None and c == schema.COVERAGE)]
    inner = (slice(None), at[0][:, None], at[1])
    out = {c: source.read(path(None if c == schema.VALUE else c), rows)[inner] for c in (schema.VALUE, *needed)}
    if limit is not None:
        enough = out[schema.COVERAGE] >= np.float32(limit)
        out |= {k: np.where(enough, v, np.float32(np.nan)) for k, v in out.items() if k not in (schema.N, schema.COVERAGE)}
    return out


def _from_template(
    source: Source, metric: str, estimator: str, ranges: Sequence[LevelRange], regions: Sequence[Region], limit: float, rows: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Reduce maps, or the sums that were kept of them, a block of subjects at a time: the memory is that of one block whatever the cohort's size.
    Where maps are cut by voxels, an estimator that looks at nothing else is given those of the regions alone.
    """
    from scipy import sparse

    from cohort_engine.reduce.estimators import estimator as find_estimator
    from cohort_engine.reduce.operator import Operator
    from cohort_engine.reduce.precision import NONE
    from cohort_engine.reduce.stored import StoredRows

    kernel, atlas, level = find_estimator(estimator), source.atlas(), source.read(VOXEL_LEVEL)
    sums, weights = schema.sums_path(metric, schema.SPACE_TEMPLATE), own_weights(source)
    some: NDArray[np.intp] | None = None
    inner, numbers, size = slice(0), [], schema.SUBJECT_BLOCK
    if kernel.local and weights == NONE and source.cut(f"{schema.MAPS}/{metric}"):
        some = atlas.voxels(regions, np.isin(level, sorted({n for r in ranges for n in r.numbers})))
        atlas, level, size = replace(atlas, weights=sparse.csr_array(atlas.weights[:, some])), level[some], VOXEL_BLOCK
    elif source.has(sums):
        inner = _levels_of_sums(source, sums, ranges)[1]
        numbers = [schema.level_number(n) for n in [*_places(source, sums, schema.LEVEL)][inner]]
    operator = Operator.build(atlas, level, ranges, regions)

    def read(path: str, at: NDArray[np.intp]) -> NDArray[Any]:
        if path.startswith(schema.TABLES):
            return source.read(path, at, inner)
        return source.read(path, at) if some is None or not source.cut(path) else source.read_voxels(path, at, some)

    def block(at: NDArray[np.intp]) -> Mapping[str, NDArray[Any]]:
        return StoredRows(metric, at, source.has, read, atlas, weights, numbers).reduce(kernel, operator, min_coverage=limit)

    blocks = [block(rows[i : i + size]) for i in range(0, max(1, len(rows)), size)]
    return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}


def _native(
    source: Source, metric: str, estimator: str, ranges: Sequence[LevelRange], regions: Sequence[Region], limit: float, rows: NDArray[np.intp],
    wanted: Sequence[str], *, space: str = schema.SPACE_NATIVE,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Native cells of these rows: of the levels that the table holds from there, of others from the sums of levels."""
    path, own = partial(schema.table_path, metric, estimator, space), own_limit(source)
    held = [limit >= own and _in_table(source, path(), [r], regions) is not None for r in ranges]
    parts = []
    for there in (True, False):
        at = [i for i, h in enumerate(held) if h == there]
        some = [ranges[i] for i in at]
        if at and there:
            places = _in_table(source, path(), some, regions)
            assert places is not None
            parts.append((at, _from_table(source, path, places, rows, wanted, limit if limit > own else None)))
        elif at:
            parts.append((at, _from_sums(source, metric, estimator, some, regions, limit, rows, space)))
    order = np.argsort([i for at, _ in parts for i in at])
    names = [n for n in parts[0][1] if all(n in found for _, found in parts)]
    out = {n: np.concatenate([found[n] for _, found in parts], axis=1)[:, order] for n in names}
    if vocabulary.DOUBT in wanted and space == schema.SPACE_NATIVE and source.has(vocabulary.doubtful_path(metric)) and is_summed(estimator):
        out[vocabulary.DOUBT] = _doubt(source, metric, estimator, ranges, regions, out[schema.VALUE], rows)
    return out


def _doubt(
    source: Source, metric: str, estimator: str, ranges: Sequence[LevelRange], regions: Sequence[Region], values: NDArray[Any],
    rows: NDArray[np.intp],
) -> NDArray[np.float32]:  # fmt: skip
    """Change of native values (subject, level, region) without the doubtful slices: 0 where none is in these levels, NaN where nothing is left.

    Of levels and regions that the tables have it stands there; of others it follows from the sums of levels.
    """
    path = vocabulary.doubt_path(metric, estimator)
    judged = source.made(vocabulary.QUALITY_STAGE)[rows]
    out = np.where(np.isfinite(values) & judged[:, None, None], np.float32(0), np.float32(np.nan))
    held = [i for i, r in enumerate(ranges) if _in_table(source, path, [r], regions) is not None]
    if held and (places := _in_table(source, path, [ranges[i] for i in held], regions)):
        out[:, held] += source.read(path, rows)[:, places[0][:, None], places[1]]
    rest = [i for i in range(len(ranges)) if i not in held]
    if rest:
        out[:, rest] += _doubt_of_sums(source, metric, estimator, [ranges[i] for i in rest], regions, rows, judged)
    return out


def _doubt_of_sums(
    source: Source, metric: str, estimator: str, ranges: Sequence[LevelRange], regions: Sequence[Region], rows: NDArray[np.intp],
    judged: NDArray[np.bool_],
) -> NDArray[np.float32]:  # fmt: skip
    """Change of native values (subject, level, region) by the sums of levels and those of their doubtful slices, of subjects who were judged."""
    from cohort_engine.reduce.estimators import estimator as find_estimator
    from cohort_engine.reduce.sums import LevelSums

    out = np.zeros((len(rows), len(ranges), len(regions)), np.float32)
    count = np.asarray(source.read(f"{schema.QC}/{vocabulary.DOUBTFUL_SLICES}", rows), float)
    some = np.flatnonzero(judged & (np.nan_to_num(count) > 0))
    if not len(some):
        return out
    kernel, labels = find_estimator(estimator), len(source.naming.labels)
    members, clusters = [r.members for r in regions], tuple(source.naming.clusters.values())
    where, inner = _levels_of_sums(source, schema.sums_path(metric), ranges)
    for at_once, (packed, less) in _read_sums(source, (schema.sums_path(metric), vocabulary.doubtful_path(metric)), rows[some], inner):
        block = some[at_once]
        whole, doubtful = (LevelSums.unpack(np.nan_to_num(p), labels) for p in (packed, less))
        rest = whole.without(doubtful)
        for k, at in enumerate(where):
            touched = (doubtful.count[:, at] > 0).any(axis=1)
            change = kernel.of_sums(rest.at(at), members, clusters).value - kernel.of_sums(whole.at(at), members, clusters).value
            out[block[touched], k] += change[touched].astype(np.float32)
    return out


def _from_sums(
    source: Source, metric: str, estimator: str, ranges: Sequence[LevelRange], regions: Sequence[Region], limit: float, rows: NDArray[np.intp],
    space: str,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Estimate native cells from the sums of levels, a block of subjects at a time; of the levels that are asked for alone."""
    from cohort_engine.reduce.estimators import estimator as find_estimator
    from cohort_engine.reduce.sums import LevelSums, pooled_cells

    path, kernel, naming = schema.sums_path(metric, space), find_estimator(estimator), source.naming
    naming = naming.masks if space == schema.DRAWN else naming
    beside = schema.table_path(metric, schema.ERRORS, space)
    if not kernel.summed or not source.has(path):
        needs = "sums of levels, which this store lacks" if kernel.summed else "the voxels of the image"
        raise StoreError(
            expected="cells of the native tables: single levels, labels and unions", found=f"others: {estimator} needs {needs}", where=WHERE,
            remedy="Ask for single levels at the tables' own coverage, or for the values in the template (space=template), which can be pooled.",
        )  # fmt: skip
    wanted, inner = _levels_of_sums(source, path, ranges)
    members, clusters = [r.members for r in regions], tuple(naming.clusters.values())
    out: list[dict[str, NDArray[Any]]] = []
    for _, (packed, *errors) in _read_sums(source, (path, beside) if source.has(beside) else (path,), rows, inner):
        sums = LevelSums.unpack(packed, len(naming.labels), *errors)
        cells = [pooled_cells(sums.at(w), members, clusters, kernel, min_coverage=limit) for w in wanted]
        out.append({name: np.stack([c[name] for c in cells], axis=1) for name in cells[0]})
    return {name: np.concatenate([b[name] for b in out]) for name in out[0]}


def _read_sums(
    source: Source, paths: Sequence[str], rows: NDArray[np.intp], levels: slice
) -> Iterator[tuple[slice, list[NDArray[Any]]]]:  # fmt: skip
    """Yield a block of subjects of each of several sums at a time, with its place among `rows`; many blocks are read at once."""
    size = max(1, SUMS_AT_ONCE // (schema.SUBJECT_BLOCK * (levels.stop - levels.start))) * schema.SUBJECT_BLOCK
    for first in range(0, max(1, len(rows)), size):
        read = [source.read(path, rows[first : first + size], levels) for path in paths]
        for start in range(0, max(1, len(read[0])), schema.SUBJECT_BLOCK):
            yield slice(first + start, first + start + schema.SUBJECT_BLOCK), [r[start : start + schema.SUBJECT_BLOCK] for r in read]


def _levels_of_sums(source: Source, path: str, ranges: Sequence[LevelRange]) -> tuple[list[NDArray[np.intp]], slice]:
    """Where the levels of each range lie among those that are to be read of the sums, and which these are."""
    place = _places(source, path, schema.LEVEL)
    wanted = [np.array([place[schema.LEVEL_NAMES[n - 1]] for n in r.numbers if schema.LEVEL_NAMES[n - 1] in place], np.intp) for r in ranges]
    every = np.concatenate(wanted)
    first, last = int(every.min()), int(every.max())
    return [w - first for w in wanted], slice(first, last + 1)


def _joined(parts: Sequence[tuple[NDArray[np.intp], Mapping[str, NDArray[Any]]]], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Put rows of several origins in their places."""
    if len(parts) == 1 and len(parts[0][0]) == shape[0]:
        return dict(parts[0][1])
    out = {}
    for name in (n for n in CELL if all(n in values for _, values in parts)):
        out[name] = np.full(shape, np.nan, np.float32)
        for rows, values in parts:
            out[name][rows] = values[name]
    return out


def profile(source: Source, measure: str, levels: Names | None = None, *, min_coverage: float | None = None) -> Cells:
    """Pool a profile over levels: every slice of the template counts the same; the one region is the whole cord.

    Returns
    -------
    Cells
        float64; ``std`` is the population standard deviation along the cord, ``n`` the number of slices. NaN where the coverage (share of the
        slices with a value) is below the limit, or 0.

    Raises
    ------
    UnknownNameError
        No such profile, or no such level.
    """
    path = f"{schema.PROFILES}/{measure}"
    if measure not in MEASURES or not source.has(path):
        raise unknown_name("profile", measure, profiles(source), where=WHERE)
    limit = own_limit(source) if min_coverage is None else min_coverage
    ranges = level_ranges(source, levels)
    number, values = source.read(f"{schema.PROFILES}/{schema.Z_LEVEL}"), np.asarray(source.read(path), np.float64)
    columns = [_pooled(values[:, np.isin(number, r.numbers)], limit) for r in ranges]
    cells = {name: np.stack([c[name] for c in columns], axis=1)[:, :, None] for name in columns[0]}
    about = {**source.about(path), "measure": measure, "min_coverage": limit}
    return Cells(tuple(r.name for r in ranges), (CORD,), _without(left_out_of(source, measure), cells), about)


def _pooled(values: NDArray[np.float64], limit: float) -> dict[str, NDArray[Any]]:
    """Mean, spread, number and share of the values (subject, z) that are there."""
    there = ~np.isnan(values)
    n = there.sum(axis=1)
    coverage = n / max(1, values.shape[1])
    enough = (n > 0) & (coverage >= limit)
    divisor = np.where(enough, n, 1)
    mean = np.where(there, values, 0.0).sum(axis=1) / divisor
    spread = np.sqrt((np.where(there, values - mean[:, None], 0.0) ** 2).sum(axis=1) / divisor)
    nan = np.full(len(values), np.nan)
    return {schema.VALUE: np.where(enough, mean, nan), schema.STD: np.where(enough, spread, nan), schema.N: n, schema.COVERAGE: coverage}
