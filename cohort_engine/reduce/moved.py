"""What a template map that is a little off does to estimates: seen in the image, slice by slice. Plain arrays in, plain arrays out.

A voxel's value is the mixture of its labels' values, what moves of the atlas add to it, and noise: ``y = W'b + D p + e``. D is how the mixture
changes with the amplitudes p of a few smooth moves of each slice, which are Gaussian and alike along the cord. Residuals show how far the atlas lies
off, where tissues differ enough; where they do not, or a slice is noisy, only what is usual is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine.mapping.modes import ALONG, INNER, PRIOR, displacements, weight_of_inside
from cohort_engine.reduce import linear
from cohort_engine.reduce.linear import FloatArray

SCALES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""How far maps may lie off, in what is usual: the image decides."""
ROUNDS = 2
"""Of deciding on the scale and on the noise that is left."""
EXACT = 1e-3
"""Least noise, as part of what usual moves change: of images without any."""
LEVEL_END = float(1 / np.sqrt(24))
"""Standard deviation of the middle of a level that is made of whole slices, as part of the distance between slices: each end is off by up to half."""
LEAST = 5.0
"""Voxels' worth of cord that a section must hold to have a middle and a size."""


@dataclass(frozen=True, eq=False)
class Moves:
    """How an atlas may lie off in an image.

    Attributes
    ----------
    field : (voxel, mode, 3) array
        Displacement of each voxel, in voxels of the image, by a usual amplitude (one standard deviation) of each mode.
    node : (voxel,) int array
        Slice of each voxel, counted from 0.
    alike : (slice, slice) array
        Correlation of the amplitudes of slices.
    """

    field: FloatArray
    node: NDArray[np.integer[Any]]
    alike: FloatArray

    def of(self, some: NDArray[Any]) -> Moves:
        """Take some of the voxels, by index or truth."""
        return Moves(self.field[some], self.node[some], self.alike)


def moves_of(places: NDArray[np.integer[Any]], cord: FloatArray, spacing: FloatArray) -> Moves:
    """How far the atlas may lie off in an image: by the modes of `PRIOR` in each slice, and along the cord.

    Parameters
    ----------
    places : (voxel, 3) int array
        Index of each voxel in the image, slices along the last axis.
    cord : (voxel,) array
        Part of each voxel that is cord, 0 to 1.
    spacing : (3,) array
        Of the voxels, mm.

    Returns
    -------
    Moves
        The modes of `PRIOR`, and the place along the cord, off by `LEVEL_END`: a level takes whole slices.

    Examples
    --------
    >>> places = np.moveaxis(np.indices((7, 7, 2)), 0, -1).reshape(-1, 3)
    >>> found = moves_of(places, np.ones(98), np.array([0.5, 0.5, 5.0]))
    >>> found.field.shape, found.field[0, 0].round(3).tolist(), found.alike.round(2).tolist()
    ((98, 16, 3), [0.12, 0.0, 0.0], [[1.0, 0.72], [0.72, 1.0]])
    """
    from scipy import ndimage

    slices, node = np.unique(places[:, 2], return_inverse=True)
    size = places[:, :2].max(axis=0) + 2
    field = np.zeros((len(places), len(PRIOR) + 1, 3))
    field[:, -1, 2] = LEVEL_END
    for k in range(len(slices)):
        here = np.flatnonzero(node == k)
        share, at = cord[here], places[here, :2]
        if share.sum() < LEAST:
            continue
        solid = np.zeros(size, bool)
        solid[tuple(at.T)] = share >= 0.5
        inside = weight_of_inside(ndimage.distance_transform_edt(np.pad(solid, 1), sampling=spacing[:2])[1:-1, 1:-1][tuple(at.T)])
        xy = at * spacing[:2]
        middle = share @ xy / share.sum()
        half = 2 * np.sqrt(share @ (xy - middle) ** 2 / share.sum())
        for mode, axis, values in displacements(xy[:, 0] - middle[0], xy[:, 1] - middle[1], half):
            field[here, mode, axis] += values * (inside if mode >= INNER else 1.0) / spacing[axis]
    field[:, :-1] *= np.array(list(PRIOR.values()))[:, None]
    return Moves(field, node, np.exp(-np.abs(np.subtract.outer(slices, slices)) * spacing[2] / ALONG))


class Part(NamedTuple):
    """The voxels of a level: weights W (label, n) and residuals (n,) times the root of how often a voxel counts, `counted` (n,); and the matrix B
    (label, label) by which labels have their values, ``B W y``.
    """

    voxels: NDArray[np.intp]
    weights: FloatArray
    residual: FloatArray
    by: FloatArray
    counted: FloatArray

    @property
    def free(self) -> float:
        """Degrees of freedom of the residuals."""
        return self.residual.size - float((self.by * (self.weights @ self.weights.T).T).sum())

    def unexplained(self, design: FloatArray) -> FloatArray:
        """Return what the mixture leaves of columns (n, k): ``(1 - H) design``, ``H = W'BW``."""
        return np.asarray(design - self.weights.T @ (self.by @ (self.weights @ design)))


