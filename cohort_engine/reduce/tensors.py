"""Tissues that share the voxels of a tensor image: the mean of their values, and what the tensor has beyond it. Plain arrays in, plain arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.mapping.native import WHOLE
from cohort_engine.qmri.mixed import mixed_tensor
from cohort_engine.reduce.linear import FloatArray, Members
from cohort_engine.reduce.native import relative_signals, signal_weights

POSSIBLE = (0.05, 3.1)
"""Diffusivities of tissue and fluid, um2/ms: up to that of free water at body temperature."""
ROUNDS = 4
"""Of telling the tissues' tensors and what mixing makes of them."""


class Mixture(NamedTuple):
    """How a voxel's value comes from its labels': ``weights' b + excess``.

    Attributes
    ----------
    weights : (label, voxel) array
        Of the mean of the labels' values.
    excess : (voxel,) array
        What a voxel has beyond that mean, as signals mix and not their logarithms. 0 where tissues cannot be told apart.
    """

    weights: FloatArray
    excess: FloatArray


def tensor_mixture(
    metric: str, weights: FloatArray, channels: Mapping[str, FloatArray], slices: NDArray[np.integer[Any]], clusters: Members, b: float
) -> Mixture:  # fmt: skip
    """Say how a metric of the tensor mixes in a voxel.

    Parameters
    ----------
    metric : str
        `schema.FA`, `schema.MD`, `schema.AD` or `schema.RD`.
    weights : (label, voxel) array
        Share of each label in a voxel's volume.
    channels : mapping of str to (voxel,) arrays
        ``ad``, ``rd`` (um2/ms) and ``s0``. NaN where unknown.
    slices : (voxel,) int array
        Slice of each voxel: receive sensitivity cancels within a slice.
    clusters : sequence of tuples of labels
        Tissues, each of one tensor for this purpose.
    b : float
        Diffusion weighting, ms/um2.

    Formula
        A diffusivity is a slope of ln S: the mean of the tissues' by their signal half way to full weighting, ``S0 exp(-b MD / 2)``; FA the mean by
        volume. What is left, of third order in how much tissues differ, is the `excess`: the tensor of the summed signals (`qmri.mixed`) less that
        mean, for the tensors and signals that fit the image as tissues. With a fifth of fluid in a voxel of white matter it is 1.6 % of MD.

    Examples
    --------
    >>> from cohort_engine.qmri.mixed import mixed_tensor
    >>> w = np.array([[1.0, 0.9, 0.5, 0.2, 0.0], [0.0, 0.1, 0.5, 0.8, 1.0]])
    >>> s0, ad, rd = np.array([1.0, 1.4]), np.array([2.0, 3.0]), np.array([0.4, 3.0])
    >>> voxels = mixed_tensor(w, s0, ad, rd, 0.8) | {"s0": s0 @ w}
    >>> found = tensor_mixture("md", w, voxels, np.zeros(5, int), [(0,), (1,)], 0.8)
    >>> by_mean, whole = np.array([0.9333, 3.0]) @ found.weights, np.array([0.9333, 3.0]) @ found.weights + found.excess
    >>> (voxels["md"] - by_mean).round(3).tolist(), np.abs(voxels["md"] - whole).max().round(3).item()
    ([0.0, 0.005, -0.02, -0.057, 0.0], 0.0)
    """
    axial, radial, s0 = (np.asarray(channels[name], np.float64) for name in (schema.AD, schema.RD, "s0"))
    tissues = [tuple(c) for c in clusters]
    between = s0 * np.exp(-b / 2 * (axial + 2 * radial) / 3)
    by_signal = signal_weights(weights, between, slices, tissues)
    mixture = weights if metric == schema.FA else by_signal
    nothing = Mixture(mixture, np.zeros(weights.shape[1]))
    signals = relative_signals(weights, s0, slices, tissues)
    if signals is None or not np.isfinite(b):
        return nothing
    volume, signal = (np.stack([w[list(c)].sum(axis=0) for c in tissues]) for w in (weights, by_signal))
    known = np.isfinite(axial) & np.isfinite(radial) & (np.abs(weights.sum(axis=0) - 1) <= 1 - WHOLE)
    if not known.any():
        return nothing
    by = np.linalg.pinv(signal[:, known].T)
    beyond = {schema.AD: np.zeros(len(axial)), schema.RD: np.zeros(len(axial))}
    for _ in range(ROUNDS):
        one = {name: np.clip(by @ (v - beyond[name])[known], *POSSIBLE) for name, v in ((schema.AD, axial), (schema.RD, radial))}
        made = mixed_tensor(volume, signals, one[schema.AD], one[schema.RD], b)
        beyond = {name: np.nan_to_num(made[name] - one[name] @ signal) for name in one}
    single = mixed_tensor(np.eye(len(tissues)), signals, one[schema.AD], one[schema.RD], b)
    return Mixture(mixture, np.nan_to_num(made[metric] - single[metric] @ (volume if metric == schema.FA else signal)))
