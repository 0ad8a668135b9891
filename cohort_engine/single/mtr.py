"""Magnetization transfer ratio of one pair of images: what the command `mtr` and the stage ``mtr`` call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import CordError, unknown_name
from cohort_engine.io.places import storage_errors
from cohort_engine.io.volume import Volume, on_voxels_of, read_mask, read_volume, require_signal, write_volume
from cohort_engine.provenance import versions
from cohort_engine.qmri.mt import check_not_swapped, cord_floor, mtr

Array = NDArray[Any]
Coregister = Literal["none", "slicewise", "deformable"]
COREGISTER: tuple[Coregister, ...] = ("none", "slicewise", "deformable")
LOW_SIGNAL = 0.05
"""Share of the cord's median MT-off at or below which a voxel holds nothing."""
SYN_MARGIN = 20.0
"""In-plane margin (mm) around the cord in which MT-off is deformed."""
SYN_ITERATIONS = (30,)
"""At full resolution alone: the shifts have done the coarse part, and few thick slices cannot be shrunk."""
SYN_FLOW = 2.0
"""Smoothing of SyN's update field, voxels."""
SYN_PAD = 3
"""Slices repeated at both ends: SyN holds the border of its volume still."""
MT_MASK = schema.role(schema.MT, schema.MASK)


class Ratio(NamedTuple):
    """MTR of a pair of images, and how it came about.

    Attributes
    ----------
    values : (x, y, z) float32 array
        Percent, on the grid of MT-on. Missing: NaN, see `qmri.mt.mtr`.
    off : (x, y, z) array
        MT-off there.
    shift : float
        Largest in-plane movement of a cord voxel, mm.
    floor : float
        MT-off at or below which `values` is NaN.
    cord : (x, y, z) bool array
        The mask, voxel by voxel of MT-on.
    """

    values: NDArray[np.float32]
    off: Array
    shift: float
    floor: float
    cord: NDArray[np.bool_]


def ratio(on: Volume, off: Volume, cord: Volume, *, coregister: str = "slicewise", low_signal: float = LOW_SIGNAL, seed: int = 1) -> Ratio:
    """Magnetization transfer ratio of a pair of images.

    Parameters
    ----------
    on, off, cord : Volume
        MT-on, MT-off, and the cord mask of MT-on (cord where above a half), all on one grid.
    coregister : str
        How MT-off is brought onto MT-on, one of `COREGISTER`: see `bring_onto`.
    low_signal : float
        A voxel is NaN where MT-off is at or below this share of the cord's median MT-off.
    seed : int
        Of ANTs.

    Raises
    ------
    UnknownNameError
        A way of registration that does not exist.
    GeometryError, InputError, CordError
        Images on different grids, without signal, or swapped; a mask that is empty or lies where there is none.
    """
    off, cord = on_one_grid(on, {schema.MT_OFF: off, MT_MASK: cord})
    mask = cord.data > 0.5
    moved, shift = bring_onto(on, off, cord, coregister, seed=seed)
    floor = cord_floor(moved, mask, low_signal)
    values = mtr(moved, on.data, floor=floor)[0]
    check_not_swapped(values, mask)
    return Ratio(values, moved, shift, floor, mask)


def check_coregister(how: str) -> None:
    """Refuse a way of registration that does not exist."""
    if how not in COREGISTER:
        raise unknown_name("way of registration", how, list(COREGISTER), where="images onto MT-on")


def on_one_grid(on: Volume, others: Mapping[str, Volume]) -> list[Volume]:
    """Take the other images and the cord mask of an MT protocol, by role, voxel by voxel of MT-on; images without signal are refused.

    Raises
    ------
    GeometryError, InputError
        Another grid; an image without signal.
    """
    like, remedy = f"the {schema.words(schema.MT_ON)}", "Resample it onto the MT-on image, or check that the files belong to one acquisition."
    taken = [on_voxels_of(on, volume, what=schema.words(role), like=like, remedy=remedy) for role, volume in others.items()]
    for role, volume in zip((schema.MT_ON, *others), (on, *taken), strict=True):
        if role != MT_MASK:
            require_signal(volume, what=schema.words(role))
    return taken


