"""Motion of a series of volumes of the cord: an in-plane shift of every slice of every volume, all to one target.

1. Volumes of one contrast (b0, each shell) have a template, their mean. Every shift of every slice is compared with it by windowed correlation;
   the slices of a volume (of its odd and its even slices, where these differ) vote on where it lies, so that a jump of many millimetres is found
   before anything is refined. A volume that cannot tell asks its neighbours in time: groups of volumes for low signal.
2. From there each slice measures its own shift, with its precision, by least squares on the template, its gain and an offset. The measurements
   are reconciled along the cord and in time by a Gaussian process, and the template is made anew. A few rounds.
3. Templates of different contrast are brought together by the orientation of their edges, which bright and dark may swap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine.errors import GeometryError, InputError
from cohort_engine.qmri.contrast import Fitted, fit, model, with_ramps
from cohort_engine.qmri.search import JUMP, frame_of, jumps_of, search, steps_of, voids
from cohort_engine.qmri.slices import View, sample, view_of, wider
from cohort_engine.qmri.trajectory import Term, exponential, posterior, squared_exponential
from cohort_engine.schema.diffusion import DROPPED, LIMIT, MOVED, UNCERTAIN

FloatArray = NDArray[Any]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]

MAX_SHIFT = 12.0
"""Largest displacement that is looked for, mm."""
SMOOTH = 0.7
"""Standard deviation of the smoothing of what is compared, mm."""
ROUNDS = 5
"""Times that all slices are measured and reconciled."""
ODD_EVEN = 0.15
"""Half the distance of odd and even slices from which on motion counts as interleaved, mm."""
STEP = 1.5
"""Largest displacement that one round may add, mm."""
APART = 0.5, 0.3
"""How far kinds of volume may lie from where the search found them: standard deviation, mm, of what all slices share and of what changes along z."""
TRUST = 0.25
"""Part of the information that a fit of one contrast by another is given: fluid that flows, or grey matter, looks like a displacement."""
ALONE = 0.15
"""Displacement of a slice of a volume that no other slice shares, standard deviation, mm."""
STRETCH = 0.02
"""Standard deviation of stretch and shear, prior."""
VAGUE = 1.0
"""Standard error of a slice's own measurement from which on its neighbours say where it lies, mm."""
_TINY = 1e-12


class Motion(NamedTuple):
    """Motion of a series.

    Attributes
    ----------
    shifts : (t, z, 2) float64 array
        mm along the first two array axes: ``target(p) = series(p + shift)``, see `qmri.series.resample_series`. Of each slice the median over the
        volumes is 0, so that the target lies where the slice lay most of the time, unless the region lies elsewhere.
    scale : (t, z, 2) float64 array
        Stretch and shear along phase encoding about the middle of the slice; zeros where they were not asked for.
    flags : (t, z) int8 array
        Bits `schema.MOVED`, `schema.DROPPED`, `schema.UNCERTAIN`, `schema.LIMIT`.
    agreement : (t, z) float64 array
        Correlation with the target of its contrast after correction, within the region. Missing: NaN in slices without region or signal.
    interleaved : bool
        Whether odd and even slices were let move apart.
    """

    shifts: NDArray[np.float64]
    scale: NDArray[np.float64]
    flags: NDArray[np.int8]
    agreement: NDArray[np.float64]
    interleaved: bool


