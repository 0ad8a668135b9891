"""Vertebral levels: from landmarks in an image to the template's z along the centreline.

Landmarks have a kind and a number: disc n is the disc above vertebra n (3 = C2/C3), body n is the middle of vertebra n (2 = C2, 9 = T2).
They need not lie on the cord: a landmark counts where it meets the centreline at a right angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline
from cohort_engine.errors import GeometryError, LevelError
from cohort_engine.template.base import Heights
from cohort_engine.template.packing import FloatArray, apply_affine

FARTHEST = 30.0
"""A landmark farther (mm) from the centreline than this belongs to something else; the front of a disc is 20 to 25 mm away."""
REACH = 20.0
"""A landmark may lie this far (mm) beyond the ends of the mask; farther ones are left out."""
POINT = 10.0
"""Voxels of one point label are within this distance (mm) of each other."""
STRETCH = (1 / 3, 3.0)
"""Cord length over template length between neighbouring landmarks; outside, a number is wrong."""
SLOPE_LENGTH = 30.0
"""Stretch beyond the outer landmarks is that of the outer 30 mm, as one disc interval is too short to carry it."""
APART = 10.0
"""Median distance (mm) between the centrelines of two images of the same session."""
KNOT_STEP = 1.0
"""Distance (mm) between the knots of a transferred axis."""
FAR = 1e4


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Numbered vertebral landmarks of one kind.

    Attributes
    ----------
    kind : str
        `schema.DISC` or `schema.BODY`.
    numbers : (n,) int array
    xyz : (n, 3) array
        RAS+ mm.
    """

    kind: str
    numbers: NDArray[np.int64]
    xyz: FloatArray


def landmarks_from_labels(labels: NDArray[Any], affine: FloatArray, *, kind: str, what: str) -> Landmarks:
    """Read landmarks from a label image.

    Parameters
    ----------
    labels : (x, y, z) array
        0 is background. Either points (a few voxels a value; the landmark is their centre of mass) or a cord mask labelled by vertebra, told
        apart by neighbouring voxels whose values differ by one: then disc n lies at the border of values n - 1 and n, and `kind` is ignored.
    affine : (4, 4) array
        Voxel centres to RAS+ mm.
    kind : str
        Kind of point labels.
    what : str
        Words of the role, for messages.

    Raises
    ------
    LevelError
        No labels, values that are no whole numbers, or one number in two places.

    Examples
    --------
    >>> levels = np.repeat([3, 2], 10)[None, None]  # C3 below, C2 above
    >>> found = landmarks_from_labels(levels, np.eye(4), kind="body", what="landmarks")
    >>> found.kind, found.numbers.tolist(), found.xyz.tolist()
    ('disc', [3], [[0.0, 0.0, 9.5]])
    """
    index = np.argwhere(np.nan_to_num(labels) != 0)
    values = np.asarray(labels, float)[tuple(index.T)]
    if len(index) == 0:
        raise LevelError(expected="numbered landmarks", found="no labels", where=what, remedy="Label at least two discs or vertebrae.")
    numbers = np.rint(values).astype(np.int64)
    if np.abs(values - numbers).max() > 0.01 or numbers.min() < 0:
        odd = values[(np.abs(values - numbers) > 0.01) | (numbers < 0)][0]
        raise LevelError(expected="whole positive numbers", found=f"{odd:g}", where=what, remedy="Resample labels with nearest neighbours only.")
    borders = _borders(np.where(np.isfinite(labels), labels, 0), index)
    if borders:
        return Landmarks(schema.DISC, np.array(sorted(borders)), apply_affine(affine, np.array([borders[n] for n in sorted(borders)])))
    found, places = np.unique(numbers), []
    for n in found:
        xyz = apply_affine(affine, index[numbers == n])
        centre = xyz.mean(axis=0)
        if np.linalg.norm(xyz - centre, axis=1).max() > POINT / 2:
            extent = np.linalg.norm(np.ptp(xyz, axis=0))
            raise LevelError(expected=f"{kind} {n} in one place", found=f"voxels {extent:.0f} mm apart", where=what, remedy="Give each number once.")
        places.append(centre)
    return Landmarks(kind, found, np.array(places))


