"""Tables of text: rows that fit their header, and columns that are numbers, or say why not.

One reader for everything that comes as columns (``participants.tsv``, ``*_sessions.tsv``, per-slice tables of other tools). A row with a field too
few or too many is refused by its line, never shifted; a value that is no number is missing, with a note, and makes no text of its column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort_engine.errors import InputError

SEPARATORS = "\t;,"
"""What may stand between two fields, in order of preference: the first that the header holds."""
ABSENT = frozenset({"", "n/a", "na", "#n/a", "nan", "none", "null", "nil", "missing", "not available", "."})
"""What people write for no value, in lower case. BIDS says ``n/a``."""
DASHES = frozenset({"-", "--", "---", "\u2013", "\u2014"})
"""No value either, where the column has no ``+``."""
PLUS = "+"
LONGEST_RECORD = 50
"""Lines that one quoted field may hold."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_WITH_UNIT = re.compile(r"(?P<number>[+-]?(?:\d+[.,]?\d*|\.\d+))\s*(?P<unit>[A-Za-z\u00b0\u00b5%][A-Za-z0-9/\u00b2]*)")
MINUS = "\u2212"


# --- rows -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """A row of a table, or one that does not fit its header.

    Attributes
    ----------
    line : int
        Where it begins, counted from 1.
    fields : tuple of str
    """

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table as text.

    Attributes
    ----------
    header : tuple of str
        Without columns that have no name.
    rows : tuple of Row
        With as many fields as the header.
    misfits : tuple of Row
        With fewer or more.
    width : int
        Fields of the header, those without a name counted.
    """

    header: tuple[str, ...]
    rows: tuple[Row, ...]
    misfits: tuple[Row, ...]
    width: int

    def column(self, name: str) -> list[str]:
        """Text of a column, row by row."""
        at = self.header.index(name)
        return [row.fields[at] for row in self.rows]

    def why(self, row: Row) -> str:
        """Say what is wrong with a misfit."""
        return f"line {row.line} has {len(row.fields)} fields in place of {self.width}"


