"""The tract operator: from maps on the voxel axis to one number per (subject, level, region).

Plain arrays in, plain arrays out. The non-zero weights are visited once; each visit adds to three sums of a *part* (one level, one label):
sum w y, sum w y^2 and sum w. Level ranges, unions and sums of tracts are then small linear combinations of parts, so that they cost nothing and
a pooled cell is exactly the pool of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import scipy
from numpy.typing import NDArray

from cohort_engine.errors import AlignmentError
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
        numbers, labels = _occurring(r.numbers for r in levels), _occurring(r.members for r in regions)
        weights = scipy.sparse.csc_array(atlas.weights[list(labels)].astype(np.float64))
        weights.sum_duplicates()
        weights.eliminate_zeros()
        used = np.diff(weights.indptr) > 0
        per_level = (np.flatnonzero(used & (voxel_level == n)) for n in numbers)
        tiles = tuple(tile for position, voxels in enumerate(per_level) for tile in _tiles(position, voxels, weights))
        pool_levels = membership([r.numbers for r in levels], numbers)
        pool_labels = membership([r.members for r in regions], labels)
        cells = scipy.sparse.csr_array(scipy.sparse.kron(pool_levels, pool_labels, format="csr"))
        return cls(tuple(levels), tuple(regions), n_voxels, (len(numbers), len(labels)), tiles, cells, atlas, voxel_level)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Levels of the parts."""
        return _occurring(r.numbers for r in self.levels)

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Labels of the parts."""
        return _occurring(r.members for r in self.regions)

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


def _occurring(groups: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """All that occurs in any group, in order."""
    return tuple(sorted({item for group in groups for item in group}))


def membership(groups: Sequence[tuple[int, ...]], items: Sequence[int]) -> scipy.sparse.csr_array:
    """(group, item) matrix of ones."""
    rows = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    columns = np.searchsorted(items, [m for g in groups for m in g])
    return scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(groups), len(items)))


@lru_cache(maxsize=2)
def template_operator(template: Template) -> Operator:
    """Build the operator of a template's own levels and regions, once per process."""
    return Operator.build(template.atlas, template.packing.level, [LevelRange.parse(n) for n in template.levels], template.atlas.regions)
