"""One image in its own space: estimators over the voxels of a group of slices. Plain arrays in, plain arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import SMOOTHING, smooth
from cohort_engine.mapping.native import WHOLE
from cohort_engine.reduce.estimators import estimator as find_estimator
from cohort_engine.reduce.estimators.base import Group, average, deviation
from cohort_engine.reduce.linear import FloatArray, Members, indicator
from cohort_engine.reduce.moved import Moves, moves_of
from cohort_engine.reduce.sums import LevelSums, pooled_cells

FLUID = "CSF"
"""Tissue of an atlas that is not cord."""


@dataclass(frozen=True, eq=False)
class Cells:
    """What one group of slices says about each region; arrays (region,) float64.

    Attributes
    ----------
    value : array
        Missing: NaN where nothing determines it.
    std : array
        Weighted population standard deviation about the weighted average, whatever the estimator: SCT's ``STD()``.
    spread : array
        Standard deviation of the voxels about what this estimator says of them: of ``bin`` over its own voxels, of ``median`` about the median,
        of ``ml`` and ``map`` about the mixture, which leaves partial volume out. NaN where the estimator's tables have no ``std``.
    se : array
        Standard error, where the estimator's tables have one; else NaN.
    size, n : arrays
        Soft voxels in the slices, and those of them that have a value.
    noise : array, optional
        What of the standard error the voxels' own ones give; of linear estimators, where these are known.
    """

    value: FloatArray
    std: FloatArray
    spread: FloatArray
    se: FloatArray
    size: FloatArray
    n: FloatArray
    noise: FloatArray | None = None

    @property
    def coverage(self) -> FloatArray:
        """Share of the region's weight that has a value, 0 where there is nothing."""
        return np.clip(np.divide(self.n, self.size, out=np.zeros_like(self.n), where=self.size > 0), 0.0, 1.0)


def reduce_group(
    values: FloatArray, weights: FloatArray, regions: Members, clusters: Members, *, estimator: str,
    places: NDArray[np.integer[Any]] | None = None, volumes: FloatArray | None = None, se: FloatArray | None = None,
    precision: FloatArray | None = None, moves: Moves | None = None,
) -> Cells:  # fmt: skip
    """Estimate every region from one group of slices.

    Parameters
    ----------
    values : (voxel,) float
        NaN where the metric has no value: the voxel then has no weight.
    weights : (label, voxel) float, 0 to 1
    regions, clusters : sequences of tuples of labels
    estimator : str
        SCT's name.
    places : (voxel, 3) int, optional
        Index of each voxel in the image, slices along the last axis: standard errors then know which voxels are neighbours (`reduce.neighbours`).
        Without, voxels count as independent.
    volumes : (label,) float, optional
        How much there is of each label, any unit, for the standard errors of unions; by default its weight in the voxels.
    se, precision : (voxel,) float, optional
        Standard error of each value, and how often it counts (`reduce.precision.precision`).
    moves : Moves, optional
        How the labels may lie off (`atlas_moves`): standard errors know of it, where `places` are given.

    Returns
    -------
    Cells

    Raises
    ------
    UnknownNameError
        An estimator nobody has added.

    Examples
    --------
    >>> w = np.array([[1.0, 0.5, 1.0]])
    >>> cells = reduce_group(np.array([40.0, 10.0, np.nan]), w, [(0,)], [(0,)], estimator="wa")
    >>> cells.value.tolist(), cells.size.tolist(), cells.n.tolist(), cells.coverage.tolist()
    ([30.0], [2.5], [1.5], [0.6])
    """
    kernel = find_estimator(estimator)
    whole = indicator(regions, len(weights)).T @ weights
    valid = np.isfinite(values)
    y, w, target = values[valid], weights[:, valid], whole[:, valid]
    size, n = whole.sum(axis=1), np.maximum(np.where(valid, whole, 0.0).sum(axis=1), 0.0)  # added in one order: a whole region has coverage 1
    std = deviation(y, target, average(y, target))
    kept_places, kept_moves = None if places is None else places[valid], None if moves is None else moves.of(valid)
    errors = {"se": None if se is None else se[valid], "precision": None if precision is None else precision[valid]}
    found = kernel.of_group(Group(y, w, target, regions, clusters, kept_places, volumes, **errors, moves=kept_moves))
    empty = n <= 0
    value, std, spread, error = (np.where(empty, np.nan, a) for a in (found.value, std, found.spread, found.se))
    return Cells(value, std, spread, error, size, n, None if found.noise is None else np.where(empty, np.nan, found.noise))