def _borders(labels: NDArray[Any], index: NDArray[np.int64]) -> dict[int, FloatArray]:
    """Mean place (voxels) of the faces between values n - 1 and n, by n."""
    low, high = index.min(axis=0), index.max(axis=0) + 1
    box = np.rint(labels[tuple(map(slice, low, high))]).astype(np.int64)
    faces: dict[int, list[FloatArray]] = {}
    for axis in range(3):
        a, b = (np.moveaxis(box, axis, 0)[s] for s in (np.s_[:-1], np.s_[1:]))
        touching = np.moveaxis((a > 0) & (b > 0) & (np.abs(a - b) == 1), 0, axis)
        upper = np.moveaxis(np.maximum(a, b), 0, axis)
        place = np.argwhere(touching) + low + 0.5 * np.eye(3)[axis]
        for n in np.unique(upper[touching]):
            faces.setdefault(int(n), []).append(place[upper[touching] == n])
    return {n: np.concatenate(p).mean(axis=0) for n, p in faces.items()}


@dataclass(frozen=True, eq=False)
class LevelAxis:
    """Template z along a centreline: increasing, piecewise linear.

    Attributes
    ----------
    centreline : Centreline
    knot_arc, knot_z : (n,) arrays
        Arc length (mm) along the centreline and world z (mm) of the template, both increasing.
    residual : float
        Largest distance (mm, along the cord) between an inner landmark and where its two neighbours put it; NaN with fewer than three landmarks.

    Notes
    -----
    Beyond the outer knots the axis goes on straight with the stretch of the outer 30 mm.
    """

    centreline: Centreline
    knot_arc: FloatArray
    knot_z: FloatArray
    residual: float

    def z(self, arc: FloatArray | float) -> FloatArray:
        """Template z (mm) at arc length (mm)."""
        return np.asarray(np.interp(arc, *self._knots))

    def arc(self, z: FloatArray | float) -> FloatArray:
        """Arc length (mm) at template z (mm); the inverse of `z`."""
        return np.asarray(np.interp(z, *self._knots[::-1]))

    @cached_property
    def _knots(self) -> tuple[FloatArray, FloatArray]:
        """Knots with one more far beyond each end."""
        s, z = self.knot_arc, self.knot_z
        low = min(int(np.searchsorted(s, s[0] + SLOPE_LENGTH)), len(s) - 1)
        high = max(int(np.searchsorted(s, s[-1] - SLOPE_LENGTH, side="right")) - 1, 0)
        below, above = (z[low] - z[0]) / (s[low] - s[0]), (z[-1] - z[high]) / (s[-1] - s[high])
        return np.r_[s[0] - FAR, s, s[-1] + FAR], np.r_[z[0] - FAR * below, z, z[-1] + FAR * above]


def level_axis(centreline: Centreline, landmarks: Landmarks, template: Heights, *, what: str = "vertebral landmarks") -> LevelAxis:
    """Match arc length along the centreline to the template's z through the landmarks.

    Left out are landmarks that the template does not know (a pontomedullary label among discs), those more than 20 mm beyond the ends of the mask,
    and disc 1 where two others remain: there is no disc above C1, and what is marked there differs by a centimetre between protocols.

    Raises
    ------
    LevelError
        Fewer than two usable landmarks, a number given twice, a landmark more than 30 mm from the cord, wrong order, or a stretch between
        neighbours below 1/3 or above 3. The landmark is named.
    """
    known = template.landmarks.get(landmarks.kind, {})
    numbers = np.asarray(landmarks.numbers)
    twice = sorted({int(n) for n in numbers if (numbers == n).sum() > 1})
    if twice:
        raise LevelError(
            expected="each number once", found=f"{_names(landmarks.kind, twice)} more than once", where=what, remedy="Remove the wrong label."
        )
    arc, distance = centreline.project(landmarks.xyz)
    beyond = np.maximum(-arc, arc - centreline.length)
    in_template = np.array([int(n) in known for n in numbers], bool)
    on_cord = beyond <= REACH
    far = in_template & on_cord & (distance > FARTHEST)
    if far.any():
        raise LevelError(
            expected=f"landmarks within {FARTHEST:g} mm of the cord",
            found=f"{_names(landmarks.kind, numbers[far])} at {distance[far].max():.0f} mm",
            where=what,
            remedy="Check that the landmarks and the cord mask belong to the same image.",
        )
    usable = in_template & on_cord
    top = (numbers == 1) & (landmarks.kind == schema.DISC)
    if (usable & ~top).sum() >= 2:
        usable &= ~top
    if usable.sum() < 2:
        lost = [
            f"{_names(landmarks.kind, numbers[out])} {why}"
            for out, why in ((~in_template, f"unknown to template {template.name}"), (in_template & ~on_cord, "beyond the cord mask"))
            if out.any()
        ]
        raise LevelError(
            expected="at least two landmarks on the cord",
            found=f"{int(usable.sum())}" + (f" ({'; '.join(lost)})" if lost else ""),
            where=what,
            remedy="Label two or more discs or vertebrae inside the cord mask, as far apart as the image allows.",
        )
    z = np.array([known[int(n)] for n in numbers[usable]])
    order = np.argsort(z)
    z, arc, numbers = z[order], arc[usable][order], numbers[usable][order]
    stretch = np.diff(arc) / np.diff(z)
    wrong = np.flatnonzero((stretch < STRETCH[0]) | (stretch > STRETCH[1]))
    if len(wrong):
        lower, upper = numbers[wrong[0]], numbers[wrong[0] + 1]
        rise, gap = np.diff(z)[wrong[0]], np.diff(arc)[wrong[0]]
        raise LevelError(
            expected=f"{landmarks.kind} {upper} about {rise:.0f} mm above {landmarks.kind} {lower}",
            found=f"{abs(gap):.0f} mm {'above' if gap >= 0 else 'below'}",
            where=what,
            remedy="Check the numbers: they grow downwards.",
        )
    return LevelAxis(centreline, arc, z, _leave_one_out(arc, z))


