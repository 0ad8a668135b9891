"""The straight cord: cord coordinates (a, b, arc), and the mask seen in them.

A point of the cord has coordinates a (mm to the right), b (mm to the front), both across the cord, and arc (mm upwards along the centreline).
Masks are handled as depth, the signed distance to their 0.5 contour, in the plane: interpolating depth moves a contour, where interpolating
or blurring a mask would wear its convex parts off. Between slices, which may be 17 mm apart, contours are interpolated along the cord.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cohort_engine.cord.centreline import Centreline
from cohort_engine.template.packing import FloatArray

OVERSAMPLING = 4
"""Distances are measured to the 0.5 contour of the linearly interpolated mask on a grid this much finer than the pixels."""
PAD = 3.0
"""Depth is right down to -3 mm outside the mask; farther out it stays about there."""


def depth(mask: FloatArray, spacing: FloatArray, *, pad: float = PAD) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Signed distance to the 0.5 contour, slice by slice, on a window around the mask that moves with it.

    Parameters
    ----------
    mask : (x, y, z) array
        0 to 1; every slice has a voxel of at least 0.5. Outside the array it is 0.
    spacing : (2,) array
        Pixel size along x and y, mm.
    pad : float
        Room around the mask, mm.

    Returns
    -------
    depth : (x', y', z) float32 array
        Millimetres, positive inside, on the fine grid of the windows.
    corner : (2, z) int array
        Index in `mask` of the first pixel of each window: fine index i of a slice is at pixel ``corner + (i + 0.5) / OVERSAMPLING - 0.5``.

    Examples
    --------
    >>> d, corner = depth(np.ones((4, 8, 1)), np.array([1.0, 1.0]))
    >>> d.shape, corner.ravel().tolist(), d[20, 28].tolist()
    ((40, 56, 1), [-3, -3], [1.875])
    """
    n = OVERSAMPLING
    margin = np.ceil(pad / np.asarray(spacing)).astype(int)
    solid = mask >= 0.5
    corner, size = np.empty((2, mask.shape[2]), np.int64), np.empty(2, np.int64)
    for axis in (0, 1):
        line = np.asarray(solid.any(axis=1 - axis))
        first, last = line.argmax(axis=0), line.shape[0] - 1 - line[::-1].argmax(axis=0)
        corner[axis] = first - margin[axis]
        size[axis] = (last - first).max() + 1 + 2 * margin[axis]
    wide = np.pad(mask, [(m, s) for m, s in zip(margin, size, strict=True)] + [(0, 0)])
    i, j = (np.arange(s)[:, None] + corner[a] + margin[a] for a, s in enumerate(size))
    window = wide[i[:, None], j[None], np.arange(mask.shape[2])]
    inside = np.einsum("ax,by,xyz->zab", _refine(size[0]), _refine(size[1]), window, optimize=True) >= 0.5
    step = np.asarray(spacing) / n
    # Border pixels of either side lie half a step from the contour.
    out = np.stack([_distance(s, step) - _distance(~s, step) for s in inside], axis=-1)
    return (out - np.sign(out) * step.mean() / 2).astype(np.float32), corner


