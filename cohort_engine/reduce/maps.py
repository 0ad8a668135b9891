"""What estimators are given of subjects: their maps (`Maps`), or the sums of these that were kept when the maps were made (`Kept`).

Plain arrays in, plain arrays out. Linear estimators need a few hundred numbers of each level: sums of the voxels under each label, and products of
labels. `Maps` sums the voxels; `Kept` has the sums, so that a cohort is reduced without a look at its voxels. Both say the same, to the bit but for
the noise that standard errors of voxels give, which is summed in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.reduce.operator import FloatArray, Operator, Parts, membership
from cohort_engine.reduce.precision import Errors
from cohort_engine.template.atlas import Atlas, Region


@dataclass(frozen=True, eq=False)
class Pairs:
    """Products of the labels of an operator's atlas. Make it with `Pairs.of`.

    Attributes
    ----------
    operator : Operator
        Its regions are the products that occur.
    rows, columns : (pair,) int arrays
        Which labels each multiplies.
    labels : int
        Labels of the atlas.
    """

    operator: Operator
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    labels: int

    @classmethod
    def of(cls, operator: Operator) -> Pairs:
        """Multiply the labels of an operator's atlas in the voxels of its levels."""
        weights = scipy.sparse.csc_array(labels_within(operator))
        weights.sort_indices()
        labels, label, value = weights.shape[0], weights.indices, weights.data
        voxel = np.repeat(np.arange(weights.shape[1]), np.diff(weights.indptr))
        beside = [np.flatnonzero(voxel[k:] == voxel[: len(voxel) - k]) for k in range(int(np.diff(weights.indptr).max(initial=1)))]
        first, second = np.concatenate(beside), np.concatenate([at + k for k, at in enumerate(beside)])
        kinds = np.concatenate([label[first] * labels + label[second], np.arange(labels) * (labels + 1)])
        there, kind = np.unique(kinds, return_inverse=True)
        shape = len(there), weights.shape[1]
        products = scipy.sparse.csr_array((value[first] * value[second], (kind[: len(first)], voxel[first])), shape=shape)
        return cls(operator_of(products, operator), *np.divmod(there, labels), labels)

    def square(self, pairs: FloatArray) -> FloatArray:
        """Lay pairs (..., pair) out as symmetric matrices (..., label, label)."""
        out = np.zeros((*pairs.shape[:-1], self.labels, self.labels))
        out[..., self.rows, self.columns] = pairs
        out[..., self.columns, self.rows] = pairs
        return out

    @cached_property
    def packed(self) -> NDArray[np.intp]:
        """Place of each pair in the upper triangle of labels by labels."""
        return self.rows * self.labels - self.rows * (self.rows - 1) // 2 + self.columns - self.rows


def labels_within(operator: Operator) -> scipy.sparse.csr_array:
    """Weights (label, voxel) float64 of all labels of an operator's atlas, in the voxels of its levels alone."""
    weights = scipy.sparse.csr_array(operator.atlas.weights.astype(np.float64))
    here = np.isin(operator.voxel_level, operator.numbers)
    weights = scipy.sparse.csr_array(weights @ scipy.sparse.diags_array(here.astype(np.float64)))
    weights.eliminate_zeros()
    return weights


def operator_of(weights: scipy.sparse.csr_array, like: Operator) -> Operator:
    """Tract operator of other rows on the same voxels and levels."""
    names = tuple(str(i) for i in range(weights.shape[0]))
    atlas = Atlas(names, {}, {}, scipy.sparse.csr_array(weights))
    return Operator.build(atlas, like.voxel_level, like.levels, tuple(Region(n, (i,)) for i, n in enumerate(names)))


