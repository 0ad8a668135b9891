"""The tract operator: from maps on the voxel axis to one number per (subject, level, region).

Plain arrays in, plain arrays out. The non-zero weights are visited once; each visit adds to three sums of a *part* (one level, one label):
sum w y, sum w y^2 and sum w. Level ranges, unions and sums of tracts are then small linear combinations of parts, so that they cost nothing and
a pooled cell is exactly the pool of its parts. `Maps` keeps the parts: estimators that need the same ones share one visit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import scipy
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import AlignmentError
from cohort_engine.reduce.precision import Errors
from cohort_engine.template.atlas import Atlas, Region
from cohort_engine.template.base import Template
from cohort_engine.template.levels import LevelRange

FloatArray = NDArray[np.floating[Any]]
Derived = TypeVar("Derived")

TILE_VOXELS = 4096
"""Voxels of one sparse product: the values stay in the cache (PAM50, 1,000 subjects, one core: 0.5 s; with 1,024 voxels 0.7 s)."""
TILE_SUBJECTS = 64
"""Subjects of one sparse product, which bounds the scratch memory to 4 MiB whatever the cohort's size."""
HALF = 0.5
"""Share of a voxel from which an estimator that takes whole voxels counts it to a region."""


@dataclass(frozen=True, eq=False)
class Tile:
    """The weights of some voxels of one level.

    Attributes
    ----------
    level : int
        Position in the operator's list of levels.
    voxels : slice or (tile,) int array
        Which packed voxels.
    weights : (label, tile) float64 CSC
        A column a voxel, so that the values are streamed once and in order.
    squares : (label + 1, tile) float64 CSC
        The same and a row of ones: the voxels that any label touches.
    total : (label,) float64
        Sum of the weights, added in the same order as the products: a complete subject has coverage 1, not nearly 1.
    """

    level: int
    voxels: slice | NDArray[np.intp]
    weights: scipy.sparse.csc_array
    squares: scipy.sparse.csc_array
    total: FloatArray


@dataclass(frozen=True, eq=False)
class Parts:
    """Sums of maps over the parts of an operator.

    Attributes
    ----------
    sums : (3, level, label, subject) float64
        ``sum w y``, ``sum w y^2`` and ``sum w`` over the voxels with a value.
    square, count : (level, subject) float64
        ``sum y^2`` and number of the voxels with a value that any label touches.
    """

    sums: FloatArray
    square: FloatArray
    count: FloatArray