def estimate_motion(
    series: FloatArray, b0: BoolArray, bvals: FloatArray, weight: FloatArray, spacing: FloatArray | tuple[float, float, float], *,
    interleaved: bool | None = None, eddy: bool = False, phase_axis: int = 1, max_shift: float = MAX_SHIFT, smooth: float = SMOOTH,
    length: float = 30.0, memory: float = 8.0,
) -> Motion:  # fmt: skip
    """Estimate the motion of a series around the cord.

    Parameters
    ----------
    series : (x, y, z, t) array
        NaN counts as no data.
    b0 : (t,) bool array
        Volumes without diffusion weighting.
    bvals : (t,) array
        s/mm2.
    weight : (x, y, z) array
        Region that is compared: 1 in the cord, falling softly to 0 about 10 mm away from it. Slices without region follow the others.
    spacing : (3,) floats
        Voxel size, mm.
    interleaved : bool, optional
        Whether odd and even slices of a volume may lie apart, as where they were scanned one after the other; by default the series says.
    eddy : bool
        Estimate stretch and shear along phase encoding of each slice of the diffusion-weighted volumes as well.
    phase_axis : int
        Array axis of the phase encoding, 0 or 1.
    max_shift : float
        Largest displacement from the median that is looked for, mm.
    smooth : float
        Standard deviation of the in-plane smoothing of what is compared, mm.
    length : float
        How far along the cord motion is alike, mm.
    memory : float
        For how many volumes drift is alike.

    Returns
    -------
    Motion

    Raises
    ------
    GeometryError
        Arrays that do not fit.
    InputError
        Fewer than two volumes.
    CordError
        An empty region, or no signal in it.

    Notes
    -----
    A slice's measurement is the least-squares fit of ``gain target + offset - gain grad(target) . shift`` to it, weighted by the region; its inverse
    covariance is the normal matrix of the shift over the residual variance, times the part of the samples that are independent after smoothing.
    The target contains the volume itself, which pulls a measurement to zero by 1/n: undone. The prior along the cord and in time is that of
    `qmri.trajectory` with a part that every volume has for itself and a part that drifts.

    Examples
    --------
    >>> x, y = np.mgrid[-20:21, -20:21]
    >>> moves = np.linspace(-1, 1, 9)
    >>> series = np.stack([np.repeat(np.exp(-((x - m) ** 2 + y**2) / 30)[..., None], 3, axis=2) for m in moves], -1)
    >>> weight = np.repeat((np.hypot(x, y) < 12)[..., None], 3, axis=2).astype(float)
    >>> found = estimate_motion(series, np.zeros(9, bool), np.full(9, 800.0), weight, (1.0, 1.0, 5.0))
    >>> bool(np.abs(found.shifts - np.stack([moves, 0 * moves], -1)[:, None]).max() < 0.05), int(found.flags.max())
    (True, 0)
    """
    series, weight, spacing, b0 = np.asarray(series), np.asarray(weight, float), np.asarray(spacing, float), np.asarray(b0, bool)
    _check(series, b0, bvals, weight, phase_axis)
    view = view_of(series, weight, spacing, max_shift, smooth)
    kind = _kinds(b0, np.asarray(bvals, float))
    lost = ~view.signal
    shift, _ = search(view, lost, max_shift, split=interleaved is not False)
    lost |= voids(view, shift, kind)
    shift, beyond = search(view, lost, max_shift, split=interleaved is not False, begin=shift)
    frame = frame_of(view, shift, lost | beyond)
    jumps = jumps_of(shift)
    shift = shift + frame
    scale = np.zeros_like(shift)
    apart, parity = bool(interleaved), float(JUMP if interleaved else 0.0)
    along = phase_axis if eddy else None
    agreement, offset = np.zeros(lost.shape), np.zeros((int(kind.max()) + 1, *shift.shape[1:]))
    for turn in range(ROUNDS):
        found, offset = _measure(view, shift, scale, offset, kind, lost | beyond, parity, along=along, weighted=~b0)
        agreement = found.agreement
        if interleaved is None and turn < 2:
            parity = _odd_even(found.step[..., :2] - jumps - frame, found.information[..., :2, :2])
            apart = parity > 0
        prior = _prior(shift.shape[0], np.arange(shift.shape[1]) * spacing[2], length, memory, parity, eddy=eddy)
        mean = np.concatenate([jumps + frame, np.zeros_like(scale)], -1)[..., : found.step.shape[-1]]
        best = mean + posterior(found.step - mean, found.information, prior)
        shift = best[..., :2]
        if eddy:
            scale = best[..., 2:]
    lost |= voids(view, shift, kind)
    if eddy:  # about the middle of the slice, not of the window
        shift[..., phase_axis] -= scale[..., 0] * view.centre[:, phase_axis] + scale[..., 1] * view.centre[:, 1 - phase_axis]
    shift += frame - np.median(shift[kind == np.bincount(kind).argmax()], axis=0)
    flags = np.zeros(lost.shape, np.int8)
    flags[steps_of(shift)] |= MOVED
    beyond |= ~lost & (np.linalg.norm(shift - frame, axis=-1) > max_shift)
    flags[beyond] |= LIMIT
    flags[lost & ~beyond] |= DROPPED
    flags[_vague(found.information) & view.region & ~lost & ~beyond] |= UNCERTAIN
    agreement[lost | beyond | ~view.region] = np.nan
    return Motion(shift, scale, flags, agreement, apart)


