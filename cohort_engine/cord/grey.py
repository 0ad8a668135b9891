"""The grey matter of a cord whose mask is known, and how clearly the image shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cohort_engine.cord.windows import Windows, look
from cohort_engine.errors import GeometryError
from cohort_engine.template.packing import FloatArray

if TYPE_CHECKING:
    from cohort_engine.nn.infer import Network

WHOLE = 0.9
"""A voxel lies inside the cord where this part of it is cord."""
FEWEST = 20
"""Voxels inside the cord that a slice must have."""
SHOWN = 1.5
"""Contrast (either sign) from which on grey matter is seen rather than guessed: T2* and MT images have 2 to 5, T1w and T2w images at most 1.3
(``tests/real/test_segment.py``).
"""
OWN = 0.5
"""How much of what a voxel says is its own, and not its neighbours' (scanners interpolate). The mean Dice of five drawn T2* scans is 0.86,
without grey values 0.80 (``tests/real/test_segment.py``); from 0.5 to 0.8 it hardly matters (these scans were in sight).
"""
ROUNDS = 8
"""Of expectation and maximisation; Dice no longer changes after six."""
SURE = 1e-3
"""What the network calls less, or more than one minus it, counts as this."""


@dataclass(frozen=True, eq=False)
class GreyMatter:
    """Grey matter of one image.

    Attributes
    ----------
    soft : (x, y, z) float32 array
        Part of each voxel that is grey matter, 0 to 1, at most that of the cord: by shape (network) and, where the image shows it, by grey value
        (`by_signal`). Where the image shows none it is what the network expects in such a cord.
    contrast : float
        See `grey_contrast`.
    """

    soft: NDArray[np.float32]
    contrast: float

    @property
    def shown(self) -> bool:
        """Whether the image shows it."""
        return abs(self.contrast) >= SHOWN


def grey_matter(data: NDArray[Any], affine: FloatArray, cord: NDArray[Any], *, network: Network | None = None, what: str = "cord mask") -> GreyMatter:
    """Segment the grey matter of a cord.

    Parameters
    ----------
    data, cord : (x, y, z) arrays
        Image, and its cord mask on the same grid, 0 to 1. Grey values that are not finite or negative count as no signal.
    affine : (4, 4) array
        Voxel to RAS+ mm, axes as close to RAS+ as the scan allows.
    network : Network, optional
        From `nn.weights.load_grey`; by default that of the package.
    what : str
        Words of the mask's role, for messages.

    Returns
    -------
    GreyMatter
        In shapes of nn/butterfly.py: its dorsal horns end near the edge of the cord. Empty, with a contrast of NaN, where the mask is.

    Raises
    ------
    GeometryError
        Shapes differ.
    """
    from cohort_engine.nn.weights import load_grey

    if data.shape != cord.shape:
        raise GeometryError(expected=f"a mask of shape {data.shape}", found=str(cord.shape), where=what, remedy="Segment this very image.")
    values, mask = (np.nan_to_num(np.asarray(a, np.float32), nan=0.0, posinf=0.0, neginf=0.0) for a in (data, cord))
    np.maximum(values, 0.0, out=values)
    slices = np.flatnonzero((mask >= 0.5).any(axis=(0, 1)))
    if not len(slices):
        return GreyMatter(np.zeros(values.shape, np.float32), float("nan"))
    spacing = np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)
    part = mask[:, :, slices]
    x, y = ((part.sum(axis=1 - a) * (np.arange(values.shape[a]) * spacing[a])[:, None]).sum(axis=0) / part.sum(axis=(0, 1)) for a in (0, 1))
    net = network or load_grey()
    windows = Windows.around(values, spacing, slices, x, y, net)
    inside, soft = (np.minimum(windows.paste(drawn), mask) for drawn in look(net, windows.cut(values)).unbind(1))
    contrast = grey_contrast(values, inside, soft)
    if abs(contrast) >= SHOWN:
        soft = by_signal(values, mask, soft, np.sign(contrast))
    return GreyMatter(soft, contrast)


def by_signal(data: NDArray[Any], cord: NDArray[Any], soft: NDArray[Any], sign: float) -> NDArray[np.float32]:
    """Let the grey values decide what shape alone leaves open.

    Parameters
    ----------
    data, cord, soft : (x, y, z) arrays
        Image, and the parts of its voxels that are cord and grey matter, 0 to 1, from shape: the prior.
    sign : float
        1 where grey matter is brighter, -1 where it is darker.

    Returns
    -------
    (x, y, z) float32 array
        Posterior of the voxels inside the cord (`WHOLE`); others, and slices in which the grey values speak against `sign`, keep `soft`.

    Notes
    -----
    In each slice a mixture of two normal distributions around a plane, ``a + b x + c y`` and ``a + b x + c y + step``, of one variance is fitted by
    expectation and maximisation (Dempster 1977), with each voxel's `soft` as its prior; log-likelihoods count `OWN`.

    Examples
    --------
    >>> from scipy import ndimage
    >>> truth = np.zeros((16, 16, 1))
    >>> truth[6:10, 4:12] = 1
    >>> image = 100 + 20 * truth + np.random.default_rng(0).normal(0, 4, truth.shape)
    >>> blurred = ndimage.gaussian_filter(truth, (2, 2, 0))
    >>> [int(((part >= 0.5) != truth).sum()) for part in (blurred, by_signal(image, np.ones_like(truth), blurred, 1.0))]
    [12, 0]
    """
    out = np.array(soft, np.float32)
    for z in np.flatnonzero((cord >= WHOLE).any(axis=(0, 1))):
        x, y = np.nonzero(cord[:, :, z] >= WHOLE)
        if len(x) < FEWEST:
            continue
        values, prior = data[x, y, z].astype(float), np.clip(soft[x, y, z].astype(float), SURE, 1 - SURE)
        odds, part = np.log(prior / (1 - prior)), prior
        for _ in range(ROUNDS):
            residual, step, variance = _mixture(x, y, values, part)
            if not (variance > 0 and step * sign > 0):
                break
            # log of the ratio of both densities: residuals are those of white matter
            part = expit(odds + OWN * step * (residual - step / 2) / variance)
        else:
            out[x, y, z] = part
    return out


def _mixture(x: NDArray[Any], y: NDArray[Any], values: FloatArray, part: FloatArray) -> tuple[FloatArray, float, float]:
    """Fit a plane and a step to voxels of which `part` is grey matter; residuals as if all were white, the step, and the variance around both."""
    plane = np.stack([np.ones(len(x)), x - x.mean(), y - y.mean()], axis=1)
    # every voxel counts twice: as white, and as grey matter; normal equations of both together
    cross = np.append(plane.T @ part, part.sum())
    normal = np.vstack([np.column_stack([plane.T @ plane, cross[:3]]), cross])
    right = np.append(plane.T @ values, part @ values)
    fitted = np.linalg.lstsq(normal, right, rcond=None)[0]
    residual, step = values - plane @ fitted[:3], float(fitted[3])
    variance = ((1 - part) * residual**2 + part * (residual - step) ** 2).sum() / (len(x) - 4)
    return residual, step, float(variance)


def grey_contrast(data: NDArray[Any], cord: NDArray[Any], grey: NDArray[Any]) -> float:
    """Step of the grey values from white to grey matter, over the noise inside the cord.

    Parameters
    ----------
    data, cord, grey : (x, y, z) arrays
        Image, and the parts of its voxels that are cord and grey matter, 0 to 1.

    Returns
    -------
    float
        Median over slices; positive where grey matter is brighter (T2*, MT), negative where it is darker. NaN where no slice has `FEWEST` voxels
        inside the cord, or none of them differ.

    Notes
    -----
    In each slice, over the voxels that are cord, the grey values are fitted by least squares as ``a + b x + c y + s grey``; the contrast is
    s over the standard deviation of the residuals. The plane takes up the sensitivity of the coil.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> grey = rng.uniform(size=(20, 20, 3))
    >>> image = 100 + 6 * grey + rng.normal(0, 2, grey.shape)
    >>> 2.8 < grey_contrast(image, np.ones_like(grey), grey) < 3.2
    True
    """
    steps = []
    for z in np.flatnonzero((cord >= WHOLE).any(axis=(0, 1))):
        x, y = np.nonzero(cord[:, :, z] >= WHOLE)
        if len(x) < FEWEST:
            continue
        design = np.stack([np.ones(len(x)), x, y, grey[x, y, z]], axis=1)
        values = data[x, y, z].astype(float)
        fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
        noise = np.sqrt(((values - design @ fitted) ** 2).sum() / (len(x) - rank))
        if rank == design.shape[1] and noise > 0:
            steps.append(fitted[3] / noise)
    return float(np.median(steps)) if steps else float("nan")
