"""Numbers, p values and names of features as readers see them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from cohort_engine.study.material import KEYS, label

NOTHING = "–"


def number(value: float, digits: int = 2) -> str:
    """Write a number with a true minus sign; missing is a dash.

    Examples
    --------
    >>> number(-1.2345), number(0.0001), number(float("nan")), number(float("inf"), 0)
    ('−1.23', '0.00', '–', '∞')
    """
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", "−")


def p_value(value: float) -> str:
    """Write a p value, three digits.

    Examples
    --------
    >>> p_value(0.04), p_value(1e-9), p_value(float("nan"))
    ('0.040', '<0.001', '–')
    """
    return NOTHING if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def equals(value: float) -> str:
    """Write a p value behind its letter.

    Examples
    --------
    >>> "p " + equals(0.04), "p " + equals(1e-9)
    ('p = 0.040', 'p < 0.001')
    """
    text = p_value(value)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def digits_of(values: Iterable[float]) -> int:
    """Decimals with which a column is written: three figures of its typical size, none for whole numbers, four at most.

    Examples
    --------
    >>> digits_of([41.234, 46.2]), digits_of([0.0123, 0.02]), digits_of([3.0, 12.0]), digits_of([1234.5])
    (1, 4, 0, 0)
    """
    known = np.array([v for v in values if math.isfinite(v)], float)
    if not known.size or not (known % 1).any():
        return 0
    size = float(np.median(np.abs(known[known != 0])))
    return int(np.clip(2 - math.floor(math.log10(size)), 0, 4))


def percent(value: float) -> str:
    """Write a share.

    Examples
    --------
    >>> percent(0.05), percent(0.999)
    ('5%', '99.9%')
    """
    return f"{100 * value:.3g}%"


def count(n: int, one: str, many: str) -> str:
    """Count things.

    Examples
    --------
    >>> count(1, "scan was", "scans were"), count(3, "scan was", "scans were")
    ('1 scan was', '3 scans were')
    """
    return f"{n} {one if n == 1 else many}"


def listed(names: Iterable[str], last: str = "and") -> str:
    """Join words as a sentence does.

    Examples
    --------
    >>> listed(["age"]), listed(["age", "sex", "site"])
    ('age', 'age, sex and site')
    """
    words = [str(n).replace("_", " ") for n in names]
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def features(table: pd.DataFrame) -> list[str]:
    """Name the feature of each row."""
    return [label(*map(str, row)) for row in table[list(KEYS)].itertuples(index=False)]
