"""Linear estimators from sums: maximum likelihood and maximum a posteriori of the atlas' mixture model.

A voxel's value is the mixture of its labels' values, ``y_v = sum_k w_kv beta_k + noise``. Everything these estimators need of the voxels of a
cell is a handful of sums (`Moments`), which add up over slices, levels and tiles. A region's design matrix, in which its members are replaced
by their sum, is a combination of the same sums, so that the voxels are visited once for all regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Members = Sequence[tuple[int, ...]]

SMALLEST = 1e-10
"""Eigenvalue of the normal equations, scaled to a unit diagonal, below which a direction is unknown."""
ESTIMABLE = 1e-6
"""Largest part of a region that may lie in unknown directions."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the valid voxels of one cell or of many (leading axes broadcast).

    Attributes
    ----------
    w, wy, wyy : (..., label)
        Sums of ``w``, ``w y`` and ``w y^2``; w may lack the leading axes, where it is the same for all of them.
    gram : (..., label, label)
        Sums of ``w_k w_l``.
    yy, count : (...)
        Sum of ``y^2`` and number of the voxels that any label touches.
    """

    w: FloatArray
    wy: FloatArray
    wyy: FloatArray
    gram: FloatArray
    yy: FloatArray
    count: FloatArray

    @classmethod
    def of(cls, weights: FloatArray, values: FloatArray, precision: FloatArray | None = None) -> Moments:
        """Sum over voxels: weights (label, voxel), values (voxel) without NaN; each voxel counted `precision` (voxel) times.

        Examples
        --------
        >>> m = Moments.of(np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]), np.array([2.0, 4.0, 9.0]))
        >>> m.wy.tolist(), m.gram.tolist(), m.yy.item(), m.count.item()
        ([4.0, 2.0], [[1.25, 0.25], [0.25, 0.25]], 20.0, 2.0)
        """
        inside = weights.any(axis=0)
        square, counted = values * values, weights if precision is None else weights * precision
        yy = inside @ (square if precision is None else square * precision)
        return cls(counted.sum(axis=1), counted @ values, counted @ square, counted @ weights.T, yy, np.asarray(inside.sum(), float))


@dataclass(frozen=True, eq=False)
class Fit:
    """What a mixture model says about regions.

    Attributes
    ----------
    value : (..., region)
        Missing: NaN where the data do not determine it.
    labels : (..., label)
        Value of each label in the model, 0 where it is not determined.
    tissues : (..., label)
        Least-squares value of each label's cluster.
    coefficients : (..., region, label)
        ``value = coefficients @ wy``.
    noise : (...)
        Variance of a voxel about the model.
    spread : (...)
        Variance of the labels about their clusters.
    inflation : (...)
        Voxels over degrees of freedom: turns a mean square residual into a variance.
    """

    value: FloatArray
    labels: FloatArray
    tissues: FloatArray
    coefficients: FloatArray
    noise: FloatArray
    spread: FloatArray
    inflation: FloatArray


def coefficients(gram: FloatArray, regions: Members, clusters: Members, *, prior: bool) -> FloatArray:
    r"""Vectors u such that ``u @ wy`` is the estimate of each region.

    Parameters
    ----------
    gram : (..., label, label)
    regions : sequence of tuples of labels
    clusters : sequence of tuples of labels
        Tissue clusters; labels in none of them are one more. Used with `prior`.
    prior : bool
        False: ordinary least squares (``ml``). True: ridge towards the clusters' values (``map``).

    Returns
    -------
    (..., region, label)
        Missing: NaN where a region has no weight, or (``ml``) cannot be told from the other labels.

    Formula
        The design of a region R is ``X = [sum of R, every other label]``, ``M = X'X``. ``ml`` is the first of ``M^+ X'y``. ``map`` is the first of
        ``b0 + (M + I)^-1 X'(y - X b0)``, b0 being the OLS values of the clusters' summed weights; clusters that R touches are one.
    Reference
        Levy et al., White matter atlas of the human spinal cord with estimation of partial volume effect, NeuroImage 119 (2015),
        doi:10.1016/j.neuroimage.2015.06.040; De Leener et al., NeuroImage 145 (2017), doi:10.1016/j.neuroimage.2016.10.009.

    Examples
    --------
    >>> w = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    >>> (coefficients(w @ w.T, [(0,), (1,)], [(0, 1)], prior=False) @ w @ np.array([40.0, 30.0, 20.0])).round(6).tolist()
    [40.0, 20.0]
    """
    n_labels = gram.shape[-1]
    clusters = complete(clusters, n_labels)
    out = np.full((*gram.shape[:-2], len(regions), n_labels), np.nan)
    single = [i for i, r in enumerate(regions) if len(r) == 1]
    if single:
        out[..., single, :] = _rows(gram, np.eye(n_labels), [regions[i][0] for i in single], _merged(clusters, ()), prior)
    for i, members in enumerate(regions):
        if len(members) > 1:
            others = [k for k in range(n_labels) if k not in members]
            join = np.zeros((n_labels, 1 + len(others)))
            join[list(members), 0] = 1
            join[others, np.arange(1, 1 + len(others))] = 1
            out[..., [i], :] = _rows(gram, join, [0], _merged(clusters, members), prior)
    return out


def _rows(gram: FloatArray, join: FloatArray, wanted: list[int], clusters: Members, prior: bool) -> FloatArray:
    """Coefficients of the `wanted` columns of the design ``weights' @ join``."""
    normal = join.T @ gram @ join
    present = np.diagonal(normal, axis1=-2, axis2=-1)[..., wanted] > 0
    if not prior:
        inverse, estimable = _inverse(normal)
        rows, known = inverse[..., wanted, :] @ join.T, estimable[..., wanted]
    else:
        pool = indicator(clusters, gram.shape[-1])
        towards = np.linalg.pinv(pool.T @ gram @ pool, rcond=1e-13, hermitian=True) @ pool.T
        mine = np.argmax((join.T @ pool)[wanted] > 0, axis=1)
        unit = np.broadcast_to(np.eye(normal.shape[-1])[:, wanted], (*normal.shape[:-1], len(wanted)))
        pull = np.swapaxes(np.linalg.solve(normal + np.eye(normal.shape[-1]), unit), -2, -1) @ join.T
        rows, known = towards[..., mine, :] + pull - (pull @ gram @ pool) @ towards, present
    return np.where((present & known)[..., None], rows, np.nan)


