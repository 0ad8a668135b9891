"""Averages: ``wa`` and ``bin``."""

from __future__ import annotations

import numpy as np

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import Cells, Estimator, Group, Result, absent, average, deviation
from cohort_engine.reduce.linear import FloatArray
from cohort_engine.reduce.operator import HALF, Operator, weighted_average


class WeightedAverage(Estimator):
    """Mean weighted by the share of each voxel that belongs to the region: ``sum w y / sum w``."""

    name = schema.WA

    def describe(self) -> str:
        return "Weighted average: each voxel counts by the fraction of it that the atlas gives to the region."

    def of_maps(self, operator: Operator, values: FloatArray, *, min_coverage: float) -> Cells:
        return weighted_average(operator, values, min_coverage=min_coverage)

    def of_group(self, group: Group) -> Result:
        return _about_the_mean(group.values, group.target)


class Binary(Estimator):
    """Mean where ``w >= 0.5``: the voxels that belong to the region by at least half; ``n`` and ``std`` are of these voxels."""

    name = schema.BIN

    def describe(self) -> str:
        return "Binary mean: the mean over voxels that the atlas gives to the region by at least one half."

    def of_maps(self, operator: Operator, values: FloatArray, *, min_coverage: float) -> Cells:
        return weighted_average(operator.binary, values, min_coverage=min_coverage)

    def of_group(self, group: Group) -> Result:
        return _about_the_mean(group.values, (group.target >= HALF).astype(np.float64))


def _about_the_mean(values: FloatArray, target: FloatArray) -> Result:
    mean = average(values, target)
    return Result(mean, deviation(values, target, mean), absent(target))


schema.ESTIMATORS.add(WeightedAverage())
schema.ESTIMATORS.add(Binary())