def _refine(size: int) -> FloatArray:
    """Matrix (fine, pixel) of linear interpolation at the centres of the parts of each pixel."""
    at = (np.arange(size * OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5
    return np.maximum(0.0, 1.0 - np.abs(np.clip(at, 0, size - 1)[:, None] - np.arange(size))).astype(np.float32)


def _distance(inside: NDArray[np.bool_], step: FloatArray) -> FloatArray:
    return np.asarray(ndimage.distance_transform_edt(inside, sampling=step))


def block_depth(mask: FloatArray, spacing: FloatArray) -> NDArray[np.float32]:
    """Depth (x, y, z) at the voxels of the mask itself; -PAD in slices without a voxel of at least 0.5."""
    out = np.full(mask.shape, -PAD, np.float32)
    present = np.flatnonzero((mask >= 0.5).any(axis=(0, 1)))
    if len(present):
        fine, corner = depth(mask[:, :, present], spacing)
        x, y = (np.arange(n)[:, None] - corner[a] for a, n in enumerate(mask.shape[:2]))
        z = np.arange(len(present))
        at = np.broadcast_arrays(_fine(x)[:, None], _fine(y)[None], z)
        out[:, :, present] = ndimage.map_coordinates(fine, at, order=1, mode="nearest")
    return out


def _fine(pixel: FloatArray) -> FloatArray:
    return (pixel + 0.5) * OVERSAMPLING - 0.5


@dataclass(frozen=True, eq=False)
class StraightCord:
    """A cord mask, and what else an image says of it, in cord coordinates.

    Attributes
    ----------
    centreline : Centreline
    affine : (4, 4) array
        Of the image, voxel centres to RAS+ mm.
    first_slice : int
        Image slice (axis 2) of ``contours[..., 0]``.
    contours : (a, b, slice) float32 array
        Depth (mm) of the mask where the line (a, b) along the cord meets each image slice; in slices without mask between that of their neighbours.
    held : (slice,) bool array
        Slices with a mask.
    origin, step : float
        The lines: a and b are ``origin + step * index``, mm.
    pixels : (2, a, b, slice) array
        Where in the image slices the lines meet them.
    """

    centreline: Centreline
    affine: FloatArray
    first_slice: int
    contours: NDArray[np.float32]
    held: NDArray[np.bool_]
    origin: float
    step: float
    pixels: FloatArray

    @classmethod
    def of_mask(
        cls, cord: FloatArray, affine: FloatArray, slices: NDArray[np.int64], centreline: Centreline, *, reach: float, step: float
    ) -> StraightCord:
        """Look along the cord at the contour in each image slice.

        Parameters
        ----------
        cord : (x, y, z) array
            Mask with one piece a slice; `slices` those that have one, ascending (`cord.centreline.cord_slices`).
        affine : (4, 4) array
        centreline : Centreline
            Of this image.
        reach, step : float
            Lines run at -reach ... reach from the centreline, `step` apart, mm.
        """
        a = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1) * step
        every = np.arange(slices[0], slices[-1] + 1)
        held = np.isin(every, slices)
        points = _pierce(centreline, affine, every, a)
        fine, corner = depth(cord[:, :, slices], np.linalg.norm(affine[:3, :2], axis=0))
        at = [_fine(points[k][..., held] - corner[k]) for k in (0, 1)]
        at.append(np.broadcast_to(np.arange(len(slices)), at[0].shape))
        lines = bridge(ndimage.map_coordinates(fine, at, order=1, mode="nearest"), held)
        return cls(centreline, affine, int(slices[0]), lines, held, float(a[0]), step, points)

    def supported(self, arc: FloatArray) -> NDArray[np.bool_]:
        """Whether the image slice that the centreline passes at arc length (z,) has a mask."""
        into = np.linalg.inv(self.affine)[2]
        level = np.rint(self.centreline.position(arc) @ into[:3] + into[3]).astype(int) - self.first_slice
        found: NDArray[np.bool_] = self.held[np.clip(level, 0, len(self.held) - 1)]
        return found

    def world(self, a: FloatArray, b: FloatArray, arc: FloatArray) -> FloatArray:
        """Position (..., 3), RAS+ mm, of cord coordinates; `arc` (z,) belongs to the last axis of `a` and `b` (..., z)."""
        e_x, e_y, _ = self.centreline.frame(arc)
        return self.centreline.position(arc) + a[..., None] * e_x + b[..., None] * e_y

    def depth(self, a: FloatArray, b: FloatArray, arc: FloatArray) -> NDArray[np.float32]:
        """Depth (..., z) of the mask, mm, at cord coordinates; the end slices reach on for ever."""
        return self._between(self.contours, a, b, arc)

    def look(self, data: NDArray[Any], a: FloatArray, b: FloatArray, arc: FloatArray) -> NDArray[np.float32]:
        """Values (..., z) of what was found in the mask (x, y, slice), on the image's grid, at cord coordinates; 0 outside the image.

        They are interpolated along the cord, and through slices without mask.
        """
        slices = np.arange(self.contours.shape[2])
        at = [*self.pixels, np.broadcast_to(slices, self.contours.shape)]
        part = np.asarray(data, np.float32)[:, :, self.first_slice : self.first_slice + len(slices)]
        lines = ndimage.map_coordinates(part, at, order=1, mode="constant")
        return self._between(bridge(lines[..., self.held], self.held), a, b, arc)

    def _between(self, lines: NDArray[np.float32], a: FloatArray, b: FloatArray, arc: FloatArray) -> NDArray[np.float32]:
        """Interpolate what lines along the cord (a, b, slice) meet in the slices."""
        e_x, e_y, _ = self.centreline.frame(arc)
        into = np.linalg.inv(self.affine)[2]
        level = self.centreline.position(arc) @ into[:3] + into[3] + a * (e_x @ into[:3]) + b * (e_y @ into[:3])
        at = ((a - self.origin) / self.step, (b - self.origin) / self.step, level - self.first_slice)
        return np.asarray(ndimage.map_coordinates(lines, at, order=1, mode="nearest"))


def bridge(values: NDArray[Any], held: NDArray[np.bool_], *, axis: int = -1) -> NDArray[Any]:
    """Put slices into their places along an axis, and fill those in between linearly from their neighbours.

    Parameters
    ----------
    values : array
        Slices along `axis`, as many as are held.
    held : (n,) bool array
        True at the first and the last.
    axis : int

    Examples
    --------
    >>> bridge(np.array([[0.0, 3.0, 4.0]]), np.array([True, False, False, True, True])).round(6).tolist()
    [[0.0, 1.0, 2.0, 3.0, 4.0]]
    """
    if held.all():
        return values
    known = np.flatnonzero(held)
    at = np.interp(np.arange(len(held)), known, np.arange(len(known)))
    low = np.minimum(at.astype(int), max(len(known) - 2, 0))
    part = (at - low).astype(values.dtype)
    moved = np.moveaxis(values, axis, -1)
    return np.moveaxis(moved[..., low] * (1 - part) + moved[..., np.minimum(low + 1, len(known) - 1)] * part, -1, axis)


def _pierce(centreline: Centreline, affine: FloatArray, slices: NDArray[np.int64], a: FloatArray) -> FloatArray:
    """Where lines along the cord meet image slices: pixels (2, a, b, slice).

    About the point where the centreline meets the slice the curve is taken to second order in arc length.
    """
    inverse = np.linalg.inv(affine)
    height = centreline.points @ inverse[2, :3] + inverse[2, 3]
    arc = np.interp(slices, height, centreline.arc)
    eps = 0.5
    frame, above, below = (np.stack([centreline.position(s), *centreline.frame(s)]) for s in (arc, arc + eps, arc - eps))
    rate = (above - below) / (2 * eps)
    # (4, 3, slice): centre, e_x, e_y, tangent and their change with arc, in voxel axes
    frame, rate = (np.einsum("ij,fkj->fik", inverse[:3, :3], v) for v in (frame, rate))
    frame[0] += inverse[:3, 3:]
    x, y = a[:, None, None], a[None, :, None]

    def point(axis: int, s: FloatArray | float) -> FloatArray:
        centre, e_x, e_y, tangent = frame[:, axis]
        out: FloatArray = centre + s * (tangent + 0.5 * s * rate[3, axis]) + x * (e_x + s * rate[1, axis]) + y * (e_y + s * rate[2, axis])
        return out

    s: FloatArray = np.zeros((1, 1, 1))
    for _ in range(3):
        s = s + (slices - point(2, s)) / frame[3, 2]
    return np.stack([point(0, s), point(1, s)])
