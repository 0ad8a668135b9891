"""Estimators by their SCT name. Each is a small frozen object; adding one is adding an entry to `ESTIMATORS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import unknown_name
from cohort_engine.reduce.operator import Operator, weighted_average


class Estimator(Protocol):
    """Turns maps into table cells."""

    name: ClassVar[str]

    def describe(self) -> str:
        """One sentence for the Methods text of a report."""
        ...

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        """(subject, voxel) maps to ``value`` and the companions of ``schema.ESTIMATORS``, each (subject, level, region) float32."""
        ...


@dataclass(frozen=True)
class WeightedAverage:
    """Mean weighted by the share of each voxel that belongs to the region."""

    name: ClassVar[str] = schema.WA

    def describe(self) -> str:
        return "Weighted average: each voxel counts by the fraction of it that the atlas gives to the region."

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        return weighted_average(operator, values, min_coverage=min_coverage)


@dataclass(frozen=True)
class Binary:
    """Mean of the voxels that belong to the region by at least half; ``n`` and ``std`` are of these voxels."""

    name: ClassVar[str] = schema.BIN

    def describe(self) -> str:
        return "Binary mean: the mean over voxels that the atlas gives to the region by at least one half."

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        return weighted_average(operator.binary, values, min_coverage=min_coverage)


@dataclass(frozen=True)
class MaximumLikelihood:
    """Least squares of the atlas' mixture model: partial volume is taken apart."""

    name: ClassVar[str] = schema.ML

    def describe(self) -> str:
        return "Maximum likelihood: each voxel is a mixture of its labels' values, which are fitted together by least squares."

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        return operator.mixture.estimate(values, prior=False, min_coverage=min_coverage)


@dataclass(frozen=True)
class MaximumAPosteriori:
    """The mixture model with a pull towards the tissue's value: for small tracts."""

    name: ClassVar[str] = schema.MAP

    def describe(self) -> str:
        return (
            "Maximum a posteriori: the mixture model of maximum likelihood, each label drawn towards the value of its tissue "
            "(white matter, grey matter, CSF) with equal variances of noise and labels."
        )

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        return operator.mixture.estimate(values, prior=True, min_coverage=min_coverage)


@dataclass(frozen=True)
class Median:
    """Weighted median; ``std`` is about the weighted average."""

    name: ClassVar[str] = schema.MEDIAN

    def describe(self) -> str:
        return "Weighted median: half of the region's weight lies below the value."

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        return _of_cells(operator, weighted_average(operator, values, min_coverage=min_coverage), values, weighted_medians)


@dataclass(frozen=True)
class Maximum:
    """Largest value of the voxels that belong to the region by at least half; ``n`` is of these voxels."""

    name: ClassVar[str] = schema.MAX

    def describe(self) -> str:
        return "Maximum over voxels that the atlas gives to the region by at least one half."

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        out = weighted_average(operator.binary, values, min_coverage=min_coverage)
        del out[schema.STD]
        return _of_cells(operator.binary, out, values, lambda y, w: np.where(np.isnan(y), -np.inf, y).max(axis=1, initial=-np.inf))


Reduce = Callable[[NDArray[np.floating[Any]], NDArray[np.floating[Any]]], NDArray[np.floating[Any]]]


def _of_cells(
    operator: Operator, cells: dict[str, NDArray[np.float32]], values: NDArray[np.floating[Any]], reduce: Reduce
) -> dict[str, NDArray[np.float32]]:
    """Replace the value of each cell that has one by `reduce` of the cell's maps (subject, voxel) and weights (voxel,)."""
    value = cells[schema.VALUE]
    for level in range(len(operator.levels)):
        for region in range(len(operator.regions)):
            who = np.flatnonzero(~np.isnan(value[:, level, region]))
            if len(who):
                voxels, weights = operator.cell(level, region)
                value[who, level, region] = reduce(values[np.ix_(who, voxels)], weights)
    return cells


def weighted_medians(values: NDArray[np.floating[Any]], weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Weighted median of each row of values (subject, voxel), NaN voxels left out; the formula of `native.weighted_median`.

    Examples
    --------
    >>> weighted_medians(np.array([[10.0, 1.0, 2.0], [np.nan, 5.0, 7.0]]), np.array([1.0, 3.0, 0.5])).round(4).tolist()
    [1.4286, 5.2857]
    """
    order = np.argsort(values, axis=1)
    y = np.take_along_axis(values, order, axis=1).astype(np.float64)
    w = np.where(np.isnan(y), 0.0, weights[order])
    total = np.cumsum(w, axis=1)
    p = np.where(np.isnan(y), np.inf, (total - w / 2) / total[:, -1:])
    above = np.clip((p < 0.5).sum(axis=1), 1, np.maximum((~np.isnan(y)).sum(axis=1) - 1, 1)) if y.shape[1] > 1 else np.zeros(len(y), np.intp)
    rows = np.arange(len(y))
    below = np.maximum(above - 1, 0)
    low, high, p0, p1 = y[rows, below], y[rows, above], p[rows, below], p[rows, above]
    alone = ~np.isfinite(p1) | (p1 <= p0)
    share = np.clip(np.divide(0.5 - p0, p1 - p0, out=np.zeros(len(y)), where=~alone), 0, 1)
    return np.where(share > 0, low + share * (np.where(alone, low, high) - low), low)


ESTIMATORS: Mapping[str, Estimator] = {
    e.name: e for e in (WeightedAverage(), Binary(), Median(), MaximumLikelihood(), MaximumAPosteriori(), Maximum())
}


def estimator(name: str, *, where: str = "estimator") -> Estimator:
    """Look an estimator up by its SCT name.

    Examples
    --------
    >>> estimator("wa").describe()
    'Weighted average: each voxel counts by the fraction of it that the atlas gives to the region.'
    """
    if name not in ESTIMATORS:
        raise unknown_name("estimator", name, list(ESTIMATORS), where=where)
    return ESTIMATORS[name]
