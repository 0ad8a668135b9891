"""How much the values of an image depend on its doubtful slices: the mixture is fitted again to what the others say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import runs
from cohort_engine.quality import vocabulary
from cohort_engine.reduce.estimators import estimator as find_estimator
from cohort_engine.reduce.estimators.base import Result
from cohort_engine.reduce.linear import FloatArray
from cohort_engine.reduce.sums import LevelSums
from cohort_engine.template.atlas import Naming

LEAST_VOXELS = 5.0
"""A region of fewer soft voxels in its level is not named: one voxel more or less is then much of it."""


@dataclass(frozen=True, eq=False)
class Dependence:
    """What the values of levels do without some slices.

    Attributes
    ----------
    level : (row,) int array
        Rows of the level axis that have doubtful slices.
    value, se, rest : (row, region) arrays
        ``map`` of the level with its standard error, and without its doubtful slices; NaN where nothing is left.
    n : (row, region) array
        Soft voxels of the level.
    """

    level: NDArray[np.intp]
    value: FloatArray
    se: FloatArray
    rest: FloatArray
    n: FloatArray

    @property
    def change(self) -> FloatArray:
        """Value without the slices minus value with them (row, region), in the unit of the metric; NaN for regions of less than `LEAST_VOXELS`."""
        return np.where(self.n >= LEAST_VOXELS, self.rest - self.value, np.nan)

    @property
    def largest(self) -> float:
        """Largest change in standard errors of the value; 0 where no slice is doubtful, NaN where nothing is left to compare with."""
        if not len(self.level):
            return 0.0
        relative = np.abs(self.change / self.se)
        return float(np.nanmax(relative)) if np.isfinite(relative).any() else float("nan")


def dependence(whole: LevelSums, doubtful: LevelSums, naming: Naming) -> Dependence:
    """Fit each level that has doubtful slices with them and without.

    Parameters
    ----------
    whole, doubtful : LevelSums
        (level, ...) of all slices, and of the doubtful ones.
    naming : Naming
        Of the atlas.
    """
    rows, found, rest = _with_and_without(whole, doubtful, naming, schema.MAP)
    members = [r.members for r in naming.regions]
    n = np.stack([whole.w[rows][:, list(m)].sum(axis=1) for m in members], axis=1) if len(rows) else np.zeros((0, len(members)))
    return Dependence(rows, found.value, found.se, rest.value, n)


def changes(whole: LevelSums, doubtful: LevelSums, naming: Naming, estimator: str) -> FloatArray:
    """Change of each value (level, region) without the doubtful slices of its level: 0 in levels without, NaN where nothing is left.

    Parameters as of `dependence`; `estimator` is one that is `summed`.
    """
    rows, found, rest = _with_and_without(whole, doubtful, naming, estimator)
    out = np.zeros((len(whole.count), len(naming.regions)))
    out[rows] = rest.value - found.value
    return out


def _with_and_without(whole: LevelSums, doubtful: LevelSums, naming: Naming, estimator: str) -> tuple[NDArray[np.intp], Result, Result]:
    """Rows of the level axis that have doubtful slices, and what an estimator says of each level's regions with these and without."""
    rows, kernel = np.flatnonzero(doubtful.count > 0), find_estimator(estimator)
    members, clusters = [r.members for r in naming.regions], tuple(naming.clusters.values())
    each, less = whole.at(rows[:, None]), doubtful.at(rows[:, None])
    return rows, kernel.of_sums(each, members, clusters), kernel.of_sums(each.without(less), members, clusters)


def told(found: Dependence, doubtful: Mapping[int, Sequence[str]], slices: Mapping[int, Sequence[int]], naming: Naming, levels: Sequence[str]) -> str:
    """Tell which slices of which levels are doubtful, why, and how much their values depend on them.

    Parameters
    ----------
    found : Dependence
    doubtful : mapping of slice to features
        As of `features.Findings.doubtful`.
    slices : mapping of row of the level axis to its doubtful slices
    naming : Naming
    levels : sequence of str
        Names along the level axis.
    """
    out = []
    for i, row in enumerate(found.level):
        why = dict.fromkeys(vocabulary.DOUBTS[key] for k in slices[int(row)] for key in doubtful[k])
        words = f"{levels[row]}: slices {runs(np.array(slices[int(row)]))} ({', '.join(why)})"
        change = found.change[i]
        if np.isfinite(change).any():
            relative = np.abs(change / found.se[i])
            most = int(np.nanargmax(np.where(np.isfinite(relative), relative, -1)))
            out.append(f"{words}, without which {naming.regions[most].name} goes from {found.value[i, most]:.1f} to {found.rest[i, most]:.1f}")
        else:
            out.append(f"{words}, without which nothing is left")
    return "; ".join(out)
