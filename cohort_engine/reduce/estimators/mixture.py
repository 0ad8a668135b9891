"""The atlas' mixture model: ``ml`` and ``map``.

For a cohort, the sums that `linear` needs are the parts of a tract operator whose labels are all of the atlas. The products of labels are fixed
numbers of (atlas, level) as long as no voxel is missing: their solution is then one small matrix for all subjects. Where voxels are missing, the
products are summed over the valid ones and solved for that subject.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import scipy
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce import linear
from cohort_engine.reduce.estimators.base import Cells, Estimator, Group, Result
from cohort_engine.reduce.linear import FloatArray, Members, Moments
from cohort_engine.reduce.maps import Pairs, Summed, labels_within, operator_of, summarise
from cohort_engine.reduce.operator import Operator, membership
from cohort_engine.reduce.precision import noise_of
from cohort_engine.reduce.sums import LevelSums, combine


class MixtureEstimator(Estimator):
    """`linear.coefficients` and `linear.standard_error`.

    Least squares is not bounded by the data: where few voxels tell labels apart, the values may leave the range of the metric. The noise of a region
    in one image is the residuals' variance weighted by the region, so that noisy surroundings do not count.
    """

    companions = (schema.STD, schema.SE, schema.N, schema.COVERAGE)
    bounded = False
    linear = True
    summed = True
    references = ("levy", "sct")
    prior: ClassVar[bool]
    """Whether each label is pulled towards its tissue."""

    def of_maps(self, operator: Operator, maps: Summed, *, min_coverage: float) -> Cells:
        return operator.once(Mixture.of).estimate(maps, prior=self.prior, min_coverage=min_coverage)

    def of_group(self, group: Group) -> Result:
        here = np.zeros(group.values.shape, np.int64)
        volumes = group.weights.sum(axis=1) if group.volumes is None else group.volumes
        sums = LevelSums.of(
            group.values, group.weights, here, np.stack([volumes] * 2)[:, None], [0], group.clusters, places=group.places, prior=self.prior,
            se=group.se, precision=group.precision, moves=group.moves,
        )  # fmt: skip
        return self.of_sums(sums, group.regions, group.clusters)

    def of_sums(self, sums: LevelSums, regions: Members, clusters: Members) -> Result:
        return Result(*combine(sums, regions, clusters, prior=self.prior))


class MaximumLikelihood(MixtureEstimator):
    """Least squares: partial volume is taken apart."""

    name = schema.ML
    prior = False

    def describe(self) -> str:
        return "Maximum likelihood: each voxel is a mixture of its labels' values, which are fitted together by least squares."


class MaximumAPosteriori(MixtureEstimator):
    """The mixture with a pull towards the tissue's value: for small tracts."""

    name = schema.MAP
    prior = True

    def describe(self) -> str:
        return (
            "Maximum a posteriori: the mixture model of maximum likelihood, each label drawn towards the value of its tissue "
            "(white matter, grey matter, CSF) with equal variances of noise and labels."
        )