def complete(clusters: Members, n_labels: int) -> list[tuple[int, ...]]:
    """Clusters, and one of the labels that are in none.

    Examples
    --------
    >>> complete([(1,)], 3)
    [(1,), (0, 2)]
    """
    rest = tuple(sorted(set(range(n_labels)).difference(*clusters)))
    return [*clusters, rest] if rest else list(clusters)


def labels_by(gram: FloatArray, clusters: Members, *, prior: bool) -> FloatArray:
    """Give the matrix (..., label, label) that makes the value of each label of ``wy``; zeros where it has none.

    Examples
    --------
    >>> labels_by(np.diag([2.0, 0.0]), [(0, 1)], prior=False).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    return np.nan_to_num(coefficients(gram, [(k,) for k in range(gram.shape[-1])], clusters, prior=prior))


def indicator(groups: Members, n_labels: int) -> FloatArray:
    """(label, group) matrix of ones."""
    out = np.zeros((n_labels, len(groups)))
    for i, members in enumerate(groups):
        out[list(members), i] = 1
    return out


def _merged(clusters: Members, region: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Clusters, those that a region touches being one."""
    touched = [c for c in clusters if set(c) & set(region)]
    rest = [tuple(c) for c in clusters if c not in touched]
    return [tuple(sorted({k for c in touched for k in c})), *rest] if touched else rest