class Seen(NamedTuple):
    """What moves explain of a level: residuals (n,) without them, the degrees of freedom that they take, and the second moment (label, label) of what
    they add to the sums ``W y``.
    """

    left: FloatArray
    used: float
    second: FloatArray


def seen(moves: Moves, model: FloatArray, places: NDArray[np.integer[Any]], parts: Sequence[Part]) -> list[Seen]:
    """Find how far the atlas lies off, level by level.

    Parameters
    ----------
    moves : Moves
    model : (voxel,) array
        Mixture of the fitted values of the labels in each voxel, NaN where there is none.
    places : (voxel, 3) int array
        Index of each voxel in the image.
    parts : sequence of Part
        One a level that has voxels with a value.

    Returns
    -------
    list of Seen, one a part

    Formula
        With H the hat matrix, residuals are ``r = (1 - H)(D p + e)``; e is independent, as noisy as what a voxel consists of
        (`linear.voxel_noise`); p is Gaussian with the usual covariance times ``scale^2``, the scale being that of `SCALES` of greatest marginal
        likelihood over all levels. With mean m and covariance C of p given r, what an estimate ``c'Wy`` is off by has the second moment
        ``c'W D (C + m m') D'W'c``.
    """
    if not parts:
        return []
    change = -np.einsum("vma,va->vm", moves.field, gradient(model, places))
    modes = change.shape[1]
    designs, priors, noises, floors = [], [], [], []
    for part in parts:
        slices, node = np.unique(moves.node[part.voxels], return_inverse=True)
        design = np.zeros((len(node), len(slices), modes))
        design[np.arange(len(node)), node] = change[part.voxels] * part.counted[:, None]
        designs.append(design.reshape(len(node), -1))
        priors.append(np.kron(np.linalg.inv(moves.alike[np.ix_(slices, slices)]), np.eye(modes)))
        free = max(part.free, 1.0)
        floor = EXACT * np.sqrt((design**2).sum(axis=(1, 2)).mean()) if len(node) else 0.0
        floors.append(floor if floor > 0 else 1.0)
        noises.append(np.maximum(linear.voxel_noise(part.residual, part.weights) * np.sqrt(len(node) / free), floors[-1]))
    known = [part.unexplained(design) for design, part in zip(designs, parts, strict=True)]
    out: list[Seen] = []
    for _ in range(ROUNDS):
        weighted = [(d / s[:, None], part.residual / s) for d, s, part in zip(known, noises, parts, strict=True)]
        squares = [(d.T @ d, d.T @ r) for d, r in weighted]
        evidence = [sum(_evidence(*of, q, scale) for of, q in zip(squares, priors, strict=True)) for scale in SCALES]
        scale = SCALES[int(np.argmax(evidence))]
        out = []
        for i, ((square, right), inverse, part) in enumerate(zip(squares, priors, parts, strict=True)):
            covariance = np.linalg.inv(square + inverse / scale**2)
            mean = covariance @ right
            left, used = part.residual - known[i] @ mean, float((covariance * square).sum())
            free = max(part.free - used, 1.0)
            noises[i] = np.maximum(linear.voxel_noise(left, part.weights) * np.sqrt(len(left) / free), floors[i])
            reach = part.weights @ designs[i]
            out.append(Seen(left, used, reach @ (covariance + np.outer(mean, mean)) @ reach.T))
    return out


def _evidence(square: FloatArray, right: FloatArray, inverse: FloatArray, scale: float) -> float:
    """Log-likelihood of residuals when amplitudes are integrated out, up to what does not depend on the scale."""
    posterior = square * scale**2 + inverse
    gain = scale**2 * right @ np.linalg.solve(posterior, right)
    return float(0.5 * (gain - np.linalg.slogdet(posterior)[1]))


def gradient(values: FloatArray, places: NDArray[np.integer[Any]]) -> FloatArray:
    """Slope (voxel, axis) of values (voxel,) from voxel to voxel: between both neighbours, or to the one that has a value; 0 where none has.

    Examples
    --------
    >>> gradient(np.array([1.0, 3.0, 7.0]), np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])).tolist()
    [[2.0, 0.0, 0.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0]]
    """
    at = places - places.min(axis=0) + 1
    grid = np.full(at.max(axis=0) + 2, np.nan)
    grid[tuple(at.T)] = values
    out = np.zeros((len(values), 3))
    for axis, step in enumerate(np.eye(3, dtype=int)):
        up, down = grid[tuple((at + step).T)] - values, values - grid[tuple((at - step).T)]
        known = np.isfinite(up).astype(int) + np.isfinite(down)
        out[:, axis] = np.divide(np.nan_to_num(up) + np.nan_to_num(down), known, out=np.zeros(len(values)), where=known > 0)
    return out
