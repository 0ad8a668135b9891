"""Who is analysed: controls and cases, who is left out, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.config import AnalysisConfig, GroupsConfig
from cohort_engine.errors import InputError, unknown_name
from cohort_engine.io.exclusions import ALL
from cohort_engine.io.table import read_column

WHERE = "analysis"
FEWEST = 2
"""Members that a group needs."""
DATES = ("acq_time", "session_date", "scan_date", "date", "scanned_at")
"""Columns of the subject table that may say when a session was."""
STARTS = frozenset({"baseline", "base", "bl", "pre", "preop", "screening", "initial"})
"""Names of a first session, in small letters."""
MOST_WORDS = 12
"""Different words up to which a column of text is one of categories, however few the people."""
CLINICAL = frozenset({
    "mjoa", "joa", "nurick", "ndi", "edss", "updrs", "sara", "moca", "mmse", "grassp", "sf36", "eq5d", "dash",
    "quickdash", "nrs", "vas", "ais", "asia",
    "grip", "msis", "msws", "9hpt", "t25fw",
})  # fmt: skip
"""Words of a column's name by which it is a clinical score."""
FEW = 5
"""Different numbers up to which a column may be codes."""
REASON = "reason"
YEAR = "year"


@dataclass(frozen=True, eq=False)
class People:
    """The subjects of an analysis.

    Attributes
    ----------
    at : (n,) int
        Places along the cohort's subject axis, in its order.
    table : DataFrame
        A row a subject: its row in the store (``subject``), participant_id, session_id and every column of the subject table.
    group : (n,) float
        0 for a control, 1 for a case.
    control, case : str
        What the study calls them; a study of one group has no word for the other.
    excluded : DataFrame
        subject, participant_id, session_id, reason: one row for each of the others.
    """

    at: NDArray[np.intp]
    table: pd.DataFrame
    group: NDArray[np.float64]
    control: str
    case: str
    excluded: pd.DataFrame

    def without(self, reasons: Mapping[int, str]) -> People:
        """Leave out more people: place in `table` -> reason.

        Raises
        ------
        InputError
            A group has fewer than two members then.
        """
        keep = np.array([i not in reasons for i in range(len(self.table))], bool)
        gone = self.table.loc[~keep, list(IDENTITY)].assign(**{REASON: [reasons[i] for i in np.flatnonzero(~keep)]})
        rest = People(
            self.at[keep], self.table[keep].reset_index(drop=True), self.group[keep], self.control, self.case,
            pd.concat([self.excluded, gone], ignore_index=True),
        )  # fmt: skip
        _enough(rest)
        return rest

    @property
    def groups(self) -> list[tuple[float, str]]:
        """Code and name of each group that has members: both, or the only one of the study."""
        return [(code, name) for code, name in ((0.0, self.control), (1.0, self.case)) if name]

    def chosen(self, who: str) -> NDArray[np.intp]:
        """Rows of ``cases`` or of ``all``; a study of one group has no others."""
        return np.flatnonzero(self.group == 1) if who == "cases" and len(self.groups) > 1 else np.arange(len(self.group))

    @property
    def columns(self) -> list[str]:
        """Names of the subject table's columns, without those that say who somebody is."""
        return [str(c) for c in self.table if c not in IDENTITY]

    def column(self, name: str) -> NDArray[Any]:
        """Column of the subject table: float64 with NaN, or text with ``""``; a name that is not there is answered with the near ones."""
        if name not in self.table:
            raise unknown_name("column of the subject table", name, self.columns, where=WHERE)
        return self.table[name].to_numpy()

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Column of numbers; one of text is an `InputError`."""
        column = self.column(name)
        if column.dtype.kind != "f":
            word = next((str(v) for v in column if str(v).strip()), "")
            raise InputError(
                expected="numbers", found=f"text, first {word!r}", where=f"column {name}",
                remedy="Correct participants.tsv (n/a is missing) and build again, or take the column out of the study file.",
            )  # fmt: skip
        return column.astype(float)

    def covariates(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return those of the columns that these people have and that vary.

        Raises
        ------
        InputError
            One holds numbers and text: each number would be a category of its own.
        """
        given = {n: check_covariate(n, self.column(n)) for n in names if n in self.table}
        return {n: v for n, v in given.items() if len(known_values(v)) > 1}

    def lacking(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return who lacks which of the columns: participant -> columns."""
        lost: dict[str, list[str]] = {}
        for name in (n for n in names if n in self.table):
            column = pd.Series(self.column(name))
            for participant in self.table.loc[(column.isna() | (column.astype(str) == "")).to_numpy(), schema.PARTICIPANT]:
                lost.setdefault(str(participant), []).append(name)
        return lost

    def numeric(self) -> list[str]:
        """Columns of numbers."""
        return [c for c in self.columns if self.table[c].dtype.kind == "f"]


def is_clinical(name: str) -> bool:
    """Whether a column is a clinical score that is known by its name.

    Examples
    --------
    >>> is_clinical("mJOA_total"), is_clinical("weight"), is_clinical("SF-36")
    (True, False, True)
    """
    words = re.split(r"[\s_.]+", name.casefold())
    return any(w.replace("-", "") in CLINICAL for w in words)


def chosen_columns(people: People, config: AnalysisConfig) -> list[str]:
    """Columns of the subject table that go into tables and pages, in its order: the group, those that the study file names, and the characteristics.

    Raises
    ------
    UnknownNameError
        No such column.
    """
    for name in config.characteristics:
        people.column(name)
    site, sections = config.harmonise.site or schema.SITE, (config.correlate, config.norms, config.tests)
    named: set[str | None] = {config.groups.column, config.classifier.by, config.harmonise.site}
    named |= {*config.characteristics, *config.correlate.scores, *config.clusters.features}
    named |= {name for s in sections if "covariates" in s.model_fields_set for name in s.covariates}
    default = () if config.characteristics else (schema.AGE, schema.SEX, site)
    return [c for c in people.columns if c in named or c in default or (not config.characteristics and is_clinical(c))]


IDENTITY = (schema.SUBJECT, schema.PARTICIPANT, schema.SESSION)


def many_words(column: NDArray[Any]) -> bool:
    """Whether a column of text has too many different words to be categories: names, dates and the like.

    Examples
    --------
    >>> many_words(np.array(["F", "M", "F", ""])), many_words(np.array([f"2024-01-{d}" for d in range(10, 30)]))
    (False, True)
    """
    known = [str(v) for v in column if str(v) != ""]
    return column.dtype.kind != "f" and len(set(known)) > max(MOST_WORDS, len(known) / 4)


def in_time(table: pd.DataFrame) -> list[int]:
    """Order of the rows of a subject table in which the sessions of each person follow each other in time.

    By a column of dates (`DATES`), where all sessions of the person have one; else by the session's name: words for the start of a study come
    first, then numbers count as numbers.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["a", "a", "b", "b"], "session_id": ["ses-10", "ses-2", "ses-1", "ses-2"]})
    >>> in_time(table), in_time(table.assign(acq_time=["", "", "2024-05-01", "2023-05-01"]))
    ([1, 0, 2, 3], [1, 0, 3, 2])
    """
    names = table[schema.SESSION].astype(str).str.casefold() if schema.SESSION in table else pd.Series("", table.index)
    keys: list[tuple[Any, ...]] = [_named(n) for n in names]
    for column in (c for c in DATES if c in table):
        when = pd.to_datetime(table[column].astype(str), errors="coerce", utc=True, format="ISO8601")
        for rows in table.reset_index(drop=True).groupby(schema.PARTICIPANT, sort=False).indices.values():
            if when.iloc[rows].notna().all():
                for i in rows:
                    keys[i] = (-1, when.iloc[i], *keys[i][1:])
        break
    first = {p: i for i, p in reversed(list(enumerate(table[schema.PARTICIPANT])))}
    return sorted(range(len(table)), key=lambda i: (first[table[schema.PARTICIPANT].iloc[i]], keys[i]))


def times(table: pd.DataFrame) -> tuple[NDArray[np.float64], str]:
    """When the sessions of a subject table in the order of `in_time` were, and the unit: years by dates or by age, or their number.

    Years where some person has sessions of different dates, or else of different ages; missing where a date or age is.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["a", "a", "b"], "session_id": ["1", "2", "1"], "age": [54.0, 58.0, 60.0]})
    >>> times(table), times(table.drop(columns="age"))
    ((array([54., 58., 60.]), 'year'), (array([0., 1., 0.]), 'session'))
    """
    person = table[schema.PARTICIPANT].to_numpy()
    years: list[Any] = []
    for name in (c for c in DATES if c in table):
        when = pd.to_datetime(table[name].astype(str), errors="coerce", utc=True, format="ISO8601")
        years.append(((when - pd.Timestamp("2000-01-01", tz="UTC")).dt.total_seconds() / (365.25 * 86400)).to_numpy(np.float64))
    if schema.AGE in table and table[schema.AGE].dtype.kind == "f":
        years.append(table[schema.AGE].to_numpy(np.float64))
    for column in years:
        if (pd.Series(column).groupby(person).nunique() > 1).any():
            return column, YEAR
    return np.asarray(pd.Series(person).groupby(person).cumcount(), np.float64), "session"


def _named(session: str) -> tuple[Any, ...]:
    """Sort key of a session's name, in small letters."""
    bare = session.removeprefix("ses-").removeprefix("ses")
    parts = tuple((0, int(w), "") if w.isdigit() else (1, 0, w) for w in re.findall(r"[0-9]+|[^0-9]+", bare))
    return (0 if bare in STARTS else 1, parts)


