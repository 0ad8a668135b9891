"""Vertebral levels: from landmarks in an image to the template's z along the centreline.

Landmarks have a kind and a number: disc n is the disc above vertebra n (3 = C2/C3), body n is the middle of vertebra n (2 = C2, 9 = T2).
They need not lie on the cord: a landmark counts where it meets the centreline at a right angle.
"""

from __future__ import annotations

from collections.abc import Mapping
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
TALL = 20.0
"""A label of one piece may be this tall (mm): a vertebra or a disc drawn as a whole."""
SECTION = 45.0
"""Labels of this area (mm2) in a slice, that touch, are sections of a cord (50 to 90 in the neck); smaller ones may be points drawn large."""
LONG = 1.5
"""A label this many times as long along the slices as wide is no point."""
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


def landmarks_from_labels(labels: NDArray[Any], affine: FloatArray, *, kind: str | None, what: str) -> Landmarks:
    """Read landmarks from a label image.

    Parameters
    ----------
    labels : (x, y, z) array
        0 and NaN are background. Either points (one or more voxels a number, in one place; the landmark is their centre of mass) or a mask labelled
        by vertebra: then disc n lies at the border of values n - 1 and n, or in the middle of a narrow gap between them.
    affine : (4, 4) array
        Voxel centres to RAS+ mm; slices along axis 2.
    kind : str, optional
        What the numbers count: `schema.DISC` or `schema.BODY`. It always holds: numbers that count discs are points. None asks the image, which can
        tell for a mask alone.
    what : str
        Words of the role, for messages.

    Raises
    ------
    LevelError
        No labels, values that are no whole numbers, one number in two places, points of which nobody said what they count, or a mask labelled by
        level whose numbers should count discs.

    Notes
    -----
    Points in neighbouring slices touch where slices are thick, so touching alone makes no mask. Labels that touch, or lie closer than half of their
    length, are a mask where one of them is longer along axis 2 than wide (in mm and in voxels), or as wide as a cord (`SECTION`). Where `kind` says
    discs, labels of one slice each are points, however wide.

    Examples
    --------
    >>> levels = np.repeat([3, 2], 10)[None, None]  # C3 below, C2 above
    >>> found = landmarks_from_labels(levels, np.eye(4), kind="body", what="landmarks")
    >>> found.kind, found.numbers.tolist(), found.xyz.tolist()
    ('disc', [3], [[0.0, 0.0, 9.5]])
    >>> points = np.array([0, 6, 5, 4, 0])[None, None]  # in slices of 16 mm
    >>> found = landmarks_from_labels(points, np.diag([1.0, 1.0, 16.0, 1.0]), kind="disc", what="landmarks")
    >>> found.numbers.tolist(), found.xyz[:, 2].tolist()
    ([4, 5, 6], [48.0, 32.0, 16.0])
    """
    index = np.argwhere(np.nan_to_num(labels) != 0)
    values = np.asarray(labels, float)[tuple(index.T)]
    if len(index) == 0:
        raise LevelError(expected="numbered landmarks", found="no labels", where=what, remedy="Label at least two discs or vertebrae.")
    numbers = np.rint(values).astype(np.int64)
    if np.abs(values - numbers).max() > 0.01 or numbers.min() < 0:
        odd = values[(np.abs(values - numbers) > 0.01) | (numbers < 0)][0]
        raise LevelError(expected="whole positive numbers", found=f"{odd:g}", where=what, remedy="Resample labels with nearest neighbours only.")
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    parts = dict(zip(found.tolist(), np.split(index[order], first[1:]), strict=True))
    borders, tall = _borders(parts, np.asarray(affine, float))
    if borders and (tall or kind != schema.DISC):
        if kind == schema.DISC:
            raise LevelError(
                expected="one point for each disc", found="a mask labelled by level, whose numbers are vertebrae", where=what,
                remedy="Say that they count bodies (--kind body, stages.fit.landmarks: body), or give points.",
            )  # fmt: skip
        n = sorted(borders)
        return Landmarks(schema.DISC, np.array(n), apply_affine(affine, np.array([borders[k] for k in n])))
    if kind is None:
        raise LevelError(
            expected="to know whether points are discs or bodies", found="a file name that does not say", where=what,
            remedy="Give --kind disc (point n lies above vertebra n, 3 = C2/C3) or --kind body (point n is vertebra n).",
        )  # fmt: skip
    return Landmarks(kind, found, np.array([_place(part, affine, f"{kind} {n}", what) for n, part in parts.items()]))


