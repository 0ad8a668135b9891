"""Motion and distortion of one diffusion series put right, in one interpolation: what the command `moco` and the stage call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from cohort_engine import schema
from cohort_engine.errors import CordError, GeometryError, InputError
from cohort_engine.io.gradients import Gradients
from cohort_engine.io.volume import Volume, on_voxels_of, require_signal
from cohort_engine.qmri.moco import MAX_SHIFT, Motion, estimate_motion
from cohort_engine.qmri.receive import evened, receive_slope
from cohort_engine.qmri.series import noise_left, resample_series, without_floor
from cohort_engine.qmri.tensor import cut_off, fit
from cohort_engine.single.undistort import checked_reverse, displaced_mask, displacement_of, region

FloatArray = NDArray[Any]
SERIES = "diffusion series"
CORD = "cord mask of the diffusion series"
SAME_SHELL = 50.0
"""Spread of the b-values of one shell about their middle, s/mm2."""
THICKEST_PLANE = 0.7
"""A series whose slices are thinner than this part of its in-plane voxels was not scanned across the cord."""


@dataclass(frozen=True)
class MocoSettings:
    """How a series is corrected.

    Attributes
    ----------
    interleaved : bool, optional
        Odd and even slices may lie apart; by default the series says.
    eddy : bool
        Stretch and shear of each slice along phase encoding.
    phase_axis : int
        Array axis of the phase encoding in RAS+ order, 0 (left-right) or 1 (back-front).
    max_shift : float
        Largest displacement that is looked for, mm.
    falloff : float
        The region that is compared: the cord, and what is around it fading over so many mm.
    """

    interleaved: bool | None = None
    eddy: bool = False
    phase_axis: int = 1
    max_shift: float = MAX_SHIFT
    falloff: float = 10.0


class Corrected(NamedTuple):
    """A series after correction.

    Attributes
    ----------
    series : Volume
        (x, y, z, t) float32 on the voxels of the scan, without what interpolation keeps of the noise floor (`qmri.series.without_floor`). Missing:
        NaN in lost slices of volumes, outside the image, and at signals that were cut off.
    mean : Volume
        (x, y, z) float32, mean of its diffusion-weighted volumes over what is not missing; NaN where all are.
    motion : Motion
    displacement : (x, y, z) array or None
        Distortion along phase encoding, mm.
    quality : dict
        Numbers for the record.
    cord : Volume
        The cord mask that was given or found, where the corrected series has it.
    """

    series: Volume
    mean: Volume
    motion: Motion
    displacement: FloatArray | None
    quality: dict[str, float]
    cord: Volume


def correct(
    series: Volume, gradients: Gradients, *, cord: Volume | None = None, reverse: Volume | None = None, settings: MocoSettings = MocoSettings()
) -> Corrected:
    """Correct a diffusion series for motion and, given an image of the opposite phase encoding, for distortion.

    Parameters
    ----------
    series : Volume
        (x, y, z, t) in RAS+ order.
    gradients : Gradients
        Of its volumes.
    cord : Volume, optional
        Cord mask on its voxels; by default the cord is segmented in its mean.
    reverse : Volume, optional
        Image or series without diffusion weighting, of the same slices with the opposite phase encoding.
    settings : MocoSettings

    Returns
    -------
    Corrected

    Raises
    ------
    GeometryError
        A mask or an image of other voxels; slices that do not lie across the cord.
    InputError, CordError
        No signal, fewer than two volumes, or no cord.
    """
    require_across(series)
    require_signal(series, what=SERIES)
    if reverse is not None:
        reverse = checked_reverse(_one(series), reverse)
    data, spacing = series.data, series.grid.spacing
    mask = found_cord(series, gradients).data if cord is None else on_voxels_of(_one(series), cord, what=CORD, like=f"the {SERIES}").data > 0.5
    weight = region(mask, spacing, settings.falloff)
    motion = estimate_motion(
        data, gradients.b0, gradients.bvals, weight, spacing, interleaved=settings.interleaved, eddy=settings.eddy,
        phase_axis=settings.phase_axis, max_shift=settings.max_shift,
    )  # fmt: skip
    use = ~gradients.b0 if not gradients.b0.all() else gradients.b0
    lost = (motion.flags & schema.LOST) > 0
    known = np.where(cut_off(data), np.float32(np.nan), data)

    def resampled(displacement: FloatArray | None) -> NDArray[np.float32]:
        return resample_series(
            known, spacing, shifts=motion.shifts, scale=motion.scale, displacement=displacement, axis=settings.phase_axis, dropped=lost
        )

    corrected, displacement, there = resampled(None), None, mask
    if reverse is not None:
        plain = series.with_data(mean_of(corrected, gradients.b0 if gradients.b0.any() else use))
        displacement = displacement_of(plain, reverse, mask, phase_axis=settings.phase_axis, falloff=settings.falloff)
        corrected = resampled(displacement)
        there = displaced_mask(mask, spacing, displacement, settings.phase_axis)
    left = noise_left(motion.shifts, spacing)
    variance = noise_variance(corrected[there], gradients)
    if np.isfinite(variance):
        corrected = without_floor(corrected, left, variance / float(left[:, there.any((0, 1))].mean()))
    corrected = evened(corrected, _receive_slope(corrected, there, gradients, motion.shifts), motion.shifts)
    quality = _quality(data, corrected, gradients, motion, mask, there)
    if displacement is not None:
        quality["largest_displacement"] = float(np.abs(displacement[there]).max(initial=0))
    return Corrected(series.with_data(corrected), series.with_data(mean_of(corrected, use)), motion, displacement, quality, series.with_data(there))


def noise_variance(signals: FloatArray, gradients: Gradients) -> float:
    """Variance of the noise in signals (voxel, t) of the cord, by what a tensor leaves of the lowest shell; NaN where no tensor can be told.

    The median of voxels: where tissue moves or pulses, a tensor leaves more than noise.
    """
    used = _lowest(gradients)
    try:
        residual = fit(signals[:, used], gradients.bvals[used], gradients.directions[used]).channels["residual"]
    except InputError:
        return float("nan")
    known = residual[np.isfinite(residual)]
    return float(np.median(known)) ** 2 if len(known) else float("nan")


def _lowest(gradients: Gradients) -> NDArray[np.bool_]:
    """Volumes (t,) without weighting and of the lowest shell."""
    return np.asarray(gradients.b0 | (gradients.bvals <= min((b for b, _ in gradients.shells), default=0.0) + SAME_SHELL))


def _receive_slope(series: FloatArray, mask: NDArray[np.bool_], gradients: Gradients, shifts: FloatArray) -> FloatArray:
    """`qmri.receive.receive_slope` (z, 2) by the cord without its outermost voxels, in which what else is there comes and goes."""
    used, core = _lowest(gradients), binary_erosion(mask, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[..., None])
    return receive_slope(series[core][:, used], np.argwhere(core)[:, 2], gradients.bvals[used], gradients.directions[used], shifts[used])


def mean_of(data: FloatArray, use: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean (x, y, z) over the volumes in `use` of what is finite; NaN where nothing is."""
    part = data[..., use]
    finite = np.isfinite(part)
    count = finite.sum(-1)
    return np.where(count > 0, np.where(finite, part, 0).sum(-1) / np.maximum(count, 1), np.nan).astype(np.float32)


