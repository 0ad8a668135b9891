"""What is known of each person: ``participants.tsv``, ``*_sessions.tsv`` and image sidecars, as typed columns with units, and what cannot be read."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.places import read_bytes
from cohort_engine.io.table import DASHES, Column, Row, TextTable, as_series, clean, read_column, read_table
from cohort_engine.io.tree import Tree, place

TABLE = "participants.tsv"
DICTIONARY = "participants.json"
SESSIONS = "_sessions.tsv"
ALIASES: Mapping[str, tuple[str, ...]] = {
    schema.GROUP: ("pathology", "diagnosis"),
    schema.SITE: ("institution_id", "institution"),
    schema.SEX: ("gender",),
}
"""Column we analyse by -> columns it is copied from, the first that exists, where it is absent itself. These are text, also when coded as numbers."""

SEXES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F", "o": "O", "other": "O"}

_YEARS = dict.fromkeys(("yy", "y", "yr", "yrs", "year", "years"), "year")
UNITS = {**_YEARS, "month": "month", "months": "month", "%": "percent"} | {
    u.lower(): u for u in ("cm", "mm", "m", "kg", "g", "s", "ms", "mm2", "kg/m2", "mmHg", "T", "points", "percent")
}
"""Words for a unit, in lower case -> the unit we store."""
_UNIT_AT_END = re.compile(r"(?:\bin\s+|[\[(]\s*)(\S+?)\s*[\])]?\.?$")

RESERVED = frozenset({schema.SUBJECT, schema.VOXEL, schema.AXIS, schema.LEVEL, schema.REGION, schema.STAGE, schema.Z})


@dataclass(frozen=True)
class SidecarColumn:
    """A covariate taken from the JSON beside an image."""

    column: str
    numeric: bool
    units: str = ""


SIDECAR: Mapping[str, SidecarColumn] = {
    "Manufacturer": SidecarColumn("manufacturer", numeric=False),
    "MagneticFieldStrength": SidecarColumn("field_strength", numeric=True, units="T"),
}

Person = tuple[str, str]
"""Participant and session, ``("sub-01", "ses-2")`` or ``("sub-01", "")``."""
Told = tuple[str, str, str]
"""Participant, session, and what is said of them."""


@dataclass(frozen=True, eq=False)
class Participants:
    """The tables as text, by person.

    Attributes
    ----------
    columns : tuple of str
    values : {person: {column: text}}
        Of a participant (session ``""``) or of one session; absent values are left out.
    dictionary : {column: what participants.json says}
    told : tuple of (participant, session, note)
        Rows that were refused or contradict each other.
    """

    columns: tuple[str, ...]
    values: Mapping[Person, Mapping[str, str]]
    dictionary: Mapping[str, Mapping[str, Any]]
    told: tuple[Told, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(participant for participant, _ in self.values)

    def text(self, person: Person, column: str) -> str:
        """Value of a session, or else of the participant; ``""`` where neither has one."""
        return next((v for key in (person, (person[0], "")) if (v := self.values.get(key, {}).get(column, ""))), "")

    def rows(self, people: Sequence[Person]) -> tuple[pd.DataFrame, dict[str, str], list[Told]]:
        """Type the columns for these people, in this order, add the canonical columns, and find the units of the numeric ones.

        Returns
        -------
        table : DataFrame
            A value that cannot be read is missing.
        units : dict
        told : list of (participant, session, note)
            Such values, and what was decided for whole columns.
        """
        source = {c: c for c in self.columns}
        for canonical, aliases in ALIASES.items():
            found = next((a for a in (canonical, *aliases) if a in source), None)
            if found is not None:
                source[canonical] = source[found]
        columns: dict[str, pd.Series[Any]] = {}
        units: dict[str, str] = {}
        told: list[Told] = []
        for column, original in source.items():
            values = [self.text(p, original) for p in people]
            entry = self.dictionary.get(original, {})
            read = _sexes(values, entry) if column == schema.SEX else read_column(values, numeric=_is_number(column, entry), units=UNITS)
            columns[column] = as_series(read)
            if read.numeric and (unit := _unit(entry) or read.unit):
                units[column] = unit
            if column == original or column == schema.SEX:
                told += tell(column, read, people)
        return pd.DataFrame(columns, index=pd.RangeIndex(len(people))), units, told


def tell(column: str, read: Column, people: Sequence[Person]) -> list[Told]:
    """Say what could not be read of a column, and what was decided for all of it."""
    kind = "a sex (M, F, O)" if column == schema.SEX else "a number"
    told = [(*people[i], f"{column} is {text!r}, not {kind}: missing") for i, text in read.unread.items()]
    return [*told, *([("", "", f"column {column}: {read.note}")] if read.note else [])]


def read_participants(tree: Tree) -> Participants:
    """Read the tables of a dataset.

    Raises
    ------
    MissingInputError
        There is no ``participants.tsv``.
    InputError
        It is no table, has no ``participant_id``, or two columns of one name.
    """
    if TABLE not in tree.names:
        near = [p for p in tree.paths if "/" not in p and p.lower().startswith(TABLE[:11]) and p != DICTIONARY]
        raise MissingInputError(
            expected=TABLE, found=", ".join(near) or "none in the dataset", where="data.bids",
            remedy="Add one with a column participant_id and a line a participant; age, sex, site and group are useful further columns.",
        )  # fmt: skip
    tables: list[tuple[str | None, TextTable]] = [(None, _table(tree.read(TABLE, what=TABLE), TABLE, schema.PARTICIPANT))]
    sessions = [p for p in tree.paths if p.endswith(SESSIONS) and (at := place(p)) and not at.prefix]
    told: list[Told] = []
    for path, raw in zip(sessions, tree.read_many(sessions, what="sessions table"), strict=True):
        participant = path.partition("/")[0]
        try:
            tables.append((participant, _table(raw or b"", "sessions table", schema.SESSION)))
        except InputError as error:
            told.append((participant, "", f"{error}: its values are missing"))
    return _participants(tables, _dictionary(tree), told)


def read_participants_file(location: str) -> Participants:
    """Read one participants table, whatever its name; errors as of `read_participants`."""
    return _participants([(None, _table(read_bytes(location, what=TABLE), TABLE, schema.PARTICIPANT))], {}, [])


def _participants(
    tables: Sequence[tuple[str | None, TextTable]], dictionary: Mapping[str, Mapping[str, Any]], told: Sequence[Told]
) -> Participants:  # fmt: skip
    """Join tables: that of all participants (None), and those of the sessions of one."""
    values: dict[Person, dict[str, str]] = {}
    notes = list(told)
    for participant, table in tables:
        where = TABLE if participant is None else "sessions table"
        names = [_column(n) for n in table.header]
        lines: defaultdict[Person, list[tuple[int, dict[str, str]]]] = defaultdict(list)
        for row in table.rows:
            record = dict(zip(names, map(clean, row.fields), strict=True))
            name = _prefixed(participant or record.pop(schema.PARTICIPANT), "sub-")
            if name:
                lines[name, _prefixed(record.pop(schema.SESSION, ""), "ses-")].append((row.line, record))
            elif any(record.values()):
                notes.append(("", "", f"{where}: line {row.line} names nobody: left out"))
        for row in table.misfits:
            name = participant or _named(row, names, lines)
            notes.append((name, "", f"{where}: {table.why(row)}: its values are missing"))
            lines.setdefault((name, ""), [])
        for person, records in lines.items():
            said, contradicted = _merged([record for _, record in records])
            values[person] = values.get(person, {}) | said
            if len(records) > 1:
                rest = f", missing where they contradict: {', '.join(contradicted)}" if contradicted else ", which agree"
                notes.append((*person, f"{where}: lines {', '.join(str(n) for n, _ in records)} are of one person{rest}"))
    values.pop(("", ""), None)
    columns = dict.fromkeys(n for _, t in tables for n in map(_column, t.header) if n not in (schema.PARTICIPANT, schema.SESSION))
    return Participants(tuple(columns), values, dictionary, tuple(notes))


def _merged(records: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Values on which all rows of a person agree, and columns on which they do not."""
    said: dict[str, set[str]] = {}
    nothing = {""} if len(records) == 1 else {"", *DASHES}
    for record in records:
        for column, value in record.items():
            said.setdefault(column, set()).update({value} - nothing)
    return {c: next(iter(v)) for c, v in said.items() if len(v) == 1}, [c for c, v in said.items() if len(v) > 1]