def _place(index: NDArray[np.int64], affine: FloatArray, name: str, what: str) -> FloatArray:
    """Centre (3,) of the voxels of one point, mm: near each other, or one piece no taller than a vertebra (or than two slices)."""
    xyz = apply_affine(affine, index.astype(float))
    centre: FloatArray = xyz.mean(axis=0)
    if np.linalg.norm(xyz - centre, axis=1).max() > POINT / 2:
        from scipy import ndimage

        low = index.min(axis=0)
        box = np.zeros(np.ptp(index, axis=0) + 1, bool)
        box[tuple((index - low).T)] = True
        piece, count = ndimage.label(box, np.ones((3, 3, 3)))
        height = (box.shape[2] - 1) * float(np.linalg.norm(affine[:3, 2]))
        if count > 1 or (height > TALL and box.shape[2] > 2):
            slices = sorted({int(k) + int(low[2]) for _, _, k in ndimage.center_of_mass(box, piece, range(1, count + 1))})
            where = f" (slices {', '.join(map(str, slices))} from the bottom)" if len(slices) > 1 else ""
            raise LevelError(
                expected=f"{name} in one place", found=f"voxels {np.linalg.norm(np.ptp(xyz, axis=0)):.0f} mm apart{where}", where=what,
                remedy="Give each number once.",
            )  # fmt: skip
    return centre


def _borders(parts: Mapping[int, NDArray[np.int64]], affine: FloatArray) -> tuple[dict[int, FloatArray], bool]:
    """Borders of a mask labelled by level: place (voxels) of each border of n - 1 and n, by n; nothing for points. And whether it must be a mask.

    `parts` holds the voxels (n, 3) of each number.
    """
    pixel = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
    thickness = abs(float(np.linalg.det(affine[:3, :3]))) / pixel
    length = {n: int(np.ptp(p[:, 2])) + 1 for n, p in parts.items()}  # slices
    area = {n: int(np.bincount(p[:, 2] - p[:, 2].min()).max()) for n, p in parts.items()}  # voxels of the fullest slice
    borders = {
        n: place for n in parts if n - 1 in parts and (place := _border(parts[n], parts[n - 1], min(length[n], length[n - 1]) / 2)) is not None
    }
    beside = [k for n in borders for k in (n, n - 1)]
    long = any(length[n] > LONG * area[n] ** 0.5 and length[n] * thickness > LONG * (area[n] * pixel) ** 0.5 for n in beside)
    wide = [n for n in beside if area[n] * pixel >= SECTION]
    return (borders if long or wide else {}), long or any(length[n] > 1 for n in wide)


def _border(lower: NDArray[np.int64], upper: NDArray[np.int64], reach: float) -> FloatArray | None:
    """Middle (voxels) between two labels: of the faces that they share, or of a gap of up to `reach` slices; None where they are apart."""
    low = np.minimum(lower.min(axis=0), upper.min(axis=0))
    box = np.zeros(np.maximum(lower.max(axis=0), upper.max(axis=0)) - low + 1, np.int8)
    box[tuple((lower - low).T)], box[tuple((upper - low).T)] = 1, -1
    faces = []
    for axis in range(3):
        line = np.moveaxis(box, axis, 0)
        faces.append(np.argwhere(np.moveaxis(line[:-1] * line[1:] < 0, 0, axis)) + low + 0.5 * np.eye(3)[axis])
    shared = np.concatenate(faces)
    if len(shared):
        return np.asarray(shared.mean(axis=0))
    top, bottom = lower[:, 2].max(), upper[:, 2].min()
    if not 0 <= bottom - top - 1 <= reach:
        return None
    return np.asarray(0.5 * (lower[lower[:, 2] == top].mean(axis=0) + upper[upper[:, 2] == bottom].mean(axis=0)))


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
    notes : tuple of str
        Landmarks that were left out, and why.

    Notes
    -----
    Beyond the outer knots the axis goes on straight with the stretch of the outer 30 mm.
    """

    centreline: Centreline
    knot_arc: FloatArray
    knot_z: FloatArray
    residual: float
    notes: tuple[str, ...] = ()

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
    top = (numbers == 1) & (landmarks.kind == schema.DISC) & usable & ((usable & (numbers != 1)).sum() >= 2)
    usable &= ~top
    reasons = (
        (~in_template, f"unknown to template {template.name}"), (in_template & ~on_cord, f"more than {REACH:g} mm beyond the cord mask"),
        (top, "differs between protocols"),
    )  # fmt: skip
    lost = [f"{_names(landmarks.kind, numbers[out])} {why}" for out, why in reasons if out.any()]
    if usable.sum() < 2:
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
    return LevelAxis(centreline, arc, z, _leave_one_out(arc, z), tuple(f"left out: {text}" for text in lost))


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
    return LevelAxis(centreline, arc, z, axis.residual, axis.notes)


def _names(kind: str, numbers: Any) -> str:
    return f"{kind} {', '.join(str(int(n)) for n in numbers)}"


def _leave_one_out(arc: FloatArray, z: FloatArray) -> float:
    if len(arc) < 3:
        return float("nan")
    predicted = arc[:-2] + (z[1:-1] - z[:-2]) * (arc[2:] - arc[:-2]) / (z[2:] - z[:-2])
    return float(np.abs(arc[1:-1] - predicted).max())
