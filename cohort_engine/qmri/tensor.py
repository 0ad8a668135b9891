"""Diffusion tensor of voxels: weighted least squares, vectorised, with standard errors and a judgement of each voxel. Arrays in, arrays out.

The model is ln S = ln S0 - b g' D g. Ordinary least squares give the signals by which the second, weighted fit weighs the logarithms (Chung 2006);
the robust fit goes on from there as dipy's does: weights that fall with the residual, then outliers left out. With no volume missing the results
are dipy's to 1e-6; missing volumes have weight zero, which leaves them out voxel by voxel.

References
----------
Basser PJ, Mattiello J, Le Bihan D. Estimation of the effective self-diffusion tensor from the NMR spin echo. J Magn Reson B 1994;103:247-254.
Chung S, Lu Y, Henry RG. Comparison of bootstrap approaches for estimation of uncertainties of DTI parameters. NeuroImage 2006;33:531-541.
Collier Q et al. Iterative reweighted linear least squares for accurate, fast, and robust estimation of diffusion magnetic resonance parameters.
Magn Reson Med 2015;73:2174-2184. doi:10.1002/mrm.25351.
Garyfallidis E et al. Dipy, a library for the analysis of diffusion MRI data. Front Neuroinform 2014;8:8. doi:10.3389/fninf.2014.00008.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import InputError, unknown_name

Array = NDArray[Any]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Method = Literal["wls", "irls"]
METHODS: tuple[Method, ...] = ("wls", "irls")
CHANNELS = ("fa", "md", "ad", "rd", "s0", "e1_x", "e1_y", "e1_z", "residual", "goodness", "fa_se", "md_se", "ad_se", "rd_se", "reliable")
UNKNOWNS = 7
"""Six elements of the tensor and ln S0."""
SCALE = 1e-3
"""s/mm2 to ms/um2: then diffusivities are um2/ms, and all unknowns of one size."""
LEAST_EIGENVALUE = 1e-6
"""Over the largest element of the b-matrix: eigenvalues below are set to it, as dipy does."""
FLATTEST = 1e-3
"""Smallest over largest singular value of the design: below it, directions leave a part of the tensor open."""
CEILINGS = (4095.0, 32767.0, 65535.0)
"""Largest numbers of 12, 15 and 16 bits: where the brightest signal of all is one of them, more than once, it was cut off there."""
OUTLIER = 3.0
"""A signal further from a robust fit than this many standard deviations is left out."""
EXACT = 1e-9
"""A fit whose residuals are below this share of the signal is exact: its outliers would be those of rounding."""
LEAST_SHARE = 0.7
"""Share of the volumes that a reliable voxel has."""
SPARE = 4
"""Volumes that a reliable voxel has beyond the unknowns."""
RESIDUAL_Z = 3.5
"""A residual that lies this many robust standard deviations above the median, by logarithm, is an outlier."""
FEWEST = 20
"""Voxels whose residuals can be the measure of others."""
FLOOR = 2.5
"""Where the mean weighted signal is below this many standard deviations of the noise, much of what was measured is noise. It is the mean of all
directions, not the lowest signal: a voxel whose tensor is long by chance must not be left out for that."""
FREE = 3.1
"""Diffusivity of free water at body temperature, um2/ms: nothing in the body is above."""
SURE = 3.0
"""Standard errors by which an eigenvalue must be beyond what is possible."""

FEW, NOISY, DARK, IMPOSSIBLE, UNFIT = "few volumes", "residual", "noise floor", "impossible", "no fit"
REASONS: Mapping[str, str] = {
    FEW: f"fewer than {LEAST_SHARE:.0%} of the volumes",
    NOISY: "a residual far above those of the other voxels",
    DARK: f"the mean weighted signal is within {FLOOR:g} standard deviations of the noise",
    IMPOSSIBLE: "an eigenvalue below zero or above that of free water, by more than its error",
    UNFIT: "no signal, a saturated one, or too few volumes for a tensor",
}
"""Reason not to rely on a voxel -> what it means."""


class Fit(NamedTuple):
    """Tensors of n voxels.

    Attributes
    ----------
    channels : dict of str to (n,) float64 array
        By `CHANNELS`, see `fit_tensor`.
    reasons : dict of str to (n,) bool array
        By `REASONS`: which of them hold.
    sigma : float
        Standard deviation of the noise that voxels were judged by, in units of the signal; NaN where there was nothing to tell it.
    used : (n,) int array
        Volumes that each fit rests on.
    """

    channels: dict[str, FloatArray]
    reasons: dict[str, BoolArray]
    sigma: float
    used: NDArray[np.int64]


class _Solved(NamedTuple):
    """Unknowns (n, 7), their covariance (n, 7, 7) but for the variance of the noise, predicted signals and weights of the logarithms (n, t)."""

    unknowns: FloatArray
    covariance: FloatArray
    predicted: FloatArray
    weights: FloatArray


def fit_tensor(
    signals: Array, bvals: Array, directions: Array, *, method: Method = "wls", sigma: float | None = None
) -> dict[str, NDArray[np.float64]]:
    """Fit a diffusion tensor to each voxel.

    Parameters
    ----------
    signals : (n, t) array
        Any unit. A signal that is NaN, zero or negative is left out of its voxel's fit.
    bvals : (t,) array
        s/mm2.
    directions : (t, 3) array
        Unit vectors; zeros without diffusion weighting. Eigenvectors come in their frame.
    method : str
        ``wls``, weighted least squares; ``irls``, in addition without signals that lie more than `OUTLIER` standard deviations off a robust fit (four
        rounds in all; a voxel in which too few would be left keeps its weighted fit).
    sigma : float, optional
        Standard deviation of the noise, in units of the signal. By default each voxel's standard errors go by its own residual, and the noise floor
        by the median of all.

    Returns
    -------
    dict of str to (n,) array
        - ``fa``; ``md``, ``ad``, ``rd``: um2/ms; ``s0``: unit of the signal.
        - ``e1_x``, ``e1_y``, ``e1_z``: unit vector of the largest eigenvalue, turned upwards (``e1_z >= 0``).
        - ``residual``: root of the mean squared residual in units of the signal, degrees of freedom counted: the noise, if the model holds.
        - ``goodness``: share of the weighted variance of ln S that the tensor explains.
        - ``fa_se``, ``md_se``, ``ad_se``, ``rd_se``: standard errors, by the fit's covariance and the first derivatives.
        - ``reliable``: 1, or 0 where any of `REASONS` holds.

        Missing: a voxel without a fit (no signal, too few volumes, saturated) is NaN in all but ``reliable``, which is 0; never FA = 0.

    Raises
    ------
    UnknownNameError
        Another method.
    InputError
        Arrays that do not belong together; directions that leave a part of the tensor open.

    Examples
    --------
    >>> half = np.sqrt(0.5)
    >>> d = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [half, half, 0], [half, 0, half], [0, half, half]])
    >>> b = np.array([0.0] + 6 * [800.0])
    >>> signal = 100 * np.exp(-b / 1000 * (0.5 + 1.2 * d[:, 2] ** 2))
    >>> found = fit_tensor(signal[None], b, d)
    >>> [round(float(found[k][0]), 3) for k in ("fa", "md", "ad", "rd", "s0", "e1_z")]
    [0.652, 0.9, 1.7, 0.5, 100.0, 1.0]
    """
    return fit(signals, bvals, directions, method=method, sigma=sigma).channels


def fit(
    signals: Array, bvals: Array, directions: Array, *, method: Method = "wls", sigma: float | None = None, among: BoolArray | None = None
) -> Fit:
    """Fit tensors as `fit_tensor` does, and tell why voxels are not relied on; parameters and errors as there.

    Parameters
    ----------
    among : (n,) bool array, optional
        Voxels whose residuals are the measure of others: those of the cord, where others were fitted too. By default all.
    """
    if method not in METHODS:
        raise unknown_name("way to fit a tensor", method, list(METHODS), where="tensor fit")
    signals, bvals, directions = (np.asarray(a, np.float64) for a in (signals, bvals, directions))
    if signals.ndim != 2 or bvals.shape != signals.shape[1:] or directions.shape != (*bvals.shape, 3):
        raise InputError(
            expected="signals (n, t), b-values (t,) and directions (t, 3)", found=f"{signals.shape}, {bvals.shape} and {directions.shape}",
            where="tensor fit", remedy="Give one b-value and one direction a volume.",
        )  # fmt: skip
    design = design_matrix(bvals, directions)
    if not _determined(design):
        raise InputError(
            expected="a b0 and six directions that do not lie on a cone", found=f"{int(np.any(directions, axis=1).sum())} weighted volumes",
            where="tensor fit", remedy="A tensor has six elements: this series cannot tell them.",
        )  # fmt: skip
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(signals) & (signals > 0)
    usable &= ~cut_off(signals).any(axis=1, keepdims=True)
    fitted = _enough(usable, design)
    channels = {name: np.full(len(signals), np.nan) for name in CHANNELS}
    used = usable.sum(axis=1)
    reasons = {name: np.zeros(len(signals), bool) for name in REASONS} | {UNFIT: ~fitted}
    noise = np.nan if sigma is None else float(sigma)
    measure = np.ones(len(signals), bool) if among is None else np.asarray(among, bool)
    if fitted.any():
        mask = usable[fitted]
        logs = np.log(np.where(mask, signals[fitted], 1.0))
        solved = _weighted(design, logs, mask)
        if method == "irls":
            solved, mask = _robust(design, logs, mask, solved)
            used[fitted] = mask.sum(axis=1)
        found, values, errors, weighted = _channels(design, logs, mask, solved, sigma)
        for name, value in found.items():
            channels[name][fitted] = value
        of = found["residual"][measure[fitted] & np.isfinite(found["residual"])]
        noise = float(np.median(of)) if sigma is None and len(of) else noise
        judged = {
            FEW: used[fitted] < max(UNKNOWNS + SPARE, LEAST_SHARE * len(bvals)),
            NOISY: _outlying(found["residual"], of[of > 0]),
            DARK: weighted < FLOOR * noise,
            IMPOSSIBLE: (values[:, 2] < -SURE * errors[:, 2]) | (values[:, 0] > FREE + SURE * errors[:, 0]),
        }
        for name, holds in judged.items():
            reasons[name][fitted] = holds
    channels["reliable"] = (~np.any(list(reasons.values()), axis=0)).astype(np.float64)
    return Fit(channels, reasons, noise, used)


def design_matrix(bvals: Array, directions: Array) -> FloatArray:
    """Build the design of ln S = X (Dxx, Dxy, Dyy, Dxz, Dyz, Dzz, ln S0), D in um2/ms.

    Parameters
    ----------
    bvals : (t,) array
        s/mm2.
    directions : (t, 3) array

    Returns
    -------
    (t, 7) array
    """
    b, (x, y, z) = SCALE * np.asarray(bvals, np.float64), np.asarray(directions, np.float64).T
    return np.stack([-b * x * x, -2 * b * x * y, -b * y * y, -2 * b * x * z, -2 * b * y * z, -b * z * z, np.ones_like(b)], axis=1)


def _determined(design: FloatArray) -> bool:
    """Whether a design tells all unknowns."""
    if len(design) < UNKNOWNS:
        return False
    values = np.linalg.svd(design, compute_uv=False)
    return bool(values[-1] > FLATTEST * values[0])


def cut_off(signals: Array) -> BoolArray:
    """Find signals at which the scanner or a conversion cut off: the brightest of all, where they are one of `CEILINGS` and more than one.

    It must be asked before anything is interpolated.

    Examples
    --------
    >>> cut_off(np.array([4095.0, 300.0, 4095.0])).tolist(), cut_off(np.array([4095.0, 300.0])).any()
    ([True, False, True], np.False_)
    """
    finite = signals[np.isfinite(signals)]
    top = finite.max(initial=0.0)
    at_top: BoolArray = np.asarray(signals == top)
    return at_top if top in CEILINGS and at_top.sum() > 1 else np.zeros(np.shape(signals), bool)


def _enough(usable: BoolArray, design: FloatArray) -> BoolArray:
    """Whether the volumes of each voxel (n,) tell a tensor: judged once for each pattern of missing volumes."""
    out: BoolArray = np.asarray(usable.all(axis=1))
    rest = np.flatnonzero(~out & (usable.sum(axis=1) >= UNKNOWNS))
    if len(rest):
        patterns, which = np.unique(np.packbits(usable[rest], axis=1), axis=0, return_inverse=True)
        masks = np.unpackbits(patterns, axis=1, count=usable.shape[1]).astype(bool)
        out[rest] = np.array([_determined(design[mask]) for mask in masks])[which.ravel()]
    return out


def _solve(design: FloatArray, logs: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares of each voxel: unknowns (n, 7) and inverse of the normal matrix (n, 7, 7). Weights (n, t) are those of squares."""
    top = weights.max(axis=1, keepdims=True)
    scaled = weights / top
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    normal = (scaled @ products).reshape(-1, UNKNOWNS, UNKNOWNS)
    inverse = np.linalg.inv(normal)
    right = (scaled * logs) @ design
    unknowns = np.einsum("nij,nj->ni", inverse, right)
    unknowns += np.einsum("nij,nj->ni", inverse, (scaled * (logs - unknowns @ design.T)) @ design)  # what rounding left over
    return unknowns, inverse / top[:, :, None]


