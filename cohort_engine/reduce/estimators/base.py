"""What an estimator is: one object with two forms, of packed maps and of one image's group of voxels.

`Estimator` has both forms to write; `CellEstimator` makes both from one function of the voxels of a cell. A whole new estimator is then::

    class Trimmed(CellEstimator):
        name = "trimmed"

        def describe(self):
            return "Trimmed mean: the mean without the tenth of the region's weight at either end."

        def of_cell(self, values, weights): ...


    schema.ESTIMATORS.add(Trimmed())
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce.linear import FloatArray, Members
from cohort_engine.reduce.maps import Maps, average_maps
from cohort_engine.reduce.moved import Moves
from cohort_engine.reduce.operator import HALF, Operator
from cohort_engine.reduce.sums import LevelSums

Cells = dict[str, NDArray[np.float32]]
"""Tables by what they hold: ``value`` and the companions of an estimator, each (subject, level, region)."""


class Result(NamedTuple):
    """What a group of voxels says about each region; arrays (region,), NaN where it says nothing.

    Attributes
    ----------
    value : array
        The estimate, in the unit of the metric.
    spread : array
        Standard deviation of the voxels about what the estimator says of them.
    se : array
        Standard error of the value.
    noise : array, optional
        What of it the standard errors of the voxels alone give; of a linear estimator, where those are known.
    """

    value: FloatArray
    spread: FloatArray
    se: FloatArray
    noise: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """The voxels of one group of slices that have a value.

    Attributes
    ----------
    values : (voxel,) float
    weights : (label, voxel) float
        Share of each label in the voxel, 0 to 1.
    target : (region, voxel) float
        Share of each region.
    regions, clusters : sequences of tuples of labels
    places : (voxel, 3) int, optional
        Index of each voxel in the image; without, voxels count as independent.
    volumes : (label,) float, optional
        How much there is of each label, any unit; without, its weight in the voxels.
    se : (voxel,) float, optional
        Standard error of each value.
    precision : (voxel,) float, optional
        How often each voxel counts, see `reduce.precision`.
    moves : Moves, optional
        How the labels may lie off in the image, see `reduce.moved`.
    """

    values: FloatArray
    weights: FloatArray
    target: FloatArray
    regions: Members
    clusters: Members
    places: NDArray[np.integer[Any]] | None = None
    volumes: FloatArray | None = None
    se: FloatArray | None = None
    precision: FloatArray | None = None
    moves: Moves | None = None


class Estimator(ABC):
    """Turns voxels into one number a region.

    Attributes
    ----------
    name : str
        SCT's name, and part of the names of its tables.
    companions : tuple of str
        Which of `schema.COMPANIONS` its tables have.
    bounded : bool
        Whether its values stay within those of the voxels, so that its tables have the range of the metric.
    references : tuple of str
        Keys of the works that a report cites for it.
    linear : bool
        Whether a value is a sum of voxels times coefficients that do not depend on them: it then has a ``noise`` where voxels have standard errors.
    summed : bool
        Whether what a store keeps of each level is enough for it: of an image (`reduce.sums`), so that its native cells of any levels and regions can
        be asked for, and of a map (`maps.Summed`), so that `of_maps` looks at no voxels.
    local : bool
        Whether its values of a region in template space depend on the voxels of that region alone.
    """

    name: ClassVar[str]
    companions: ClassVar[tuple[str, ...]] = (schema.STD, schema.N, schema.COVERAGE)
    bounded: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ("sct",)
    linear: ClassVar[bool] = False
    summed: ClassVar[bool] = False
    local: ClassVar[bool] = False

    @abstractmethod
    def describe(self) -> str:
        """One sentence for the Methods text of a report."""

    @abstractmethod
    def of_maps(self, operator: Operator, maps: Maps, *, min_coverage: float) -> Cells:
        """Reduce maps in template space.

        Parameters
        ----------
        operator : Operator
        maps : Maps
            Of some subjects, and their errors where the metric has any.
        min_coverage : float
            A cell with less of its weight inside the data is NaN, 0 to 1.

        Returns
        -------
        dict of (subject, level, region) float32 arrays
            ``value`` and the `companions`; ``noise`` of a linear one, where the maps have errors.
        """

    @abstractmethod
    def of_group(self, group: Group) -> Result:
        """Reduce the voxels of one image in a group of slices; a region without weight may be anything, it becomes NaN."""

    def of_sums(self, sums: LevelSums, regions: Members, clusters: Members) -> Result:
        """Estimate regions (..., region) over the levels of `sums`, all pooled; only of an estimator that is `summed`."""
        raise NotImplementedError(f"{self.name} needs the voxels")


class CellEstimator(Estimator):
    """An estimator that looks at the voxels of each region by themselves: both forms from `of_cell`.

    Attributes
    ----------
    halves : bool
        Whether the voxels are those that belong to the region by at least half, each of them wholly; else each that belongs to it at all counts by
        its share.
    """

    halves: ClassVar[bool] = False
    local = True

    @abstractmethod
    def of_cell(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        """Reduce the voxels of one cell.

        Parameters
        ----------
        values : (subject, voxel) float
            NaN where a subject has no value; every subject has at least one, and there is at least one voxel.
        weights : (voxel,) float
            Above 0.

        Returns
        -------
        (subject,) float
        """

    def of_maps(self, operator: Operator, maps: Maps, *, min_coverage: float) -> Cells:
        """See `Estimator.of_maps`. ``std`` is about the weighted average, ``n`` and coverage are of the voxels that count."""
        values, errors = maps.values, maps.errors
        operator = operator.binary if self.halves else operator
        cells = average_maps(operator, maps, min_coverage=min_coverage)
        value = cells[schema.VALUE]
        for level in range(len(operator.levels)):
            for region in range(len(operator.regions)):
                who = np.flatnonzero(~np.isnan(value[:, level, region]))
                if len(who):
                    voxels, weights = operator.cell(level, region)
                    if errors is None or errors.precision is None:
                        value[who, level, region] = self.of_cell(values[np.ix_(who, voxels)], weights)
                        continue
                    for one in who:
                        some = voxels[np.isfinite(values[one, voxels])]
                        counted = weights[np.isfinite(values[one, voxels])] * errors.precision[one, some]
                        value[one, level, region] = self.of_cell(values[None, one, some], counted)[0]
        return {key: cells[key] for key in (schema.VALUE, *self.companions)}

    def of_group(self, group: Group) -> Result:
        """See `Estimator.of_group`. The spread is about the value."""
        target = (group.target >= HALF).astype(float) if self.halves else group.target
        target = target if group.precision is None else target * group.precision
        value = absent(target)
        for i, weights in enumerate(target):
            some = weights > 0
            if some.any():
                value[i] = self.of_cell(group.values[None, some], weights[some])[0]
        spread = deviation(group.values, target, value) if schema.STD in self.companions else absent(target)
        return Result(value, spread, absent(target))


def average(y: FloatArray, target: FloatArray) -> FloatArray:
    """Weighted mean of values (voxel,) under each row of weights (region, voxel); NaN without weight.

    Examples
    --------
    >>> average(np.array([10.0, 40.0]), np.array([[1.0, 0.5], [0.0, 0.0]])).tolist()
    [20.0, nan]
    """
    n = target.sum(axis=1)
    return np.asarray(np.divide(target @ y, n, out=absent(target), where=n > 0))


def deviation(y: FloatArray, target: FloatArray, centre: FloatArray) -> FloatArray:
    """Weighted population standard deviation of values (voxel,) about `centre` (region,); NaN without weight.

    Examples
    --------
    >>> deviation(np.array([10.0, 40.0]), np.array([[1.0, 0.5], [0.0, 0.0]]), np.array([20.0, 20.0])).round(3).tolist()
    [14.142, nan]
    """
    n = target.sum(axis=1)
    square = (target * (y - centre[:, None]) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(np.divide(square, n, out=absent(target), where=n > 0), 0)))


def absent(target: FloatArray) -> FloatArray:
    """NaN for each region (region, voxel)."""
    return np.full(len(target), np.nan)
