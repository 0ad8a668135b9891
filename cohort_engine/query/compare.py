"""Two stores, or two freezes, side by side: who, which settings and which values differ, and by how much."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.query.answer import IDENTITY
from cohort_engine.query.reader import CohortReader
from cohort_engine.store import layout

A, B = "A", "B"
BLOCK = 16
"""Subjects whose arrays are held at once."""
STAMPS = (layout.CREATED, layout.UPDATED, layout.FINALISED, layout.COMPACTED, layout.ROWS, layout.VERSIONS, layout.SCIENCE, layout.SCIENCE_HASH)
LAID_OUT = ("specs", "asked", "recipes")
"""Attributes that are told by the settings and values they describe, or that say when and not what."""
COUNTED = ("rows", "recipe")
"""Parts of the settings that count rows or name a hash."""

Table = dict[str, list[Any]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What differs between two stores.

    Attributes
    ----------
    tables : mapping of title to columns
        Subjects that only one has, settings, columns of the subject table, variables; each empty where nothing differs.
    common : int
        Subjects that both have.
    """

    tables: Mapping[str, Table]
    common: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not any(len(next(iter(t.values()))) for t in self.tables.values())

    @property
    def summary(self) -> str:
        """One sentence."""
        return f"{self.common} subjects are in both; " + ("nothing differs" if self.equal else "what differs is listed")


def compare(first: str, second: str, *, space: str = schema.SPACE_TEMPLATE) -> Comparison:
    """Compare two stores subject by subject, matched by participant and session; those who left or withdrew are in neither.

    Values are equal when they are the same number, or missing in both.

    Raises
    ------
    StoreError, StorageError
        One of them is no cohort store, or a chunk is damaged.
    """
    a, b = CohortReader(first, space=space), CohortReader(second, space=space)
    keys = [list(zip(*(map(str, r.column(n)) for n in IDENTITY), strict=True)) for r in (a, b)]
    place = {key: i for i, key in enumerate(keys[1])}
    pairs = [(i, place[key]) for i, key in enumerate(keys[0]) if key in place]
    at = np.array([i for i, _ in pairs], np.intp), np.array([j for _, j in pairs], np.intp)
    alone = [(key, A) for key in keys[0] if key not in place] + [(key, B) for key in keys[1] if key not in set(keys[0])]
    tables = {
        "Subjects that only one has": {**{n: [key[i] for key, _ in alone] for i, n in enumerate(IDENTITY)}, "only in": [name for _, name in alone]},
        "Settings": _settings(a, b),
        "Columns of the subject table": _columns(a.select(at[0]), b.select(at[1])),
        "Values": _values(a, b, at),
    }
    return Comparison(tables, len(pairs))


def _settings(a: CohortReader, b: CohortReader) -> Table:
    """List settings and root attributes that differ, by dotted name."""
    found = [_flat(json.loads(str(r.attributes.get(layout.SCIENCE) or "{}"))) for r in (a, b)]
    plain = [{k: v for k, v in r.attributes.items() if k not in (*STAMPS, *LAID_OUT)} for r in (a, b)]
    one, two = ({**p, **f} for p, f in zip(plain, found, strict=True))
    names = [n for n in dict.fromkeys([*one, *two]) if one.get(n) != two.get(n)]
    return {"setting": names, A: [str(one.get(n, "")) for n in names], B: [str(two.get(n, "")) for n in names]}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Examples
    --------
    >>> _flat({"mtr": [{"rows": 4, "params": {"low": 5}}], "fit": {"seed": 1}})
    {'mtr.1.params.low': 5, 'fit.seed': 1}
    """
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, list) else None
    if parts is None:
        return {name: value}
    return {k: v for key, part in parts if key not in COUNTED for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}


def _columns(a: CohortReader, b: CohortReader) -> Table:
    rows: list[tuple[str, str]] = []
    for name in dict.fromkeys([*a.columns, *b.columns]):
        if name not in a.columns or name not in b.columns:
            rows.append((name, f"only in {A if name in a.columns else B}"))
            continue
        one, two = a.column(name), b.column(name)
        same = (one == two) | ((one != one) & (two != two))
        if not same.all():
            rows.append((name, f"{int(np.sum(~same))} subjects"))
    return {"column": [n for n, _ in rows], "differs": [d for _, d in rows]}


def _values(a: CohortReader, b: CohortReader, at: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Table:
    rows: list[tuple[Any, ...]] = []
    mine, theirs = a.variables(), b.variables()
    for path in dict.fromkeys([*mine, *theirs]):
        if path not in mine or path not in theirs:
            rows.append((path, f"only in {A if path in mine else B}", "", "", "", ""))
            continue
        shapes = [r.array(path).shape[1:] for r in (a, b)]  # type: ignore[union-attr]
        if shapes[0] != shapes[1]:
            rows.append((path, f"shape {shapes[0]} and {shapes[1]}", "", "", "", ""))
            continue
        rows += [(path, *line) for line in _differences(a, b, path, at)]
    names = ("variable", "subjects that differ", "missing in one", "largest difference", "median difference", "units")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _differences(a: CohortReader, b: CohortReader, path: str, at: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Sequence[tuple[Any, ...]]:
    """Sum up a variable that differs: how many subjects, how many values only one has, and the differences of the others."""
    subjects = alone = 0
    sizes: list[NDArray[np.float64]] = []
    for first in range(0, len(at[0]), BLOCK):
        one, two = (np.asarray(r.read(path, rows[first : first + BLOCK]), np.float64) for r, rows in zip((a, b), at, strict=True))
        one, two = (v.reshape(len(v), -1) for v in (one, two))
        missing = np.isnan(one) != np.isnan(two)
        apart = np.where(np.isnan(one) | np.isnan(two), 0.0, np.abs(one - two))
        subjects += int(np.sum((missing | (apart > 0)).any(axis=1)))
        alone += int(missing.sum())
        sizes.append(apart[apart > 0])
    if not subjects:
        return []
    size = np.concatenate(sizes)
    largest, median = (float(size.max()), float(np.median(size))) if len(size) else (0.0, 0.0)
    return [(f"{subjects} of {len(at[0])}", str(alone), f"{largest:.6g}", f"{median:.6g}", str(a.about(path).get("units", "1")))]
