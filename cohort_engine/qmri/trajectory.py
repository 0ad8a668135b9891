"""Where every slice of every volume lies, reconciled along the cord and in time: a Gaussian process given uncertain measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
TOLERANCE = 1e-6
ROUNDS = 400


class Term(NamedTuple):
    """One part of the prior: covariance ``time[i, j] * along[k, l]`` of volume i, slice k with volume j, slice l; mm2."""

    time: FloatArray
    along: FloatArray


def squared_exponential(at: FloatArray, length: float) -> FloatArray:
    """``exp(-d^2 / 2 length^2)`` between all pairs of places."""
    return np.asarray(np.exp(-0.5 * ((at[:, None] - at) / length) ** 2))


def exponential(at: FloatArray, length: float) -> FloatArray:
    """``exp(-|d| / length)``: a path that may bend and step at any time, of which near volumes know much and far ones little."""
    return np.asarray(np.exp(-np.abs(at[:, None] - at) / length))


def posterior(measured: FloatArray, information: FloatArray, terms: Sequence[Sequence[Term]]) -> NDArray[np.float64]:
    """Posterior mean of a Gaussian process over volumes and slices.

    Parameters
    ----------
    measured : (t, z, c) array
        About the prior's mean, which is 0.
    information : (t, z, c, c) array
        Inverse covariance of each measurement; zeros where there is none.
    terms : for each component a sequence of `Term`
        The prior of a component is the sum of its terms; components are independent.

    Returns
    -------
    (t, z, c) float64

    Notes
    -----
    With K the prior's covariance and W = L L' the information, ``K L (1 + L' K L)^-1 L' y`` by conjugate gradients: no inverse of a measurement's
    covariance, so a slice without information is no special case, and never a matrix larger than t x t or z x z.

    Examples
    --------
    >>> y = np.array([1.0, 9.0, 1.0])[None, :, None]
    >>> w = np.array([100.0, 0.0, 100.0])[None, :, None, None]
    >>> posterior(y, w, [[Term(np.ones((1, 1)), squared_exponential(np.arange(3.0), 2.0))]]).ravel().round(2).tolist()
    [0.99, 1.09, 0.99]
    """
    values, vectors = np.linalg.eigh(np.asarray(information, float))
    root = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]

    def prior(x: FloatArray) -> FloatArray:
        parts = [sum(t.time @ x[..., c] @ t.along for t in own) for c, own in enumerate(terms)]
        return np.stack([np.broadcast_to(p, x.shape[:2]) for p in parts], -1)

    def apply(x: FloatArray) -> FloatArray:
        return np.asarray(x + np.einsum("tzdc,tzd->tzc", root, prior(np.einsum("tzcd,tzd->tzc", root, x))))

    right = np.einsum("tzdc,tzd->tzc", root, np.asarray(measured, float))
    x, rest = np.zeros_like(right), right.copy()
    direction, size = rest.copy(), float((rest**2).sum())
    enough = TOLERANCE**2 * size
    for _ in range(ROUNDS):
        if size <= enough:
            break
        image = apply(direction)
        step = size / float((direction * image).sum())
        x += step * direction
        rest -= step * image
        before, size = size, float((rest**2).sum())
        direction = rest + size / before * direction
    return np.asarray(prior(np.einsum("tzcd,tzd->tzc", root, x)))
