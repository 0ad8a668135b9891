"""Estimators by their SCT name. Each is a small frozen object; adding one is adding an entry to `ESTIMATORS`."""

from __future__ import annotations

from collections.abc import Mapping
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
        """(subject, voxel) maps to ``value``, ``std``, ``n`` and ``coverage``, each (subject, level, region) float32."""
        ...


@dataclass(frozen=True)
class WeightedAverage:
    """Mean weighted by the share of each voxel that belongs to the region."""

    name: ClassVar[str] = schema.WA

    def describe(self) -> str:
        return "Weighted average: each voxel counts by the fraction of it that the atlas gives to the region."

    def estimate(self, operator: Operator, values: NDArray[np.floating[Any]], *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
        return weighted_average(operator, values, min_coverage=min_coverage)


ESTIMATORS: Mapping[str, Estimator] = {e.name: e for e in (WeightedAverage(),)}


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