@dataclass(frozen=True, eq=False)
class Operator:
    """Sparse weights of (level range, region) cells on the packed voxel axis. Make it with `Operator.build`.

    Attributes
    ----------
    levels : tuple of LevelRange
    regions : tuple of Region
    n_voxels : int
        Length of the voxel axis it was built for.
    shape : (int, int)
        Levels and labels that occur in any cell: the parts.
    tiles : tuple of Tile
    cells : (level range x region, level x label) CSR of ones
        Which parts make a cell.
    atlas : Atlas
    voxel_level : (voxel,) int array
        What it was built from: an estimator may need the labels that no cell names.
    """

    levels: tuple[LevelRange, ...]
    regions: tuple[Region, ...]
    n_voxels: int
    shape: tuple[int, int]
    tiles: tuple[Tile, ...]
    cells: scipy.sparse.csr_array
    atlas: Atlas
    voxel_level: NDArray[np.integer[Any]]
    _derived: dict[Callable[[Operator], Any], Any] = field(default_factory=dict)

    @classmethod
    def build(cls, atlas: Atlas, voxel_level: NDArray[np.integer[Any]], levels: Sequence[LevelRange], regions: Sequence[Region]) -> Operator:
        """Cut an atlas into tiles, level by level.

        Parameters
        ----------
        atlas : Atlas
        voxel_level : (voxel,) int
            Level number of each packed voxel, ``packing.level``.
        levels, regions : sequences
            The cells are their product. Ranges and regions may overlap.

        Raises
        ------
        AlignmentError
            The levels and the atlas speak of different voxel axes.
        """
        n_voxels = atlas.weights.shape[1]
        if len(voxel_level) != n_voxels:
            raise AlignmentError(
                expected=f"a level for each of the {n_voxels} voxels of the atlas", found=f"{len(voxel_level)}", where="tract operator",
                remedy="Take the voxel levels and the atlas from the same template or store.",
            )  # fmt: skip
        numbers = sorted({n for r in levels for n in r.numbers})
        labels = sorted({m for r in regions for m in r.members})
        weights = scipy.sparse.csc_array(atlas.weights[labels].astype(np.float64))
        weights.sum_duplicates()
        weights.eliminate_zeros()
        used = np.diff(weights.indptr) > 0
        per_level = (np.flatnonzero(used & (voxel_level == n)) for n in numbers)
        tiles = tuple(tile for position, voxels in enumerate(per_level) for tile in _tiles(position, voxels, weights))
        pool_levels = membership([r.numbers for r in levels], numbers)
        pool_labels = membership([r.members for r in regions], labels)
        cells = scipy.sparse.csr_array(scipy.sparse.kron(pool_levels, pool_labels, format="csr"))
        return cls(tuple(levels), tuple(regions), n_voxels, (len(numbers), len(labels)), tiles, cells, atlas, voxel_level)

    def once(self, make: Callable[[Operator], Derived]) -> Derived:
        """Make what an estimator derives from the operator before it sees a map, ``make(operator)``, and keep it as long as the operator."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return cast(Derived, self._derived[make])

    @cached_property
    def binary(self) -> Operator:
        """The same cells, a voxel counting wholly where at least half of it belongs to the region, else not at all."""
        halves = scipy.sparse.csr_array((self._region_weights >= HALF).astype(np.float32))
        names = tuple(r.name for r in self.regions)
        return Operator.build(Atlas(names, {}, {}, halves), self.voxel_level, self.levels, [Region(n, (i,)) for i, n in enumerate(names)])

    @cached_property
    def squared(self) -> Operator:
        """The same cells, of the squares of the weights."""
        squares = scipy.sparse.csr_array(self._region_weights.astype(np.float64) ** 2)
        names = tuple(r.name for r in self.regions)
        return Operator.build(Atlas(names, {}, {}, squares), self.voxel_level, self.levels, [Region(n, (i,)) for i, n in enumerate(names)])

    def cell(self, level: int, region: int) -> tuple[NDArray[np.intp], FloatArray]:
        """Voxels that belong to a cell, and their weights (float64)."""
        row = scipy.sparse.csr_array(self._region_weights[[region]])
        inside = np.isin(self.voxel_level[row.indices], self.levels[level].numbers)
        return row.indices[inside].astype(np.intp), row.data[inside].astype(np.float64)

    @cached_property
    def _region_weights(self) -> scipy.sparse.csr_array:
        return self.atlas.region_weights(self.regions)

    @cached_property
    def total(self) -> FloatArray:
        """Sum of all weights of each cell (level range, region), float64, in soft voxels."""
        total: FloatArray = (self.cells @ self.part_total.reshape(-1, 1)).reshape(len(self.levels), len(self.regions))
        return total

    @cached_property
    def part_total(self) -> FloatArray:
        """Sum of all weights of each part (level, label), float64, in soft voxels."""
        parts = np.zeros(self.shape)
        for tile in self.tiles:
            parts[tile.level] += tile.total
        return parts

    def sums(self, values: FloatArray) -> FloatArray:
        """Weighted sums of each cell.

        Parameters
        ----------
        values : (subject, voxel) float
            NaN where a subject has no value.

        Returns
        -------
        (3, subject, level, region) float64
            ``sum w y``, ``sum w y^2`` and ``sum w`` over the valid voxels. float64 because a variance is a difference of the first two.
            A subject's sums have the same bits whoever its neighbours in the array are.

        Raises
        ------
        AlignmentError
            The values lie on another voxel axis.
        """
        return self.pool(self.parts(values))

    def pool(self, parts: Parts) -> FloatArray:
        """Put parts together to cells: the (3, subject, level, region) of `sums`."""
        n = parts.sums.shape[-1]
        cells = (self.cells @ kind.reshape(self.cells.shape[1], n) for kind in parts.sums)
        return np.stack([c.T.reshape(n, len(self.levels), len(self.regions)) for c in cells])

    def parts(self, values: FloatArray) -> Parts:
        """Sum each part over its voxels, see `sums`."""
        if values.ndim != 2 or values.shape[1] != self.n_voxels:
            raise AlignmentError(
                expected=f"maps of shape (subject, {self.n_voxels})", found=f"shape {values.shape}", where="tract operator",
                remedy="Use the atlas of the template the maps were sampled with, and all of its voxels.",
            )  # fmt: skip
        sums, square, count = (np.zeros((*shape, len(values))) for shape in ((3, *self.shape), self.shape[:1], self.shape[:1]))
        room = np.empty(TILE_VOXELS * min(TILE_SUBJECTS, len(values)))
        for first in range(0, len(values), TILE_SUBJECTS):
            rows = slice(first, first + TILE_SUBJECTS)
            for tile in self.tiles:
                block = values[rows, tile.voxels]
                y = room[: block.size].reshape(block.shape[1], block.shape[0])
                np.copyto(y, block.T)
                wy, w, n = tile.weights @ y, tile.total[:, None], np.full(y.shape[1], float(len(y)))
                if (holed := np.isnan(wy).any(axis=0)).any():  # a label touches each voxel: no gap stays unseen
                    absent = np.isnan(y[:, holed])
                    if absent.all() and holed.all():
                        continue
                    filled = np.where(absent, 0.0, y[:, holed])
                    y[:, holed], wy[:, holed], n[holed] = filled, tile.weights @ filled, len(y) - absent.sum(axis=0)
                    w = np.repeat(w, y.shape[1], axis=1)
                    w[:, holed] = tile.weights @ (~absent).astype(np.float64)
                np.multiply(y, y, out=y)  # in place: the tile is still in the cache
                squares = tile.squares @ y
                into = sums[:, tile.level, :, rows]
                into[0] += wy
                into[1] += squares[:-1]
                into[2] += w
                square[tile.level, rows] += squares[-1]
                count[tile.level, rows] += n
        return Parts(sums, square, count)

    @cached_property
    def count(self) -> FloatArray:
        """Voxels of each level (level,) that any label touches."""
        out = np.zeros(self.shape[0])
        for tile in self.tiles:
            out[tile.level] += tile.weights.shape[1]
        return out

    def valid_weight(self, values: FloatArray) -> FloatArray:
        """Sum the weights of each cell over the valid voxels of maps (subject, voxel): (subject, level, region) float64, the last of `sums`."""
        parts = np.zeros((*self.shape, len(values)))
        for tile in self.tiles:
            valid = ~np.isnan(values[:, tile.voxels])
            whole = valid.all(axis=1)
            into = parts[tile.level]
            into[:, whole] += tile.total[:, None]
            into[:, ~whole] += tile.weights @ valid[~whole].T.astype(np.float64)
        cells = self.cells @ parts.reshape(self.cells.shape[1], -1)
        return np.asarray(cells.T.reshape(len(values), len(self.levels), len(self.regions)))


def _tiles(level: int, voxels: NDArray[np.intp], weights: scipy.sparse.csc_array) -> Iterator[Tile]:
    """Cut the voxels of a level into tiles; a run of voxels becomes a slice, which numpy reads without a copy."""
    for a, b in pairwise([*range(0, len(voxels), TILE_VOXELS), len(voxels)]):
        some = voxels[a:b]
        run = some[-1] - some[0] + 1 == len(some)
        columns = scipy.sparse.csc_array(weights[:, some])
        squares = scipy.sparse.csc_array(scipy.sparse.vstack([columns, scipy.sparse.csc_array(np.ones((1, len(some))))], format="csc"))
        yield Tile(level, slice(int(some[0]), int(some[-1]) + 1) if run else some, columns, squares, columns @ np.ones(len(some)))


def membership(groups: Sequence[tuple[int, ...]], items: list[int]) -> scipy.sparse.csr_array:
    """(group, item) matrix of ones."""
    rows = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    columns = np.searchsorted(items, [m for g in groups for m in g])
    return scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(groups), len(items)))


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of some subjects, as estimators take them: what several need of the voxels is summed once.

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

    def parts(self, operator: Operator) -> Parts:
        """Return ``operator.parts(values)``, made when it is first asked for."""
        if operator not in self._parts:
            self._parts[operator] = operator.parts(self.values)
        return self._parts[operator]


@lru_cache(maxsize=2)
def template_operator(template: Template) -> Operator:
    """Build the operator of a template's own levels and regions, once per process."""
    return Operator.build(template.atlas, template.packing.level, [LevelRange.parse(n) for n in template.levels], template.atlas.regions)


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
    >>> atlas = Atlas(("tract",), {}, {}, scipy.sparse.csr_array(np.array([[1.0, 0.5, 0.5]], np.float32)))
    >>> op = Operator.build(atlas, np.array([2, 2, 2]), [LevelRange.parse("C2")], atlas.regions)
    >>> out = weighted_average(op, np.array([[40.0, 20.0, np.nan], [40.0, np.nan, np.nan], [0.0, 0.0, 0.0]], np.float32), min_coverage=0.6)
    >>> out["value"].ravel().tolist(), out["coverage"].ravel().tolist()
    ([33.33333206176758, nan, 0.0], [0.75, 0.5, 1.0])
    """
    return average_maps(operator, Maps(values, errors), min_coverage=min_coverage)


def average_maps(operator: Operator, maps: Maps, *, min_coverage: float) -> dict[str, NDArray[np.float32]]:
    """See `weighted_average`."""
    values, errors = maps.values, maps.errors
    sums = operator.pool(maps.parts(operator))
    if errors is None:
        return summarise(sums, operator.total, min_coverage=min_coverage)
    q = np.where(np.isnan(values), np.nan, 1.0 if errors.precision is None else errors.precision)
    counted = sums if errors.precision is None else weighted_sums(operator, values, q)
    out = summarise(sums, operator.total, min_coverage=min_coverage, counted=counted)
    variance = operator.squared.sums((q * errors.se) ** 2)[0] * np.asarray(errors.shared, float)[:, None, None]
    noise = np.sqrt(np.divide(variance, counted[2] ** 2, out=np.full_like(variance, np.nan), where=counted[2] > 0))
    return out | {schema.NOISE: np.where(np.isnan(out[schema.VALUE]), np.nan, noise).astype(np.float32)}


def weighted_sums(operator: Operator, values: FloatArray, q: FloatArray) -> FloatArray:
    """Sum as `Operator.sums`, but each voxel counts q (subject, voxel) times; NaN where `values` is."""
    return operator.pool(weighted_parts(operator, values, q))


def weighted_parts(operator: Operator, values: FloatArray, q: FloatArray) -> Parts:
    """Sum as `Operator.parts`, but each voxel counts q (subject, voxel) times in the sums and the square; NaN where `values` is."""
    mean, square, weight = (operator.parts(part) for part in (q * values, np.sqrt(q) * values, q))
    return Parts(np.stack([mean.sums[0], square.sums[1], weight.sums[0]]), square.square, weight.count)


def summarise(sums: FloatArray, total: FloatArray, *, min_coverage: float, counted: FloatArray | None = None) -> dict[str, NDArray[np.float32]]:
    """Turn sums (3, subject, level, region) and the total weight (level, region) into the cells of `weighted_average`.

    `counted` are the sums that value and std are of, where they are others: `weighted_sums`.
    """
    n = sums[2]
    wy, wyy, w = sums if counted is None else counted
    coverage = np.divide(n, total, out=np.zeros_like(n), where=total > 0).astype(np.float32)
    keep = (n > 0) & (coverage >= np.float32(min_coverage))
    mean = np.divide(wy, w, out=np.full_like(n, np.nan), where=keep)
    square = np.divide(wyy, w, out=np.full_like(n, np.nan), where=keep)
    std = np.sqrt(np.maximum(square - mean * mean, 0.0))
    return {schema.VALUE: mean.astype(np.float32), schema.STD: std.astype(np.float32), schema.N: n.astype(np.float32), schema.COVERAGE: coverage}