def text_among_numbers(column: NDArray[Any]) -> str:
    """Return the first word of a column of text that would be a measurement without it; empty where there is none.

    A measurement has more than `FEW` different numbers, and most of its values are numbers; or all are, and some have a decimal comma.

    Examples
    --------
    >>> ages = np.array(["51", "62", "about 60", "48", "55", "70", "44", ""], dtype=object)
    >>> text_among_numbers(ages), text_among_numbers(np.array(["1", "2", "3T"], dtype=object))
    ('about 60', '')
    >>> text_among_numbers(np.array(["25,5", "31"], dtype=object))
    '25,5'
    """
    if column.dtype.kind == "f":
        return ""
    words = [str(v).strip() for v in column if str(v).strip()]
    number = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce").notna().to_numpy()
    other = next((w for w, n in zip(words, number, strict=True) if not n), "")
    read = read_column(words)
    if other and read.numeric and not read.unread:
        return other
    measured = number.sum() > len(words) / 2 and len({w for w, n in zip(words, number, strict=True) if n}) > FEW
    return other if measured else ""


def check_covariate(name: str, column: NDArray[Any]) -> NDArray[Any]:
    """Return a column that may be a covariate.

    Raises
    ------
    InputError
        It holds numbers as text: each number would be a category of its own.
    """
    if word := text_among_numbers(column):
        raise InputError(
            expected="numbers", found=f"{word!r} among them", where=f"column {name}",
            remedy="Correct participants.tsv (n/a is missing) and build again.",
        )  # fmt: skip
    return column


