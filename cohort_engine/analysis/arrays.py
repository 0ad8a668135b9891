"""What all statistics of this package share: checked tables, groups, ranks, resampling weights, and the basis of covariates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cohort_engine.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

COLLINEAR = 1e-10
"""Share of a column's sum of squares that others must leave for it to count as a column of its own."""
ROUNDING = 1e-24
"""Square of what rounding leaves of numbers near one."""
MAX_MISSING = 0.5
"""A test is not computed where more than this share of the subjects is missing."""


def numbers(values: ArrayLike, *, where: str) -> FloatArray:
    """Copy to float64; infinite values become NaN, and text is refused.

    Examples
    --------
    >>> numbers([1, np.inf, False], where="values").tolist()
    [1.0, nan, 0.0]
    """
    try:
        out = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(expected="numbers", found="something else", where=where, remedy="Code text as numbers; NaN is missing.") from None
    out[~np.isfinite(out)] = np.nan
    return out


def table(values: ArrayLike, *, where: str) -> FloatArray:
    """Check a table (subject, test), see `numbers`.

    Examples
    --------
    >>> table([[1, np.inf]], where="values").tolist()
    [[1.0, nan]]
    """
    out = numbers(values, where=where)
    if out.ndim != 2:
        raise InputError(expected="a table (subject, test)", found=f"shape {out.shape}", where=where, remedy="Reshape with values.reshape(n, -1).")
    return out


def same_rows(expected: int, found: int, *, where: str) -> None:
    """Refuse arrays that do not describe the same subjects."""
    if expected != found:
        raise InputError(
            expected=f"{expected} subjects as in the values", found=f"{found}", where=where, remedy="Give one row a subject, in the same order."
        )


def two_groups(group: ArrayLike, subjects: int, *, where: str) -> BoolArray:
    """Return who is in group 0 and who in group 1, (2, subject); NaN is in neither.

    Raises
    ------
    InputError
        Other values than 0, 1 and NaN, another number of subjects, or a group without members: then nothing can be compared at all.

    Examples
    --------
    >>> two_groups([1, 0, np.nan], 3, where="group").astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    code = numbers(group, where=where)
    if code.ndim != 1 or not np.isin(code[~np.isnan(code)], (0, 1)).all():
        raise InputError(
            expected="one value a subject: 0, 1 or NaN", found=f"shape {code.shape}, values {_few(code)}", where=where,
            remedy="Code the reference group as 0 and the other as 1.",
        )  # fmt: skip
    same_rows(subjects, len(code), where=where)
    out = np.stack([code == 0, code == 1])
    if not out.any(axis=1).all():
        raise InputError(
            expected="subjects in both groups", found=f"{out[0].sum()} in group 0, {out[1].sum()} in group 1", where=where,
            remedy="Choose two groups that both have members.",
        )  # fmt: skip
    return out


def tally(values: FloatArray, groups: BoolArray) -> IntArray:
    """How many members of each group have a value, (2, test), of values (subject, test) and groups (2, subject).

    Examples
    --------
    >>> tally(np.array([[1.0], [np.nan], [2.0]]), np.array([[True, True, False], [False, False, True]])).tolist()
    [[1], [1]]
    """
    out: IntArray = np.stack([(~np.isnan(values[g])).sum(axis=0) for g in groups])
    return out


def enough(groups: BoolArray, n: IntArray, max_missing: float) -> BoolArray:
    """Which tests (test,) have at most the share `max_missing` of either group missing, given the counts (2, test)."""
    size = groups.sum(axis=1)[:, None]
    out: BoolArray = ((size - n <= max_missing * size) & (n > 0)).all(axis=0)
    return out


def _few(values: FloatArray) -> str:
    found = np.unique(values)
    return ", ".join(f"{v:g}" for v in found[:5]) + (" ..." if len(found) > 5 else "")


def ranks(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Midranks down the columns of (subject, test), and how many values share each rank; NaN has neither.

    Examples
    --------
    >>> ranks(np.array([[2.0], [np.nan], [1.0], [2.0]]))[0].ravel().tolist()
    [2.5, nan, 1.0, 2.5]
    """
    missing = np.isnan(values)
    order = np.argsort(values, axis=0)  # NaN last
    ordered = np.take_along_axis(values, order, axis=0)
    place = np.arange(len(values))[:, None]
    new = np.append(np.ones((1, values.shape[1]), bool), ordered[1:] != ordered[:-1], axis=0)[: len(values)]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=0)
    ends = np.append(new[1:], np.ones((1, values.shape[1]), bool), axis=0)[: len(values)]
    last = np.minimum.accumulate(np.where(ends, place, len(values))[::-1], axis=0)[::-1]
    rank, ties = np.empty((2, *values.shape))
    np.put_along_axis(rank, order, (first + last) / 2 + 1, axis=0)
    np.put_along_axis(ties, order, last - first + 1.0, axis=0)
    return np.where(missing, np.nan, rank), np.where(missing, np.nan, ties)


