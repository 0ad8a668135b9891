"""What is known of each person: ``participants.tsv``, ``*_sessions.tsv`` and image sidecars, as typed columns with units."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.places import read_bytes
from cohort_engine.io.tree import Tree, place

TABLE = "participants.tsv"
DICTIONARY = "participants.json"
SESSIONS = "_sessions.tsv"
ABSENT = frozenset({"", "n/a", "na", "nan", "none", "null"})
"""What people write for no value, in lower case. BIDS says ``n/a``."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    schema.GROUP: ("pathology", "diagnosis"),
    schema.SITE: ("institution_id", "institution"),
    schema.SEX: ("gender",),
}
"""Column we analyse by -> columns it is copied from, the first that exists, where it is absent itself. These are text, also when coded as numbers."""

SEXES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F", "o": "O", "other": "O"}

UNITS = {"yy": "year", "y": "year", "yr": "year", "yrs": "year", "year": "year", "years": "year", "month": "month", "months": "month"} | {
    u: u for u in ("cm", "mm", "m", "kg", "g", "s", "ms", "mm2", "kg/m2", "mmhg", "t", "points", "percent")
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


@dataclass(frozen=True, eq=False)
class Participants:
    """The tables as text, by person.

    Attributes
    ----------
    columns : tuple of str
    values : {person: {column: text}}
        Of a participant (session ``""``) or of one session; absent values are left out.
    dictionary : {column: what participants.json says}
    """

    columns: tuple[str, ...]
    values: Mapping[Person, Mapping[str, str]]
    dictionary: Mapping[str, Mapping[str, Any]]

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(participant for participant, _ in self.values)

    def text(self, person: Person, column: str) -> str:
        """Value of a session, or else of the participant; ``""`` where neither has one."""
        return next((v for key in (person, (person[0], "")) if (v := self.values.get(key, {}).get(column, ""))), "")

    def rows(self, people: Sequence[Person]) -> tuple[pd.DataFrame, dict[str, str]]:
        """Type the columns for these people, in this order, add the canonical columns, and find the units of the numeric ones.

        Raises
        ------
        InputError
            Text in a numeric column, or a sex nobody can read.
        """
        source = {c: c for c in self.columns}
        for canonical, aliases in ALIASES.items():
            found = next((a for a in (canonical, *aliases) if a in source), None)
            if found is not None:
                source[canonical] = source[found]
        as_text = {*ALIASES, *(a for names in ALIASES.values() for a in names), *(c for c, d in self.dictionary.items() if "Levels" in d)}
        columns: dict[str, pd.Series[Any]] = {}
        units: dict[str, str] = {}
        for column, original in source.items():
            values = [self.text(p, original) for p in people]
            if column == schema.SEX:
                values = [_sex(v) for v in values]
            typed = pd.Series(values, dtype=object) if column in as_text else _typed(column, values)
            columns[column] = typed
            if typed.dtype != object and (unit := _unit(self.dictionary.get(original, {}))):
                units[column] = unit
        return pd.DataFrame(columns, index=pd.RangeIndex(len(people))), units


def read_participants(tree: Tree) -> Participants:
    """Read the tables of a dataset.

    Raises
    ------
    MissingInputError
        There is no ``participants.tsv``.
    InputError
        It has no ``participant_id``, two rows for one person, or two columns of one name.
    """
    if TABLE not in tree.names:
        raise MissingInputError(
            expected=TABLE, found="none in the dataset", where="data.bids",
            remedy="Add one with a column participant_id and a line a participant; age, sex, site and group are useful further columns.",
        )  # fmt: skip
    frames: list[tuple[str | None, pd.DataFrame]] = [(None, _table(tree.read(TABLE, what=TABLE), TABLE))]
    sessions = [p for p in tree.paths if p.endswith(SESSIONS) and (at := place(p)) and not at.prefix]
    for path, raw in zip(sessions, tree.read_many(sessions, what="sessions table"), strict=True):
        frames.append((path.partition("/")[0], _table(raw or b"", "sessions table")))

    return _participants(frames, _dictionary(tree))


def read_participants_file(location: str) -> Participants:
    """Read one participants table, whatever its name; errors as of `read_participants`."""
    return _participants([(None, _table(read_bytes(location, what=TABLE), TABLE))], {})


def _participants(frames: Sequence[tuple[str | None, pd.DataFrame]], dictionary: Mapping[str, Mapping[str, Any]]) -> Participants:
    """Join tables: that of all participants (None), and those of the sessions of one."""
    values: dict[Person, dict[str, str]] = {}
    for participant, frame in frames:
        where = TABLE if participant is None else "sessions table"
        key = schema.PARTICIPANT if participant is None else schema.SESSION
        if key not in frame:
            raise InputError(
                expected=f"a column {key}", found=", ".join(map(repr, frame.columns[:5])) or "no columns", where=where,
                remedy="Separate the columns with tabs and name the first one so.",
            )  # fmt: skip
        for record in frame.to_dict("records"):
            name = _prefixed(participant or record.pop(schema.PARTICIPANT), "sub-")
            person = name, _prefixed(record.pop(schema.SESSION, ""), "ses-")
            if not name:
                continue
            if person in values:
                raise InputError(
                    expected="one row a participant", found=f"{' '.join(person).strip()} more than once", where=where, remedy="Keep one of them."
                )
            values[person] = {str(c): v for c, v in record.items() if v}
    columns = dict.fromkeys(c for _, frame in frames for c in frame.columns if c not in (schema.PARTICIPANT, schema.SESSION))
    return Participants(tuple(columns), values, dictionary)


def sidecar_covariates(tree: Tree, images: Sequence[str | None], *, without: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Covariates from the JSON beside one image a person (`SIDECAR`), but for the columns in `without`; absent files and keys give absent values."""
    wanted = {key: c for key, c in SIDECAR.items() if c.column not in without}
    beside = [None if p is None else re.sub(r"\.nii(\.gz)?$", ".json", p) for p in images]
    sidecars = [_json(raw) for raw in tree.read_many([p if p in tree.names else None for p in beside], what="sidecar")]
    columns = {c.column: _typed(c.column, [_clean(s.get(key)) for s in sidecars], numeric=c.numeric) for key, c in wanted.items()}
    present = {k: v for k, v in columns.items() if (v.notna() & (v != "")).any()}
    return pd.DataFrame(present, index=pd.RangeIndex(len(images))), {c.column: c.units for c in wanted.values() if c.units and c.column in present}


def _table(raw: bytes, where: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(raw), sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(expected="a tab-separated table in UTF-8", found=found, where=where, remedy="Check it in a text editor.") from error
    frame = frame.loc[:, [bool(str(c).strip()) and not str(c).startswith("Unnamed:") for c in frame.columns]].map(_clean)
    names = [_column(str(c)) for c in frame.columns]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(
            expected="different column names", found=f"{', '.join(twice)} more than once", where=where, remedy="Rename or drop one of them."
        )
    return frame.set_axis(names, axis=1)


def _column(name: str) -> str:
    """Lower case, words joined by ``_``: the name of an array in the store, also on disks that do not tell case apart."""
    plain = re.sub(r"\W+", "_", name.strip()).strip("_").lower()
    return f"{plain}_" if plain in RESERVED else plain


def _clean(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in ABSENT else text


def _prefixed(name: str, prefix: str) -> str:
    return name and prefix + name.removeprefix(prefix)


def _typed(column: str, values: Sequence[str], *, numeric: bool = False) -> pd.Series[Any]:
    """Numbers where most values are numbers, else text.

    Raises
    ------
    InputError
        Text in a column of numbers: a slip that would turn the whole column into text.
    """
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype(np.float64)
    text = [v for v, n in zip(values, numbers, strict=True) if v and np.isnan(n)]
    count = int(numbers.notna().sum())
    if not text or (numeric and not count):
        return numbers
    if not numeric and len(text) >= count:
        return pd.Series(values, dtype=object)
    raise InputError(
        expected="numbers", found=f"text in {len(text)} of {count + len(text)} values, first {text[0]!r}",
        where=f"participants table: column {column}",
        remedy="Write n/a where there is no value and a point for decimals; if it is meant as text, give the column Levels in participants.json.",
    )  # fmt: skip


def _sex(value: str) -> str:
    if value and value.lower() not in SEXES:
        raise InputError(
            expected="M, F, O or n/a", found=repr(value), where=f"participants table: column {schema.SEX}", remedy="Write the letters of BIDS."
        )
    return SEXES.get(value.lower(), "")


def _unit(entry: Mapping[str, Any]) -> str:
    """Find the unit in ``Units``, or from a description that is a unit (``"kg"``) or ends in one (``"Age in years"``, ``"Grip (kg)"``)."""
    declared, description = _clean(entry.get("Units")), _clean(entry.get("Description"))
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


def _json(raw: bytes | None) -> dict[str, Any]:
    """Parse a sidecar; nothing where it is absent or cannot be read: it only adds covariates."""
    try:
        found = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