class Summed(Protocol):
    """What linear estimators ask of maps: `Maps`, or `Kept`."""

    @property
    def shared(self) -> FloatArray | None:
        """Voxels (subject,) that share one voxel of the image, of a metric whose voxels have standard errors."""

    @property
    def alike(self) -> bool:
        """Whether all voxels of a map count the same."""

    def parts(self, operator: Operator) -> Parts:
        """Sum each level and label, see `Operator.parts`."""

    def counted(self, operator: Operator) -> Parts:
        """Sum likewise, each voxel as often as it counts."""

    def products(self, pairs: Pairs, who: NDArray[np.intp]) -> FloatArray:
        """Sum the products of labels (who, level range, pair) over the voxels that have a value, of some subjects."""

    def scatter(self, pairs: Pairs) -> FloatArray:
        """Sum the products of labels (subject, level range, pair) times the squared standard errors of the voxels."""

    def variance(self, operator: Operator) -> FloatArray:
        """Sum the squared weights (subject, level range, region) times the squared standard errors of the voxels."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of some subjects, as estimators take them: what several need of the voxels is summed once. Methods as of `Summed`.

    Attributes
    ----------
    values : (subject, voxel) float
        NaN where a subject has no value.
    errors : Errors, optional
        Of a metric whose voxels have standard errors.
    """

    values: FloatArray
    errors: Errors | None = None
    _parts: dict[Operator, Parts] = field(default_factory=dict)

    @property
    def shared(self) -> FloatArray | None:
        return None if self.errors is None else np.asarray(self.errors.shared, float)

    @property
    def alike(self) -> bool:
        return self.errors is None or self.errors.precision is None

    @cached_property
    def counts(self) -> FloatArray:
        """How often each voxel (subject, voxel) counts; NaN where there is no value."""
        return np.where(np.isnan(self.values), np.nan, 1.0 if self.errors is None or self.errors.precision is None else self.errors.precision)

    @property
    def _errors(self) -> FloatArray:
        assert self.errors is not None
        return np.asarray((self.counts * self.errors.se) ** 2)

    def parts(self, operator: Operator) -> Parts:
        if operator not in self._parts:
            self._parts[operator] = operator.parts(self.values)
        return self._parts[operator]

    def counted(self, operator: Operator) -> Parts:
        if self.alike:
            return self.parts(operator)
        q = self.counts
        mean, square, weight = (operator.parts(part) for part in (q * self.values, np.sqrt(q) * self.values, q))
        return Parts(np.stack([mean.sums[0], square.sums[1], weight.sums[0]]), square.square, weight.count)

    def products(self, pairs: Pairs, who: NDArray[np.intp]) -> FloatArray:
        return pairs.operator.valid_weight(self.values[who]) if self.alike else pairs.operator.sums(self.counts[who])[0]

    def scatter(self, pairs: Pairs) -> FloatArray:
        return np.asarray(pairs.operator.sums(self._errors)[0])

    def variance(self, operator: Operator) -> FloatArray:
        return np.asarray(operator.squared.sums(self._errors)[0])