def _weighted(design: FloatArray, logs: FloatArray, mask: BoolArray) -> _Solved:
    """Fit with the squared signals of an ordinary fit as weights."""
    first, _ = _solve(design, logs, mask.astype(np.float64))
    weights = np.where(mask, np.exp(2 * first @ design.T), 0.0)
    unknowns, covariance = _solve(design, logs, weights)
    return _Solved(unknowns, covariance, np.exp(unknowns @ design.T), weights)


def _robust(design: FloatArray, logs: FloatArray, mask: BoolArray, start: _Solved) -> tuple[_Solved, BoolArray]:
    """Go on from a weighted fit: Geman-McClure weights, then outliers left out. Where too few volumes would be left, the weighted fit stays."""
    scale = _spread(logs, mask, start)
    sound = (mask.sum(axis=1) > UNKNOWNS) & (scale[:, 0] > EXACT * start.predicted.max(axis=1))
    ratio, residual = np.where(sound[:, None], scale, 1.0) / start.predicted, logs - np.log(start.predicted)
    weights = np.where(mask, ratio**2 / (ratio**2 + residual**2) ** 2, 0.0)
    weights[~sound] = start.weights[~sound]
    unknowns, covariance = _solve(design, logs, weights)
    second = _Solved(unknowns, covariance, np.exp(unknowns @ design.T), weights)
    scale = _spread(logs, mask, second)
    leverage = np.einsum("ti,nij,tj,nt->nt", design, covariance, design, weights, optimize=True)
    leverage = np.where(np.isclose(leverage, 1.0), 0.99, leverage)
    off = np.abs(np.exp(logs) - second.predicted) > OUTLIER * scale * np.sqrt(np.clip(1 - leverage, 0, None))
    kept = mask & ~off
    stays = ~(sound & _enough(kept, design))
    kept[stays] = mask[stays]
    return _weighted(design, logs, kept), kept


