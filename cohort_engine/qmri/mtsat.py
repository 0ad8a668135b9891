"""Magnetization transfer saturation and T1 from three spoiled gradient-echo images: plain arrays in, plain arrays out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError

FloatArray = NDArray[Any]
BoolArray = NDArray[np.bool_]

LONGEST_T1 = 5.0
"""A T1 (s) of this or more is noise: free water has about 4.3 s at 3 T. The noise of T1 grows as its square, so that a few such voxels beside the
cord would decide what white matter is said to have: with those up to 10 s `map` gives 0.8 s in a cord that has 1.1 s."""
SHORTEST_T1 = 0.2
"""No cord has a T1 (s) below this, at any field strength: images that have changed places give one."""
SATURATION = 100.0
"""An |MTsat| of this many percent or more is no measurement."""
B1_RESIDUE = 0.4
"""How much of MTsat still follows the transmit field after first-order compensation by the readout: Weiskopf 2013."""
STEEPEST = 90.0
"""Largest flip angle (degrees) that a formula of small angles is asked about; its own errors are said in `mtsat`."""
LONGEST_TR = 1.0
"""Longest repetition time of a spoiled gradient echo, s: a larger number is in ms."""


class Protocol(NamedTuple):
    """How one of the images was excited.

    Attributes
    ----------
    tr : float
        Repetition time from excitation to excitation, s.
    flip : float
        Nominal flip angle, degrees.
    """

    tr: float
    flip: float

    @property
    def angle(self) -> float:
        """Flip angle, rad."""
        return math.radians(self.flip)

    @property
    def weighting(self) -> float:
        """How T1-weighted it is: ``angle^2 / (2 TR)``, the R1 (1/s) at which half of the signal of full relaxation is left."""
        return self.angle**2 / (2 * self.tr)


class Triplet(NamedTuple):
    """One number or array for each of the three images: MT-on, MT-off (PD-weighted) and T1w."""

    on: Any
    off: Any
    t1w: Any


class Saturation(NamedTuple):
    """Maps of one shape.

    Attributes
    ----------
    mtsat : (...) float32 array
        Percent. Missing: NaN.
    t1 : (...) float32 array
        s. Missing: NaN.
    """

    mtsat: NDArray[np.float32]
    t1: NDArray[np.float32]


def check_protocols(protocols: Triplet) -> None:
    """Refuse excitations from which T1 cannot be told.

    Raises
    ------
    InputError
        A repetition time or flip angle that no spoiled gradient echo has; T1w that is no more T1-weighted than MT-off.

    Examples
    --------
    >>> check_protocols(Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15)))
    >>> check_protocols(Triplet(Protocol(0.035, 9), Protocol(0.035, 0), Protocol(0.015, 15)))
    Traceback (most recent call last):
    ...
    cohort_engine.errors.InputError: MT-off image: expected a flip angle above 0, below 90 degrees, found 0. Correct it in the sidecar of the image.
    """
    for role, one in zip((schema.MT_ON, schema.MT_OFF, schema.MT_T1W), protocols, strict=True):
        what, remedy = schema.words(role), "Correct it in the sidecar of the image."
        if not 0 < one.flip < STEEPEST:
            raise InputError(expected=f"a flip angle above 0, below {STEEPEST:g} degrees", found=f"{one.flip:g}", where=what, remedy=remedy)
        if not 0 < one.tr <= LONGEST_TR:
            raise InputError(
                expected=f"a repetition time above 0, at most {LONGEST_TR:g} s", found=f"{one.tr:g} s", where=what, remedy=remedy,
            )  # fmt: skip
    off, t1w = protocols.off, protocols.t1w
    if t1w.weighting <= off.weighting:
        same = "the same" if t1w.weighting == off.weighting else "less"
        raise InputError(
            expected="more T1 weighting (flip angle, repetition time) than in the MT-off image", where=schema.words(schema.MT_T1W),
            found=f"{same}: {t1w.flip:g} degrees, {1000 * t1w.tr:g} ms against {off.flip:g} degrees, {1000 * off.tr:g} ms",
            remedy="MT-off and T1w are swapped, or one of the sidecars is not of its image.",
        )  # fmt: skip


def saturation(signals: Triplet, protocols: Triplet, *, floor: float = 0.0, b1: FloatArray | None = None) -> Saturation:
    r"""MT saturation and T1 of three spoiled gradient-echo images, for small flip angles.

    Parameters
    ----------
    signals : Triplet of (...) arrays of one shape
        The same arbitrary units, on one grid (co-register first), of one echo time.
    protocols : Triplet of Protocol
        Repetition times and nominal flip angles, see `check_protocols`.
    floor : float
        MT-off signal at or below which a voxel holds nothing but noise, see `qmri.mt.cord_floor`.
    b1 : (...) array, optional
        Transmit field: actual over nominal flip angle, about 1.

    Returns
    -------
    Saturation
        MTsat in percent and T1 in s. Small negative MTsat is noise and stays: clipping it would bias every mean upwards.

    Raises
    ------
    InputError
        Shapes differ.

    Notes
    -----
    With a the flip angle in rad, S the signal, 0 for MT-off and 1 for T1w::

        R1    = (S1 a1 / TR1 - S0 a0 / TR0) / (2 (S0 / a0 - S1 / a1))
        A     = S0 S1 (TR0 a1 / a0 - TR1 a0 / a1) / (S1 TR0 a1 - S0 TR1 a0)
        MTsat = 100 ((A a / S - 1) R1 TR - a^2 / 2)           with a, S, TR of MT-on

    All angles are nominal: MTsat is what one MT pulse takes in one repetition, and as pulse and excitation follow the transmit field alike, most of
    that cancels. With `b1` the rest is taken out, ``MTsat (1 - 0.4) / (1 - 0.4 b1)``, and ``R1 b1^2`` is the R1 of the actual angles.

    The formula is of small angles and short repetition times, ``a^2 / 2 << 1`` and ``R1 TR << 1``: at 9 and 15 degrees, 35 and 15 ms, T1 of white
    matter (0.85 s) comes out 1 % too small.

    Missing: both are NaN where a signal is not a number or not above 0, MT-off is at or below `floor`, `b1` is not a number or not above 0, or T1 is
    not above 0 and below `LONGEST_T1`; MTsat also where its size reaches `SATURATION`. Never 0: the Spinal Cord Toolbox sets such voxels to 0,
    where they count as data.

    References
    ----------
    Helms, Dathe, Kallenberg, Dechent. High-resolution maps of magnetization transfer with inherent correction for RF inhomogeneity and T1 relaxation
    obtained from 3D FLASH MRI. Magn Reson Med 2008;60:1396-1407. doi:10.1002/mrm.21732, and its erratum, Magn Reson Med 2010;64:1856.
    Weiskopf et al. Quantitative multi-parameter mapping of R1, PD*, MT, and R2* at 3T. Front Neurosci 2013;7:95. doi:10.3389/fnins.2013.00095

    Examples
    --------
    White matter and a voxel without signal.

    >>> signals = Triplet(np.array([160.0, 0.0]), np.array([250.0, 3.0]), np.array([170.0, 2.0]))
    >>> protocols = Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15))
    >>> found = saturation(signals, protocols, floor=12.0)
    >>> found.mtsat.astype(float).round(3).tolist(), found.t1.astype(float).round(3).tolist()
    ([2.622, nan], [1.021, nan])
    """
    on, off, t1w = (np.asarray(s, np.float64) for s in signals)
    field = np.ones(()) if b1 is None else np.asarray(b1, np.float64)
    if not on.shape == off.shape == t1w.shape or (b1 is not None and field.shape != on.shape):
        shapes = ", ".join(str(a.shape) for a in (on, off, t1w, *((field,) if b1 is not None else ())))
        raise InputError(
            expected="MT-on, MT-off and T1w images (and the B1 map) of one shape", found=shapes, where=schema.words(schema.MT_ON),
            remedy="Bring them onto one grid first.",
        )  # fmt: skip
    (tr, _), (tr0, _), (tr1, _) = protocols
    a, a0, a1 = (p.angle for p in protocols)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        r1 = (t1w * a1 / tr1 - off * a0 / tr0) / (2 * (off / a0 - t1w / a1))
        amplitude = off * t1w * (tr0 * a1 / a0 - tr1 * a0 / a1) / (t1w * tr0 * a1 - off * tr1 * a0)
        value = 100 * ((amplitude * a / on - 1) * r1 * tr - a**2 / 2)
        value = value * (1 - B1_RESIDUE) / (1 - B1_RESIDUE * field)
        t1 = 1 / (r1 * field**2)
        known = np.isfinite(value) & np.isfinite(on) & (on > 0) & (off > max(floor, 0.0)) & (t1w > 0) & (field > 0) & (B1_RESIDUE * field < 1)
        known &= (t1 > 0) & (t1 < LONGEST_T1)
        within = known & (np.abs(value) < SATURATION)
    return Saturation(*(np.where(k, v, np.nan).astype(np.float32) for k, v in ((within, value), (known, t1))))


def saturation_error(signals: Triplet, noise: Triplet, protocols: Triplet, *, b1: FloatArray | None = None) -> Saturation:
    """Propagate the noise of the three images to standard errors of MTsat and T1, to first order.

    Parameters
    ----------
    signals, protocols, b1
        As in `saturation`.
    noise : Triplet of floats or (...) arrays
        Standard deviation of the noise of each image, unit of the signals; independent of one another.

    Returns
    -------
    Saturation
        MTsat in percent, T1 in s. Missing: NaN where a formula cannot be worked out; where `saturation` is NaN nothing is meant.

    Formula
        ``se^2 = sum_i (df / dS_i)^2 sigma_i^2`` with the derivatives of the formulas of `saturation`.

    Examples
    --------
    White matter at SNR 60 in MT-off.

    >>> signals = Triplet(np.array([160.0]), np.array([250.0]), np.array([170.0]))
    >>> protocols = Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15))
    >>> found = saturation_error(signals, Triplet(4.2, 4.2, 4.2), protocols)
    >>> found.mtsat.astype(float).round(3).tolist(), found.t1.astype(float).round(3).tolist()
    ([0.225], [0.07])
    """
    on, off, t1w = (np.asarray(s, np.float64) for s in signals)
    field = 1.0 if b1 is None else np.asarray(b1, np.float64)
    (tr, _), (tr0, _), (tr1, _) = protocols
    a, a0, a1 = (p.angle for p in protocols)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        above, below = t1w * a1 / tr1 - off * a0 / tr0, 2 * (off / a0 - t1w / a1)
        r1 = above / below
        r1_by = Triplet(0.0, (-a0 / tr0 - r1 * 2 / a0) / below, (a1 / tr1 + r1 * 2 / a1) / below)
        joint = t1w * tr0 * a1 - off * tr1 * a0
        factor = tr0 * a1 / a0 - tr1 * a0 / a1
        amplitude = off * t1w * factor / joint
        amplitude_by = Triplet(0.0, factor * t1w**2 * tr0 * a1 / joint**2, -factor * off**2 * tr1 * a0 / joint**2)
        scale = 100 * tr * (1 - B1_RESIDUE) / (1 - B1_RESIDUE * field)
        by_on = -amplitude * a / on**2 * r1
        mtsat_by = [by_on, *((amplitude * a / on - 1) * r + r1 * a / on * s for r, s in zip(r1_by[1:], amplitude_by[1:], strict=True))]
        mtsat = np.sqrt(sum((scale * d * np.asarray(n)) ** 2 for d, n in zip(mtsat_by, noise, strict=True)))
        t1 = np.sqrt(sum((d * np.asarray(n)) ** 2 for d, n in zip(r1_by, noise, strict=True))) / (r1**2 * field**2)
    return Saturation(*(np.where(np.isfinite(v), v, np.nan).astype(np.float32) for v in (mtsat, t1)))


def relaxation_signal(off: FloatArray, t1w: FloatArray, protocols: Triplet) -> FloatArray:
    """Weight with which tissues that share a voxel enter its T1: ``S1 a1 / TR1 - S0 a0 / TR0``, what T1 is divided by.

    A voxel mixes signals: ``T1 = 2 (S0 / a0 - S1 / a1) / (S1 a1 / TR1 - S0 a0 / TR0)`` is a ratio of sums over what is in it, hence the mean of their
    T1 with these weights, exactly. Half fluid (4.36 s) and half white matter (1.01 s) has 1.64 s, where the mean by volume is 2.68 s.

    Examples
    --------
    >>> protocols = Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15))
    >>> white, fluid = np.array([80.0, 90.0]), np.array([60.0, 25.0])  # MT-off, T1w
    >>> def t1(s):
    ...     return float(saturation(Triplet(s[:1], s[:1], s[1:]), protocols).t1[0])
    >>> weight = [float(relaxation_signal(s[0], s[1], protocols)) for s in (white, fluid)]
    >>> round(t1(white + fluid), 4), round((weight[0] * t1(white) + weight[1] * t1(fluid)) / sum(weight), 4)
    (0.6556, 0.6556)
    """
    (_, _), (tr0, _), (tr1, _) = protocols
    out: FloatArray = np.asarray(t1w, np.float64) * protocols.t1w.angle / tr1 - np.asarray(off, np.float64) * protocols.off.angle / tr0
    return out


def check_relaxation(t1: FloatArray, mask: FloatArray) -> None:
    """Refuse a T1 map whose cord has mostly no possible T1: MT-off and T1w have changed places, or their sidecars are of other images.

    Parameters
    ----------
    t1 : (x, y, z) array, s
    mask : (x, y, z) array
        Cord where > 0.5.

    Raises
    ------
    InputError
        When at most half of the cord voxels have a T1 of at least `SHORTEST_T1`.

    Examples
    --------
    >>> check_relaxation(np.array([0.9, 1.1, np.nan]), np.ones(3))
    >>> check_relaxation(np.array([np.nan, 1.1, np.nan]), np.ones(3))
    Traceback (most recent call last):
    ...
    cohort_engine.errors.InputError: T1w image of the MT protocol: expected a T1 of 0.2 to 5 s in most of the cord, found one in 1 of 3 ...
    """
    inside = np.asarray(t1)[np.asarray(mask) > 0.5]
    known = int((inside >= SHORTEST_T1).sum())
    if known <= inside.size / 2:
        raise InputError(
            expected=f"a T1 of {SHORTEST_T1:g} to {LONGEST_T1:g} s in most of the cord", found=f"one in {known} of {inside.size} cord voxels",
            where=schema.words(schema.MT_T1W),
            remedy="MT-off and T1w are swapped, their repetition times or flip angles are not theirs, or the images are not of one acquisition.",
        )  # fmt: skip