def read_table(raw: bytes, *, where: str) -> TextTable:
    r"""Read a table whose first line names its columns.

    Parameters
    ----------
    raw : bytes
        UTF-8, with or without a byte order mark; lines end as on any system. Fields are separated by tabs, else semicolons, else commas; a field in
        quotes may hold a separator, and line breaks.
    where : str
        What the table is, for messages.

    Raises
    ------
    InputError
        No UTF-8, nothing in it, or no row at all that has as many fields as the header.

    Examples
    --------
    >>> table = read_table(b"name;age\r\na;25,5\r\nb;\r\nc\r\n", where="table")
    >>> table.header, table.column("age"), [table.why(r) for r in table.misfits]
    (('name', 'age'), ['25,5', ''], ['line 4 has 1 fields in place of 2'])
    """
    try:
        lines = re.split(r"\r\n|\r|\n", raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _no_table(str(error), where) from error
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise _no_table("nothing", where)
    if said := re.fullmatch(r'"?sep=(.)"?', lines[first].strip("\ufeff ")):  # Excel's way to name it
        first, separator = first + 1, said[1]
    else:
        outside = re.sub(r'"[^"]*"', "", lines[first])
        separator = next((s for s in SEPARATORS if s in outside), SEPARATORS[0])
    records = _records(lines, first, separator)
    head = next(records, None)
    if head is None:
        raise _no_table("nothing", where)
    width = len(head.fields)
    named = [i for i, name in enumerate(head.fields) if name]
    rows, misfits = [], []
    for record in records:
        fields = record.fields
        if len(fields) > width and not any(fields[width:]):
            fields = fields[:width]
        if len(fields) == width:
            rows.append(Row(record.line, tuple(fields[i] for i in named)))
        else:
            misfits.append(record)
    if misfits and not rows:
        found = f"{len(misfits[0].fields)} in line {misfits[0].line}, and none that fits"
        raise InputError(expected=f"rows of {width} fields, as the header has", found=found, where=where, remedy="Name each column once.")
    return TextTable(tuple(head.fields[i] for i in named), tuple(rows), tuple(misfits), width)


def _no_table(found: str, where: str) -> InputError:
    return InputError(expected="a table with a header, in UTF-8", found=found, where=where, remedy="Check it in a text editor.")


def _records(lines: Sequence[str], first: int, separator: str) -> Iterator[Row]:
    """Cut lines into fields. A quote counts where it is closed again: in its line, or in a later one that is no row of its own."""
    at, width = first, 0
    while at < len(lines):
        end = at + 1
        if not lines[at].replace(separator, "").strip():
            at = end
            continue
        fields = _cut(lines[at], separator)
        if fields is None:
            for more in range(at + 1, min(at + LONGEST_RECORD, len(lines))):
                alone = _cut(lines[more], separator)
                if len(lines[more].split(separator) if alone is None else alone) == width:
                    break
                joined = _cut("\n".join(lines[at : more + 1]), separator)
                if joined is not None:
                    fields, end = (joined, more + 1) if len(joined) == width else (None, end)
                    break
        fields = lines[at].split(separator) if fields is None else fields
        width = width or len(fields)
        yield Row(at + 1, tuple(f.strip() for f in fields))
        at = end


def _cut(text: str, separator: str) -> list[str] | None:
    """Cut a record at separators that are not in quotes; None where a quote stays open. A quote counts at the beginning of a field only."""
    fields: list[str] = []
    rest = text
    while True:
        if not rest.lstrip(" ").startswith('"'):
            word, found, rest = rest.partition(separator)
            fields.append(word)
        else:
            match = re.match(r' *"((?:[^"]|"")*)" *(?=\Z|' + re.escape(separator) + ")", rest)
            if match is None:
                return None
            fields.append(match[1].replace('""', '"'))
            rest = rest[match.end() :]
            found, rest = rest[:1], rest[1:]
        if not found:
            return fields


# --- values -----------------------------------------------------------------------------------------------------------
def clean(value: Any) -> str:
    """Text of a value; ``""`` where it says that there is none.

    Examples
    --------
    >>> clean(" N/A "), clean(None), clean(3), clean("left")
    ('', '', '3', 'left')
    """
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in ABSENT else text


@dataclass(frozen=True, eq=False)
class Column:
    """A column, read.

    Attributes
    ----------
    values : float64 array with NaN, or object array of str with ``""``
    unread : mapping of place to str
        Text that stands where a number should, by its place: these values are missing.
    note : str
        What was decided for the whole column; empty where nothing was.
    unit : str
        Unit that every value carried.
    """

    values: NDArray[Any]
    unread: Mapping[int, str] = field(default_factory=dict)
    note: str = ""
    unit: str = ""

    @property
    def numeric(self) -> bool:
        return self.values.dtype.kind == "f"


def read_column(values: Sequence[str], *, numeric: bool | None = None, units: Mapping[str, str] | None = None) -> Column:
    """Read a column of text as numbers where it holds any number of them, else as text.

    Parameters
    ----------
    values : sequence of str
    numeric : bool, optional
        True: numbers, if there is one; False: text, whatever stands there. By default most values decide.
    units : mapping of str to str, optional
        Words for units, in lower case: a column all of whose values carry the same one is a column of numbers.

    Returns
    -------
    Column
        A comma is a decimal point where no value has one and not all of them could be thousands (``1,234``). A bound (``89+``, ``>89``, ``<5``), a
        number with a unit among bare ones, and any other text are no numbers: missing, and listed in `Column.unread`.

    Examples
    --------
    >>> column = read_column(["41", "-", "89+", "25.5"])
    >>> column.values.tolist(), column.unread
    ([41.0, nan, nan, 25.5], {2: '89+'})
    >>> read_column(["25,5", "31", ""]).values.tolist(), read_column(["3T", "1.5 T"], units={"t": "T"}).unit
    ([25.5, 31.0, nan], 'T')
    >>> read_column(["mild", "2", "severe"]).note
    'numbers and text (first 2): taken as text'
    """
    texts = _without_dashes([clean(v).replace(MINUS, "-") for v in values])
    text = np.array(texts, dtype=object)
    if numeric is False:
        return Column(text)
    plain, unit = _without_unit(texts, units or {})
    commas = [t for t in plain if _COMMA.fullmatch(t)]
    decimal = bool(commas) and not any("." in t and _NUMBER.fullmatch(t) for t in plain) and not all(map(_THOUSANDS.fullmatch, commas))
    numbers = np.array([_number(t.replace(",", ".") if decimal and _COMMA.fullmatch(t) else t) for t in plain], np.float64)
    unread = {i: t for i, (t, n) in enumerate(zip(texts, numbers, strict=True)) if t and np.isnan(n)}
    known = int(np.isfinite(numbers).sum())
    if unread and not (known if numeric else known > len(unread)):
        mixed = next((t for t, n in zip(texts, numbers, strict=True) if np.isfinite(n)), "")
        why = f"numbers and text (first {mixed})" if mixed else "no number among its values" if numeric else ""
        return Column(text, note=why and f"{why}: taken as text")
    note = f"decimal comma read as a point in {len(commas)} values" if decimal else ""
    return Column(numbers, unread, note, unit)


def _number(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else float("nan")


def _without_dashes(texts: list[str]) -> list[str]:
    """Take a dash for no value, but where the column tells plus from minus."""
    return texts if PLUS in texts else ["" if t in DASHES else t for t in texts]


def _without_unit(texts: list[str], units: Mapping[str, str]) -> tuple[list[str], str]:
    """Take off a unit that all values carry."""
    found = [_WITH_UNIT.fullmatch(t) for t in texts if t]
    names = {units.get(m["unit"].lower(), "") if m else "" for m in found}
    if len(names) != 1 or "" in names:
        return texts, ""
    return [m["number"] if (m := _WITH_UNIT.fullmatch(t)) else t for t in texts], names.pop()


def as_series(column: Column) -> pd.Series[Any]:
    """Return a column as pandas has it: float64, or object."""
    return pd.Series(column.values, dtype=np.float64 if column.numeric else object)
