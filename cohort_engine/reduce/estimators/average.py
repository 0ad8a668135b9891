"""Averages: ``wa`` and ``bin``."""

from __future__ import annotations

import numpy as np

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import Cells, Estimator, Group, Result, absent, average, deviation
from cohort_engine.reduce.linear import FloatArray, Members, indicator
from cohort_engine.reduce.operator import HALF, Operator, weighted_average
from cohort_engine.reduce.sums import LevelSums


class WeightedAverage(Estimator):
    """Mean weighted by the share of each voxel that belongs to the region: ``sum w y / sum w``."""

    name = schema.WA
    summed = True

    def describe(self) -> str:
        return "Weighted average: each voxel counts by the fraction of it that the atlas gives to the region."

    def of_maps(self, operator: Operator, values: FloatArray, *, min_coverage: float) -> Cells:
        return weighted_average(operator, values, min_coverage=min_coverage)

    def of_group(self, group: Group) -> Result:
        return _about_the_mean(group.values, group.target)

    def of_sums(self, sums: LevelSums, regions: Members, clusters: Members) -> Result:
        join = indicator(regions, sums.w.shape[-1])
        n, wy, wyy = ((a @ join).sum(axis=-2) for a in (sums.w, sums.wy, sums.wyy))
        mean, square = (np.divide(a, n, out=np.full_like(n, np.nan), where=n > 0) for a in (wy, wyy))
        return Result(mean, np.sqrt(np.maximum(square - mean**2, 0)), np.full_like(n, np.nan))


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