def _named(row: Row, names: Sequence[str], others: Mapping[Person, Any]) -> str:
    """Whose row this is, as far as one without all its fields tells; else ``""``."""
    at = names.index(schema.PARTICIPANT)
    own = next((f for f in row.fields if f.startswith("sub-")), "")
    first = row.fields[0] if at == 0 and row.fields else ""
    return own or ("" if any(name.removeprefix("sub-") == first for name, _ in others) else _prefixed(clean(first), "sub-"))


def sidecar_covariates(
    said: Sequence[Mapping[str, Any]], people: Sequence[Person], *, without: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, str], list[Told]]:  # fmt: skip
    """Covariates of what the sidecars of each person say (`SIDECAR`), but for the columns in `without`; absent keys give absent values."""
    columns: dict[str, pd.Series[Any]] = {}
    units: dict[str, str] = {}
    told: list[Told] = []
    for key, column in SIDECAR.items():
        if column.column in without:
            continue
        read = read_column([clean(s.get(key)) for s in said], numeric=column.numeric, units=UNITS)
        told += tell(column.column, read, people)
        if (pd.notna(read.values) & (read.values != "")).any():
            columns[column.column] = as_series(read)
            units |= {column.column: column.units} if column.units and read.numeric else {}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(said))), units, told


def _table(raw: bytes, where: str, key: str) -> TextTable:
    """Read a table that has a column `key`, and no two of one name."""
    table = read_table(raw, where=where)
    names = [_column(n) for n in table.header]
    if key not in names:
        raise InputError(
            expected=f"a column {key}", found=", ".join(map(repr, names[:5])), where=where,
            remedy="Separate the columns with tabs and name the first one so.",
        )  # fmt: skip
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(
            expected="different column names", found=f"{', '.join(twice)} more than once", where=where, remedy="Rename or drop one of them."
        )
    return table


