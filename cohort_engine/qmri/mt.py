"""Magnetization transfer ratio: plain arrays in, plain arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import CordError, InputError

FloatArray = NDArray[Any]
BoolArray = NDArray[np.bool_]

SATURATION = 100.0
"""An |MTR| of this many percent or more is no measurement."""


def mtr(off: FloatArray, on: FloatArray, *, floor: float) -> tuple[NDArray[np.float32], BoolArray]:
    """Magnetization transfer ratio, with impossible values as NaN.

    Parameters
    ----------
    off, on : (...) arrays of one shape, same arbitrary units
        Signal without and with the saturation pulse, on one grid (co-register first).
    floor : float
        MT-off signal at or below which a voxel holds nothing but noise, see `cord_floor`.

    Returns
    -------
    mtr : (...) float32, percent
        Small negative values are noise and stay: clipping them would bias every mean upwards.
    flagged : (...) bool
        True where `mtr` is NaN.

    Notes
    -----
    Formula: ``100 * (off - on) / off``.

    Missing: NaN where ``off <= floor`` or ``on <= 0`` or ``|mtr| >= 100`` or either input is NaN or infinite; never 0. The Spinal Cord
    Toolbox clips to +-100 and keeps the clipped value as data, which lets a dark voxel pull a tract mean by tens of points.

    References
    ----------
    Henkelman, Stanisz, Graham. Magnetization transfer in MRI: a review. NMR Biomed 2001. doi:10.1002/nbm.683

    Examples
    --------
    >>> value, flagged = mtr(np.array([200.0, 100.0, 2.0]), np.array([110.0, 103.0, 1.0]), floor=5.0)
    >>> value.tolist(), flagged.tolist()
    ([45.0, -3.0, nan], [False, False, True])
    """
    off, on = np.asarray(off, np.float32), np.asarray(on, np.float32)
    if off.shape != on.shape:
        raise InputError(
            expected=f"the shape of the MT-on image {on.shape}", found=str(off.shape), where=schema.words(schema.MT_OFF),
            remedy="Bring both images onto one grid first.",
        )  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 100 * (off - on) / off
        good = np.isfinite(value) & (off > floor) & (on > 0) & (np.abs(value) < SATURATION)
    return np.where(good, value, np.float32(np.nan)), ~good


def cord_floor(off: FloatArray, mask: FloatArray, fraction: float) -> float:
    """MT-off signal below which a voxel holds nothing: `fraction` of the median MT-off in the cord.

    Parameters
    ----------
    off : (x, y, z) array
    mask : (x, y, z) array
        Cord where > 0.5.
    fraction : float
        0 to 1.

    Raises
    ------
    CordError
        When the mask holds no voxel with signal.

    Examples
    --------
    >>> cord_floor(np.array([10.0, 200.0, 220.0, np.nan]), np.array([0, 1, 1, 1]), fraction=0.05)
    10.5
    """
    inside = np.asarray(off)[np.asarray(mask) > 0.5]
    inside = inside[np.isfinite(inside)]
    median = float(np.median(inside)) if inside.size else 0.0
    if median <= 0:
        raise CordError(
            expected="MT-off signal inside the cord mask", found=f"median {median:g} over {inside.size} voxels",
            where=schema.words(schema.role(schema.MT, schema.MASK)), remedy="Check that the mask belongs to this image.",
        )  # fmt: skip
    return fraction * median


def check_not_swapped(mtr: FloatArray, mask: FloatArray) -> None:
    """Refuse an MTR whose cord is mostly negative: MT-on and MT-off have changed places.

    Parameters
    ----------
    mtr : (x, y, z) array, percent
        NaN is left out of the vote.
    mask : (x, y, z) array
        Cord where > 0.5.

    Raises
    ------
    InputError
        When more than half of the finite cord voxels are negative, or when there is none.

    Examples
    --------
    >>> check_not_swapped(np.array([45.0, 50.0, -1.0]), np.ones(3))
    >>> check_not_swapped(np.array([-82.0, -90.0, np.nan]), np.ones(3))
    Traceback (most recent call last):
    ...
    cohort_engine.errors.InputError: MT-off image: expected more signal than in the MT-on image, found MTR below 0 in 2 of 2 cord voxels. ...
    """
    inside = np.asarray(mtr)[np.asarray(mask) > 0.5]
    inside = inside[np.isfinite(inside)]
    negative = int((inside < 0).sum())
    if inside.size == 0 or negative > inside.size / 2:
        raise InputError(
            expected="more signal than in the MT-on image", found=f"MTR below 0 in {negative} of {inside.size} cord voxels",
            where=schema.words(schema.MT_OFF), remedy="MT-on and MT-off are swapped, or the images are not of one acquisition.",
        )  # fmt: skip
