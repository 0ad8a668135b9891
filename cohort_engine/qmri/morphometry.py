"""Morphometry of the cord, slice by slice: area, diameters, form, tilt, symmetry; then per level, and along the template.

All sizes are millimetres in the plane at right angles to the cord, reached from the plane of the slice by projecting along the cord: exact for a
tilt in any direction and for any affine. A soft mask counts with its values; it is never stretched to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.cord.centreline import Centreline, number_pieces, slice_arc
from cohort_engine.cord.levels import LevelAxis
from cohort_engine.errors import CordError, GeometryError
from cohort_engine.qmri.region import HALF, Intervals, Outline
from cohort_engine.schema import (
    ANGLE_AP,
    ANGLE_RL,
    AREA,
    AREA_LEFT,
    AREA_RIGHT,
    DIAMETER_AP,
    DIAMETER_AP_ELLIPSE,
    DIAMETER_RL,
    ECCENTRICITY,
    LENGTH,
    MEASURES,
    ORIENTATION,
    ORIENTATION_SIZE,
    SOLIDITY,
    SUMMED,
    SYMMETRY,
)
from cohort_engine.template.packing import FloatArray

EMPTY = 1e-6
"""Mask values up to this are background."""
BAND = 3.0
"""Width (mm) around the centroid in which `DIAMETER_AP` is taken."""
TOLERANCE = 1e-3
"""How far mask values may lie outside 0 to 1: the ringing of an interpolation, not another scale."""


def measure_slices(
    mask: NDArray[Any], affine: FloatArray, centreline: Centreline, *, cord: NDArray[Any] | None = None, what: str = "cord mask"
) -> tuple[dict[str, FloatArray], NDArray[np.int64]]:
    """Measure the cord in every slice.

    Parameters
    ----------
    mask : (x, y, z) array
        0 to 1, soft or binary. A slice holds cord where a voxel reaches 0.5.
    affine : (4, 4) array
        Voxel centres to RAS+ mm; may be oblique. Slices go up along axis 2.
    centreline : Centreline
        Of this mask, or of another image of the session.
    cord : (x, y, z) array, optional
        What of the mask is cord, 0 elsewhere (`cord.centreline.cord_slices`): the piece with most of it is measured. By default all may be.
    what : str
        Words of the mask's role, for messages.

    Returns
    -------
    values : {measure: (z,) float64 array}
        One entry for each of `MEASURES`, in its unit.
    pieces : (z,) int array
        Separate pieces (8-connected in the slice) that reach 0.5. Above 1 is a flag: one was measured, that with the largest sum, and the others were
        left out.

    Raises
    ------
    CordError
        Not 3-D, or values outside 0 to 1.
    GeometryError
        See `slice_arc`.

    Notes
    -----
    With t the direction of the centreline where it crosses the slice and n the normal of the slice:

    * area = sum of the mask x voxel area x (n . t). For a tilt in one direction this is the product of cos(angle_ap) and cos(angle_rl); for a tilt in
      both the product is too small (by 0.04 % at 32 and 3 degrees).
    * diameter_ap, area_right and area_left are sums of the mask as well; the other in-plane measures are of its outline at one half, which a blurred
      edge does not widen (see `qmri.region`). All are projected along t onto the plane (e_x, e_y) of ``Centreline.frame``: x is the scanner's right
      made orthogonal to t.
    * Ellipse axes: 4 sqrt(eigenvalue of the second moments). The axis within 45 degrees of x is the right-to-left one, long or short;
      eccentricity = sqrt(1 - smaller/larger eigenvalue); orientation within -45 to 45.
    * diameter_ap: area within 1.5 mm of the ellipse's front-to-back axis, over 3 mm; right, left and mirror image are taken at the same axis.
    * length: arc length between the faces of the slice; the lengths of adjoining slices add up to that of the curve.

    Missing: NaN in a slice without cord, and in a slice whose measured piece touches a NaN voxel. NaN elsewhere is background.

    References
    ----------
    De Leener B et al. SCT: Spinal Cord Toolbox. NeuroImage 2017. doi:10.1016/j.neuroimage.2016.10.009. What differs is in the documentation.

    Examples
    --------
    >>> from cohort_engine.cord.centreline import centreline_from_mask
    >>> mask = np.zeros((12, 10, 4))
    >>> mask[1:11, 1:9] = 1  # 10 x 8 voxels
    >>> affine = np.diag([1.0, 1.0, 5.0, 1.0])
    >>> values, pieces = measure_slices(mask, affine, centreline_from_mask(mask, affine, what="cord mask"))
    >>> values[AREA].tolist(), values[LENGTH].tolist(), pieces.tolist()
    ([80.0, 80.0, 80.0, 80.0], [5.0, 5.0, 5.0, 5.0], [1, 1, 1, 1])
    >>> values[DIAMETER_AP].round(6).tolist(), values[SYMMETRY].round(6).tolist()
    ([8.0, 8.0, 8.0, 8.0], [1.0, 1.0, 1.0, 1.0])
    """
    affine = np.asarray(affine, float)
    part, here, pieces = _cord(np.asarray(mask), cord, what)
    values = {name: np.full(len(pieces), np.nan) for name in MEASURES}
    if here.size == 0:
        return values, pieces

    arc = slice_arc(centreline, affine, here)
    e_x, e_y, tangent = centreline.frame(arc)
    to_mm = np.stack([e_x, e_y], axis=1) @ affine[:3, :2]  # (slice, 2, 2): voxels in the slice to mm across the cord
    pixel = np.abs(np.linalg.det(to_mm))

    voxels, outline = Intervals.of_voxels(part), Outline.of_mask(part)
    area = voxels.area * pixel
    inside = np.where(outline.area > 0, outline.area, np.nan)
    centre, moments = outline.moments()
    cxx, cxy, _, cyy = (to_mm @ moments @ to_mm.swapaxes(1, 2)).reshape(-1, 4).T
    mean, half = 0.5 * (cxx + cyy), np.hypot(0.5 * (cxx - cyy), cxy)
    long_axis, short_axis = mean + half, mean - half
    turn = 0.5 * np.arctan2(2 * cxy, cxx - cyy)  # of the long axis, -90 to 90 degrees
    across = np.abs(turn) <= np.pi / 4
    turn = np.where(across, turn, turn - np.sign(turn) * np.pi / 2)

    x_axis = np.stack([np.cos(turn), np.sin(turn)], axis=1)  # of the ellipse, in the plane across the cord
    to_x = np.einsum("ka,kab->kb", x_axis, to_mm)
    mirror = np.linalg.solve(to_mm, (np.eye(2) - 2 * x_axis[:, :, None] * x_axis[:, None, :]) @ to_mm)
    right = voxels.strip(centre, to_x, 0.0, np.inf) * pixel

    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal *= np.sign(normal @ affine[:3, 2]) / np.linalg.norm(normal)
    to_right = np.array([1.0, 0.0, 0.0]) - normal * normal[0]
    to_right /= np.linalg.norm(to_right)
    rise = tangent @ normal

    found = {
        AREA: area,
        AREA_RIGHT: right,
        AREA_LEFT: area - right,
        SYMMETRY: outline.overlap(centre, mirror) / inside,
        DIAMETER_AP: voxels.strip(centre, to_x, -0.5 * BAND, 0.5 * BAND) * pixel / BAND,
        DIAMETER_AP_ELLIPSE: 4 * np.sqrt(np.where(across, short_axis, long_axis)),
        DIAMETER_RL: 4 * np.sqrt(np.where(across, long_axis, short_axis)),
        ECCENTRICITY: np.sqrt(np.clip(1 - short_axis / long_axis, 0.0, 1.0)),
        SOLIDITY: np.minimum(inside / outline.hull_area(), 1.0),
        ORIENTATION: np.degrees(turn),
        ORIENTATION_SIZE: np.degrees(np.abs(turn)),
        ANGLE_AP: np.degrees(np.arctan2(tangent @ to_right, rise)),
        ANGLE_RL: np.degrees(np.arctan2(tangent @ np.cross(normal, to_right), rise)),
        LENGTH: np.subtract(*(slice_arc(centreline, affine, here + side) for side in (0.5, -0.5))),
    }
    for name, value in found.items():
        values[name][here] = value
    return values, pieces


def _cord(mask: NDArray[Any], cord: NDArray[Any] | None, what: str) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    """Take the measured piece (slice, x, y) of each slice that can be measured, those slices, and the number of pieces (z,) of all slices."""
    if mask.ndim != 3:
        raise CordError(expected="a 3-D mask", found=f"shape {mask.shape}", where=what, remedy="Give one volume.")
    filled = ~(mask <= EMPTY)  # NaN too
    box = []
    for axis in range(3):
        reach = np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(reach[0], reach[-1] + 1) if reach.size else slice(0, 0))
    part = np.asarray(mask[tuple(box)], float).transpose(2, 0, 1)
    low, high = float(np.fmin.reduce(mask, axis=None, initial=0)), float(np.fmax.reduce(part, axis=None, initial=0))
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise CordError(
            expected="values from 0 to 1", found=f"{low:g} to {high:g}", where=what,
            remedy="Give the cord alone, 1 inside and 0 outside (or the fraction).",
        )  # fmt: skip
    pieces = np.zeros(mask.shape[2], np.int64)
    labels, count = number_pieces(filled[tuple(box)].transpose(2, 0, 1))
    unknown = np.isnan(part)
    weight = np.where(unknown, 0.0, np.clip(part, 0.0, 1.0))
    held = np.nonzero(labels)
    piece = labels[held]

    def per_piece(of: NDArray[Any]) -> FloatArray:
        return np.asarray(np.bincount(piece, weights=of[held], minlength=count + 1), float)

    home = np.zeros(count + 1, np.int64)
    home[piece] = held[0]
    reached, holes = per_piece(weight >= HALF), per_piece(unknown)
    size = per_piece(weight if cord is None else np.asarray(cord[tuple(box)], float).transpose(2, 0, 1))
    solid = 1 + np.flatnonzero(reached[1:])
    pieces[box[2].start :][: len(part)] = np.bincount(home[solid], minlength=len(part))
    solid = solid[size[solid] > 0]
    solid = solid[np.lexsort((-size[solid], home[solid]))]
    slices, first = np.unique(home[solid], return_index=True)
    largest = solid[first]
    known = holes[largest] == 0
    slices, largest = slices[known], largest[known]
    cord = np.where(labels[slices] == largest[:, None, None], weight[slices], 0.0)
    return np.pad(cord, ((0, 0), (1, 1), (1, 1))), box[2].start + slices, pieces


@dataclass(frozen=True, eq=False)
class Grouped:
    """Measures of groups of slices.

    Attributes
    ----------
    groups : (group,) int array
        Numbers of the groups, ascending.
    value : {measure: (group,) array}
        Mean over the slices, or the sum for `SUMMED`; NaN without a slice.
    std : {measure: (group,) array}
        Population standard deviation over the slices: how much the cord varies, not how well it is measured. NaN below two slices, and for `SUMMED`.
    n : {measure: (group,) int array}
        Slices with a value.
    """

    groups: NDArray[np.int64]
    value: dict[str, FloatArray]
    std: dict[str, FloatArray]
    n: dict[str, NDArray[np.int64]]


def group_slices(values: Mapping[str, FloatArray], groups: NDArray[np.integer[Any]]) -> Grouped:
    """Average measures over vertebral levels, or over any sets of slices.

    Parameters
    ----------
    values : {measure: (z,) array}
        NaN is left out.
    groups : (z,) int array
        Level number of each slice, or the number of any set of slices; 0 or below: none.

    Returns
    -------
    Grouped

    Raises
    ------
    GeometryError
        When the lengths differ.

    Examples
    --------
    >>> z = {AREA: np.array([70.0, 80.0, np.nan, 60.0]), LENGTH: np.array([5.0, 5.0, np.nan, 5.5])}
    >>> levels = group_slices(z, np.array([3, 3, 3, 2]))
    >>> levels.groups.tolist(), levels.value[AREA].tolist(), levels.std[AREA].tolist(), levels.n[AREA].tolist(), levels.value[LENGTH].tolist()
    ([2, 3], [60.0, 75.0], [nan, 5.0], [1, 2], [5.5, 10.0])
    """
    groups = np.asarray(groups)
    numbers, member = np.unique(groups, return_inverse=True)
    out = Grouped(numbers[numbers > 0].astype(np.int64), {}, {}, {})
    for name, value in values.items():
        if value.shape != groups.shape:
            raise GeometryError(
                expected=f"{groups.size} slices", found=f"{value.size} in {name}", where="groups of slices", remedy="Give one group number a slice."
            )
        good = np.isfinite(value)
        at, kept = member[good], value[good]
        n = np.bincount(at, minlength=len(numbers))
        total = np.bincount(at, weights=kept, minlength=len(numbers))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / n
            spread = np.sqrt(np.bincount(at, weights=(kept - mean[at]) ** 2, minlength=len(numbers)) / n)
        summed = name in SUMMED
        out.n[name] = n[numbers > 0]
        out.value[name] = np.where(n > 0, total if summed else mean, np.nan)[numbers > 0]
        out.std[name] = np.where((n > 1) & (not summed), spread, np.nan)[numbers > 0]
    return out


def template_profile(value: FloatArray, arc: FloatArray, axis: LevelAxis, z: FloatArray) -> FloatArray:
    """Carry a measure from the slices of an image to the z axis of a template.

    Parameters
    ----------
    value : (..., slice) array
        Measures of consecutive slices; NaN where there is none. (Lengths of slices do not make a profile: they depend on the slice.)
    arc : (slice,) array
        Where the centreline crosses the slices (`slice_arc`), mm, increasing.
    axis : LevelAxis
        Of the same centreline.
    z : (z,) array
        World z of the template's slices, mm.

    Returns
    -------
    (..., z) float64 array
        Linear between neighbouring slices that both have a value. Up to half a slice beyond the last value (at the ends of the image, or beside a
        slice without cord) that value; NaN from there on.

    Notes
    -----
    The position is continuous along the cord, so that there is no step where one vertebral level meets the next.

    Examples
    --------
    >>> line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 40.0]]))
    >>> axis = LevelAxis(line, np.array([0.0, 40.0]), np.array([100.0, 140.0]), 0.0)
    >>> z = np.array([97.0, 98.0, 100.0, 102.0, 107.0, 108.0])
    >>> template_profile(np.array([60.0, 70.0, np.nan]), np.array([0.0, 5.0, 10.0]), axis, z).tolist()
    [nan, 60.0, 60.0, 64.0, 70.0, nan]
    """
    value, arc = np.asarray(value, float), np.asarray(arc, float)
    at = axis.arc(np.asarray(z, float))
    last = len(arc) - 1
    if last < 0:
        return np.full((*value.shape[:-1], len(at)), np.nan)
    below = np.clip(np.searchsorted(arc, at, side="right") - 1, 0, max(last - 1, 0))
    above = np.minimum(below + 1, last)
    step = (at - arc[below]) / np.where(above > below, arc[above] - arc[below], np.nan)  # one slice alone has no thickness
    share = np.clip(step, 0.0, 1.0)
    between = value[..., below] * (1 - share) + value[..., above] * share
    nearest = np.where(np.abs(step - 0.5) <= 1.0, value[..., np.where(step < 0.5, below, above)], np.nan)
    return np.where(np.isnan(between) | (step < 0) | (step > 1), nearest, between)