def levels_at(z: FloatArray, template: Heights) -> NDArray[np.int64]:
    """Vertebral level number at world z (mm) of the template; 0 where it has none.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> template = parametric_cord(spacing=2, top="C2", bottom="C3")
    >>> levels_at(np.array([-1e3, template.landmark_z("body", 3), template.landmark_z("body", 2)]), template).tolist()
    [0, 3, 2]
    """
    start, step = template.grid.affine[2, 2:][::-1]
    k = np.rint((np.asarray(z, float) - start) / step)
    inside = (k >= 0) & (k < len(template.slice_level))
    return np.where(inside, template.slice_level[np.where(inside, k, 0).astype(np.int64)], 0).astype(np.int64)


def transfer(axis: LevelAxis, centreline: Centreline, *, what: str = "vertebral landmarks") -> LevelAxis:
    """Carry levels to the centreline of another image of the session, through scanner coordinates.

    Each point of the new centreline gets the template z of the nearest point of the old one.

    Raises
    ------
    GeometryError
        The two centrelines are more than 10 mm apart (median): the images do not share a frame.
    LevelError
        The levels would not increase along the new centreline.

    Examples
    --------
    >>> t2w = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 100.0]]))
    >>> mt = Centreline.through(np.array([[1.0, 0.0, 20.0], [1.0, 0.0, 60.0]]))
    >>> moved = transfer(LevelAxis(t2w, np.array([0.0, 100.0]), np.array([-200.0, -90.0]), np.nan), mt)
    >>> moved.z(0.0).round(6).tolist(), moved.arc(-156.0).round(6).tolist()
    (-178.0, 20.0)
    """
    arc = np.linspace(0.0, centreline.length, max(2, int(np.ceil(centreline.length / KNOT_STEP)) + 1))
    source, distance = axis.centreline.project(centreline.position(arc))
    if np.median(distance) > APART:
        raise GeometryError(
            expected=f"cords within {APART:g} mm of each other",
            found=f"{np.median(distance):.0f} mm",
            where=what,
            remedy="The images do not share the scanner's frame: give landmarks for this image, too.",
        )
    z = axis.z(source)
    if (np.diff(z) <= 0).any():
        raise LevelError(
            expected="levels that increase along the cord", found="a fold", where=what, remedy="Check the cord masks of both images for stray voxels."
        )
    return LevelAxis(centreline, arc, z, axis.residual)


def _names(kind: str, numbers: Any) -> str:
    return f"{kind} {', '.join(str(int(n)) for n in numbers)}"


def _leave_one_out(arc: FloatArray, z: FloatArray) -> float:
    if len(arc) < 3:
        return float("nan")
    predicted = arc[:-2] + (z[1:-1] - z[:-2]) * (arc[2:] - arc[:-2]) / (z[2:] - z[:-2])
    return float(np.abs(arc[1:-1] - predicted).max())
