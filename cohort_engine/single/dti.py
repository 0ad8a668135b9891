"""Diffusion tensor of one series: what the command `dti` and the stage ``tensor_dwi`` call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine import schema
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.errors import CordError, GeometryError, InputError, unknown_name, warn
from cohort_engine.io.gradients import SERIES, Gradients, read_gradients
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import Volume, decode_series, on_voxels_of, read_mask, read_raw, write_volume
from cohort_engine.provenance import versions
from cohort_engine.qmri.coherence import CONTRADICTED, VERDICTS, Coherence, check_directions
from cohort_engine.qmri.lost import lost_slices
from cohort_engine.qmri.tensor import CHANNELS, METHODS, REASONS, Fit, Method, fit
from cohort_engine.single.moco import MocoSettings, correct, found_cord, mean_of

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]

MARGIN = 2.0
"""Tensors are fitted this far (mm, in the plane) around the cord too: who interpolates at its border needs neighbours."""
TENSOR_B_MAX = 1500.0
"""Volumes of a higher b (s/mm2) are left out where there are lower ones: there the logarithm of the signal is no straight line of b."""
MASK = schema.words(schema.DWI_MASK)
IMAGES: Mapping[str, str] = {
    "FA": "fa", "MD": "md", "AD": "ad", "RD": "rd", "FAse": "fa_se", "MDse": "md_se", "ADse": "ad_se", "RDse": "rd_se",
    "S0": "s0", "residual": "residual",
}  # fmt: skip
"""Ending of a file -> channel."""
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
    lost : (t, z) bool array
        Slices of volumes that were left out, see `qmri.lost`.
    """

    image: Volume
    quality: dict[str, float]
    fit: Fit
    cord: BoolArray
    coherence: Coherence
    lost: BoolArray


