"""Averages: ``wa`` and ``bin``."""

from __future__ import annotations

import numpy as np

from cohort_engine import schema
from cohort_engine.reduce.estimators.base import Cells, Estimator, Group, Result, absent, average, deviation
from cohort_engine.reduce.linear import FloatArray, Members, indicator
from cohort_engine.reduce.maps import Maps, Summed, average_maps
from cohort_engine.reduce.operator import HALF, Operator
from cohort_engine.reduce.precision import noise_of
from cohort_engine.reduce.sums import LevelSums


class WeightedAverage(Estimator):
    """Mean weighted by the share of each voxel that belongs to the region: ``sum w y / sum w``."""

    name = schema.WA
    linear = True
    local = True
    summed = True

    def describe(self) -> str:
        return "Weighted average: each voxel counts by the fraction of it that the atlas gives to the region."

    def of_maps(self, operator: Operator, maps: Summed, *, min_coverage: float) -> Cells:
        return average_maps(operator, maps, min_coverage=min_coverage)

    def of_group(self, group: Group) -> Result:
        return _about_the_mean(group, group.target)

    def of_sums(self, sums: LevelSums, regions: Members, clusters: Members) -> Result:
        join = indicator(regions, sums.w.shape[-1])
        n, wy, wyy = ((a @ join).sum(axis=-2) for a in (sums.w, sums.wy, sums.wyy))
        mean, square = (np.divide(a, n, out=np.full_like(n, np.nan), where=n > 0) for a in (wy, wyy))
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        if sums.errors is None:
            return Result(mean, spread, np.full_like(n, np.nan))
        share = np.divide(join.T, n[..., None], out=np.zeros((*n.shape, len(join))), where=n[..., None] > 0)
        noise = noise_of(share, sums.errors.sum(axis=-3))
        return Result(mean, spread, np.full_like(n, np.nan), np.where(n > 0, noise, np.nan))


class Binary(Estimator):
    """Mean where ``w >= 0.5``: the voxels that belong to the region by at least half; ``n`` and ``std`` are of these voxels."""

    name = schema.BIN
    linear = True
    local = True

    def describe(self) -> str:
        return "Binary mean: the mean over voxels that the atlas gives to the region by at least one half."

    def of_maps(self, operator: Operator, maps: Maps, *, min_coverage: float) -> Cells:
        return average_maps(operator.binary, maps, min_coverage=min_coverage)

    def of_group(self, group: Group) -> Result:
        return _about_the_mean(group, (group.target >= HALF).astype(np.float64))


def _about_the_mean(group: Group, target: FloatArray) -> Result:
    target = target if group.precision is None else target * group.precision
    mean = average(group.values, target)
    noise = None if group.se is None else np.sqrt(average(group.se**2, target**2) * (target**2).sum(axis=1)) / target.sum(axis=1)
    return Result(mean, deviation(group.values, target, mean), absent(target), noise)


schema.ESTIMATORS.add(WeightedAverage())
schema.ESTIMATORS.add(Binary())