def bring_onto(on: Volume, off: Volume, cord: Volume, how: str, *, seed: int = 1, either: bool = False) -> tuple[Array, float]:
    """Bring an image of the same slices onto the MT-on image.

    Parameters
    ----------
    on, off, cord : Volume
        On one grid.
    how : str
        ``none``; ``slicewise``, in-plane shifts; ``deformable``, SyN in-plane after those, near the cord. The image is interpolated once.
    seed : int
        Of ANTs.
    either : bool
        Whether it may show the tissues in the opposite order, see `qmri.motion.estimate_slicewise`.

    Returns
    -------
    off : (x, y, z) array
    shift : float
        Largest in-plane movement of a cord voxel, mm.
    """
    check_coregister(how)
    if how == "none":
        return off.data, 0.0
    from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise

    spacing = on.grid.spacing
    shifts = estimate_slicewise(on.data, off.data, cord.data > 0.5, spacing, either=either)
    moved = apply_shifts(off.data, shifts, spacing)
    if how == "slicewise":
        return moved, float(np.max(np.linalg.norm(shifts, axis=-1)))
    from cohort_engine.mapping.ants import CORRELATION, deform
    from cohort_engine.mapping.template_map import sample

    near = np.argwhere(cord.data > 0.5)
    margin = np.ceil(np.array([*(SYN_MARGIN / spacing[:2]), on.data.shape[2]])).astype(int)
    low, high = np.maximum(near.min(0) - margin, 0), np.minimum(near.max(0) + 1 + margin, on.data.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    both = np.isfinite(on.data[window]) & np.isfinite(moved[window])
    ends = ((0, 0), (0, 0), (SYN_PAD, SYN_PAD))
    fixed, moving = (np.pad(np.where(both, image[window], 0), ends, mode="edge") for image in (on.data, moved))
    found = deform(fixed, moving, spacing, seed=seed, iterations=SYN_ITERATIONS, flow_sigma=SYN_FLOW, metric=CORRELATION)
    movement = found[:, :, SYN_PAD:-SYN_PAD].astype(float)
    movement[..., :2] += shifts[None, None, low[2] : high[2]]
    places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    moved[window] = sample(off.data, off.affine, off.grid.world(places + movement / spacing), order=3)
    return moved, float(np.max(np.linalg.norm(movement[..., :2], axis=-1)[cord.data[window] > 0.5]))


def mtr_image(
    on: str | Path, off: str | Path, out: str | Path, *, mask: str | Path | None = None, coregister: str = "slicewise",
    low_signal: float = LOW_SIGNAL, seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Make the MTR map of a pair of image files.

    Parameters
    ----------
    on, off : path or URL
        MT-on and MT-off, on one grid.
    out : path or URL
        Map to write: percent, float32, on the voxels of MT-on in their order; NaN where MTR cannot be known. Beside it a JSON file of the same name.
    mask : path or URL, optional
        Cord mask of MT-on, on its grid; by default the cord is segmented in MT-on.
    coregister, low_signal, seed
        See `ratio`.

    Returns
    -------
    dict
        What the JSON file says: keys of BIDS where there are some, else words; no paths.

    Raises
    ------
    UnknownNameError, GeometryError, InputError, CordError
        As of `ratio`, or no cord was found.
    StorageError
        The map cannot be written.
    """
    from cohort_engine.single.process import Workplace, task_folder

    check_coregister(coregister)
    first, second = (read_volume(path, what=schema.words(role)) for path, role in ((on, schema.MT_ON), (off, schema.MT_OFF)))
    cord = cord_of(first) if mask is None else read_mask(mask, what=schema.words(MT_MASK))
    Workplace(seed=seed).apply()
    with task_folder(0):
        found = ratio(first, second, cord, coregister=coregister, low_signal=low_signal, seed=seed)
    inside = found.values[found.cord]
    facts = {
        "Description": "Magnetization transfer ratio, 100 (MT-off - MT-on) / MT-off",
        "Units": "percent",
        "Sources": {"MT-on": Path(on).name, "MT-off": Path(off).name, "cord mask": None if mask is None else Path(mask).name},
        "CordMask": "segmented in MT-on" if mask is None else "given",
        "Coregistration": {"Method": coregister, "LargestMovement_mm": round(found.shift, 3)},
        "LowSignal": {"ShareOfCordMedian": low_signal, "Floor": round(found.floor, 4)},
        "Cord": {
            "Voxels": len(inside), "Median": round(float(np.nanmedian(inside)), 3), "Missing": round(float(np.mean(~np.isfinite(inside))), 4),
            "Negative": round(float(np.mean(inside < 0)), 4),
        },
        "Missing": "NaN",
        "GeneratedBy": {"Name": "cohort_engine", "Version": versions()["cohort_engine"]},
    }  # fmt: skip
    write_volume(out, first.with_data(found.values))
    with storage_errors("sidecar of the MTR map"):
        sidecar(out).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def sidecar(image: str | Path) -> Path:
    """Path of the JSON file beside an image.

    Examples
    --------
    >>> sidecar("sub-01_MTRmap.nii.gz").name, sidecar("mtr.nii").name
    ('sub-01_MTRmap.json', 'mtr.json')
    """
    path = Path(image)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def cord_of(on: Volume) -> Volume:
    """Segment the cord in MT-on; a cord mask, or an error where there is none."""
    from cohort_engine.cord.segment import ABSENT, FLAGS, segment

    found = segment(on.data, on.affine, what=schema.words(schema.MT_ON))
    if ABSENT in found.flags:
        raise CordError(expected="a cord", found=FLAGS[ABSENT], where=schema.words(schema.MT_ON), remedy="Give its mask (--mask).")
    return on.with_data(found.mask)