def _column(name: str) -> str:
    """Lower case, words joined by ``_``: the name of an array in the store, also on disks that do not tell case apart."""
    plain = re.sub(r"\W+", "_", name.strip()).strip("_").lower()
    return f"{plain}_" if plain in RESERVED else plain


def _prefixed(name: str, prefix: str) -> str:
    return name and prefix + (name[len(prefix) :] if name.lower().startswith(prefix) else name)


TEXT = frozenset({*ALIASES, *(a for names in ALIASES.values() for a in names)})
"""Columns of words, also when they are coded as numbers."""


def _is_number(column: str, entry: Mapping[str, Any]) -> bool | None:
    """Whether a column is one of numbers (True) or text (False) by what is known of it; None where its values decide."""
    if column in TEXT or "Levels" in entry:
        return False
    return True if column == schema.AGE or clean(entry.get("Units")) else None


def _sexes(values: Sequence[str], entry: Mapping[str, Any]) -> Column:
    """Letters of BIDS; codes are read by the Levels of participants.json."""
    levels = entry.get("Levels")
    coded = {str(k): clean(v.get("Description") if isinstance(v, dict) else v) for k, v in (levels if isinstance(levels, dict) else {}).items()}
    words = ["" if v in DASHES else v for v in map(clean, values)]
    letters = [SEXES.get(v.lower()) or SEXES.get(coded.get(v, "").lower(), "") for v in words]
    unread = {i: v for i, (v, letter) in enumerate(zip(words, letters, strict=True)) if v and not letter}
    return Column(np.array(letters, dtype=object), unread)


def _unit(entry: Mapping[str, Any]) -> str:
    """Find the unit in ``Units``, or from a description that is a unit (``"kg"``) or ends in one (``"Age in years"``, ``"Grip (kg)"``)."""
    declared, description = clean(entry.get("Units")), clean(entry.get("Description"))
    if declared:
        return UNITS.get(declared.lower(), declared)
    match = _UNIT_AT_END.search(description)
    return next((u for word in (description, match[1] if match else "") if (u := UNITS.get(word.lower().rstrip(".")))), "")


def _dictionary(tree: Tree) -> dict[str, dict[str, Any]]:
    if DICTIONARY not in tree.names:
        return {}
    try:
        entries = json.loads(tree.read(DICTIONARY, what=DICTIONARY))
    except ValueError as error:
        raise InputError(expected="JSON", found=str(error), where=DICTIONARY, remedy="Check brackets and commas.") from error
    return {_column(k): v for k, v in entries.items() if isinstance(v, dict)} if isinstance(entries, dict) else {}
