"""Covariates of people as columns of a design matrix, and columns of values that miss the same subjects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cohort_engine.errors import InputError, unknown_name

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Covariates = Mapping[str, ArrayLike]
WHERE = "covariates"


@dataclass(frozen=True)
class Coding:
    """How covariates become numbers; what was learnt on one cohort is applied to another.

    Attributes
    ----------
    levels : mapping of name to categories
        Empty for a number, which is taken as it is. A category is one column of 0 and 1, but for the first, which is the base.

    Examples
    --------
    >>> people = {"age": [30, 40, np.nan], "sex": ["F", "M", "F"]}
    >>> coding = Coding.of(people)
    >>> coding.levels, coding.matrix(people, 3).tolist()
    ({'age': (), 'sex': ('F', 'M')}, [[30.0, 0.0], [40.0, 1.0], [nan, 0.0]])
    """

    levels: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, covariates: Covariates | None) -> Coding:
        """Numbers stay numbers; words, and yes or no, are categories in alphabetical order."""
        return cls({name: () if _numeric(column) else tuple(sorted(set(as_words(column)) - {""})) for name, column in (covariates or {}).items()})

    @property
    def columns(self) -> int:
        return sum(max(len(words) - 1, 0) if words else 1 for words in self.levels.values())

    def matrix(self, covariates: Covariates | None, subjects: int) -> FloatArray:
        """Design columns (subject, column), without an intercept. Missing: NaN where a number is NaN or a word is empty.

        Raises
        ------
        InputError
            A covariate is absent, has another length, is infinite, or a category that was not learnt.
        """
        given = covariates or {}
        parts = [np.empty((subjects, 0))]
        for name, words in self.levels.items():
            if name not in given:
                raise unknown_name("covariate", name, sorted(given), where=WHERE)
            column = np.asarray(given[name])
            if column.shape != (subjects,):
                raise InputError(expected=f"{subjects} values", found=f"shape {column.shape}", where=f"{WHERE}: {name}", remedy="Give one a subject.")
            parts.append(_indicators(name, column, words) if words else _numbers(name, column))
        return np.concatenate(parts, axis=1)


def as_table(values: ArrayLike, *, where: str) -> FloatArray:
    """Values (subject, feature) as floats. Missing: NaN; infinite values and other shapes are an `InputError`."""
    table = np.asarray(values, float)
    if table.ndim != 2 or 0 in table.shape:
        raise InputError(expected="a table (subject, feature)", found=f"shape {table.shape}", where=where, remedy="Give one row a subject.")
    if np.isinf(table).any():
        raise InputError(expected="finite values or NaN", found=f"{np.isinf(table).sum()} infinite", where=where, remedy="Make them NaN.")
    return table


def by_pattern(known: BoolArray) -> Iterator[tuple[BoolArray, NDArray[np.intp]]]:
    """Rows that are known, and the columns of which exactly these are known: each group of columns is one least-squares problem.

    Examples
    --------
    >>> [(rows.tolist(), columns.tolist()) for rows, columns in by_pattern(np.array([[True, False, True], [True, True, True]]))]
    [([False, True], [1]), ([True, True], [0, 2])]
    """
    alike: dict[bytes, list[int]] = {}
    for column, bits in enumerate(np.packbits(known, axis=0).T):
        alike.setdefault(bits.tobytes(), []).append(column)
    for _, columns in sorted(alike.items()):
        yield known[:, columns[0]], np.array(columns, np.intp)


def _numeric(column: ArrayLike) -> bool:
    return np.asarray(column).dtype.kind in "iuf"


def as_words(column: ArrayLike) -> list[str]:
    """Words; empty where nothing is known (None, NaN, blank).

    Examples
    --------
    >>> as_words([" a", 1, None, np.nan])
    ['a', '1', '', '']
    """
    return ["" if x is None or x != x else str(x).strip() for x in np.asarray(column).tolist()]


def _numbers(name: str, column: NDArray[Any]) -> FloatArray:
    if not _numeric(column) or np.isinf(column).any():
        found = "words" if not _numeric(column) else "infinite values"
        raise InputError(expected="finite numbers or NaN", found=found, where=f"{WHERE}: {name}", remedy="Correct the table.")
    return np.asarray(column, float)[:, None]


def _indicators(name: str, column: NDArray[Any], known: tuple[str, ...]) -> FloatArray:
    words = np.array(as_words(column), dtype=str)
    if new := sorted(set(words.tolist()) - {"", *known}):
        raise unknown_name(f"category of {name}", new[0], list(known), where=WHERE)
    out: FloatArray = (words[:, None] == np.array(known[1:], dtype=str)).astype(float).reshape(len(words), -1)
    out[words == ""] = np.nan
    return out
