"""Numbers and tables as a reader sees them: digits by column, one word for a feature, nobody's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cohort_engine import schema, sections
from cohort_engine.sections.base import FEATURE_COLUMN, OWN
from cohort_engine.study.format import NOTHING, digits_of, features, number, p_value

NAMES = (schema.PARTICIPANT, schema.SESSION)
"""Columns that name a person: they are in the files, not on the page."""
P_VALUES = frozenset({"p", "q", "p_one_group"})
SHARES = re.compile(r"(auc|icc\d\d|sensitivity|specificity|youden|r|pc\d|z|z_mean)(_low|_high|_first|_second)?|difference|size")
"""Columns that are written with two decimals, whatever their values."""
ROWS = 10
"""Rows of a table that are shown."""


@dataclass(frozen=True)
class Shown:
    """A table as text.

    Attributes
    ----------
    head : tuple of (name, unit, meaning)
    rows : tuple of rows of cells
    numeric : tuple of bool
        Which columns are numbers.
    total : int
        Rows of the whole table.
    """

    head: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    total: int


def column(name: str, values: pd.Series[Any]) -> tuple[list[str], bool]:
    """Write a column; say whether it is one of numbers."""
    if values.dtype.kind == "b":
        return ["yes" if v else "no" for v in values], False
    if values.dtype.kind not in "fiu":
        return [NOTHING if v is None or v != v or str(v) == "" else str(v) for v in values], False
    if name in P_VALUES:
        return [p_value(float(v)) for v in values], True
    digits = 2 if SHARES.fullmatch(name) else digits_of(values)
    return [number(float(v), digits) for v in values], True


def unnamed(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out who people are; ``subject`` says their row in the store."""
    return table.drop(columns=[c for c in NAMES if c in table])


def show(name: str, table: pd.DataFrame, rows: int = ROWS) -> Shown:
    """Lay out the first rows of a table, those that matter first.

    Parameters
    ----------
    name : str
        Of the table: `words` says which columns are shown, and by which the rows are sorted.
    table : DataFrame
    rows : int
        At most.
    """
    words = sections.table(name)
    ordered = table
    if words.order:
        by = words.order.lstrip("-|")
        key = table[by].abs() if words.order.startswith("|") else table[by]
        ordered = table.loc[key.sort_values(ascending=words.order[0] not in "-|", kind="stable").index]
    first = ordered.head(rows)
    names = [c for c in words.shown if c in first or c == FEATURE_COLUMN] or [str(c) for c in first if c not in NAMES]
    head, columns, numeric = [], [], []
    for c in names:
        known = words.columns.get(c)
        unit = known.unit if known and known.unit not in (OWN, "people", "of the column", "of the feature") else ""
        cells, is_number = (features(first), False) if c == FEATURE_COLUMN and c not in first else column(c, first[c])
        head.append((c.replace("_", " "), unit, known.meaning if known else ""))
        columns.append(cells)
        numeric.append(is_number)
    return Shown(tuple(head), tuple(zip(*columns, strict=True)), tuple(numeric), len(table))