def _vague(information: FloatArray) -> BoolArray:
    """Slices (t, z) that do not tell by themselves where they lie, in some direction."""
    return np.asarray(np.linalg.eigvalsh(information[..., :2, :2])[..., 0] < VAGUE**-2)


def _kinds(b0: BoolArray, bvals: FloatArray) -> IntArray:
    """Contrast of each volume (t,): b0, and shells of at least five volumes; smaller ones join the nearest."""
    kind = np.zeros(len(b0), np.intp)
    order = np.flatnonzero(~b0)[np.argsort(bvals[~b0], kind="stable")]
    b = bvals[order]
    shell = np.concatenate([[0], np.cumsum(np.diff(b) > np.maximum(100, 0.1 * b[:-1]))]) if len(b) else np.zeros(0, int)
    while len(b) and (count := np.bincount(shell)).min() < 5 and len(count) > 1:
        least = int(count.argmin())
        mean = np.bincount(shell, b) / count
        other = min((k for k in range(len(count)) if k != least), key=lambda k: abs(mean[k] - mean[least]))
        shell[shell == least] = other
        shell = np.unique(shell, return_inverse=True)[1]
    kind[order] = shell + int(b0.any())
    return kind


def _measure(
    view: View, shift: FloatArray, scale: FloatArray, offset: FloatArray, kind: IntArray, lost: BoolArray, parity: float, *, along: int | None,
    weighted: BoolArray,
) -> tuple[Fitted, FloatArray]:  # fmt: skip
    """Measure each slice in the frame of the commonest kind: against the other volumes of its kind, and its kind against that one.

    ``step`` is the place itself (t, z, c); ``offset`` (k, z, 2), given and returned, is how far kinds have been moved since the search.
    """
    axis = 1 if along is None else along
    wide = wider(view)
    values, inside = sample(view, shift, scale, axis, wide)
    inner = (..., slice(wide[0], values.shape[2] - wide[0]), slice(wide[1], values.shape[3] - wide[1]))
    modelled = model(values, np.pad(view.weight, ((0, 0), (wide[0],) * 2, (wide[1],) * 2)), kind, np.where(lost, 0.0, 1.0))
    weight = (view.weight * inside[inner]).astype(np.float32)
    own = fit(values[inner], weight, modelled.target[:, :, None], view.spacing, view.independent, along=along)
    step, information = own.step.clip(-STEP, STEP), own.information * (1 - modelled.leverage)[..., None, None]
    main = int(np.bincount(kind).argmax())
    z = np.arange(len(view.weight)) * view.spacing[2]
    apart = offset.copy()
    for k in range(len(modelled.images)):
        if k == main:
            continue
        mine = np.flatnonzero(kind == k)
        found = fit(modelled.images[k][:, 0][inner], view.near, with_ramps(modelled.images[main]), view.spacing, view.independent)
        across, certainty = offset[k] + found.step.clip(-STEP, STEP), TRUST * found.information
        along_z = APART[0] ** 2 + APART[1] ** 2 * squared_exponential(z, 30.0) + parity**2 / len(mine) * _odd_or_even(z)
        prior = [Term(np.ones((1, 1)), along_z)]
        apart[k] = posterior(across[None], certainty[None], [prior, prior])[0]
        step[mine, :, :2] += apart[k] - offset[k]
        alone = modelled.leverage[mine] >= 1
        information[mine, :, :2, :2] = np.where(alone[..., None, None], certainty, information[mine, :, :2, :2])
    if along is not None:
        information[~weighted, :, 2:, :] = 0
        information[~weighted, :, :, 2:] = 0
    information[lost | (weight.sum((2, 3)) < 0.3 * view.weight.sum((1, 2)))] = 0
    return Fitted(np.concatenate([shift, scale], -1)[..., : step.shape[-1]] + step, information, own.agreement), apart