def _spread(logs: FloatArray, mask: BoolArray, solved: _Solved) -> FloatArray:
    """Robust standard deviation (n, 1) of the residuals, in units of the signal."""
    z = np.where(mask, solved.predicted * (logs - np.log(solved.predicted)), np.nan)
    count = mask.sum(axis=1, keepdims=True)
    deviation = np.nanmedian(np.abs(z - np.nanmedian(z, axis=1, keepdims=True)), axis=1, keepdims=True)
    out: FloatArray = 1.4826 * np.sqrt(count / np.maximum(count - UNKNOWNS, 1)) * deviation
    return out


def _channels(
    design: FloatArray, logs: FloatArray, mask: BoolArray, solved: _Solved, sigma: float | None
) -> tuple[dict[str, FloatArray], FloatArray, FloatArray, FloatArray]:
    """Channels of fitted voxels; eigenvalues as they were found (n, 3), from high to low, and their errors; mean weighted signal of each fit."""
    unknowns = solved.unknowns
    tensors = unknowns[:, [[0, 1, 3], [1, 2, 4], [3, 4, 5]]]
    values, vectors = np.linalg.eigh(tensors)
    values, vectors = values[:, ::-1], vectors[:, :, ::-1]
    first = vectors[:, :, 0] * np.where(vectors[:, 2:, 0] < 0, -1.0, 1.0)
    residuals = logs - unknowns @ design.T
    freedom = mask.sum(axis=1) - UNKNOWNS
    squares = (solved.weights * residuals**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(freedom > 0, squares / freedom, np.nan)
        mean = (solved.weights * logs).sum(axis=1, keepdims=True) / solved.weights.sum(axis=1, keepdims=True)
        goodness = 1 - squares / (solved.weights * (logs - mean) ** 2).sum(axis=1)
    residual = np.sqrt(variance)
    by = variance if sigma is None else np.full(len(variance), float(sigma) ** 2)
    x, y, z = np.moveaxis(vectors, 1, 0)
    derivative = np.stack([x * x, 2 * x * y, y * y, 2 * x * z, 2 * y * z, z * z], axis=-1)  # of eigenvalues by elements, (n, 3, 6)
    covariance = np.einsum("nai,nij,nbj->nab", derivative, solved.covariance[:, :6, :6], derivative, optimize=True) * by[:, None, None]
    clipped = np.maximum(values, LEAST_EIGENVALUE / (-design[:, :6].min()))
    fa, fa_slope = _anisotropy(clipped)
    slopes = {"fa": fa_slope, "md": np.full_like(values, 1 / 3), "ad": np.eye(3)[[0]], "rd": np.array([[0, 0.5, 0.5]])}
    found = {"fa": fa, "md": clipped.mean(axis=1), "ad": clipped[:, 0], "rd": clipped[:, 1:].mean(axis=1), "s0": np.exp(unknowns[:, 6])}
    found |= {"e1_x": first[:, 0], "e1_y": first[:, 1], "e1_z": first[:, 2], "residual": residual, "goodness": goodness}
    for name, slope in slopes.items():
        found[f"{name}_se"] = np.sqrt(
            np.einsum("na,nab,nb->n", np.broadcast_to(slope, values.shape), covariance, np.broadcast_to(slope, values.shape))
        )
    weighted = np.exp(unknowns @ design[design[:, :6].any(axis=1)].mean(axis=0))
    return found, values, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)), weighted


def _anisotropy(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """FA of eigenvalues (n, 3), and its derivatives by them (n, 3)."""
    trace, squares = values.sum(axis=1), (values**2).sum(axis=1)
    a, b, c = values.T
    fa = np.sqrt(0.5 * ((a - b) ** 2 + (b - c) ** 2 + (c - a) ** 2) / squares)
    ratio = (trace / squares)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (ratio**2 * values - ratio) / (2 * fa[:, None])
    return fa, np.where(fa[:, None] > 0, slope, 0.0)


def _outlying(residual: FloatArray, of: FloatArray) -> BoolArray:
    """Whether each residual lies far above those of others; by fewer than `FEWEST` others nothing can be said."""
    if len(of) < FEWEST:
        return np.zeros(len(residual), bool)
    logs = np.log(of)
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    return np.asarray(residual > np.exp(middle + RESIDUAL_Z * spread))
