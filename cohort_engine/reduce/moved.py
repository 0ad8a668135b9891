"""What a template map that is a little off does to estimates: seen in the image, slice by slice. Plain arrays in, plain arrays out.

A voxel's value is the mixture of its labels' values, what moves of the atlas add to it, and noise: ``y = W'b + D p + e``. D is how the mixture
changes with the amplitudes p of a few smooth moves of each slice, which are Gaussian and alike along the cord. Residuals show how far the atlas lies
off, where tissues differ enough; where they do not, or a slice is noisy, only what is usual is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
UNSEEN = {"inside width": 0.3, "inside depth": 0.3}
"""How far the atlas lies off, in what is usual, that no image shows, in all slices alike: white matter is not even, which passes for grey matter of
another size. Maps of simulated cords (seed 1, by which this was chosen) had grey matter 1 to 6 % too small, all in one direction."""
TOGETHER = 5.0
"""Length of the cord, mm, over which thin slices move as one: a third of the distance at which amplitudes are alike."""
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
        Slices that move as one, of each voxel, counted from 0.
    alike : (node, node) array
        Correlation of their amplitudes.
    unseen : (mode,) array
        Standard deviation of what no image shows of the amplitudes, alike in all nodes; by default 0.
    """

    field: FloatArray
    node: NDArray[np.integer[Any]]
    alike: FloatArray
    unseen: FloatArray | None = None

    def of(self, some: NDArray[Any]) -> Moves:
        """Take some of the voxels, by index or truth."""
        return replace(self, field=self.field[some], node=self.node[some])


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
        The modes of `PRIOR`, and the place along the cord, off by `LEVEL_END`: a level takes whole slices. Slices within `TOGETHER` move as one.

    Examples
    --------
    >>> places = np.moveaxis(np.indices((7, 7, 2)), 0, -1).reshape(-1, 3)
    >>> found = moves_of(places, np.ones(98), np.array([0.5, 0.5, 5.0]))
    >>> found.field.shape, found.field[0, 0].round(3).tolist(), found.alike.round(2).tolist()
    ((98, 16, 3), [0.12, 0.0, 0.0], [[1.0, 0.72], [0.72, 1.0]])
    """
    from scipy import ndimage

    slices, row = np.unique(places[:, 2], return_inverse=True)
    size = places[:, :2].max(axis=0) + 2
    field = np.zeros((len(places), len(PRIOR) + 1, 3))
    field[:, -1, 2] = LEVEL_END
    for k in range(len(slices)):
        here = np.flatnonzero(row == k)
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
    step = max(1, int(TOGETHER / spacing[2]))
    nodes, node = np.unique(places[:, 2] // step, return_inverse=True)
    alike = np.exp(-np.abs(np.subtract.outer(nodes, nodes)) * step * spacing[2] / ALONG)
    return Moves(field, node, alike, np.array([*(UNSEEN.get(mode, 0.0) for mode in PRIOR), 0.0]))


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
        ``c'W D (C + m m' + U) D'W'c``; U is that of what no image shows (`Moves.unseen`).
    """
    if not parts:
        return []
    change = -np.einsum("vma,va->vm", moves.field, gradient(model, places))
    designs = [_Design.of(change[part.voxels] * part.counted[:, None], moves, part) for part in parts]
    noises = [d.noise(part.residual, part.free) for d, part in zip(designs, parts, strict=True)]
    out: list[Seen] = []
    for _ in range(ROUNDS):
        squares = [d.squares(1 / noise**2) for d, noise in zip(designs, noises, strict=True)]
        evidence = [sum(_evidence(*of, d.inverse, scale) for of, d in zip(squares, designs, strict=True)) for scale in SCALES]
        scale = SCALES[int(np.argmax(evidence))]
        out = []
        for i, ((square, right), design) in enumerate(zip(squares, designs, strict=True)):
            covariance = np.linalg.inv(square + design.inverse / scale**2)
            mean = covariance @ right
            left, used = design.part.residual - design.unexplained(mean), float((covariance * square).sum())
            noises[i] = design.noise(left, design.part.free - used)
            unseen = design.together(moves.unseen)
            out.append(Seen(left, used, design.reach @ (covariance + np.outer(mean, mean)) @ design.reach.T + unseen @ unseen.T))
    return out


@dataclass(frozen=True, eq=False)
class _Design:
    """The columns D of a level, an amplitude each, which are not zero in one node alone: `change` (n, mode) there, `node` (n,).

    `reach` (label, column) is ``W D``, `inverse` that of the usual covariance of the amplitudes, `floor` the least noise.
    """

    part: Part
    change: FloatArray
    node: NDArray[np.intp]
    reach: FloatArray
    inverse: FloatArray
    floor: float

    @classmethod
    def of(cls, change: FloatArray, moves: Moves, part: Part) -> _Design:
        nodes, node = np.unique(moves.node[part.voxels], return_inverse=True)
        inverse = np.kron(np.linalg.inv(moves.alike[np.ix_(nodes, nodes)]), np.eye(change.shape[1]))
        size = float(np.sqrt((change**2).sum(axis=1).mean())) if len(change) else 0.0
        return cls(part, change, node, _columns(part.weights, change, node), inverse, EXACT * size if size > 0 else 1.0)

    def together(self, amplitudes: FloatArray | None) -> FloatArray:
        """Return what amplitudes (mode,) that all nodes have add to the sums (label, mode)."""
        each = self.reach.reshape(len(self.reach), -1, self.change.shape[1]).sum(axis=1)
        return np.zeros_like(each) if amplitudes is None else each * amplitudes

    def noise(self, residual: FloatArray, free: float) -> FloatArray:
        """Noise (n,) of the voxels by what is left of them."""
        return np.asarray(np.maximum(linear.voxel_noise(residual, self.part.weights) * np.sqrt(len(residual) / max(free, 1.0)), self.floor))

    def unexplained(self, amplitudes: FloatArray) -> FloatArray:
        """Return what the mixture leaves (n,) of ``D p``: ``(1 - H) D p``, ``H = W'BW``."""
        moved = (self.change * amplitudes.reshape(-1, self.change.shape[1])[self.node]).sum(axis=1)
        return np.asarray(moved - self.part.weights.T @ (self.part.by @ (self.reach @ amplitudes)))

    def squares(self, precision: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Products of ``(1 - H) D`` with itself and with the residuals, voxels weighted by `precision` (n,)."""
        weights, residual, modes = self.part.weights, self.part.residual, self.change.shape[1]
        counted = self.change * precision[:, None]
        square = np.zeros((len(self.inverse),) * 2)
        for k in range(len(square) // modes):
            here, at = self.node == k, slice(k * modes, (k + 1) * modes)
            square[at, at] = self.change[here].T @ counted[here]
        back = self.part.by @ self.reach
        cross = back.T @ _columns(weights, counted, self.node)
        square += back.T @ ((weights * precision) @ weights.T) @ back - cross - cross.T
        right = _columns(residual[None], counted, self.node)[0] - back.T @ (weights @ (precision * residual))
        return square, right


def _columns(rows: FloatArray, change: FloatArray, node: NDArray[np.intp]) -> FloatArray:
    """Products (row, column) of rows (row, n) with the columns of a design."""
    parts = [rows[:, node == k] @ change[node == k] for k in range(int(node.max(initial=-1)) + 1)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))


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
