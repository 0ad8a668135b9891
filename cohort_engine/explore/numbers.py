"""The numbers of a view. Tables are read once a metric; everything else is arithmetic on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.roc import auc, curve
from cohort_engine.errors import InputError, unknown_name
from cohort_engine.explore.view import View
from cohort_engine.query import cells as kernel
from cohort_engine.query.answer import chosen, notes
from cohort_engine.query.choice import choose
from cohort_engine.query.question import Query
from cohort_engine.query.reader import CohortReader
from cohort_engine.query.spread import FEW, healthy_word, mean_of, reference_range, spread_of

FloatArray = NDArray[np.float64]

MOST_WORDS = 12
"""Columns with more values than this are not offered as filters: they are names or free text."""
EVERYBODY = "everybody"
UNKNOWN = "not known"
WHITE_MATTER = "white matter"


@dataclass(frozen=True, eq=False)
class Groups:
    """Values of groups of people.

    Attributes
    ----------
    names : tuple of str
    values : tuple of (n,) float64
        Of those who have one.
    missing : tuple of int
        People of each group without a value.
    """

    names: tuple[str, ...]
    values: tuple[FloatArray, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Profiles:
    """A region along the cord.

    Attributes
    ----------
    levels : tuple of str
        From the top down.
    names : tuple of str
        Groups.
    mean : (group, level) float64
        NaN without anybody.
    n : (group, level) int
    low, high : (level,) float64
        Range that holds 95 % of the reference people if they are normally distributed; NaN without them.
    person : (level,) float64
        Of the person who is marked; NaN without.
    """

    levels: tuple[str, ...]
    names: tuple[str, ...]
    mean: FloatArray
    n: NDArray[np.int64]
    low: FloatArray
    high: FloatArray
    person: FloatArray


@dataclass(frozen=True, eq=False)
class Picked:
    """What a view shows.

    Attributes
    ----------
    view : View
    at : (n,) int
        Positions in the cohort of the people shown.
    group : (n,) object
        Their group.
    values : (n,) float64
        Of the cell; NaN: missing.
    table : (n, level, region) float32
        Of every cell of the metric.
    levels, regions : tuple of str
        Axes of the table.
    reference : (n,) bool
        Who is compared with.
    """

    view: View
    at: NDArray[np.intp]
    group: NDArray[Any]
    values: FloatArray
    table: NDArray[np.float32]
    levels: tuple[str, ...]
    regions: tuple[str, ...]
    reference: NDArray[np.bool_]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Groups, that of the reference first."""
        names = sorted({str(g) for g in self.group}, key=lambda g: (g != self.view.reference, g == UNKNOWN, g))
        return tuple(names)

    def groups(self) -> Groups:
        """Return the values by group."""
        parts = [self.values[self.group == name] for name in self.names]
        return Groups(self.names, tuple(p[~np.isnan(p)] for p in parts), tuple(int(np.isnan(p).sum()) for p in parts))

    def profiles(self, person: FloatArray | None = None) -> Profiles:
        """Return the values along the cord in the view's region; `person` (level,) is marked."""
        along = self.table[:, :, self._region].astype(float)
        mean, n = (np.stack([f(along[self.group == name]) for name in self.names]) for f in (mean_of, lambda v: np.sum(~np.isnan(v), axis=0)))
        nobody = np.full(len(self.levels), np.nan)
        return Profiles(self.levels, self.names, mean, n, *reference_range(along[self.reference]), nobody if person is None else person)

    def heat(self) -> tuple[FloatArray, bool]:
        """Map (level, region): the others minus the reference in its standard deviations, or, without either, the mean of all; and which it is."""
        people = self.table
        if not self.reference.any() or self.reference.all():
            return mean_of(people), False
        middle, spread = mean_of(people[self.reference]), spread_of(people[self.reference])
        with np.errstate(invalid="ignore", divide="ignore"):
            out: FloatArray = np.where(spread > 0, (mean_of(people[~self.reference]) - middle) / spread, np.nan)
        return out, True

    @property
    def _region(self) -> int:
        return self.regions.index(self.view.tract or self.regions[0])


