"""Denoising of a diffusion series by principal components (MP-PCA), and whether more than noise was taken away.

The series around each voxel is a matrix of noise and a few components; what lies within the spectrum that noise alone has (Marchenko and Pastur) is
left out. It belongs before anything that interpolates, since interpolated noise has another spectrum. A cord of ten voxels' width in few volumes
has little redundancy: what is left out may hold its border. So the residual is judged there: noise knows nothing of the cord, is as strong at its
edge as elsewhere, and unlike in neighbouring voxels.

References
----------
Veraart J et al. Denoising of diffusion MRI using random matrix theory. NeuroImage 2016;142:394-406. doi:10.1016/j.neuroimage.2016.08.016.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.errors import CordError, InputError, optional

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]

RADIUS = 2
"""Voxels around each whose series make its matrix: 5 x 5 x 5."""
AROUND = 12.0
"""What lies further from the cord (mm, in the plane) is left as it is."""
EDGE = 1.0
"""Width (mm) to either side of the mask's border that counts as the cord's edge."""
EXCESS = 1.15
"""Residual at the edge over that elsewhere from which on structure was taken away."""
CORRELATED = 0.1
"""Correlation of residuals of neighbours at the edge, beyond that elsewhere, from which on structure was taken away."""


class Denoised(NamedTuple):
    """A series without part of its noise.

    Attributes
    ----------
    series : (x, y, z, t) float32 array
        NaN where the series is.
    sigma : float
        Standard deviation of the noise that was found, median over the cord, unit of the signal.
    removed : float
        Standard deviation of what was taken away there, over `sigma`.
    edge_excess : float
        Root mean square of what was taken away at the cord's edge, over that elsewhere, each in units of the noise there: 1 of noise.
    edge_correlation : float
        Correlation of what was taken away from neighbouring voxels in the plane at the cord's edge, less that elsewhere: 0 of noise.
    structured : bool
        Whether either is beyond `EXCESS` or `CORRELATED`: then the cord's border went with the noise, and the series is better left alone.
    """

    series: NDArray[np.float32]
    sigma: float
    removed: float
    edge_excess: float
    edge_correlation: float
    structured: bool


def denoise(series: Array, cord: BoolArray, spacing: Array) -> Denoised:
    """Take the noise out of a series near the cord.

    Parameters
    ----------
    series : (x, y, z, t) array
        As it was scanned: not moved, not interpolated.
    cord : (x, y, z) bool array
    spacing : (3,) array
        mm.

    Returns
    -------
    Denoised

    Raises
    ------
    CordError
        An empty mask.
    InputError
        Fewer voxels than a patch has in the plane, or one volume.
    MissingPackageError
        Without dipy.
    """
    cord, spacing = np.asarray(cord, bool), np.asarray(spacing, np.float64)
    if not cord.any():
        raise CordError(expected="a cord", found="an empty mask", where="denoising", remedy="Segment the mean of the series.")
    near = _near(cord, spacing, AROUND)
    index = np.argwhere(near)
    low = np.maximum(index.min(axis=0) - RADIUS, 0)
    high = np.minimum(index.max(axis=0) + 1 + RADIUS, cord.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = np.asarray(series, np.float64)[window]
    if part.ndim != 4 or part.shape[3] < 2 or min(part.shape[:2]) < 2 * RADIUS + 1:
        raise InputError(
            expected=f"several volumes of at least {2 * RADIUS + 1} voxels in the plane", found=f"shape {np.shape(series)}", where="denoising",
            remedy="Leave this series as it is.",
        )  # fmt: skip
    known = np.isfinite(part)
    radius = np.array([RADIUS, RADIUS, min(RADIUS, (part.shape[2] - 1) // 2)])
    with optional("dipy", "diffusion", where="denoising"):
        from dipy.denoise.localpca import mppca
    with np.errstate(invalid="ignore"):  # of voxels outside the mask
        clean, noise = mppca(
            np.where(known, part, 0.0), mask=near[window] & known.any(axis=3), patch_radius=radius, return_sigma=True, suppress_warning=True
        )
    done = near[window][..., None] & known
    out = np.array(series, np.float32)
    out[window] = np.where(done, clean, part)
    taken = np.where(done, part - clean, np.nan)
    inside = cord[window]
    sigma = float(np.median(noise[inside]))
    with np.errstate(invalid="ignore", divide="ignore"):
        excess, correlation = judge_residual(taken / noise[..., None], inside, spacing)
    removed = float(np.nanstd(taken[inside])) / sigma if sigma > 0 else np.nan
    return Denoised(out, sigma, removed, excess, correlation, bool(excess > EXCESS or correlation > CORRELATED))


def judge_residual(residual: Array, cord: BoolArray, spacing: Array) -> tuple[float, float]:
    """Tell noise from structure in what a filter took away.

    Parameters
    ----------
    residual : (x, y, z, t) array
        What was taken away, in units of the noise; NaN where nothing was filtered.
    cord : (x, y, z) bool array
    spacing : (3,) array
        mm.

    Returns
    -------
    excess : float
        Root mean square at the cord's edge over that elsewhere.
    correlation : float
        Correlation of neighbours in the plane at the edge, less that elsewhere.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y, _ = np.indices((30, 30, 4))
    >>> cord = np.hypot(x - 15, y - 15) < 6
    >>> noise = rng.normal(size=(30, 30, 4, 20))
    >>> [round(abs(v), 1) for v in judge_residual(noise, cord, np.ones(3))]
    [1.0, 0.0]
    """
    known = np.isfinite(residual).any(axis=3)
    edge = _near(cord, spacing, EDGE) & ~(cord & ~_near(~cord, spacing, EDGE)) & known
    strength = [float(np.sqrt(np.nanmean(residual[part] ** 2))) if part.any() else np.nan for part in (edge, known & ~edge)]
    excess = strength[0] / strength[1] if strength[1] > 0 else np.nan
    return excess, _alike(residual, edge) - _alike(residual, known & ~edge)


def _near(mask: BoolArray, spacing: Array, distance: float) -> BoolArray:
    """Voxels of a mask or within a distance of it (mm) in the plane."""
    out = mask.copy()
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        out[:, :, z] = ndimage.distance_transform_edt(~mask[:, :, z], sampling=spacing[:2]) <= distance
    return out


def _alike(taken: Array, part: BoolArray) -> float:
    """Correlation of residuals of neighbours along the two axes of the plane, both within a part."""
    products = [0.0, 0.0]
    for axis in (0, 1):
        first, second = (tuple(slice(a, b) if k == axis else slice(None) for k in range(3)) for a, b in ((0, -1), (1, None)))
        both = part[first] & part[second]
        a, b = taken[first][both], taken[second][both]
        good = np.isfinite(a) & np.isfinite(b)
        products[0] += float((a[good] * b[good]).sum())
        products[1] += float((a[good] ** 2 + b[good] ** 2).sum()) / 2
    return products[0] / products[1] if products[1] > 0 else np.nan