def _prior(nt: int, z: FloatArray, length: float, memory: float, parity: float, *, eddy: bool) -> list[list[Term]]:
    """Expect of motion, component by component, before it is measured; mm2."""
    t = np.arange(nt, dtype=float)
    own, drift, every = np.eye(nt), exponential(t, memory), np.ones((nt, nt))
    flat, near = np.ones((len(z), len(z))), squared_exponential(z, length)
    shift = [Term(every, 4.0**2 * flat + 1.0**2 * near), Term(drift, 1.5**2 * flat + 0.5**2 * near)]
    shift.append(Term(own, 1.0**2 * flat + 0.4**2 * near + ALONE**2 * np.eye(len(z))))
    if parity > 0:
        shift.append(Term(own, parity**2 * _odd_or_even(z) * squared_exponential(z, 4 * length)))
    bent = [Term(own, STRETCH**2 * (flat + squared_exponential(z, 2 * length)))]
    return [shift, shift, bent, bent] if eddy else [shift, shift]


def _odd_or_even(z: FloatArray) -> FloatArray:
    """1 for two odd or two even slices, else 0."""
    return np.asarray(np.equal.outer(np.arange(len(z)) % 2, np.arange(len(z)) % 2), float)


def _odd_even(measured: FloatArray, information: FloatArray) -> float:
    """Typical half distance of odd and even slices, mm, beyond what measurements scatter; 0 where it is not clear."""
    nz = measured.shape[1]
    if nz < 4:
        return 0.0
    sure = np.stack([information[..., 0, 0], information[..., 1, 1]], -1)
    sure = np.minimum(sure, np.percentile(sure, 75, axis=1, keepdims=True))
    z = np.arange(nz) - (nz - 1) / 2
    design = np.stack([np.where(np.arange(nz) % 2 == 0, 1.0, -1.0), np.ones(nz), z], -1)
    normal = np.einsum("tzc,zi,zj->tcij", sure, design, design) + 1e-6 * np.eye(3)
    right = np.einsum("tzc,zi->tci", sure * measured, design)
    contrast = np.linalg.solve(normal, right[..., None])[..., 0, 0]
    error = np.linalg.inv(normal)[..., 0, 0]
    contrast = contrast - np.median(contrast, axis=0)
    power, noise = float(np.mean(contrast**2)), float(np.mean(np.minimum(error, 1.0)))
    size = np.sqrt(max(power - noise, 0.0))
    return float(size) if size > ODD_EVEN and power > 2 * noise else 0.0


def _check(series: FloatArray, b0: BoolArray, bvals: FloatArray, weight: FloatArray, axis: int) -> None:
    where = "motion of a series"
    if series.ndim != 4 or weight.shape != series.shape[:3] or axis not in (0, 1):
        raise GeometryError(
            expected="a series (x, y, z, t), a region on its voxels, and a phase-encoding axis within its slices (0 or 1)", where=where,
            found=f"shapes {series.shape} and {weight.shape}, axis {axis}", remedy="Turn the series so that its slices lie on the third axis.",
        )  # fmt: skip
    if series.shape[3] < 2 or not len(b0) == len(bvals) == series.shape[3]:
        raise InputError(
            expected="two volumes or more, with one b-value each", found=f"{series.shape[3]} volumes, {len(bvals)} b-values", where=where,
            remedy="Give the whole series.",
        )  # fmt: skip
