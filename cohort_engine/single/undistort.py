"""Distortion of one echo-planar image put right by an image of the opposite phase encoding: what the command `undistort` and `single.moco` call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cohort_engine import schema
from cohort_engine.errors import CordError, MissingInputError
from cohort_engine.io.places import storage_errors
from cohort_engine.io.sidecars import decode_json, phase_axis
from cohort_engine.io.volume import Volume, decode_series, decode_voxels, on_voxels_of, read_mask, read_raw, require_signal, write_volume
from cohort_engine.provenance import versions
from cohort_engine.qmri.distortion import estimate_distortion
from cohort_engine.qmri.moco import estimate_motion
from cohort_engine.qmri.series import resample_series
from cohort_engine.single.mtr import sidecar

FloatArray = NDArray[Any]
BoolArray = NDArray[np.bool_]
IMAGE, MASK = "echo-planar image", "cord mask of the echo-planar image"
REVERSE = schema.words(schema.DWI_REVERSE)
FALLOFF = 10.0
"""The region that is compared: the cord, and what is around it fading over so many mm."""


class Undistorted(NamedTuple):
    """An image after correction.

    Attributes
    ----------
    image : Volume
        float32, on the voxels of the scan; of a series all volumes, else (x, y, z). Missing: NaN outside the image.
    displacement : Volume
        (x, y, z) float32, mm along the axis of phase encoding, towards larger index in RAS+ order.
    cord : Volume
        The cord mask that was given or found, where the corrected image has it.
    largest : float
        Largest displacement in the cord, mm.
    """

    image: Volume
    displacement: Volume
    cord: Volume
    largest: float


def undistort(image: Volume, reverse: Volume, *, cord: Volume | None = None, phase_axis: int = 1) -> Undistorted:
    """Correct the distortion of an image, or of a series whose volumes lie at one place.

    Parameters
    ----------
    image, reverse : Volume
        (x, y, z) or (x, y, z, t), without diffusion weighting, of the same slices with opposite directions of phase encoding.
    cord : Volume, optional
        Cord mask of `image`; by default the cord is segmented in its mean.
    phase_axis : int
        Array axis of the phase encoding in RAS+ order, 0 (left-right) or 1 (back-front).

    Returns
    -------
    Undistorted

    Raises
    ------
    GeometryError
        A pair, or a mask, of different geometry.
    InputError, CordError
        No signal, or no cord.
    """
    require_signal(image, what=IMAGE)
    series = image.data if image.data.ndim == 4 else image.data[..., None]
    one = image.with_data(np.nan_to_num(np.nanmean(series, axis=-1)))
    mask = _found(one) if cord is None else on_voxels_of(one, cord, what=MASK, like=f"the {IMAGE}").data > 0.5
    displacement = displacement_of(one, reverse, mask, phase_axis=phase_axis)
    out = resample_series(series, image.grid.spacing, displacement=displacement, axis=phase_axis)
    there = displaced_mask(mask, image.grid.spacing, displacement, phase_axis)
    return Undistorted(
        image.with_data(out if out.shape[3] > 1 else out[..., 0]), image.with_data(displacement.astype(np.float32)), image.with_data(there),
        float(np.abs(displacement[there]).max(initial=0)),
    )  # fmt: skip


def displacement_of(plain: Volume, reverse: Volume, mask: BoolArray, *, phase_axis: int, falloff: float = FALLOFF) -> NDArray[np.float64]:
    """Displacement (x, y, z) mm along phase encoding of an image (x, y, z) against one with the opposite direction; errors as of `undistort`.

    Several volumes of `reverse` are brought together first.
    """
    back = checked_reverse(plain, reverse).data
    spacing = plain.grid.spacing
    weight = region(mask, spacing, falloff)
    if back.ndim == 4 and back.shape[3] > 1:
        found = estimate_motion(back, np.ones(back.shape[3], bool), np.zeros(back.shape[3]), weight, spacing)
        together = found.shifts - np.median(found.shifts, axis=0)  # where the region lies is another image's affair
        back = resample_series(back, spacing, shifts=together, dropped=(found.flags & schema.LOST) > 0)
    back = back if back.ndim == 3 else np.nan_to_num(_mean(back))
    return estimate_distortion(plain.data, back, weight, spacing, axis=phase_axis)


def checked_reverse(image: Volume, reverse: Volume) -> Volume:
    """Take an image of the opposite phase encoding on the voxels of the other; errors as of `undistort`."""
    require_signal(reverse, what=REVERSE)
    return on_voxels_of(image, reverse, what=REVERSE, like=f"the {IMAGE}", remedy="Give the image that was scanned with the same slices.")


def displaced_mask(mask: BoolArray, spacing: FloatArray, displacement: FloatArray, phase_axis: int) -> BoolArray:
    """Where a mask (x, y, z) of the distorted image lies after correction."""
    step = np.zeros(3)
    step[phase_axis] = 1 / spacing[phase_axis]
    index = np.indices(mask.shape) + displacement * step[:, None, None, None]
    at = [np.clip(np.rint(i), 0, n - 1).astype(int) for i, n in zip(index, mask.shape, strict=True)]
    return np.asarray(np.asarray(mask, bool)[tuple(at)])


def region(mask: FloatArray, spacing: FloatArray, falloff: float) -> NDArray[np.float64]:
    """Soft region around a mask, slice by slice: 1 in it, falling to 0 over `falloff` mm.

    Examples
    --------
    >>> mask = np.zeros((7, 1, 1), bool)
    >>> mask[2] = True
    >>> region(mask, np.ones(3), 4.0).ravel().tolist()
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    mask = np.asarray(mask, bool)
    out = np.zeros(mask.shape)
    for z in np.flatnonzero(mask.any((0, 1))):
        out[..., z] = np.clip(1 - distance_transform_edt(~mask[..., z], sampling=spacing[:2]) / falloff, 0, 1)
    return out


