"""Diffusion tensors of voxels that several tissues share. Plain arrays in, plain arrays out.

Signals mix, tensors do not: of half fluid and half white matter the logarithm of the sum is fitted, and neither FA nor MD is the mean of the two,
however they are weighted. All tissues are taken to have one axis, that of the cord.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

NODES = 8
"""Angles between gradient and axis at which signals are mixed: Gauss' points of the cosine, over which directions are spread evenly."""
UNWEIGHTED = 1 / 7
"""Part of the volumes without diffusion weighting: 5 of 35. Tenfold of it changes FA of a half-filled voxel by less than 0.01."""
_COSINE, _EVENLY = np.polynomial.legendre.leggauss(NODES)
SQUARE: FloatArray = (0.5 + 0.5 * _COSINE) ** 2
EVENLY: FloatArray = _EVENLY / 2


def mixed_tensor(shares: Array, s0: Array, axial: Array, radial: Array, b: float, *, unweighted: float = UNWEIGHTED) -> dict[str, FloatArray]:
    """Tensor that is fitted to the sum of several tissues' signals.

    Parameters
    ----------
    shares : (tissue, voxel) array
        Of each voxel's volume.
    s0 : (tissue,) array
        Signal without diffusion weighting, any unit.
    axial, radial : (tissue,) arrays
        AD and RD, um2/ms; 1 / unit of `b`.
    b : float
        Diffusion weighting, ms/um2.
    unweighted : float
        Part of the volumes without it.

    Returns
    -------
    dict of str to (voxel,) array
        ``fa``, ``md``, ``ad``, ``rd``. Missing: NaN where nothing fills a voxel.

    Formula
        ``ln sum_t w_t S0_t exp(-b (RD_t + (AD_t - RD_t) c^2)) = ln S0 - b (RD + (AD - RD) c^2)``, by least squares over c and ``b = 0``, weighted by
        the squared signal (`qmri.tensor`).

    Examples
    --------
    White matter, fluid, and half of each: MD is 1.73, where the mean by volume is 1.98.

    >>> found = mixed_tensor(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]), np.array([1.0, 1.4]), np.array([2.0, 3.0]), np.array([0.43, 3.0]), 0.8)
    >>> found["md"].round(2).tolist(), found["fa"].round(2).tolist()
    ([0.95, 3.0, 1.73], [0.75, 0.0, 0.38])
    """
    decay = np.exp(-b * (radial + (axial - radial) * SQUARE[:, None]))  # (node, tissue)
    with np.errstate(divide="ignore", invalid="ignore"):
        signals = np.concatenate([(s0 @ shares)[None], (decay * s0) @ shares])
        logs = np.log(np.where(signals > 0, signals, np.nan))
        counted = np.concatenate([[unweighted], (1 - unweighted) * EVENLY])[:, None] * (signals / signals[:1]) ** 2
    design = np.stack([np.ones(NODES + 1), np.append(0.0, np.full(NODES, -b)), np.append(0.0, -b * SQUARE)], axis=1)
    normal = np.einsum("nv,ni,nj->vij", np.nan_to_num(counted, nan=1.0), design, design)
    right = np.einsum("nv,ni,nv->vi", counted, design, logs)
    _, across, beyond = np.linalg.solve(normal, right[..., None])[..., 0].T
    along = across + beyond
    size = np.sqrt(along**2 + 2 * across**2)
    fa = np.abs(np.divide(beyond, size, out=np.zeros_like(size), where=size > 0))
    return {"fa": np.where(np.isnan(beyond), np.nan, fa), "md": (along + 2 * across) / 3, "ad": along, "rd": across}


def weighting(s0: Array, mean: Array, axial: Array, radial: Array) -> float:
    """Diffusion weighting (ms/um2) at which tensors leave, on the mean of all directions, `mean` (voxel,) of `s0`; their median. NaN: none tells.

    Examples
    --------
    >>> axial, radial = np.array([2.0, 1.5]), np.array([0.4, 0.6])
    >>> mean = EVENLY @ np.exp(-0.8 * (radial + (axial - radial) * SQUARE[:, None]))
    >>> round(weighting(np.ones(2), mean, axial, radial), 6)
    0.8
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.log(np.asarray(mean, float) / s0)
        b = -wanted * 3 / (axial + 2 * radial)
        rate = radial + (axial - radial) * SQUARE[:, None]
        for _ in range(8):  # Newton, of a function that is nearly a line
            left = EVENLY[:, None] * np.exp(-b * rate)
            b = b + (np.log(left.sum(axis=0)) - wanted) * left.sum(axis=0) / (left * rate).sum(axis=0)
    known = b[np.isfinite(b) & (b > 0)]
    return float(np.median(known)) if len(known) else float("nan")