def found_cord(series: Volume, gradients: Gradients) -> Volume:
    """Cord mask of a series that was not corrected, segmented in the mean of its diffusion-weighted volumes, or of all."""
    from cohort_engine.cord.segment import ABSENT, FLAGS, segment

    for use in (~gradients.b0, np.ones(len(gradients.b0), bool)):
        if use.any():
            found = segment(np.nan_to_num(mean_of(series.data, use)), series.affine, what=SERIES)
            if ABSENT not in found.flags:
                return series.with_data(found.mask)
    raise CordError(expected="a cord", found=FLAGS[ABSENT], where=f"mean of the {SERIES}", remedy="Give its mask.")


def require_across(series: Volume) -> None:
    """Refuse a series whose slices do not lie across the cord: motion within them would be motion along it."""
    spacing = series.grid.spacing
    if spacing[2] < THICKEST_PLANE * float(spacing[:2].max()):
        raise GeometryError(
            expected="slices across the cord", found=f"voxels of {'x'.join(f'{s:.2g}' for s in spacing)} mm (right, front, up): slices along it",
            where=SERIES, remedy="Motion is corrected within slices across the cord: leave this series out, or fit it without motion correction.",
        )  # fmt: skip


def _one(series: Volume) -> Volume:
    return series.with_data(series.data[..., 0])


def _quality(
    raw: FloatArray, corrected: FloatArray, gradients: Gradients, motion: Motion, mask: NDArray[np.bool_], there: NDArray[np.bool_]
) -> dict[str, float]:
    inside = mask.any((0, 1))
    moved = np.linalg.norm(motion.shifts[:, inside], axis=-1)
    flags = motion.flags[:, inside]
    out = {"largest_shift": float(moved.max()), "median_shift": float(np.median(moved))}
    out |= {f"share_{name}": float(((flags & bit) > 0).mean()) for name, bit in (("moved", schema.MOVED), ("dropped", schema.DROPPED))}
    out["share_beyond"] = float(((flags & schema.LIMIT) > 0).mean())
    for name, use in (("b0", gradients.b0), ("dwi", ~gradients.b0)):
        if use.sum() > 1:
            out |= {f"spread_{name}_{when}": _spread(d[..., use], m) for when, d, m in (("before", raw, mask), ("after", corrected, there))}
    return out


def _spread(data: FloatArray, mask: NDArray[np.bool_]) -> float:
    """Take the standard deviation over volumes, share of the mean, median over the cord; NaN where nothing is finite."""
    values = np.where(np.isfinite(data[mask]), data[mask], np.nan)
    values = values[np.isfinite(values).sum(1) > 1]
    if not len(values):
        return float("nan")
    return float(np.median(np.nanstd(values, axis=1) / np.maximum(np.nanmean(values, axis=1), 1e-12)))