def phase_axis_beside(image: str | Path) -> int:
    """Array axis of the phase encoding of an image, in RAS+ order, as the JSON file beside it says; 1 (back-front) without one that says it.

    Raises
    ------
    InputError
        A file that holds no JSON.
    """
    what = f"sidecar of the {IMAGE}"
    try:
        said = decode_json(read_raw(sidecar(image), what=what).decode("utf-8"), what=what)
    except MissingInputError:
        return 1
    return phase_axis(said, decode_voxels(read_raw(image, what=IMAGE), what=IMAGE))


def undistort_image(
    image: str | Path, reverse: str | Path, out: str | Path, *, mask: str | Path | None = None, field: str | Path | None = None, phase_axis: int = 1
) -> dict[str, Any]:
    """Correct the distortion of an image file; beside it a JSON file that says how.

    Parameters
    ----------
    image, reverse : path or URL
        Images or series without diffusion weighting, with opposite phase encoding.
    out : path
        Corrected image, float32, on the image's own voxels.
    mask : path or URL, optional
        Cord mask of `image`.
    field : path, optional
        Write the displacement here as well, mm.
    phase_axis : int
        See `undistort`.

    Returns
    -------
    dict
        What the JSON file says; no paths.

    Raises
    ------
    GeometryError, InputError, CordError, StorageError
        As of `undistort`, or the files cannot be read or written.
    """
    first, second = (decode_series(read_raw(path, what=what), what=what) for path, what in ((image, IMAGE), (reverse, REVERSE)))
    cord = None if mask is None else read_mask(mask, what=MASK)
    found = undistort(first, second, cord=cord, phase_axis=phase_axis)
    inside = found.displacement.data[found.cord.data]
    facts = {
        "Description": "Echo-planar image, distortion along phase encoding corrected by an image of the opposite direction",
        "Sources": {"image": Path(image).name, "reverse": Path(reverse).name, "cord mask": None if mask is None else Path(mask).name},
        "CordMask": "segmented in the image" if mask is None else "given",
        "PhaseEncodingAxis": AXES[phase_axis],
        "Displacement_mm": {"Largest": round(found.largest, 3), "Median": round(float(np.median(np.abs(inside))) if len(inside) else 0.0, 3)},
        "Missing": "NaN",
        "GeneratedBy": {"Name": "cohort_engine", "Version": versions()["cohort_engine"]},
    }  # fmt: skip
    write_volume(out, found.image)
    if field is not None:
        write_volume(field, found.displacement)
    with storage_errors("sidecar of the corrected image"):
        sidecar(out).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


AXES = ("left-right", "back-front")
"""Words of an array axis of the phase encoding, RAS+ order."""


def _mean(data: FloatArray) -> NDArray[np.float64]:
    finite = np.isfinite(data)
    return np.asarray(np.where(finite, data, 0).sum(-1) / np.maximum(finite.sum(-1), 1), float)


def _found(image: Volume) -> BoolArray:
    from cohort_engine.cord.segment import ABSENT, FLAGS, segment

    found = segment(image.data, image.affine, what=IMAGE)
    if ABSENT in found.flags:
        raise CordError(expected="a cord", found=FLAGS[ABSENT], where=IMAGE, remedy="Give its mask (--mask).")
    return np.asarray(found.mask, bool)
