"""What each slice of a diffusion series should look like, modelled from the other volumes, and how far it lies from that.

Within a neck there are few tissues, and each image is a sum of their parts: volumes of one shell differ by how dark their direction makes the cord,
shells and b0 by how much each tissue is worth. So the volumes of a kind are modelled as a mean plus the course of their contrast, and one kind as a
combination of the images of another. Blurred edges between tissues are then where they belong, whichever side is bright.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
IntArray = NDArray[np.intp]
MOST = 0.8
"""Part of a volume in its own model from which on the others do not predict it."""
ENOUGH = 8
"""Volumes of a kind from which on the course of the contrast is modelled."""
_TINY = 1e-12


class Modelled(NamedTuple):
    """Model of the windows of a series.

    Attributes
    ----------
    target : (t, z, a, b) float32
        Each volume as the others of its kind predict it; the volume itself where there are none.
    leverage : (t, z)
        Part of a volume in its own model; 1 where nothing else predicts it.
    images : list of (z, m, a, b) float32
        For each kind its mean and, where it was modelled, what changes with contrast.
    """

    target: NDArray[np.float32]
    leverage: FloatArray
    images: list[NDArray[np.float32]]


class Fitted(NamedTuple):
    """Fit of windows by images and their displacement.

    Attributes
    ----------
    step : (..., c)
        Displacement of the window against the images, mm; and stretch and shear.
    information : (..., c, c)
        Its inverse covariance.
    agreement : (...)
        Multiple correlation before displacement.
    """

    step: FloatArray
    information: FloatArray
    agreement: FloatArray


def model(values: FloatArray, weight: FloatArray, kind: IntArray, use: FloatArray) -> Modelled:
    """Model windows (t, z, a, b) by kind of volume (t,).

    Parameters
    ----------
    values : (t, z, a, b) array
    weight : (z, a, b) array
        Where the course of the contrast is measured.
    kind : (t,) int array
    use : (t, z) array
        Weight of each; slices that nobody can use are modelled by all.

    Examples
    --------
    >>> image = np.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    >>> found = model(np.array([1.0, 2.0, 3.0])[:, None, None, None] * image, np.ones((1, 3, 4)), np.zeros(3, int), np.ones((3, 1)))
    >>> round(float(found.target[0, 0, 1, 2]) / 7, 3), found.leverage[:, 0].round(3).tolist()
    (2.5, [0.333, 0.333, 0.333])
    """
    target, leverage = np.empty(values.shape, np.float32), np.zeros(use.shape)
    images: list[NDArray[np.float32]] = []
    for k in range(int(kind.max()) + 1):
        mine = np.flatnonzero(kind == k)
        some = use[mine]
        some = np.where(some.sum(0) > 0, some, 1.0)
        data = np.ascontiguousarray(np.moveaxis(values[mine], 1, 0)).reshape(values.shape[1], len(mine), -1)  # z, t, p
        course = [np.ones(len(mine))]
        if len(mine) >= ENOUGH:
            course.append(_contrast(data, weight.reshape(len(weight), -1), some))
        x = np.stack(course, -1)
        weighted = some.T[:, :, None] * x
        normal = np.einsum("zti,tj->zij", weighted, x) + 1e-3 * np.diag(np.arange(x.shape[1]))
        smoother = np.linalg.solve(normal, np.swapaxes(weighted, 1, 2))
        parts = smoother.astype(np.float32) @ data
        own = np.einsum("ti,zit->zt", x, smoother)
        share = np.minimum(own, MOST)[..., None].astype(np.float32)
        predicted = (x.astype(np.float32) @ parts - share * data) / (1 - share)
        alone = own > MOST
        predicted[alone] = data[alone]
        target[mine] = np.moveaxis(predicted.reshape(len(predicted), len(mine), *values.shape[2:]), 0, 1)
        leverage[mine] = np.where(alone, 1.0, own).T
        images.append(parts.reshape(len(parts), x.shape[1], *values.shape[2:]))
    return Modelled(target, leverage, images)


def _contrast(data: FloatArray, weight: FloatArray, use: FloatArray) -> FloatArray:
    """Contrast (t,) of each volume against the mean, all slices together: mean 0 and variance 1 over the volumes."""
    share = use / use.sum(0)
    mean = np.einsum("tz,ztp->zp", share.astype(np.float32), data)
    total = np.maximum(weight.sum(1, keepdims=True), _TINY)
    pattern = weight * (mean - (weight * mean).sum(1, keepdims=True) / total)
    gain = np.einsum("zp,ztp->tz", pattern, data) * (use > 0)
    power = (use > 0) * (pattern * mean).sum(1)
    course = gain.sum(1) / np.maximum(power.sum(1), _TINY)
    heavy = use.sum(1)
    course = course - (heavy * course).sum() / max(heavy.sum(), _TINY)
    spread = np.sqrt((heavy * course**2).sum() / max(heavy.sum(), _TINY))
    return np.asarray(course / spread if spread > 1e-3 else np.zeros_like(course))


def with_ramps(images: FloatArray) -> NDArray[np.float32]:
    """Add a ramp along each axis to images (z, m, a, b) of one kind that are to explain another: (z, m + 2, a, b).

    What lies in front of the cord and behind it, or to its sides, need not be as bright in one contrast as the other has it. Without ramps, a fit
    takes that for a displacement: 0.1 to 0.3 mm in simulated b0 images.

    Examples
    --------
    >>> with_ramps(np.ones((1, 1, 3, 2)))[0, 1:].tolist()
    [[[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]]
    """
    ramps = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in images.shape[-2:]), indexing="ij"))
    return np.asarray(np.concatenate([images, np.broadcast_to(ramps, (len(images), *ramps.shape))], axis=1), np.float32)


def fit(
    values: FloatArray, weight: FloatArray, images: FloatArray, spacing: FloatArray, independent: float, *, along: int | None = None
) -> Fitted:  # fmt: skip
    """Fit windows by a combination of images, an offset, and a displacement of that combination.

    Parameters
    ----------
    values : (..., a, b) array
    weight : (..., a, b) array
    images : (..., m, A, B) array
        Images with some voxels around the window; leading axes broadcast with those of `values`.
    spacing : (2,) or (3,) array
        mm.
    independent : float
        Part of the samples that are independent of one another.
    along : int, optional
        Axis (0 or 1) along which windows are stretched and sheared as well.

    Returns
    -------
    Fitted
        ``step`` is what must be added to the place at which the window was read. Without information where nothing can be told.

    Examples
    --------
    >>> x, y = np.mgrid[-12:13, -12:13]
    >>> disc = np.exp(-(x**2 + y**2) / 20)
    >>> moved = 2 * np.exp(-((x - 0.1) ** 2 + y**2) / 20) + 1
    >>> found = fit(moved[2:-2, 2:-2], np.ones((21, 21)), disc[None], np.ones(2), 1.0)
    >>> float(found.step[0].round(2)), float(found.agreement.round(3))
    (0.1, 1.0)
    """
    wide = [(n - m) // 2 for n, m in zip(images.shape[-2:], values.shape[-2:], strict=True)]
    inner = (..., slice(wide[0], images.shape[-2] - wide[0]), slice(wide[1], images.shape[-1] - wide[1]))
    lead = values.shape[:-2]
    w, y = weight.reshape(*lead, 1, -1), values.reshape(*lead, 1, -1)
    m = images.shape[-3]
    near = np.broadcast_to(images[inner], (*lead, m, *values.shape[-2:])).reshape(*lead, m, -1)
    few = np.concatenate([near, np.ones_like(y)], -2)
    coefficient, _, rest_before, _ = _solve(few, w, y)
    image = np.einsum("...m,...mab->...ab", coefficient[..., :m].astype(np.float32), images)
    slopes = [np.gradient(image, spacing[a], axis=a - 2)[inner] for a in (0, 1)]
    if along is not None:
        u, v = ((np.arange(n) - (n - 1) / 2) * s for n, s in ((values.shape[a - 2], spacing[a]) for a in (1 - along, along)))
        slopes += [slopes[along] * (v if along == 1 else v[:, None]), slopes[along] * (u[:, None] if along == 1 else u)]
    moves = np.stack(slopes, -3).reshape(*lead, len(slopes), -1)
    coefficient, normal, rest, total = _solve(np.concatenate([few, moves], -2), w, y)
    n = m + 1
    schur = normal[..., n:, n:] - normal[..., n:, :n] @ np.linalg.solve(normal[..., :n, :n], normal[..., :n, n:])
    mean = (w * y).sum((-2, -1)) / np.maximum(total, _TINY)
    power = (w * (y - mean[..., None, None]) ** 2).sum((-2, -1))
    floor = np.maximum(rest, 1e-5 * power)
    good = (total > 0) & (power > _TINY)
    information = schur * np.where(good, independent * total / np.where(good, floor, 1), 0)[..., None, None]
    agreement = np.sqrt(np.clip(1 - rest_before / np.maximum(power, _TINY), 0, 1))
    return Fitted(np.where(good[..., None], -coefficient[..., n:], 0), information, np.where(good, agreement, np.nan))


def _solve(columns: FloatArray, w: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Least squares of y (..., 1, p) on columns (..., n, p): coefficients, normal matrix, residual sum of squares, sum of weights."""
    weighted = columns * w
    normal = np.asarray(weighted @ np.swapaxes(columns, -1, -2), float)
    right = np.asarray(weighted @ np.swapaxes(y, -1, -2), float)[..., 0]
    size = np.maximum(np.diagonal(normal, axis1=-2, axis2=-1), _TINY)
    normal = normal + 1e-6 * size[..., None, :] * np.eye(normal.shape[-1])
    coefficient = np.linalg.solve(normal, right[..., None])[..., 0]
    rest = (w * (y - coefficient[..., None, :] @ columns) ** 2).sum((-2, -1))
    return coefficient, normal, rest, w.sum((-2, -1))