def tensor_image(
    series: Volume,
    gradients: Gradients,
    cord: Volume,
    *,
    method: Method = "wls",
    margin_mm: float = MARGIN,
    reliable: bool = False,
    lost: bool = True,
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
    lost : bool
        Whether slices of volumes that lost their signal are looked for and left out, see `qmri.lost`.

    Returns
    -------
    image : Volume
        (x, y, z, channel) float32, channels of `qmri.tensor.CHANNELS`; eigenvectors in the scanner's RAS+. NaN beyond the margin.
    quality : dict of str to float
        In the cord: ``snr`` (median S0 over the noise), ``reliable`` (share of voxels), ``residual`` (median, percent of S0), ``goodness``
        (median), ``lost`` (share of signals that were left out), ``lost_slices`` (share of slices of volumes that had lost their signal),
        ``lost_slices`` (share of slices of volumes left out for lost signal), ``e1_cosine`` (mean, between first eigenvector and centreline),
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
    found = fit_series(series, gradients, cord, method=method, margin_mm=margin_mm, lost=lost)
    if not reliable:
        return found.image, found.quality
    data = found.image.data.copy()
    off = ~(data[..., CHANNELS.index("reliable")] > 0)
    for name in METRICS:
        data[off, CHANNELS.index(name)] = np.nan
    return found.image.with_data(data), found.quality


def fit_series(
    series: Volume, gradients: Gradients, cord: Volume, *, method: Method = "wls", margin_mm: float = MARGIN, lost: bool = True
) -> Tensors:
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
    used, slices = gradients.take(kept), np.argwhere(region)[:, 2]
    signals = np.asarray(series.data[region][:, kept], np.float64)  # room for NaN, whatever the series is stored as
    without = np.zeros((volumes, mask.shape[2]), bool)
    if lost:
        seen = lost_slices(signals[inside], slices[inside], used.bvals, used.directions, used.b0)
        without[kept, : seen.shape[1]] = seen
        signals[without[kept].T[slices]] = np.nan
    found = fit(signals, used.bvals, used.directions, method=method, among=inside)
    data = np.full((*mask.shape, len(CHANNELS)), np.nan, np.float32)
    data[region] = np.stack([found.channels[name] for name in CHANNELS], axis=1)
    places = np.argwhere(mask)
    tangent = tangents(mask, series.affine, places)
    e1 = np.stack([found.channels[f"e1_{axis}"][inside] for axis in "xyz"], axis=1)
    coherence = check_directions(e1, tangent, places, series.affine)
    if coherence.verdict == CONTRADICTED:
        warn(
            f"{VERDICTS[CONTRADICTED]}: {coherence.best} of the image's axes, by {-coherence.margin:.1f} standard errors; nothing was changed",
            where=SERIES,
        )
    quality = _quality(found, inside, signals, e1, tangent, coherence) | {"lost_slices": float(without[:, mask.any(axis=(0, 1))].mean())}
    return Tensors(frame.with_data(data), quality, found, inside, coherence, without)


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


def _middle(values: Array) -> float:
    """Median of what is known; NaN where nothing is: as many volumes as unknowns leave no residual."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _quality(found: Fit, inside: BoolArray, signals: Array, e1: Array, tangent: Array, coherence: Coherence) -> dict[str, float]:
    channels = {name: values[inside] for name, values in found.channels.items()}
    fitted = np.isfinite(channels["fa"])
    s0 = channels["s0"][fitted]
    return {
        "snr": _middle(s0) / found.sigma,
        "reliable": float(np.mean(channels["reliable"])),
        "residual": 100 * _middle(channels["residual"][fitted] / s0),
        "goodness": _middle(channels["goodness"][fitted]),
        "lost": 1 - float(found.used[inside].sum()) / signals[inside].size,
        "e1_cosine": float(np.mean(np.abs((e1 * tangent).sum(axis=1))[fitted])) if fitted.any() else np.nan,
        "direction_margin": coherence.margin,
        "axis_margin": coherence.axis_margin,
        "directions_contradicted": float(coherence.verdict == CONTRADICTED),
    }


def dti_image(
    series: str | Path, out: str | Path, *, bval: str | Path, bvec: str | Path, mask: str | Path | None = None, reverse: str | Path | None = None,
    moco: bool = True, settings: MocoSettings | None = None, denoise: bool = False, method: Method = "wls", reliable: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Make the tensor maps of a diffusion series, from its files: denoising, motion, distortion, segmentation and fit.

    Parameters
    ----------
    series : path or URL
        4-D image as it was scanned.
    out : path or URL
        Beginning of the names of what is written, on the series' own voxels in their order: ``_FA``, ``_MD``, ``_AD``, ``_RD`` (um2/ms), their
        standard errors (``_FAse``, ...), ``_S0``, ``_residual``, ``_V1`` (x, y, z of the scanner's RAS+), ``_reliable`` (1 and 0), ``_mean`` (of
        the corrected diffusion-weighted volumes) and ``_mask``, and ``_dti.json``.
    bval, bvec : path or URL
        See `io.gradients.gradients_of`.
    mask : path or URL, optional
        Cord mask on the series' voxels; by default the cord is segmented in the mean of the corrected diffusion-weighted volumes.
    reverse : path or URL, optional
        Image or series of the same slices with the opposite phase encoding.
    moco : bool
        Correct motion, and with `reverse` distortion in the same interpolation.
    settings : MocoSettings
        See `single.moco.correct`.
    denoise : bool
        MP-PCA before anything else, see `qmri.denoise`.
    method : str
        See `qmri.tensor.fit_tensor`.
    reliable : bool
        Whether maps are NaN in voxels that cannot be relied on.

    Returns
    -------
    dict
        What the JSON file says; no paths.

    Raises
    ------
    UnknownNameError, GeometryError, InputError, CordError, StorageError
        As of the parts.
    """
    if method not in METHODS:
        raise unknown_name("way to fit a tensor", method, list(METHODS), where="tensor fit")
    back = schema.words(schema.DWI_REVERSE)
    if reverse is not None and not moco:
        raise InputError(
            expected="correction of motion together with that of distortion", found="motion left as it is", where=back,
            remedy="Leave --no-moco out, or correct the series with the command undistort first.",
        )  # fmt: skip
    scan = decode_series(read_raw(series, what=SERIES), what=SERIES)
    gradients = read_gradients(bval, bvec, scan)
    given = None if mask is None else read_mask(mask, what=MASK)
    other = None if reverse is None else decode_series(read_raw(reverse, what=back), what=back)
    facts: dict[str, Any] = {
        "Description": "Diffusion tensor of the spinal cord",
        "Units": {"MD, AD, RD": schema.DIFFUSIVITY, "V1": "unit vector, scanner RAS+"},
        "Sources": {
            name: None if path is None else Path(path).name
            for name, path in (("series", series), ("bval", bval), ("bvec", bvec), ("cord mask", mask), ("reverse", reverse))
        },
        "Shells": {f"b = {b:g} s/mm2": n for b, n in gradients.shells} | {"b0": int(gradients.b0.sum())},
        "Denoising": None, "Motion": None,
    }  # fmt: skip
    if denoise:
        from cohort_engine.qmri.denoise import denoise as clean

        region = given if given is not None else found_cord(scan, gradients)
        less = clean(scan.data, region.data > 0.5, scan.grid.spacing)
        facts["Denoising"] = {"Method": "MP-PCA"} | {k: _round(v) for k, v in less._asdict().items() if k != "series"}
        if less.structured:
            warn("denoising took structure away with the noise at the cord's edge: compare with the maps made without it", where=SERIES)
        scan = scan.with_data(less.series)
    if moco:
        corrected = correct(scan, gradients, cord=given, reverse=other, settings=settings or MocoSettings())
        moved, mean = corrected.series, corrected.mean
        given = None if given is None else corrected.cord
        facts["Motion"] = {k: _round(v) for k, v in corrected.quality.items()} | {"Distortion": corrected.displacement is not None}
    else:
        moved, mean = scan, scan.with_data(mean_of(scan.data, ~gradients.b0))
    cord = _segmented(mean) if given is None else given
    found = fit_series(moved, gradients, cord, method=method)
    facts |= _facts(found, gradients, method, given is not None)
    _write(str(out), found, mean, on_voxels_of(mean, cord, what=MASK, like=f"the {SERIES}"), reliable)
    with storage_errors("sidecar of the tensor maps"):
        Path(f"{out}_dti.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def _segmented(mean: Volume) -> Volume:
    from cohort_engine.cord.segment import ABSENT, FLAGS, segment

    what = schema.words(schema.DWI_MEAN)
    found = segment(np.nan_to_num(mean.data), mean.affine, what=what)
    if ABSENT in found.flags:
        raise CordError(expected="a cord", found=FLAGS[ABSENT], where=what, remedy="Give its mask (--mask).")
    return mean.with_data(found.mask)


def _facts(found: Tensors, gradients: Gradients, method: Method, given: bool) -> dict[str, Any]:
    channels = {name: values[found.cord] for name, values in found.fit.channels.items()}
    relied = channels["reliable"] > 0
    check = found.coherence
    return {
        "Fit": {"Method": method, "Volumes": int((gradients.bvals <= TENSOR_B_MAX).sum()), "Noise": _round(found.fit.sigma)},
        "LostSlices": {f"slice {z}": np.flatnonzero(v).tolist() for z, v in enumerate(found.lost.T) if v.any()},
        "CordMask": "given" if given else "segmented in the mean diffusion-weighted image",
        "Cord": {
            "Voxels": int(found.cord.sum()),
            "Reliable": _round(float(relied.mean())),
            "Unreliable": {name: int(holds[found.cord].sum()) for name, holds in found.fit.reasons.items()},
            **{name.upper(): _round(float(np.median(channels[name][relied]))) if relied.any() else None for name in ("fa", "md", "ad", "rd")},
            "SNR": _round(found.quality["snr"]), "SignalsLost": _round(found.quality["lost"]),
            "CosineWithCentreline": _round(found.quality["e1_cosine"]),
        },
        "Directions": {
            "Verdict": check.verdict, "Means": VERDICTS[check.verdict], "Best": check.best, "Margin": _round(check.margin),
            "AxisMargin": _round(check.axis_margin), "Rivals": list(check.rivals), "MostContinuous": check.most_continuous,
        },
        "Reasons": dict(REASONS),
        "Missing": "NaN",
        "GeneratedBy": {"Name": "cohort_engine", "Version": versions()["cohort_engine"]},
    }  # fmt: skip


def _write(prefix: str, found: Tensors, mean: Volume, cord: Volume, reliable: bool) -> None:
    data = found.image.data
    relied = data[..., CHANNELS.index("reliable")] > 0
    for ending, name in IMAGES.items():
        values = data[..., CHANNELS.index(name)]
        write_volume(f"{prefix}_{ending}.nii.gz", mean.with_data(np.where(relied, values, np.nan) if reliable and name in METRICS else values))
    e1 = np.stack([data[..., CHANNELS.index(f"e1_{axis}")] for axis in "xyz"], axis=-1)
    write_volume(f"{prefix}_V1.nii.gz", mean.with_data(e1))
    write_volume(f"{prefix}_reliable.nii.gz", mean.with_data(relied))
    write_volume(f"{prefix}_mean.nii.gz", mean)
    write_volume(f"{prefix}_mask.nii.gz", mean.with_data(cord.data > 0.5))


def _round(value: float) -> float | None:
    """Four digits for JSON, which knows no NaN."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