def known_values(column: NDArray[Any]) -> list[Any]:
    """Different values of a column, without the missing ones."""
    series = pd.Series(column)
    return sorted(series[series.notna() & (series.astype(str) != "")].unique().tolist())


def subject_table(ds: xr.Dataset) -> pd.DataFrame:
    """Lay out the subject columns of an opened cohort, one row a subject."""
    rows = ds[schema.SUBJECT].to_numpy()
    names = [str(n) for n, c in ds.coords.items() if c.dims == (schema.SUBJECT,) and n != schema.SUBJECT]
    columns = {n: ds[n].to_numpy() for n in (*IDENTITY[1:], *(n for n in names if n not in IDENTITY)) if n in names}
    table = pd.DataFrame({schema.SUBJECT: rows, **columns})
    if schema.SESSION not in table:
        table.insert(2, schema.SESSION, "")
    return table


def choose_people(ds: xr.Dataset, config: AnalysisConfig) -> People:
    """Find controls and cases, and say why the others are left out.

    Left out are: people of no group or another one, those that the configuration names, those that people who looked have left out of everything,
    those outside a limit of quality, and sessions of a person after the first in time, since a person counts once.

    Parameters
    ----------
    ds : Dataset
        From `open_cohort`.
    config : AnalysisConfig

    Of one group only, people are controls where its word says that they are healthy, and else cases.

    Raises
    ------
    InputError
        Nobody with a group, a group of one, no word that says who is healthy, one group or site under two spellings.
    UnknownNameError
        A column, group, participant or quality number that does not exist.
    """
    table = subject_table(ds)
    column = config.groups.column
    if column not in table:
        raise unknown_name("column of the subject table", column, [str(c) for c in table if c not in IDENTITY], where=f"{WHERE}.groups.column")
    words = words_of(table, column)
    for name in dict.fromkeys((column, schema.SITE, config.harmonise.site or schema.SITE)):
        if name in table and table[name].dtype.kind != "f":
            _one_spelling(name, table[name].tolist())
    _columns(table, config)
    control, case = _groups([w for w in words if w], config.groups)
    reasons: dict[int, str] = {}
    _participants(table, config.exclude)
    limits = _limits(ds, config.quality)
    rated = {i: why for i, row in enumerate(table[schema.SUBJECT]) if (why := ds.cohort.source.left_out.get((int(row), ALL)))}
    seen: set[str] = set()
    for i in in_time(table):
        participant, word = table[schema.PARTICIPANT].iloc[i], words[i]
        outside = next((f"{n} is {v[i]:.3g}, allowed {_range(*config.quality[n])}" for n, (v, bad) in limits.items() if bad[i]), None)
        if not word or word not in (control, case):
            reasons[i] = f"{column} is {word!r}" if word else f"no {column}"
        elif participant in config.exclude:
            reasons[i] = "excluded by the study file"
        elif i in rated:
            reasons[i] = rated[i]
        elif outside:
            reasons[i] = outside
        elif participant in seen:
            reasons[i] = "another session of the same person"
        else:
            seen.add(participant)
    everybody = People(
        np.arange(len(table)), table, (words == case).astype(float), control, case, pd.DataFrame(columns=[*IDENTITY, REASON])
    )  # fmt: skip
    return everybody.without(reasons)