def _inverse(normal: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Pseudo-inverse of normal equations (..., n, n), and which unknowns (..., n) they determine."""
    diagonal = np.diagonal(normal, axis1=-2, axis2=-1)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    outer = scale[..., :, None] * scale[..., None, :]
    values, vectors = np.linalg.eigh(normal * outer)
    keep = values > SMALLEST
    reciprocal = np.where(keep, 1 / np.where(keep, values, 1), 0)
    inverse = (vectors * reciprocal[..., None, :]) @ np.swapaxes(vectors, -2, -1) * outer
    known = (vectors**2 * keep[..., None, :]).sum(axis=-1)
    return inverse, known > 1 - ESTIMABLE


@dataclass(frozen=True, eq=False)
class Solution:
    """What a fit needs of the products of labels alone: kept where many share them.

    Attributes
    ----------
    coefficients : (..., label and region, label)
        `coefficients` of `with_labels`.
    tissues : (..., label, label)
        Makes the least-squares value of each label's cluster of ``wy``.
    """

    coefficients: FloatArray
    tissues: FloatArray


def solve(gram: FloatArray, regions: Members, clusters: Members, *, prior: bool) -> Solution:
    """Solve the normal equations of a `gram` (..., label, label) for every label and region, parameters as of `coefficients`.

    Examples
    --------
    >>> solve(np.diag([2.0, 2.0]), [(0, 1)], [(0, 1)], prior=False).coefficients.round(6).tolist()
    [[0.5, 0.0], [0.0, 0.5], [0.25, 0.25]]
    """
    return Solution(coefficients(gram, with_labels(regions, gram), clusters, prior=prior), _tissue_projection(gram, clusters))


def with_labels(regions: Members, gram: FloatArray) -> list[tuple[int, ...]]:
    """Every single label, then the regions."""
    return [*((k,) for k in range(gram.shape[-1])), *regions]


def fit(moments: Moments, regions: Members, clusters: Members, *, prior: bool, solution: Solution | None = None) -> Fit:
    """Estimate regions from sums.

    Parameters
    ----------
    moments : Moments
        A `gram` without the leading axes of `wy` is solved once for all of them.
    regions, clusters, prior : as in `coefficients`
    solution : Solution, optional
        `solve` for this gram, where it is at hand.

    Returns
    -------
    Fit
        Missing: NaN where a region has no weight or is not determined; `noise` is NaN without degrees of freedom left.

    Formula
        ``noise = |y - W'b|^2 / (n - tr H)`` with the labels' values b and the hat matrix H of the model of single labels. ``spread`` is what the
        clusters' fit leaves beyond the noise, by the method of moments: ``(RSS0 - noise (n - c)) / (tr G - tr(P G^2))``, at least 0, with G the
        gram and P the projection on the clusters.

    Examples
    --------
    >>> w = np.array([[1.0, 0.5, 0.0, 1.0], [0.0, 0.5, 1.0, 0.0]])
    >>> out = fit(Moments.of(w, np.array([41.0, 30.0, 20.0, 39.0])), [(0,), (0, 1)], [(0, 1)], prior=False)
    >>> out.value.round(3).tolist(), round(float(out.noise), 3)
    ([40.0, 32.5], 1.0)
    """
    gram, wy = moments.gram, moments.wy
    n_labels = gram.shape[-1]
    solution = solution or solve(gram, regions, clusters, prior=prior)
    every, project = solution.coefficients, solution.tissues
    known = np.nan_to_num(every[..., :n_labels, :])
    chosen = every[..., n_labels:, :]
    beta, value = _apply(known, wy), _apply(chosen, wy)
    rss = moments.yy - 2 * (beta * wy).sum(axis=-1) + (beta * _apply(gram, beta)).sum(axis=-1)
    free = moments.count - np.einsum("...kl,...lk->...", known, gram)
    noise = np.divide(np.maximum(rss, 0), free, out=np.full(np.broadcast_shapes(rss.shape, free.shape), np.nan), where=free > 0.5)
    inflation = np.divide(moments.count, free, out=np.full_like(noise, np.nan), where=free > 0.5)

    by_tissue = _apply(project, wy)
    rss0 = moments.yy - (wy * by_tissue).sum(axis=-1)
    left = np.trace(gram, axis1=-2, axis2=-1) - np.einsum("...ij,...jk,...ki->...", project, gram, gram)
    excess = rss0 - noise * (moments.count - len(complete(clusters, n_labels)))
    spread = np.divide(np.maximum(excess, 0), left, out=np.zeros_like(excess), where=left > 1e-9)
    return Fit(value, beta, by_tissue, chosen, noise, spread, inflation)


def tissues(gram: FloatArray, wy: FloatArray, clusters: Members) -> FloatArray:
    """Least-squares value of each label's cluster (..., label).

    Examples
    --------
    >>> tissues(np.eye(3), np.array([40.0, 50.0, 20.0]), [(0, 1), (2,)]).tolist()
    [45.0, 45.0, 20.0]
    """
    return _apply(_tissue_projection(gram, clusters), wy)


def _tissue_projection(gram: FloatArray, clusters: Members) -> FloatArray:
    pool = indicator(complete(clusters, gram.shape[-1]), gram.shape[-1])
    out: FloatArray = pool @ np.linalg.pinv(pool.T @ gram @ pool, rcond=1e-13, hermitian=True) @ pool.T
    return out


def standardised(residual: FloatArray, weights: FloatArray) -> FloatArray:
    """Residuals (voxel,) over the noise of what is in each voxel: the root mean square of each label's, mixed by `weights` (label, voxel).

    Examples
    --------
    >>> standardised(np.array([1.0, -1.0, 30.0]), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [1.0, -1.0, 1.0]
    """
    noise = voxel_noise(residual, weights)
    out: FloatArray = residual / np.where(noise > 0, noise, np.inf)
    return out


def voxel_noise(residual: FloatArray, weights: FloatArray) -> FloatArray:
    """Noise (voxel,) of what is in each voxel: the mean square residual of each label, mixed by `weights` (label, voxel), and its root.

    Examples
    --------
    >>> voxel_noise(np.array([1.0, -1.0, 30.0]), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [1.0, 1.0, 30.0]
    """
    weights = weights.clip(min=0)  # an atlas that was blurred by splines rings a little
    weight, filled = weights.sum(axis=1), weights.sum(axis=0)
    square = np.divide(weights @ residual**2, weight, out=np.zeros_like(weight), where=weight > 0)
    out: FloatArray = np.sqrt(np.divide(square @ weights, filled, out=np.zeros_like(filled), where=filled > 0))
    return out


def standard_error(moments: Moments, fitted: Fit, regions: Members, noise: FloatArray) -> FloatArray:
    """Give the standard error of each region (..., region): the noise through the coefficients, and what the model itself assumes.

    Parameters
    ----------
    moments, fitted, regions : of the same `fit`
    noise : (..., region) or (..., 1)
        Variance of a voxel, for instance ``fitted.noise[..., None]``.

    Formula
        ``se^2 = noise u'Gu + ((Gu - t)'b0)^2 + spread |Gu - t|^2``: u the coefficients, t the region's true mixture (its members by their weight in
        the voxels), b0 the tissues' values. The last two terms are the expected squared bias where labels scatter about their tissues by `spread`. It
        comes with ``map``, which pulls towards the cluster, and with both, since a union is fitted as one value: where that is one tissue, the
        middle term is 0; of a union of white and grey matter it is most of the error.

    Examples
    --------
    >>> w = np.ones((1, 4))
    >>> m = Moments.of(w, np.array([1.0, 3.0, 1.0, 3.0]))
    >>> f = fit(m, [(0,)], [(0,)], prior=False)
    >>> standard_error(m, f, [(0,)], f.noise[..., None]).round(4).tolist()
    [0.5774]
    """
    reached = fitted.coefficients @ moments.gram
    share = moments.w[..., None, :] * indicator(regions, moments.w.shape[-1]).T
    total = share.sum(axis=-1, keepdims=True)
    target = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
    through = (reached * fitted.coefficients).sum(axis=-1)
    astray = reached - target
    known = _apply(astray, fitted.tissues)
    variance = noise * through + known**2 + np.asarray(fitted.spread)[..., None] * (astray**2).sum(axis=-1)
    error: FloatArray = np.sqrt(np.maximum(variance, 0))
    return error


def _apply(matrix: FloatArray, vector: FloatArray) -> FloatArray:
    """Matrices (..., m, n) times vectors (..., n)."""
    if matrix.ndim == 2:
        return np.asarray(vector @ matrix.T)
    return np.asarray((matrix @ vector[..., None])[..., 0])
