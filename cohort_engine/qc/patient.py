"""One patient's numbers: values by level and region against healthy people of the same age and sex, and earlier sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.analysis.norms import deviation, fit_norm
from cohort_engine.errors import CohortError, unknown_name
from cohort_engine.figures.drawing import scale
from cohort_engine.query.cells import Cells, ask, levels_of, profiles
from cohort_engine.query.choice import Choice, choose
from cohort_engine.query.question import Query
from cohort_engine.query.reader import CohortReader
from cohort_engine.study.people import in_time

FloatArray = NDArray[np.float64]
REGIONS = ("white matter", "dorsal columns", "lateral funiculi", "ventral funiculi", "gray matter")
SHAPES = (schema.AREA, schema.DIAMETER_AP)
FEWEST = 10
"""Healthy people that a norm needs, in all and of each value."""
COVARIATES = (schema.AGE, schema.SEX)
LEVEL = 0.95
"""Of the interval of healthy people."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric, or a measure of the cord, of one patient.

    Attributes
    ----------
    name, label, units : str
        Units as people write them.
    how : str
        Which kind of value it is.
    levels, regions : tuple of str
    values : (session, level, region) array
        Of the sessions in time, the one that the page is of last. Missing: NaN.
    expected, lower, upper, centile : (level, region) array
        Of healthy people of this age and sex, for the last session; NaN without norms.
    """

    name: str
    label: str
    units: str
    how: str
    levels: tuple[str, ...]
    regions: tuple[str, ...]
    values: FloatArray
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    centile: FloatArray


@dataclass(frozen=True, eq=False)
class Patient:
    """What is known of one patient.

    Attributes
    ----------
    row : int
        Of the store, of the session that the page is of.
    participant : str
    sessions : tuple of str
        In time, that one last.
    about : mapping of column to word
    measured : tuple of Measured
    norms : str
        Whom the values are compared with, or why with nobody.
    """

    row: int
    participant: str
    sessions: tuple[str, ...]
    about: Mapping[str, str]
    measured: tuple[Measured, ...]
    norms: str


def patient(store: str, participant: str, session: str | None = None, *, reference: str | None = None) -> Patient:
    """Gather what the page of a patient shows.

    Parameters
    ----------
    store : str
        Folder or URL.
    participant, session : str
        With or without ``sub-`` and ``ses-``; by default the last session in time.
    reference : str, optional
        Store of the healthy people; by default those of this one.

    Raises
    ------
    UnknownNameError
        Nobody of that name, or no such session.
    StoreError, StorageError
        No store, or a damaged one.
    """
    reader = CohortReader(store)
    people = _people(reader)
    own = _sessions(people, participant, session)
    healthy = CohortReader(reference) if reference else reader
    others = _people(healthy)
    at = _healthy(others, set() if reference else {str(people[schema.PARTICIPANT].iloc[own[-1]])})
    given, words = _covariates(people.iloc[own[-1]], others.iloc[at])
    norms = (
        f"{len(at)} healthy people of {'another cohort' if reference else 'this cohort'}{words}" if len(at) >= FEWEST
        else f"no norms: {len(at)} healthy people, {FEWEST} are needed"
    )  # fmt: skip
    measured = []
    for query, label in _questions(reader):
        try:
            found = _measured(reader, healthy, query, label, own, at if len(at) >= FEWEST else at[:0], given)
        except CohortError:  # nobody has it
            continue
        if np.isfinite(found.values[-1]).any():
            measured.append(found)
    if measured and len(at) >= FEWEST and not any(np.isfinite(m.expected).any() for m in measured):
        norms = f"no norms: the healthy people have no such values ({measured[0].how})"
    last = people.iloc[own[-1]]
    about = {c: _word(last[c]) for c in (schema.AGE, schema.SEX, schema.GROUP, schema.SITE) if c in people and _word(last[c])}
    sessions = tuple(str(s) for s in people[schema.SESSION].iloc[own])
    return Patient(int(reader.rows[own[-1]]), str(last[schema.PARTICIPANT]), sessions, about, tuple(measured), norms)


def _people(reader: CohortReader) -> pd.DataFrame:
    return pd.DataFrame({name: reader.column(name) for name in reader.columns})


def _sessions(people: pd.DataFrame, participant: str, session: str | None) -> list[int]:
    """Positions of the sessions of a participant in time, up to the one asked for."""
    name = participant.strip().removeprefix("sub-")
    order = [i for i in in_time(people) if str(people[schema.PARTICIPANT].iloc[i]).removeprefix("sub-") == name]
    if not order:
        raise unknown_name("participant", participant, sorted(map(str, people[schema.PARTICIPANT])), where="store")
    if session is None:
        return order
    names = [str(people[schema.SESSION].iloc[i]).removeprefix("ses-") for i in order]
    if session.removeprefix("ses-") not in names:
        raise unknown_name("session", session, names, where="store")
    return order[: names.index(session.removeprefix("ses-")) + 1]


def _healthy(people: pd.DataFrame, but: set[str]) -> NDArray[np.intp]:
    """Positions of healthy people, each once."""
    if schema.GROUP not in people:
        return np.empty(0, np.intp)
    is_healthy = people[schema.GROUP].astype(str).str.casefold().isin(schema.HEALTHY) & ~people[schema.PARTICIPANT].isin(but)
    return np.flatnonzero(is_healthy & ~people[schema.PARTICIPANT].duplicated()).astype(np.intp)


def _covariates(own: pd.Series[Any], others: pd.DataFrame) -> tuple[dict[str, tuple[NDArray[Any], NDArray[Any]]], str]:
    """Age and sex of the patient and of the healthy people, where both have them and they vary; and in words."""
    found = {}
    for name in COVARIATES:
        if name not in others or name not in own or not _word(own[name]) or len({_word(v) for v in others[name] if _word(v)}) < 2:
            continue
        if name == schema.AGE and others[name].dtype.kind != "f":
            continue
        if name == schema.SEX and _word(own[name]) not in {_word(v) for v in others[name]}:
            continue
        found[name] = np.array([own[name]]), others[name].to_numpy()
    words = f", adjusted to {' and '.join('age' if n == schema.AGE else 'sex' for n in found)}" if found else ", without age and sex"
    return found, words


def _word(value: Any) -> str:
    return "" if value != value else f"{value:g}" if isinstance(value, float) else str(value).strip()


def _questions(reader: CohortReader) -> list[tuple[Query, str]]:
    """List what is asked of everybody: metrics in the regions that the atlas has, and the shape of the cord."""
    known = {r.name for r in reader.naming.regions}
    regions = tuple(n for n in REGIONS if n in known)
    levels = tuple(levels_of(reader))
    out = [(Query(m, regions, levels), schema.label_of(m)) for m in reader.metrics if regions]
    names = {schema.DIAMETER_AP: "Front-to-back diameter", schema.AREA: "Cross-sectional area"}
    return out + [(Query(m, levels=levels), names[m]) for m in SHAPES if m in profiles(reader)]


def _measured(
    reader: CohortReader, healthy: CohortReader, query: Query, label: str, own: Sequence[int], at: NDArray[np.intp],
    given: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
) -> Measured:  # fmt: skip
    """Read a question of the patient and of healthy people, by the same kind of value."""
    is_metric = query.metric in reader.metrics
    choice = choose(reader, query.metric, estimator="", space="") if is_metric else None
    mine = ask(reader.select(np.asarray(own, np.intp)), query, wanted=(schema.VALUE,), choice=choice)
    values = np.asarray(mine.values[schema.VALUE], float)
    nothing = np.full(values.shape[1:], np.nan)
    expected = lower = upper = centile = nothing
    theirs = _values_of_healthy(healthy, query, mine, at, choice) if len(at) else None
    if theirs is not None:
        covariates = {n: v for n, (_, v) in given.items()}
        norm = fit_norm(theirs, covariates or None)
        found = deviation(norm, values[-1:], {n: v for n, (v, _) in given.items()} or None, level=LEVEL)
        known = found.n >= FEWEST
        expected, lower, upper, centile = (
            np.where(known, np.asarray(a[0], float), np.nan) for a in (found.expected, found.lower, found.upper, found.centile)
        )
    how = choice.words if choice is not None else "mean over the slices of a level"
    about = mine.about
    return Measured(
        query.metric, label, scale(str(about.get("units", "1"))), how, mine.levels, mine.regions, values,
        expected, lower, upper, centile,
    )  # fmt: skip


def _values_of_healthy(healthy: CohortReader, query: Query, mine: Cells, at: NDArray[np.intp], choice: Choice | None) -> NDArray[Any] | None:
    """Values (person, level, region) of healthy people, NaN at levels that only the patient's cohort has; None: theirs lacks the rest, too."""
    common = [name for name in mine.levels if name in levels_of(healthy)]
    out = np.full((len(at), len(mine.levels), len(mine.regions)), np.nan)
    try:
        theirs = ask(healthy.select(at), replace(query, levels=tuple(common)), wanted=(schema.VALUE,), choice=choice) if common else None
    except CohortError:
        return None
    if theirs is not None:
        out[:, [mine.levels.index(name) for name in common]] = np.asarray(theirs.values[schema.VALUE], float)
    return out
