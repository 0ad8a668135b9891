"""Largest value."""

from __future__ import annotations

import numpy as np

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import CellEstimator
from cohort_engine.reduce.linear import FloatArray


class Maximum(CellEstimator):
    """Largest value where ``w >= 0.5``: the voxels that belong to the region by at least half; ``n`` is of these voxels."""

    name = schema.MAX
    companions = (schema.N, schema.COVERAGE)
    halves = True

    def describe(self) -> str:
        return "Maximum over voxels that the atlas gives to the region by at least one half."

    def of_cell(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        return np.asarray(np.fmax.reduce(values, axis=1))


schema.ESTIMATORS.add(Maximum())
