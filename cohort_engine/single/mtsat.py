"""MT saturation and T1 of three images: what the command `mtsat` and the stages ``mtsat`` and ``t1`` call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError, warn
from cohort_engine.io.places import storage_errors
from cohort_engine.io.sidecars import decode_json
from cohort_engine.io.volume import Volume, read_mask, read_raw, read_volume, write_volume
from cohort_engine.mapping.template_map import sample
from cohort_engine.provenance import versions
from cohort_engine.qmri.mt import check_not_swapped, cord_floor, mtr
from cohort_engine.qmri.mtsat import (
    LONGEST_TR,
    Protocol,
    Saturation,
    Triplet,
    check_protocols,
    check_relaxation,
    relaxation_signal,
    saturation,
    saturation_error,
)
from cohort_engine.qmri.noise import noise_near
from cohort_engine.single.mtr import LOW_SIGNAL, MT_MASK, Array, bring_onto, check_coregister, cord_of, on_one_grid, sidecar

ROLES = Triplet(schema.MT_ON, schema.MT_OFF, schema.MT_T1W)
TR_KEYS = ("RepetitionTimeExcitation", "RepetitionTime")
"""Keys of BIDS for the time from excitation to excitation: the first is of sequences whose ``RepetitionTime`` may be that of a whole train."""
FLIP_KEY = "FlipAngle"
B1_PLAUSIBLE = (0.3, 2.0)
"""Median over the cord of a transmit field as a fraction of the nominal; a hundred times as much is in percent."""
GIVE = "Write it into the sidecar (BIDS), or give it to the command."


def protocol_of(said: Mapping[str, Any], *, what: str) -> Protocol:
    """Repetition time and flip angle from the sidecar of an image.

    Parameters
    ----------
    said : mapping
        Keys of BIDS: ``RepetitionTimeExcitation`` or ``RepetitionTime`` (s), ``FlipAngle`` (degrees).
    what : str
        Words for the sidecar in messages.

    Raises
    ------
    MissingInputError
        A key is absent or null.
    InputError
        It is no number.

    Warns
    -----
    CohortWarning
        A repetition time above `LONGEST_TR` was taken as ms.

    Examples
    --------
    >>> protocol_of({"RepetitionTime": 0.035, "FlipAngle": 9}, what="sidecar of the MT-on image")
    Protocol(tr=0.035, flip=9.0)
    """

    def number(keys: Sequence[str], words: str) -> float:
        value = next((said[k] for k in keys if said.get(k) is not None), None)
        if value is None:
            raise MissingInputError(expected=f"{words} ({' or '.join(keys)})", found="none", where=what, remedy=GIVE)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(expected=f"a number as {words} ({' or '.join(keys)})", found=repr(value), where=what, remedy="Correct it.")
        return float(value)

    tr, flip = number(TR_KEYS, "the repetition time"), number((FLIP_KEY,), "the flip angle")
    if LONGEST_TR < tr <= 1000 * LONGEST_TR:
        warn(f"a repetition time of {tr:g} s is none of a spoiled gradient echo: taken as {tr:g} ms", where=what)
        tr /= 1000
    return Protocol(tr, flip)


class Saturated(NamedTuple):
    """MTsat and T1 of three images, and how they came about.

    Attributes
    ----------
    mtsat, t1 : (x, y, z) float32 arrays
        Percent and s, on the grid of MT-on. Missing: NaN, see `qmri.mtsat.saturation`.
    shifts : Triplet
        Largest in-plane movement of a cord voxel by which each image was brought onto MT-on, mm.
    floor : float
        MT-off at or below which they are NaN.
    cord : (x, y, z) bool array
        The mask, voxel by voxel of MT-on.
    b1 : float
        Median of the transmit field over the cord, as a fraction of the nominal; NaN without a map.
    weight : (x, y, z) array
        With which tissues that share a voxel enter its T1, see `qmri.mtsat.relaxation_signal`.
    error : Saturation
        Standard errors of both by the noise of the images around the cord (`qmri.noise`), NaN where it cannot be told. What interpolation took off
        the noise of MT-off and T1w is not heeded.
    """

    mtsat: NDArray[np.float32]
    t1: NDArray[np.float32]
    shifts: Triplet
    floor: float
    cord: NDArray[np.bool_]
    b1: float
    weight: Array
    error: Saturation


def saturate(
    images: Triplet, cord: Volume, protocols: Triplet, *, b1: Volume | None = None, coregister: str = "slicewise", low_signal: float = LOW_SIGNAL,
    seed: int = 1,
) -> Saturated:  # fmt: skip
    """MT saturation and T1 of an MT-on, an MT-off and a T1w image.

    Parameters
    ----------
    images : Triplet of Volume
        On one grid.
    cord : Volume
        Cord mask of MT-on (cord where above a half), on that grid.
    protocols : Triplet of Protocol
        See `protocol_of`.
    b1 : Volume, optional
        Actual over nominal flip angle, as a fraction or in percent, of the same scanner space; it is sampled in the voxels of MT-on.
    coregister : str
        How MT-off and T1w are each brought onto MT-on, one of `single.mtr.COREGISTER`. T1w may show the tissues in the opposite order.
    low_signal : float
        A voxel is NaN where MT-off is at or below this share of the cord's median MT-off.
    seed : int
        Of ANTs.

    Raises
    ------
    UnknownNameError
        A way of registration that does not exist.
    GeometryError, InputError, CordError
        Impossible excitations, images on different grids, without signal, or swapped; a mask that is empty or lies where there is none; a
        transmit field that does not cover the cord or has impossible values.
    """
    check_protocols(protocols)
    on = images.on
    off, t1w, cord = on_one_grid(on, dict(zip((*ROLES[1:], MT_MASK), (images.off, images.t1w, cord), strict=True)))
    mask = cord.data > 0.5
    moved, shift_off = bring_onto(on, off, cord, coregister, seed=seed)
    weighted, shift_t1w = bring_onto(on, t1w, cord, coregister, seed=seed, either=True)
    floor = cord_floor(moved, mask, low_signal)
    check_not_swapped(mtr(moved, on.data, floor=floor)[0], mask)
    field = None if b1 is None else transmit_field(b1, on, mask)
    found = saturation(Triplet(on.data, moved, weighted), protocols, floor=floor, b1=field)
    check_relaxation(found.t1, mask)
    median = np.nan if field is None else float(np.nanmedian(field[mask]))
    weight = relaxation_signal(moved, weighted, protocols)
    noise = Triplet(*(noise_near(image.data, mask, on.grid.spacing) for image in (on, off, t1w)))
    error = saturation_error(Triplet(on.data, moved, weighted), noise, protocols, b1=field)
    return Saturated(found.mtsat, found.t1, Triplet(0.0, shift_off, shift_t1w), floor, mask, median, weight, error)


def transmit_field(b1: Volume, image: Volume, mask: NDArray[np.bool_]) -> Array:
    """Sample a transmit field in the voxels of an image of the same scanner space.

    Parameters
    ----------
    b1 : Volume
        Actual over nominal flip angle, as a fraction (median over the cord 0.3 to 2) or in percent (30 to 200). Zero and below is no value.
    image : Volume
    mask : (x, y, z) bool array
        Cord of `image`.

    Returns
    -------
    (x, y, z) float32 array
        As a fraction; linear between the map's voxels. Missing: NaN outside the map and next to a voxel without a value.

    Raises
    ------
    InputError
        Values of another unit, or none in half of the cord.

    Examples
    --------
    >>> cord = np.ones((2, 2, 2), bool)
    >>> image, percent = (Volume(np.full((2, 2, 2), v, np.float32), np.eye(4)) for v in (1.0, 95.0))
    >>> transmit_field(percent, image, cord)[0, 0].round(3).tolist()
    [0.949999988079071, 0.949999988079071]
    """
    what = schema.words(schema.MT_B1)
    known = np.where(b1.data > 0, b1.data, np.float32(np.nan))
    places = image.grid.world(np.moveaxis(np.indices(image.data.shape, dtype=float), 0, -1))
    field = np.asarray(sample(known, b1.affine, places, order=1), np.float32)
    inside = field[mask]
    inside = inside[np.isfinite(inside)]
    if inside.size <= mask.sum() / 2:
        raise InputError(
            expected="values in the cord", found=f"some in {inside.size} of {int(mask.sum())} cord voxels", where=what,
            remedy="Check that the map is of this session; without it MTsat is compensated to first order all the same.",
        )  # fmt: skip
    middle = float(np.median(inside))
    for scale in (1.0, 100.0):
        if B1_PLAUSIBLE[0] <= middle / scale <= B1_PLAUSIBLE[1]:
            return field / np.float32(scale)
    raise InputError(
        expected="actual over nominal flip angle, about 1 or about 100 percent", found=f"a median of {middle:g} in the cord", where=what,
        remedy="Give the map of relative flip angles (TB1map), not the images or degrees it was made from.",
    )  # fmt: skip


def mtsat_image(
    on: str | Path, off: str | Path, t1w: str | Path, out: str | Path, *, t1: str | Path | None = None, mask: str | Path | None = None,
    b1: str | Path | None = None, tr: Sequence[float] | None = None, flip: Sequence[float] | None = None, coregister: str = "slicewise",
    low_signal: float = LOW_SIGNAL, seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Make maps of MTsat and T1 of three image files.

    Parameters
    ----------
    on, off, t1w : path or URL
        MT-on, MT-off and T1w, on one grid.
    out : path or URL
        MTsat map to write: percent, float32, on the voxels of MT-on in their order; NaN where it cannot be known. Beside it a JSON file of the same
        name.
    t1 : path or URL, optional
        T1 map to write as well, s.
    mask : path or URL, optional
        Cord mask of MT-on, on its grid; by default the cord is segmented in MT-on.
    b1 : path or URL, optional
        Map of the transmit field, see `transmit_field`.
    tr, flip : three numbers, optional
        Repetition times (s) and flip angles (degrees) of MT-on, MT-off and T1w; by default those of the JSON file beside each image.
    coregister, low_signal, seed
        See `saturate`.

    Returns
    -------
    dict
        What the JSON file says: keys of BIDS where there are some, else words; no paths.

    Raises
    ------
    UnknownNameError, GeometryError, InputError, CordError
        As of `protocol_of` and `saturate`, or no cord was found.
    StorageError
        A map cannot be written.
    """
    from cohort_engine.single.process import Workplace, task_folder

    check_coregister(coregister)
    protocols = Triplet(*(_protocol(path, i, role, tr, flip) for i, (path, role) in enumerate(zip((on, off, t1w), ROLES, strict=True))))
    check_protocols(protocols)
    images = Triplet(*(read_volume(path, what=schema.words(role)) for path, role in zip((on, off, t1w), ROLES, strict=True)))
    cord = cord_of(images.on) if mask is None else read_mask(mask, what=schema.words(MT_MASK))
    field = None if b1 is None else read_volume(b1, what=schema.words(schema.MT_B1))
    Workplace(seed=seed).apply()
    with task_folder(0):
        found = saturate(images, cord, protocols, b1=field, coregister=coregister, low_signal=low_signal, seed=seed)
    common = {
        "Sources": {
            "MT-on": Path(on).name, "MT-off": Path(off).name, "T1w": Path(t1w).name, "cord mask": None if mask is None else Path(mask).name,
            "B1": None if b1 is None else Path(b1).name,
        },
        "RepetitionTimeExcitation": dict(zip(("MT-on", "MT-off", "T1w"), (p.tr for p in protocols), strict=True)),
        "FlipAngle": dict(zip(("MT-on", "MT-off", "T1w"), (p.flip for p in protocols), strict=True)),
        "CordMask": "segmented in MT-on" if mask is None else "given",
        "Coregistration": {
            "Method": coregister, "LargestMovement_mm": {"MT-off": round(found.shifts.off, 3), "T1w": round(found.shifts.t1w, 3)},
        },
        "LowSignal": {"ShareOfCordMedian": low_signal, "Floor": round(found.floor, 4)},
        "B1InCord": None if np.isnan(found.b1) else round(found.b1, 4),
        "Missing": "NaN",
        "GeneratedBy": {"Name": "cohort_engine", "Version": versions()["cohort_engine"]},
    }  # fmt: skip
    maps = [("Magnetization transfer saturation (Helms 2008)", "percent", found.mtsat, out), ("T1 (Helms 2008)", "s", found.t1, t1)]
    facts: dict[str, Any] = {}
    for description, units, values, place in maps:
        inside = values[found.cord]
        one = {"Description": description, "Units": units, **common, "Cord": {
            "Voxels": len(inside), "Median": round(float(np.nanmedian(inside)), 4), "Missing": round(float(np.mean(~np.isfinite(inside))), 4),
            "Negative": round(float(np.mean(inside < 0)), 4),
        }}  # fmt: skip
        facts = facts or {**one, "T1": None}
        if units == "s":
            facts["T1"] = one["Cord"]
        if place is not None:
            write_volume(place, images.on.with_data(values))
            with storage_errors(f"sidecar of the {description.partition(' (')[0]} map"):
                sidecar(place).write_text(json.dumps(one, indent=2) + "\n")
    return facts


def _protocol(image: str | Path, i: int, role: str, tr: Sequence[float] | None, flip: Sequence[float] | None) -> Protocol:
    """Of an image: what was given, else what the JSON file beside it says."""
    said: dict[str, Any] = {}
    what = schema.words(schema.role(role, schema.SIDECAR))
    if tr is None or flip is None:
        try:
            said = decode_json(read_raw(sidecar(image), what=what).decode("utf-8"), what=what)
        except MissingInputError as error:
            raise MissingInputError(
                expected="a JSON file of the same name beside the image, with its repetition time and flip angle", found="none", where=what,
                remedy="Put it there, or give both: --tr 0.035,0.035,0.015 --flip 9,9,15.",
            ) from error  # fmt: skip
    said |= {} if tr is None else {TR_KEYS[0]: tr[i]}
    said |= {} if flip is None else {FLIP_KEY: flip[i]}
    return protocol_of(said, what=what)