@dataclass(frozen=True, eq=False)
class Mixture:
    """What the mixture model of an operator's atlas needs of the voxels, level range by level range. Make it with `Mixture.of`.

    Attributes
    ----------
    regions, clusters : sequences of tuples of labels
    levels : (level range, level) CSR of ones
        Which levels of the operator make a range.
    labels : Operator
        Its parts are of all labels of the atlas.
    pairs : Pairs
        Products of these labels.
    """

    regions: Members
    clusters: Members
    levels: scipy.sparse.csr_array
    labels: Operator
    pairs: Pairs
    _solved: dict[tuple[int, bool], linear.Solution] = field(default_factory=dict)

    @classmethod
    def of(cls, operator: Operator) -> Mixture:
        """Take the atlas, levels and regions of a tract operator."""
        atlas = operator.atlas
        labels = operator if operator.shape[1] == len(atlas.labels) else operator_of(labels_within(operator), operator)
        levels = membership([r.numbers for r in operator.levels], operator.numbers)
        return cls([r.members for r in operator.regions], tuple(atlas.clusters.values()), levels, labels, operator.once(Pairs.of))

    @cached_property
    def gram(self) -> FloatArray:
        """Products of labels over all voxels: (level range, label, label)."""
        return self.pairs.square(self.pairs.operator.total)

    def _ranges(self, parts: FloatArray) -> FloatArray:
        """Put levels (level, ...) together to level ranges (level range, ...)."""
        return np.asarray((self.levels @ parts.reshape(len(parts), -1)).reshape(-1, *parts.shape[1:]))

    def _by_subject(self, sums: FloatArray) -> FloatArray:
        """(3, level, label, subject) to (3, subject, level range, label)."""
        return np.stack([np.moveaxis(self._ranges(kind), -1, 0) for kind in sums])

    def _solution(self, level: int, prior: bool) -> linear.Solution:
        """Solution for complete subjects: kept, since it depends on the atlas alone."""
        if (level, prior) not in self._solved:
            self._solved[level, prior] = linear.solve(self.gram[level], self.regions, self.clusters, prior=prior)
        return self._solved[level, prior]

    def estimate(self, maps: Summed, *, prior: bool, min_coverage: float) -> Cells:
        """Estimate each region of each subject.

        Parameters
        ----------
        maps : Maps or Kept
            Where voxels do not all count the same, the fit is that of weighted least squares.
        prior : bool
            ``map`` rather than ``ml``.
        min_coverage : float
            As in `weighted_average`.

        Returns
        -------
        dict with float32 arrays (subject, level, region)
            ``value``, ``std`` (about the weighted average), ``se``, ``n``, ``coverage``; of maps with errors also ``noise``. Missing: as
            in `weighted_average`, and where the valid voxels do not determine a region.

        Formula
            `linear.fit` and `linear.standard_error`, a voxel's variance being that of all residuals of the level.
        """
        parts, total = maps.parts(self.labels), self._ranges(self.labels.part_total)
        join = linear.indicator(self.regions, self.gram.shape[-1])
        weighed = maps.counted(self.labels)
        sums = self._by_subject(parts.sums)
        counted = sums if maps.alike else self._by_subject(weighed.sums)
        out = summarise(sums @ join, total @ join, min_coverage=min_coverage, counted=counted @ join)
        value, error, noise = np.full((3, *out[schema.VALUE].shape), np.nan)
        count, square = (self._ranges(a).T for a in (parts.count, weighed.square))
        complete = (count == self._ranges(self.labels.count)) & maps.alike
        holes = np.flatnonzero(((count > 0) & ~complete).any(axis=1))
        squares = maps.products(self.pairs, holes) if len(holes) else np.empty((0, len(total), len(self.pairs.rows)))
        scatter = None if maps.shared is None else maps.scatter(self.pairs)
        for level in range(len(total)):
            whole = np.flatnonzero(complete[:, level] & (count[:, level] > 0))
            part = np.flatnonzero(~complete[holes, level] & (count[holes, level] > 0))
            some: list[tuple[NDArray[np.intp], FloatArray, FloatArray, linear.Solution | None]] = []
            some += [(whole, total[level], self.gram[level], self._solution(level, prior))] if len(whole) else []
            some += [(holes[part], counted[2, holes[part], level], self.pairs.square(squares[part, level]), None)] if len(part) else []
            for who, w, gram, solution in some:
                wy, wyy, _ = counted[:, who, level]
                moments = Moments(w, wy, wyy, gram, square[who, level], count[who, level])
                fitted = linear.fit(moments, self.regions, self.clusters, prior=prior, solution=solution)
                value[who, level] = fitted.value
                error[who, level] = linear.standard_error(moments, fitted, self.regions, fitted.noise[..., None])
                if scatter is not None and maps.shared is not None:
                    shared = self.pairs.square(scatter[who, level]) * maps.shared[who, None, None]
                    noise[who, level] = noise_of(fitted.coefficients, shared)
        keep = np.isfinite(out[schema.VALUE])
        out[schema.VALUE] = np.where(keep, value, np.nan).astype(np.float32)
        out[schema.SE] = np.where(keep, error, np.nan).astype(np.float32)
        return out if scatter is None else out | {schema.NOISE: np.where(keep, noise, np.nan).astype(np.float32)}


schema.ESTIMATORS.add(MaximumLikelihood())
schema.ESTIMATORS.add(MaximumAPosteriori())
