"""From cells to columns: one row per subject, level and region, or per group. Numpy alone: a command prints this without a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import ConfigError, unknown_name
from cohort_engine.quality import vocabulary
from cohort_engine.query.cells import CELL, Cells, Source, ask, left_out_of
from cohort_engine.query.choice import choose
from cohort_engine.query.question import BY, KEYS, WHERE, Query, number, unknown_column

Columns = dict[str, NDArray[Any]]
IDENTITY = (schema.PARTICIPANT, schema.SESSION)
MEAN, SD = "mean", "sd"
LISTED = 12
"""Rows that a note names."""


class Cohort(Source, Protocol):
    """A source that knows the subject table, and can be narrowed to some of its people."""

    @property
    def columns(self) -> list[str]:
        """Columns of the subject table, identity first."""

    def column(self, name: str) -> NDArray[Any]:
        """Values of a column: float64 with NaN, or text with ``""``."""

    def select(self, at: NDArray[np.intp]) -> Cohort:
        """Narrow the cohort to some of its people, by position."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Columns of equal length, and what a reader must know of them.

    Attributes
    ----------
    columns : dict of arrays
    notes : tuple of str
        That rows were made with two settings, that rows are stale, that no less biased value was to be had, that subjects are doubtful, that values
        depend on doubtful slices.
    about : mapping
        As of `Cells`: which estimator and space the values are of, among others.
    """

    columns: Columns
    notes: tuple[str, ...]
    about: Mapping[str, Any]


def answer(cohort: Cohort, query: Query, columns: Sequence[str] | None = None) -> Answer:
    """Answer a question.

    Parameters
    ----------
    cohort : Cohort
    query : Query
    columns : sequence of str, optional
        Columns of the subject table beside the identity; by default all.

    Returns
    -------
    Answer
        `group_means` where the question has ``by``, otherwise `tidy_columns`.

    Raises
    ------
    UnknownNameError, ConfigError
        A metric, region, level, estimator, column or value of a column that the cohort does not have, with the near names.
    """
    if query.by and columns:
        raise ConfigError(
            expected="columns of people, or a summary of groups", found=f"both {', '.join(columns)} and {BY}={','.join(query.by)}", where=WHERE,
            remedy="Leave one of them out; several columns may stand after by=.",
        )  # fmt: skip
    known = cohort.columns
    for key, names, more in (("columns", columns or (), ()), (BY, query.by, (schema.LEVEL, schema.REGION)), ("", [n for n, _ in query.only], KEYS)):
        for name in names:
            if name not in (*known, *more):
                raise unknown_column(name, [*known, *more], key)
    asked = cohort.select(chosen(cohort, query.only)) if query.only else cohort
    choice = choose(cohort, query.metric, estimator=query.estimator, space=query.space) if query.metric in cohort.metrics else None
    cells = ask(asked, query, wanted=(schema.VALUE, schema.SE, vocabulary.DOUBT) if query.by else CELL, choice=choice)
    needed = query.by if query.by else known if columns is None else columns
    subject = {n: asked.column(n) for n in dict.fromkeys([*(() if query.by else IDENTITY), *needed]) if n in known}
    tidy = tidy_columns(cells, subject)
    return Answer(group_means(tidy, query.by) if query.by else tidy, notes(asked, cells), cells.about)


def notes(cohort: Cohort, cells: Cells) -> tuple[str, ...]:
    """Say what a reader of the cells must know."""
    mixed = str(cohort.attributes.get("mixed", ""))
    rows = [str(r) for r in cohort.rows[cells.stale]]
    stale = (
        f"{len(rows)} subjects have no value here because their native values are not those of the settings asked for: rows "
        f"{', '.join(rows[:LISTED])}{' ...' if len(rows) > LISTED else ''}"
    )
    told = (mixed, stale if rows else "", str(cells.about.get("why", "")), left_out(cohort, cells), doubtful(cohort), dependent(cohort, cells))
    return tuple(filter(None, told))


def left_out(cohort: Cohort, cells: Cells) -> str:
    """Say whose values are left out by ratings, and why; nothing where nobody's are."""
    found = left_out_of(cohort, str(cells.about.get("metric") or cells.about.get("measure")))
    said = [f"{cohort.rows[i]} ({why})" for i, why in list(found.items())[:LISTED]]
    more = " ..." if len(found) > LISTED else ""
    return f"{len(found)} subjects have no value here because people who looked left them out: rows {', '.join(said)}{more}" if said else ""


def dependent(cohort: Cohort, cells: Cells) -> str:
    """Say whose values would change by more than their standard error without the slices that are doubtful; nothing where nobody's would."""
    if vocabulary.DOUBT not in cells.values or schema.SE not in cells.values:
        return ""
    doubt, error = (np.asarray(cells.values[n], float) for n in (vocabulary.DOUBT, schema.SE))
    beyond = np.where(np.abs(doubt) > error, np.abs(doubt), 0.0)
    who = np.flatnonzero(beyond.any(axis=(1, 2)))
    said = []
    for i in who[:LISTED]:
        level, region = np.unravel_index(np.argmax(beyond[i]), beyond.shape[1:])
        said.append(f"{cohort.rows[i]} ({cells.levels[level]} {cells.regions[region]} by {doubt[i, level, region]:+.2g})")
    return (
        f"values of {len(who)} subjects change by more than their standard error without their doubtful slices: rows {', '.join(said)}"
        f"{' ...' if len(who) > LISTED else ''}"
        if said
        else ""
    )