@dataclass(frozen=True, eq=False)
class Kept:
    """Sums of maps over each level and label of their template, as a store keeps them beside the maps. Methods as of `Summed`.

    Attributes
    ----------
    numbers : tuple of int
        Level of each place along the level axis.
    w, wy, wyy : (subject, level, label) float64
        Sums of the weights, and of these times the values and their squares, over the voxels that have a value.
    yy, count : (subject, level) float64
        Sum of the squares, and number, of the voxels that have a value and that any label touches.
    gram : (subject, level, pair) float64
        Products of labels over the voxels that have a value: the upper triangle.
    errors : (subject, level, pair) float64, optional
        The same, times the squared standard errors of the voxels.
    shared : (subject,) float, optional
        See `Errors`; of a metric that has `errors`.
    """

    numbers: tuple[int, ...]
    w: FloatArray
    wy: FloatArray
    wyy: FloatArray
    yy: FloatArray
    count: FloatArray
    gram: FloatArray
    errors: FloatArray | None = None
    shared: FloatArray | None = None
    alike = True

    @classmethod
    def of(cls, operator: Operator, maps: Maps) -> Kept:
        """Sum maps.

        Parameters
        ----------
        operator : Operator
            Of all levels, one by one, and all labels: `template_operator`.
        maps : Maps
            Of which all voxels count the same.

        Examples
        --------
        >>> from cohort_engine.template.levels import LevelRange
        >>> atlas = Atlas(("a", "b"), {}, {}, scipy.sparse.csr_array(np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])))
        >>> op = Operator.build(atlas, np.array([2, 2, 2]), [LevelRange.parse("C2")], atlas.regions)
        >>> kept = Kept.of(op, Maps(np.array([[40.0, 20.0, np.nan]])))
        >>> kept.wy.tolist(), kept.gram.tolist(), kept.pack().shape
        ([[[50.0, 10.0]]], [[[1.25, 0.25, 0.25]]], (1, 1, 11))
        """
        assert maps.alike
        pairs, parts = operator.once(Pairs.of), maps.parts(operator)
        wy, wyy, w = np.moveaxis(parts.sums, -1, 1)

        def triangle(some: FloatArray) -> FloatArray:
            out = np.zeros((*some.shape[:2], pairs.labels * (pairs.labels + 1) // 2))
            out[..., pairs.packed] = some
            return out

        gram = triangle(maps.products(pairs, np.arange(len(maps.values))))
        errors = None if maps.errors is None else triangle(maps.scatter(pairs))
        return cls(operator.numbers, w, wy, wyy, parts.square.T, parts.count.T, gram, errors, maps.shared)

    # --- as a store holds them ---
    def pack(self) -> FloatArray:
        """Lay them out as a store holds them: (subject, level, part)."""
        return np.concatenate([self.w, self.wy, self.wyy, self.yy[..., None], self.count[..., None], self.gram], axis=-1)

    @classmethod
    def unpack(
        cls, packed: FloatArray, numbers: Sequence[int], labels: int, errors: FloatArray | None = None, shared: FloatArray | None = None
    ) -> Kept:  # fmt: skip
        """Read what `pack` gave of the levels `numbers`, and the `errors` beside it."""
        w, wy, wyy, yy, count, gram = np.split(packed, np.cumsum([labels, labels, labels, 1, 1]), axis=-1)
        return cls(tuple(numbers), w, wy, wyy, yy[..., 0], count[..., 0], gram, errors, shared)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whose sums (subject,) were kept."""
        return np.asarray(np.isfinite(self.count).all(axis=1))

    def of_rows(self, who: NDArray[Any]) -> Kept:
        """Take some subjects, by index or truth."""
        beside = (a if a is None else a[who] for a in (self.errors, self.shared))
        return Kept(self.numbers, *(a[who] for a in (self.w, self.wy, self.wyy, self.yy, self.count, self.gram)), *beside)

    # --- as estimators ask ---
    def parts(self, operator: Operator) -> Parts:
        labels = list(operator.labels)
        sums = [self._levels(kind[..., labels], operator) for kind in (self.wy, self.wyy, self.w)]
        square, count = (self._levels(kind, operator) for kind in (self.yy, self.count))
        return Parts(np.moveaxis(np.stack(sums), 1, -1), square.T, count.T)

    def counted(self, operator: Operator) -> Parts:
        return self.parts(operator)

    def products(self, pairs: Pairs, who: NDArray[np.intp]) -> FloatArray:
        return self._ranges(self.gram[who][..., pairs.packed], pairs.operator)

    def scatter(self, pairs: Pairs) -> FloatArray:
        assert self.errors is not None
        return self._ranges(self.errors[..., pairs.packed], pairs.operator)

    def variance(self, operator: Operator) -> FloatArray:
        assert self.errors is not None
        out = np.zeros((*self.errors.shape[:2], len(operator.regions)))
        rows, columns = np.triu_indices(self.w.shape[-1])
        for i, region in enumerate(operator.regions):
            both = np.isin(rows, region.members) & np.isin(columns, region.members)
            out[..., i] = self.errors[..., both] @ np.where(rows == columns, 1.0, 2.0)[both]
        return self._ranges(out, operator)

    def _levels(self, kept: FloatArray, operator: Operator) -> FloatArray:
        """Levels (subject, level, ...) of an operator; 0 of those that the template does not have."""
        out = np.zeros((len(kept), len(operator.numbers), *kept.shape[2:]))
        there = [i for i, n in enumerate(operator.numbers) if n in self.numbers]
        out[:, there] = kept[:, [self.numbers.index(operator.numbers[i]) for i in there]]
        return out

    def _ranges(self, kept: FloatArray, operator: Operator) -> FloatArray:
        """Put levels (subject, level, ...) together to the level ranges of an operator."""
        pool = membership([r.numbers for r in operator.levels], list(operator.numbers))
        levels = np.moveaxis(self._levels(kept, operator), 1, 0)
        pooled = (pool @ levels.reshape(len(levels), -1)).reshape(-1, *levels.shape[1:])
        return np.asarray(np.moveaxis(pooled, 0, 1))


def weighted_average(
    operator: Operator, values: FloatArray, *, min_coverage: float = schema.LEAST_COVERAGE, errors: Errors | None = None
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    r"""Weighted average of each (level, region) cell: SCT's ``wa``.

    Parameters
    ----------
    operator : Operator
    values : (subject, voxel) float
        A map per subject, any unit.
    min_coverage : float
        Smallest share of the cell's weight that must be inside the data, 0 to 1.
    errors : Errors, optional
        Of the maps.

    Returns
    -------
    dict with float32 arrays (subject, level, region)
        ``value`` and ``std`` in the unit of the map, ``n`` in soft voxels, ``coverage`` 0 to 1; with `errors` also ``noise``.

    Missing
        A NaN voxel has no weight. ``value`` and ``std`` are NaN where nothing is valid or ``coverage < min_coverage``; ``n`` and ``coverage`` are
        always numbers, 0 where there is nothing. A zero in the map is a value.
    Formula
        With validity v in {0, 1}: ``n = sum w v``, ``value = sum w v y / n``, ``std = sqrt(sum w v (y - value)^2 / n)`` (the population form),
        ``coverage = n / sum w``. With weights q of `errors`, ``q v`` stands for v in value and std, and
        ``noise = sqrt(shared sum (w q se)^2) / sum w q``, a voxel of the image being one measurement. Sums are float64: the error of ``std`` stays
        below 1e-7 of the values, the resolution of float32 data.
    Reference
        De Leener et al., SCT: Spinal Cord Toolbox, NeuroImage 145 (2017), doi:10.1016/j.neuroimage.2016.10.009; ``sct_extract_metric -method wa``.

    Examples
    --------
    >>> import scipy
    >>> from cohort_engine.template.levels import LevelRange
    >>> atlas = Atlas(("tract",), {}, {}, scipy.sparse.csr_array(np.array([[1.0, 0.5, 0.5]], np.float32)))
    >>> op = Operator.build(atlas, np.array([2, 2, 2]), [LevelRange.parse("C2")], atlas.regions)
    >>> out = weighted_average(op, np.array([[40.0, 20.0, np.nan], [40.0, np.nan, np.nan], [0.0, 0.0, 0.0]], np.float32), min_coverage=0.6)
    >>> out["value"].ravel().tolist(), out["coverage"].ravel().tolist()
    ([33.33333206176758, nan, 0.0], [0.75, 0.5, 1.0])
    """
    return average_maps(operator, Maps(values, errors), min_coverage=min_coverage)


def average_maps(operator: Operator, maps: Summed, *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
    """See `weighted_average`."""
    sums = operator.pool(maps.parts(operator))
    if maps.shared is None:
        return summarise(sums, operator.total, min_coverage=min_coverage)
    counted = sums if maps.alike else operator.pool(maps.counted(operator))
    out = summarise(sums, operator.total, min_coverage=min_coverage, counted=counted)
    variance = maps.variance(operator) * maps.shared[:, None, None]
    noise = np.sqrt(np.divide(variance, counted[2] ** 2, out=np.full_like(variance, np.nan), where=counted[2] > 0))
    return out | {schema.NOISE: np.where(np.isnan(out[schema.VALUE]), np.nan, noise).astype(np.float32)}


def summarise(sums: FloatArray, total: FloatArray, *, min_coverage: float, counted: FloatArray | None = None) -> dict[str, NDArray[np.float32]]:
    """Turn sums (3, subject, level, region) and the total weight (level, region) into the cells of `weighted_average`.

    `counted` are the sums that value and std are of, where voxels do not all count the same.
    """
    n = sums[2]
    wy, wyy, w = sums if counted is None else counted
    coverage = np.divide(n, total, out=np.zeros_like(n), where=total > 0).astype(np.float32)
    keep = (n > 0) & (coverage >= np.float32(min_coverage))
    mean = np.divide(wy, w, out=np.full_like(n, np.nan), where=keep)
    square = np.divide(wyy, w, out=np.full_like(n, np.nan), where=keep)
    std = np.sqrt(np.maximum(square - mean * mean, 0.0))
    return {schema.VALUE: mean.astype(np.float32), schema.STD: std.astype(np.float32), schema.N: n.astype(np.float32), schema.COVERAGE: coverage}