@dataclass(frozen=True, eq=False)
class Separation:
    """How well a cell tells two groups apart; `area` with its 95 % interval, NaN where it has none."""

    false_alarms: FloatArray
    hits: FloatArray
    area: float
    low: float
    high: float
    n: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Relation:
    """A cell and a score: the points, and Spearman's correlation with its 95 % interval."""

    score: FloatArray
    r: float
    low: float
    high: float
    p: float
    n: int


class Explored:
    """A cohort whose tables stay in memory once they were looked at.

    Parameters
    ----------
    url : str
        Folder or URL of a store.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.cohort = CohortReader(url)
        if not self.cohort.subjects:
            raise InputError(expected="a cohort with people in it", found="an empty one", where="store", remedy="Build its study first.")
        self.people: dict[str, NDArray[Any]] = {name: self.cohort.column(name) for name in self.cohort.columns}
        self.tables = lru_cache(maxsize=8)(self._table)
        self.cell = lru_cache(maxsize=256)(self._cell)

    def reload(self) -> None:
        """Read the cohort again: who is left out by ratings has changed."""
        self.cohort = CohortReader(self.url)
        self.tables.cache_clear()
        self.cell.cache_clear()

    # --- what there is ---
    @cached_property
    def metrics(self) -> dict[str, str]:
        """Metrics and measures of the cord, with the words for them."""
        words = {m: str(about.get("label") or m) for m, about in self.cohort.metrics.items()}
        return words | {m: m.replace("_", " ") for m in kernel.profiles(self.cohort)}

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Levels of the template, from the top down."""
        return tuple(kernel.levels_of(self.cohort))

    def regions(self, metric: str) -> tuple[str, ...]:
        """Regions that a metric has values of; of a measure the cord."""
        return tuple(r.name for r in kernel.regions_of(self.cohort, metric)) if metric in self.cohort.metrics else (kernel.CORD,)

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """Columns of a few words, with these; identity left out."""
        found = {}
        for name, values in self.people.items():
            if values.dtype.kind not in "fiub" and name not in (schema.PARTICIPANT, schema.SESSION):
                known = sorted({str(v) for v in values if str(v)})
                if 2 <= len(known) <= MOST_WORDS:
                    found[name] = tuple(known)
        return found

    @cached_property
    def numbers(self) -> dict[str, tuple[float, float]]:
        """Columns of numbers, with the least and the largest."""
        found = {}
        for name, values in self.people.items():
            if values.dtype.kind in "fiub" and np.isfinite(np.asarray(values, float)).any():
                low, high = float(np.nanmin(values)), float(np.nanmax(values))
                if low < high:
                    found[name] = (low, high)
        return found

    def start(self) -> View:
        """Choose what is shown first: white matter at the middle level, by group, beside the controls."""
        metric = next(iter(self.metrics))
        regions = self.regions(metric)
        tract = WHITE_MATTER if WHITE_MATTER in regions else regions[0]
        split = schema.GROUP if schema.GROUP in self.words else next(iter(self.words), "")
        reference = healthy_word(self.words.get(split, ()))
        score = next((n for n in self.numbers if n != schema.AGE), next(iter(self.numbers), ""))
        return View(Query(metric, (tract,), (self.levels[len(self.levels) // 2],)), split, reference, score)

    def checked(self, view: View) -> View:
        """Give a view back whose names all exist.

        Raises
        ------
        UnknownNameError, ConfigError
            A metric, region, level, column or value that the cohort does not have.
        """
        if view.metric not in self.metrics:
            raise unknown_name("metric", view.metric, list(self.metrics), where="address")
        for column, known in ((view.split, list(self.words)), (view.score, list(self.numbers))):
            if column and column not in known:
                raise unknown_name("column", column, known, where="address")
        if view.reference and view.reference not in self.words.get(view.split, ()):
            raise unknown_name(f"value of {view.split}", view.reference, list(self.words.get(view.split, ())), where="address")
        if view.tract and view.metric in self.cohort.metrics:
            view = view.at(tract=self.cohort.naming.region(view.tract).name)
        elif view.tract != kernel.CORD:
            view = view.at(tract=kernel.CORD if view.metric not in self.cohort.metrics else self.regions(view.metric)[0])
        kernel.level_ranges(self.cohort, view.level)
        for name, _ in view.query.only:
            if name not in self.people:
                raise unknown_name("column", name, list(self.people), where="address")
        chosen(self.cohort, view.query.only)
        return view

    # --- the numbers ---
    def _table(self, metric: str) -> kernel.Cells:
        return kernel.ask(self.cohort, Query(metric), wanted=(schema.VALUE,))

    def _cell(self, metric: str, tract: str, level: str) -> FloatArray:
        """Values (subject,) of a cell: of the table, or of a region or pooled range that it does not have."""
        table = self.tables(metric)
        if level in table.levels and tract in table.regions:
            values = table.values[schema.VALUE][:, table.levels.index(level), table.regions.index(tract)]
        else:
            tracts = (tract,) if metric in self.cohort.metrics else ()
            values = kernel.ask(self.cohort, Query(metric, tracts, (level,)), wanted=(schema.VALUE,)).values[schema.VALUE][:, 0, 0]
        out: FloatArray = np.asarray(values, float)
        return out

    def pick(self, view: View) -> Picked:
        """Take what a view shows."""
        table = self.tables(view.metric)
        at = chosen(self.cohort, view.query.only)
        group = np.full(len(at), EVERYBODY, object)
        if view.split:
            given = self.people[view.split][at].astype(str).astype(object)
            group = np.where(given == "", UNKNOWN, given)
        values = self.cell(view.metric, view.tract, view.level)[at]
        return Picked(
            view, at, group, values, table.values[schema.VALUE][at], table.levels, table.regions, (group == view.reference) & bool(view.reference)
        )

    def separation(self, picked: Picked) -> Separation | None:
        """Draw the ROC curve of the cell, everybody else against the reference, in the direction of disease; None without both."""
        known = ~np.isnan(picked.values) & (picked.group != UNKNOWN)
        sick, values = ~picked.reference[known], picked.values[known] * (1 if self.rises(picked.view.metric) else -1)
        if not picked.view.reference or not sick.any() or sick.all():
            return None
        found, area = curve(values, sick.astype(float)), auc(values[:, None], sick.astype(float))
        low, high = float(area.low[0]), float(area.high[0])
        return Separation(1 - found.specificity, found.sensitivity, float(area.auc[0]), low, high, (int((~sick).sum()), int(sick.sum())))

    def relation(self, picked: Picked) -> Relation | None:
        """Relate the view's score to the cell, of the people shown; None without a score, or three people who have both."""
        if not picked.view.score:
            return None
        score = np.asarray(self.people[picked.view.score][picked.at], float)
        both = ~np.isnan(score) & ~np.isnan(picked.values)
        if both.sum() < FEW:
            return None
        found = correlate(picked.values[both, None], score[both, None])
        r, low, high, p = (float(v[0, 0]) for v in (found.r, found.low, found.high, found.p))
        return Relation(score, r, low, high, p, int(both.sum()))

    def person(self, view: View) -> tuple[int, FloatArray] | None:
        """Return the position in the cohort and values (level,) in the view's region of who is marked; None if nobody of that row is in the study."""
        hit = np.flatnonzero(self.cohort.rows == view.row) if view.row is not None else np.empty(0, np.intp)
        if not len(hit):
            return None
        table = self.tables(view.metric)
        region = table.regions.index(view.tract) if view.tract in table.regions else 0
        return int(hit[0]), table.values[schema.VALUE][hit[0], :, region].astype(float)

    def rises(self, metric: str) -> bool:
        """Whether disease moves a metric up."""
        return bool(self.cohort.metrics.get(metric, {}).get("rises", False))

    def units(self, metric: str) -> str:
        """Return the unit of a metric or measure."""
        return str(self.tables(metric).about.get("units", "1"))

    def said(self, view: View) -> tuple[str, ...]:
        """Say what a reader must know of the values: which they are, and which of them to doubt."""
        table = self.tables(view.metric)
        choice = choose(self.cohort, view.metric).words if view.metric in self.cohort.metrics else ""
        return tuple(filter(None, (f"Values are {choice}." if choice and not table.about.get("why") else "", *notes(self.cohort, table))))

    def rows(self, picked: Picked) -> Mapping[str, NDArray[Any]]:
        """Return the table of the people shown: all columns of the subject table, then the cell."""
        return {name: values[picked.at] for name, values in self.people.items()} | {schema.VALUE: picked.values}