def _columns(table: pd.DataFrame, config: AnalysisConfig) -> None:
    """Refuse a column that the study file names and nobody has; a default that the study lacks is left out."""
    known = [str(c) for c in table if c not in IDENTITY]
    named = {
        "tests.covariates": config.tests, "correlate.scores": config.correlate, "correlate.covariates": config.correlate,
        "norms.covariates": config.norms, "harmonise.keep": config.harmonise,
    }  # fmt: skip
    for where, section in named.items():
        key = where.rpartition(".")[2]
        for name in getattr(section, key) if key in section.model_fields_set else ():
            if name not in known and name != schema.GROUP:
                raise unknown_name("column of the subject table", name, known, where=f"{WHERE}.{where}")


def words_of(table: pd.DataFrame, column: str) -> NDArray[Any]:
    """Column of groups as words (subject,)."""
    return table[column].map(_word).to_numpy()


def reasons(people: People) -> pd.Series[int]:
    """Count who is left out by reason, the most frequent first; limits of one quality number are one reason."""
    plain = people.excluded[REASON].map(lambda r: r if ", allowed " not in r else f"{r.split(' is ')[0]} outside its limits")
    return plain.value_counts()


def _word(value: Any) -> str:
    """Value of a group column as a word: groups coded 0 and 1 are words, too."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:g}"
    return str(value).strip()


def _one_spelling(name: str, values: Sequence[Any]) -> None:
    spellings: dict[str, set[str]] = {}
    for value in values:
        spellings.setdefault(str(value).strip().casefold(), set()).add(str(value))
    twice = next((sorted(s) for s in spellings.values() if len(s) > 1), None)
    if twice:
        raise InputError(
            expected="one spelling of each value", found=" and ".join(map(repr, twice)), where=f"column {name}",
            remedy="They would count as different: write them alike in participants.tsv and build again.",
        )  # fmt: skip


def _groups(words: Sequence[str], config: GroupsConfig) -> tuple[str, str]:
    """Names of controls and cases."""
    known = sorted(set(words))
    where = f"{WHERE}.groups"
    for key in ("control", "case"):
        if (name := getattr(config, key)) is not None and name not in known:
            raise unknown_name("group", name, known, where=f"{where}.{key}")
    if not known:
        raise InputError(
            expected="people with a group",
            found="nobody with a group",
            where=f"column {config.column}",
            remedy="Name another column in analysis.groups.column.",
        )
    if len(known) == 1:
        (only,) = known
        return (only, "") if config.control == only or (only.casefold() in schema.HEALTHY and config.case is None) else ("", only)
    healthy = [w for w in known if w.casefold() in schema.HEALTHY and w != config.case]
    control = config.control or (healthy[0] if len(healthy) == 1 else None)
    others = [w for w in known if w != control]
    case = config.case or (others[0] if control and len(others) == 1 else None)
    if control is None or case is None or control == case:
        raise InputError(
            expected="a word for controls and one for cases", found=", ".join(map(repr, known)), where=f"column {config.column}",
            remedy="Name them in the study file: analysis.groups.control and analysis.groups.case.",
        )  # fmt: skip
    return control, case


def _participants(table: pd.DataFrame, names: Iterable[str]) -> None:
    known = table[schema.PARTICIPANT].tolist()
    for name in names:
        if name not in known:
            raise unknown_name("participant", name, known, where=f"{WHERE}.exclude")


def quality_names(ds: xr.Dataset) -> list[str]:
    """Quality numbers of an opened cohort."""
    return [str(n) for n, v in ds.data_vars.items() if v.dims == (schema.SUBJECT,) and v.dtype.kind == "f"]


def _limits(ds: xr.Dataset, limits: Mapping[str, tuple[float | None, float | None]]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Quality number -> its values, and who is outside its limits."""
    known = quality_names(ds)
    out = {}
    for name, (low, high) in limits.items():
        if name not in known:
            raise unknown_name("quality number", name, known, where=f"{WHERE}.quality")
        values = ds[name].to_numpy().astype(float)
        bad = (values < (-np.inf if low is None else low)) | (values > (np.inf if high is None else high))
        out[name] = (values, bad)
    return out


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else "anything"


def _enough(people: People) -> None:
    for code, name in people.groups:
        count = int((people.group == code).sum())
        if count < FEWEST:
            reasons = people.excluded[REASON].value_counts()
            left_out = "; ".join(f"{n} left out: {reason}" for reason, n in reasons.head(3).items())
            raise InputError(
                expected=f"at least {FEWEST} people in each group", found=f"{count} in {name!r}{f' ({left_out})' if left_out else ''}", where=WHERE,
                remedy="A group of one has no spread to compare with: add people, or loosen what leaves them out.",
            )  # fmt: skip