def varies(values: FloatArray) -> BoolArray:
    """Say which columns of (subject, test) hold two different values; NaN does not count.

    Examples
    --------
    >>> varies(np.array([[0.1, 1.0], [np.nan, 2.0], [0.1, 3.0]])).tolist()
    [False, True]
    """
    missing = np.isnan(values)
    out: BoolArray = np.where(missing, -np.inf, values).max(axis=0, initial=-np.inf) > np.where(missing, np.inf, values).min(axis=0, initial=np.inf)
    return out


def resampling(strata: BoolArray, resamples: int, seed: int) -> FloatArray:
    """How often each subject is drawn, (resample, subject): with replacement, within each stratum (stratum, subject).

    A sum over a resample is then a product with these weights, for all tests at once.

    Examples
    --------
    >>> weights = resampling(np.array([[True, True, False], [False, False, True]]), 100, seed=1)
    >>> weights[:, :2].sum(axis=1).tolist() == [2.0] * 100, float(weights[:, 2].min())
    (True, 1.0)
    """
    rng = np.random.default_rng(seed)
    out = np.zeros((resamples, strata.shape[1]))
    for members in strata:
        n = int(members.sum())
        if n:
            out[:, members] = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return out


def percentiles(draws: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Percentile interval over the first axis; resamples without a value are left out, and NaN where fewer than half have one.

    Examples
    --------
    >>> [round(float(v), 2) for v in percentiles(np.linspace(0, 1, 101), 0.9)]
    [0.05, 0.95]
    """
    count = np.isfinite(draws).sum(axis=0)
    enough = 2 * count >= max(len(draws), 1)
    safe = np.where(enough & ~np.isfinite(draws), np.nan, np.where(enough, draws, 0.0))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    both = np.nanquantile(safe, tails, axis=0) if np.isnan(safe).any() else np.quantile(safe, tails, axis=0)
    low, high = np.where(enough, both, np.nan)
    return low, high


def basis(covariates: ArrayLike | None, subjects: int, *, where: str) -> tuple[FloatArray, BoolArray]:
    """Orthonormal columns (subject, rank) that span a constant and the covariates, and which subjects have them all.

    Columns that follow from others (every site of a study beside the constant) drop out. Rows with a missing covariate are zero.

    Parameters
    ----------
    covariates : (subject, covariate) or None
        Numbers; text such as site or sex comes as 0/1 columns.
    subjects : int

    Examples
    --------
    >>> basis([[1, 0], [0, 1], [0, 1], [np.nan, 1]], 4, where="covariates")[0].shape
    (4, 2)
    """
    given = np.zeros((subjects, 0)) if covariates is None else table(covariates, where=where)
    same_rows(subjects, len(given), where=where)
    complete = np.asarray(~np.isnan(given).any(axis=1))
    out = complete[:, None] / np.sqrt(max(complete.sum(), 1))
    for column in np.where(complete[:, None], given, 0.0).T:
        rest = column
        for _ in range(2):  # the second time removes what rounding left
            rest = rest - out @ (out.T @ rest)
        if rest @ rest > COLLINEAR * (column @ column):
            out = np.column_stack([out, rest / np.sqrt(rest @ rest)])
    return out, complete


def share(a: Any, b: Any) -> FloatArray:
    """Divide; NaN where b is not positive.

    Examples
    --------
    >>> share(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    out: FloatArray = np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
    return out
