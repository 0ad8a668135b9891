"""Diffusion tensor of one series: what the command `dti` and the stage ``tensor_dwi`` call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.errors import CordError, GeometryError, warn
from cohort_engine.io.gradients import SERIES, Gradients
from cohort_engine.io.volume import Volume, on_voxels_of
from cohort_engine.qmri.coherence import VERDICTS, Coherence, check_directions
from cohort_engine.qmri.tensor import CHANNELS, Fit, Method, fit

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]

MARGIN = 2.0
"""Tensors are fitted this far (mm, in the plane) around the cord too: who interpolates at its border needs neighbours."""
TENSOR_B_MAX = 1500.0
"""Volumes of a higher b (s/mm2) are left out where there are lower ones: there the logarithm of the signal is no straight line of b."""
MASK = "cord mask of the diffusion images"
METRICS = ("fa", "md", "ad", "rd", "fa_se", "md_se", "ad_se", "rd_se")
"""Channels that are NaN in an unreliable voxel, where that is asked for."""


class Tensors(NamedTuple):
    """Tensors of a series.

    Attributes
    ----------
    image : Volume
        (x, y, z, channel) float32, channels of `qmri.tensor.CHANNELS`. NaN beyond the cord and its margin, and as of `qmri.tensor.fit_tensor`.
    quality : dict of str to float
        See `tensor_image`.
    fit : Fit
        Of the voxels of cord and margin, in the order of the array.
    cord : (n,) bool array
        Which of them are cord.
    coherence : Coherence
    """

    image: Volume
    quality: dict[str, float]
    fit: Fit
    cord: BoolArray
    coherence: Coherence


def tensor_image(
    series: Volume, gradients: Gradients, cord: Volume, *, method: Method = "wls", margin_mm: float = MARGIN, reliable: bool = False
) -> tuple[Volume, dict[str, float]]:
    """Fit a tensor to each voxel of the cord and a margin.

    Parameters
    ----------
    series : Volume
        (x, y, z, t), corrected for motion. A volume that is NaN in a voxel is left out there.
    gradients : Gradients
        Of its volumes.
    cord : Volume
        Mask on its grid, cord where above a half.
    method : str
        See `qmri.tensor.fit_tensor`.
    margin_mm : float
        In the plane, around the cord.
    reliable : bool
        Whether FA, MD, AD, RD and their errors are NaN in voxels that cannot be relied on; which those are is in the last channel in any case.

    Returns
    -------
    image : Volume
        (x, y, z, channel) float32, channels of `qmri.tensor.CHANNELS`; eigenvectors in the scanner's RAS+. NaN beyond the margin.
    quality : dict of str to float
        In the cord: ``snr`` (median S0 over the noise), ``reliable`` (share of voxels), ``residual`` (median, percent of S0), ``goodness``
        (median), ``lost`` (share of signals that were left out), ``e1_cosine`` (mean, between first eigenvector and centreline),
        ``direction_margin`` and ``axis_margin`` (standard errors, see `qmri.coherence.Coherence`), ``directions_contradicted`` (1 or 0).

    Raises
    ------
    GeometryError, CordError, InputError
        A mask or gradients of another series, an empty mask; as of `qmri.tensor.fit_tensor`.

    Warns
    -----
    CohortWarning
        Volumes of b > `TENSOR_B_MAX` left out; directions that fit better otherwise.
    """
    found = fit_series(series, gradients, cord, method=method, margin_mm=margin_mm)
    if not reliable:
        return found.image, found.quality
    data = found.image.data.copy()
    off = ~(data[..., CHANNELS.index("reliable")] > 0)
    for name in METRICS:
        data[off, CHANNELS.index(name)] = np.nan
    return found.image.with_data(data), found.quality


def fit_series(series: Volume, gradients: Gradients, cord: Volume, *, method: Method = "wls", margin_mm: float = MARGIN) -> Tensors:
    """Fit as `tensor_image` does, and tell all that came with it; parameters and errors as there."""
    volumes = series.data.shape[3] if series.data.ndim > 3 else 1
    if len(gradients.bvals) != volumes:
        raise GeometryError(
            expected=f"{volumes} b-values, one a volume", found=str(len(gradients.bvals)), where=SERIES, remedy="Give the files of this series."
        )
    frame = Volume(series.data[..., 0], series.affine, series.stored)
    mask = on_voxels_of(frame, cord, what=MASK, like=f"the {SERIES}").data > 0.5
    if not mask.any():
        raise CordError(expected="a cord", found="an empty mask", where=MASK, remedy="Segment the mean of the diffusion-weighted images.")
    kept = gradients.bvals <= max(TENSOR_B_MAX, gradients.shells[0][0] + 1 if gradients.shells else 0.0)
    if not kept.all():
        warn(f"{int((~kept).sum())} volumes of b > {TENSOR_B_MAX:g} s/mm2 are left out of the tensor, which does not describe them", where=SERIES)
    region = around(mask, series.grid.spacing, margin_mm)
    inside = mask[region]
    signals = series.data[region][:, kept]
    found = fit(signals, gradients.bvals[kept], gradients.directions[kept], method=method, among=inside)
    data = np.full((*mask.shape, len(CHANNELS)), np.nan, np.float32)
    data[region] = np.stack([found.channels[name] for name in CHANNELS], axis=1)
    places = np.argwhere(mask)
    tangent = tangents(mask, series.affine, places)
    e1 = np.stack([found.channels[f"e1_{axis}"][inside] for axis in "xyz"], axis=1)
    coherence = check_directions(e1, tangent, places, series.affine)
    if coherence.verdict == "contradicted":
        warn(
            f"{VERDICTS['contradicted']}: {coherence.best} of the image's axes, by {-coherence.margin:.1f} standard errors; nothing was changed",
            where=SERIES,
        )
    return Tensors(frame.with_data(data), _quality(found, inside, signals, e1, tangent, coherence), found, inside, coherence)


def around(mask: BoolArray, spacing: Array, margin_mm: float) -> BoolArray:
    """Voxels (x, y, z) of the mask or within a distance of it in the plane; slices without mask stay empty.

    Examples
    --------
    >>> mask = np.zeros((5, 5, 2), bool)
    >>> mask[2, 2, 0] = True
    >>> around(mask, np.array([1.0, 1.0, 5.0]), 1.0).sum(axis=(0, 1)).tolist()
    [5, 0]
    """
    out = mask.copy()
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        out[:, :, z] = ndimage.distance_transform_edt(~mask[:, :, z], sampling=spacing[:2]) <= margin_mm + 1e-6
    return out


def tangents(mask: BoolArray, affine: Array, places: Array) -> NDArray[np.float64]:
    """Direction (n, 3) of the cord, RAS+, at voxels (n, 3); the normal of slices where a mask has no centreline, as of one slice."""
    try:
        line = centreline_from_mask(mask, affine, what=MASK)
    except CordError:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        return np.broadcast_to(normal / np.linalg.norm(normal), (len(places), 3))
    arc, _ = line.project(places @ affine[:3, :3].T + affine[:3, 3])
    return np.asarray(line.direction(arc), np.float64)


def _quality(found: Fit, inside: BoolArray, signals: Array, e1: Array, tangent: Array, coherence: Coherence) -> dict[str, float]:
    channels = {name: values[inside] for name, values in found.channels.items()}
    fitted = np.isfinite(channels["fa"])
    s0 = channels["s0"][fitted]
    return {
        "snr": float(np.median(s0)) / found.sigma if fitted.any() else np.nan,
        "reliable": float(np.mean(channels["reliable"])),
        "residual": 100 * float(np.nanmedian(channels["residual"][fitted] / s0)) if fitted.any() else np.nan,
        "goodness": float(np.median(channels["goodness"][fitted])) if fitted.any() else np.nan,
        "lost": 1 - float(found.used[inside].sum()) / signals[inside].size,
        "e1_cosine": float(np.mean(np.abs((e1 * tangent).sum(axis=1))[fitted])) if fitted.any() else np.nan,
        "direction_margin": coherence.margin,
        "axis_margin": coherence.axis_margin,
        "directions_contradicted": float(coherence.verdict == "contradicted"),
    }
