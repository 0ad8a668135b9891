"""Mean, standard deviation and reference range of people, without those who have no value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema

FloatArray = NDArray[np.float64]
FEW = 3
"""Fewer people than this have no standard deviation to compare with."""
REFERENCE_RANGE = 1.96
"""Standard deviations around the mean that hold 95 % of a normal distribution."""


def mean_of(values: NDArray[Any]) -> FloatArray:
    """Take the mean over the first axis of what is not NaN; NaN without anything.

    Examples
    --------
    >>> mean_of(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [2.0, nan]
    """
    n = np.sum(~np.isnan(values), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: FloatArray = np.where(n > 0, np.nansum(values, axis=0, dtype=float) / n, np.nan)
    return out


def spread_of(values: NDArray[Any]) -> FloatArray:
    """Take the standard deviation over the first axis of what is not NaN; NaN with fewer than three.

    Examples
    --------
    >>> spread_of(np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 1.0]])).tolist()
    [1.0, nan]
    """
    n = np.sum(~np.isnan(values), axis=0)
    squares = np.nansum((values.astype(float) - mean_of(values)) ** 2, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: FloatArray = np.where(n >= FEW, np.sqrt(squares / (n - 1)), np.nan)
    return out


def reference_range(values: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Mean ± 1.96 SD over the first axis: what holds 95 % of these people if they are normally distributed; NaN with fewer than three.

    Examples
    --------
    >>> [end.tolist() for end in reference_range(np.array([[1.0], [2.0], [3.0]]))]
    [[0.040000000000000036], [3.96]]
    """
    middle, spread = mean_of(values), spread_of(values)
    return middle - REFERENCE_RANGE * spread, middle + REFERENCE_RANGE * spread


def healthy_word(words: Iterable[str]) -> str:
    """Return the first word that says that people are healthy; empty without.

    Examples
    --------
    >>> healthy_word(["DCM", "HC"]), healthy_word(["A", "B"])
    ('HC', '')
    """
    return next((word for word in words if word.casefold() in schema.HEALTHY), "")