def doubtful(cohort: Cohort) -> str:
    """Say whose values may not be usable; nothing where nobody's are, or where nobody was judged."""
    path = f"{schema.QC}/{vocabulary.USABLE}"
    if not cohort.has(path) or not cohort.subjects:
        return ""
    values = np.asarray(cohort.read(path), float)
    rows = [str(r) for r in cohort.rows[values < vocabulary.LEAST_USABLE]]
    if not rows:
        return ""
    listed = f"{', '.join(rows[:LISTED])}{' ...' if len(rows) > LISTED else ''}"
    return f'{len(rows)} of {cohort.subjects} subjects may not be usable, and are in the answer: rows {listed} ("cohort-engine status" says why)'


def chosen(cohort: Cohort, only: Sequence[tuple[str, str]]) -> NDArray[np.intp]:
    """Positions of the people that every named column lets in; a column named twice takes either."""
    keep = np.ones(cohort.subjects, bool)
    for name in dict.fromkeys(n for n, _ in only):
        values = cohort.column(name)
        keep &= np.any([_matches(name, values, text) for n, text in only if n == name], axis=0)
    return np.flatnonzero(keep)


def _matches(name: str, values: NDArray[Any], text: str) -> NDArray[np.bool_]:
    """Which values a filter lets in: numbers and ranges with both ends (``40:60``, ``60:``), or words; a text that is a value is that value."""
    if values.dtype.kind in "fiub":
        return np.asarray(np.any([_within(name, values, part.strip()) for part in text.split(",")], axis=0))
    known = sorted({str(v) for v in values})
    words = [text] if text in known else [w.strip() for w in text.split(",")]
    for word in words:
        if word not in known:
            raise unknown_name(f"value of {name}", word, [k for k in known if k], where=WHERE)
    return np.isin(values.astype(str), words)


def _within(name: str, values: NDArray[Any], text: str) -> NDArray[np.bool_]:
    low, colon, high = text.partition(":")
    ends = [number(low) if low.strip() else -np.inf, (number(high) if high.strip() else np.inf) if colon else number(low)]
    if not text.strip() or any(np.isnan(ends)):
        raise ConfigError(
            expected="numbers or ranges such as 40:60", found=repr(text), where=f"{WHERE}: {name}", remedy="Write age=40:60 or age=60:."
        )
    return np.asarray((values >= ends[0]) & (values <= ends[1]))


def tidy_columns(cells: Cells, subject: Mapping[str, NDArray[Any]]) -> Columns:
    """Lay cells out as one row per subject, level and region.

    Parameters
    ----------
    cells : Cells
    subject : mapping of name to (subject,) array
        Columns of the subject table.

    Returns
    -------
    dict of arrays
        The columns, then level, region and what the cells have. NaN stays NaN.
    """
    shape = cells.values[schema.VALUE].shape
    who, level, region = np.indices(shape).reshape(3, -1)
    out: Columns = {name: np.asarray(values)[who] for name, values in subject.items()}
    out[schema.LEVEL] = np.array(cells.levels, object)[level]
    out[schema.REGION] = np.array(cells.regions, object)[region]
    return out | {n: np.broadcast_to(cells.values[n], shape).ravel() for n in CELL if n in cells.values}


def group_means(table: Mapping[str, NDArray[Any]], by: Sequence[str]) -> Columns:
    """Mean, standard deviation (n - 1 in the denominator; NaN for one subject) and number of subjects with a value, of each group, level and region.

    Groups are in the order of their first row; people without a group (``""`` or NaN) are one.

    Examples
    --------
    >>> table = {"group": np.array(["HC", "HC", "DCM"], object), "level": np.array(["C2"] * 3, object), "region": np.array(["tract"] * 3, object)}
    >>> out = group_means({**table, "value": np.array([40.0, 42.0, np.nan])}, ["group"])
    >>> {name: values.tolist() for name, values in out.items() if name in ("group", "mean", "n")}
    {'group': ['HC', 'DCM'], 'mean': [41.0, nan], 'n': [2, 0]}
    """
    keys = list(dict.fromkeys([*by, schema.LEVEL, schema.REGION]))
    code = np.zeros(len(table[schema.VALUE]), np.int64)
    for key in keys:
        found, inverse = np.unique(table[key] if table[key].dtype.kind in "fiub" else table[key].astype(str), return_inverse=True)
        code = np.unique(code * max(1, len(found)) + inverse, return_inverse=True)[1]
    first, group = np.unique(code, return_index=True)[1], code
    order = np.argsort(first, kind="stable")
    values = np.asarray(table[schema.VALUE], np.float64)
    there = ~np.isnan(values)
    count = np.bincount(group[there], minlength=len(first))
    mean = np.bincount(group[there], values[there], minlength=len(first)) / np.where(count, count, np.nan)
    square = np.bincount(group[there], (values[there] - mean[group[there]]) ** 2, minlength=len(first))
    sd = np.sqrt(square / np.where(count > 1, count - 1, np.nan))
    return {k: table[k][first[order]] for k in keys} | {MEAN: mean[order], SD: sd[order], schema.N: count[order]}