def level_tables(
    values: FloatArray, weights: FloatArray, level: NDArray[np.integer[Any]], reach: FloatArray, levels: Sequence[int], regions: Members,
    clusters: Members, *, estimator: str, min_coverage: float, places: NDArray[np.integer[Any]] | None = None, sums: LevelSums | None = None,
    se: FloatArray | None = None, precision: FloatArray | None = None, moves: Moves | None = None,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Reduce one image to (level, region) cells: the row of a subject in the native tables.

    Parameters
    ----------
    values : (voxel,) float
        NaN where the metric has no value.
    weights : (label, voxel) float, 0 to 1
    level : (voxel,) int
        Level number of each voxel.
    reach : (2, level, label) float
        Weight of the label in each of `levels` that lies in the image, and all of it.
    levels : sequence of int
    regions, clusters : sequences of tuples of labels
    estimator : str
    min_coverage : float
        A cell with less of its region in the data is NaN.
    places : (voxel, 3) int, optional
        As in `reduce_group`.
    sums : LevelSums, optional
        Of this image, where they are at hand.
    se, precision, moves : optional
        As in `reduce_group`.

    Returns
    -------
    dict of (level, region) float32 arrays
        ``value`` and the companions of the estimator, with `se` ``noise`` of a linear one. Coverage is the share that lies in the
        image times the share of it that has a value.
    """
    kernel = find_estimator(estimator)
    if kernel.summed:
        if sums is None:
            sums = LevelSums.of(values, weights, level, reach, levels, clusters, places=places, se=se, precision=precision, moves=moves)
        return pooled_cells(sums.at(np.arange(len(levels))[:, None]), regions, clusters, kernel, min_coverage=min_coverage)
    keys = (schema.VALUE, *kernel.companions, *((schema.NOISE,) if kernel.linear and se is not None else ()))
    out = {key: np.full((len(levels), len(regions)), 0.0 if key in (schema.N, schema.COVERAGE) else np.nan) for key in keys}
    seen, whole = reach @ indicator(regions, len(weights))
    inside = np.divide(seen, whole, out=np.zeros_like(whole), where=whole > 0)
    for i, number in enumerate(levels):
        some = np.flatnonzero(level == number)
        if not len(some):
            continue
        where = None if places is None else places[some]
        more: dict[str, Any] = {
            "se": None if se is None else se[some],
            "precision": None if precision is None else precision[some],
            "moves": None if moves is None else moves.of(some),
        }
        cells = reduce_group(values[some], weights[:, some], regions, clusters, estimator=estimator, places=where, volumes=reach[1, i], **more)
        coverage = cells.coverage * inside[i]
        low = (coverage < min_coverage) | (coverage <= 0)
        kept = {schema.N: cells.n, schema.COVERAGE: coverage}
        rest = {schema.VALUE: cells.value, schema.STD: cells.std, schema.SE: cells.se}
        rest |= {} if cells.noise is None else {schema.NOISE: cells.noise}
        for key in keys:
            out[key][i] = kept[key] if key in kept else np.where(low, np.nan, rest[key])
    return {key: array.astype(np.float32) for key, array in out.items()}


def signal_weights(weights: FloatArray, signal: FloatArray, slices: NDArray[np.integer[Any]], clusters: Members) -> FloatArray:
    """Weights of a ratio: how much of a voxel's *signal* comes from each label, where `weights` says how much of its volume.

    A voxel mixes signals, not ratios: half cerebrospinal fluid with 1.35 times the signal of white matter takes more than half of a voxel's MTR.

    Parameters
    ----------
    weights : (label, voxel) float, 0 to 1
    signal : (voxel,) float
        What the ratio is divided by (MT-off). NaN where unknown.
    slices : (voxel,) int
        Slice of each voxel: receive sensitivity and coil distance cancel within a slice.
    clusters : sequence of tuples of labels
        Tissues of one signal each.

    Returns
    -------
    (label, voxel) float
        ``w_kv s_k / sum_j w_jv s_j`` times ``sum_j w_jv``: what labels fill of the voxel stays. Where the tissues cannot be told apart, `weights`.

    Formula
        s of a cluster is the median over slices of its least-squares signal relative to the first cluster's, from the voxels that labels fill.
        MTR of a voxel: ``sum_k w_k (off_k - on_k) / sum_k w_k off_k = sum_k w_k off_k MTR_k / sum_k w_k off_k``.

    Examples
    --------
    >>> w = np.array([[1.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.5, 1.0]])
    >>> signal_weights(w, np.array([100.0, 100.0, 200.0, 300.0]), np.zeros(4, int), [(0,), (1,)]).round(3).tolist()
    [[1.0, 1.0, 0.25, 0.0], [0.0, 0.0, 0.75, 1.0]]
    """
    found = relative_signals(weights, signal, slices, clusters)
    if found is None:
        return weights
    relative = np.ones(len(weights))
    for members, value in zip(clusters, found, strict=True):
        relative[list(members)] = value
    mixed = weights * relative[:, None]
    total = mixed.sum(axis=0)
    return np.asarray(mixed * np.divide(weights.sum(axis=0), total, out=np.ones_like(total), where=total > 0))


def relative_signals(weights: FloatArray, signal: FloatArray, slices: NDArray[np.integer[Any]], clusters: Members) -> FloatArray | None:
    """Signal (cluster,) of tissues relative to the first one's, see `signal_weights`; None where they cannot be told apart.

    Examples
    --------
    >>> w = np.array([[1.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.5, 1.0]])
    >>> relative_signals(w, np.array([100.0, 100.0, 200.0, 300.0]), np.zeros(4, int), [(0,), (1,)]).round(3).tolist()
    [1.0, 3.0]
    """
    parts = np.stack([weights[list(c)].sum(axis=0) for c in clusters])
    usable = np.isfinite(signal) & (weights.sum(axis=0) >= WHOLE)
    found = []
    for k in np.unique(slices[usable]):
        some = usable & (slices == k)
        values, _, rank, _ = np.linalg.lstsq(parts[:, some].T, signal[some], rcond=None)
        if rank == len(parts) and (values > 0).all():
            found.append(values / values[0])
    return np.median(found, axis=0) if found else None


def atlas_moves(weights: FloatArray, clusters: Mapping[str, Sequence[int]], places: NDArray[np.integer[Any]], affine: FloatArray) -> Moves:
    """How an atlas may lie off in an image (`moved.moves_of`): its cord is all tissue but the fluid.

    Parameters
    ----------
    weights : (label, voxel) float, 0 to 1
    clusters : mapping of str to labels
        Tissues by name.
    places : (voxel, 3) int
    affine : (4, 4) array
    """
    tissue = np.delete(weights, list(clusters.get(FLUID, ())), axis=0)
    return moves_of(places, tissue.sum(axis=0), np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0))


def slice_levels(levels: NDArray[np.integer[Any]], affine: FloatArray, *, smoothing: float = SMOOTHING) -> NDArray[np.int64]:
    """Vertebral level of each slice: the label under a smooth line through the centres of the labelled slices.

    Parameters
    ----------
    levels : (x, y, z) int array
        Level number in each voxel, 0 where there is none; z upwards.
    affine : (4, 4) array
        Voxel centres to RAS+ mm.
    smoothing : float
        Wavelength along the cord in mm that the line keeps half of.

    Returns
    -------
    (z,) int array
        0 where the slice has no level. A level takes whole slices.

    Notes
    -----
    Where the line's voxel has no label (a thin or hollow mask), the slice takes the most frequent label in it.

    Examples
    --------
    >>> levels = np.zeros((3, 3, 4), int)
    >>> levels[:, :, 1], levels[:, :, 2] = 3, 2
    >>> slice_levels(levels, np.diag([1.0, 1.0, 5.0, 1.0])).tolist()
    [0, 3, 2, 0]
    """
    inside = levels > 0
    count = inside.sum(axis=(0, 1))
    z = np.flatnonzero(count)
    out = np.zeros(levels.shape[2], np.int64)
    if not len(z):
        return out
    x, y = (inside.sum(axis=1 - a)[:, z].T @ np.arange(levels.shape[a]) / count[z] for a in (0, 1))
    across = np.cross(affine[:3, 0], affine[:3, 1])
    spacing = abs(float(across @ affine[:3, 2])) / float(np.linalg.norm(across))
    line = np.rint(smooth(z * spacing, np.stack([x, y], axis=1), spacing, smoothing)[0]).astype(int)
    at = levels[line[:, 0].clip(0, levels.shape[0] - 1), line[:, 1].clip(0, levels.shape[1] - 1), z]
    for i in np.flatnonzero(at == 0):
        at[i] = np.argmax(np.bincount(levels[:, :, z[i]][inside[:, :, z[i]]]))
    out[z] = at
    return out
