"""The cord of every slice as weighted intervals along x, to a fraction of a voxel: all slices at once, no resampled picture.

Voxels and the cells between voxel centres are cut into `ROWS` rows. Two sets of intervals come from a soft mask: its voxels, each with its value (for
areas, which partial volume makes exact), and its outline, where the mask interpolated bilinearly is above one half (for the form, which a blur would
widen). Along a row the mask is linear, so the ends of an interval are known in closed form and every quantity is a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.template.packing import FloatArray

HALF = 0.5
"""The outline runs where the mask crosses this."""
ROWS = 4
"""Rows in a voxel or cell. Area and moments of the outline are within 0.04 % of those with 64 rows (253 slices of 40 to 160 voxels)."""
DIRECTIONS = 64
"""Pairs of opposite directions that feel the convex hull. Its area is within 0.4 % (mean 0.04 %) of that with 64 rows and 1024 pairs."""


@dataclass(frozen=True, eq=False)
class Intervals:
    """Weighted intervals on rows, for every slice.

    Attributes
    ----------
    mask : (slice, x, y) array
        The soft mask, 0 on its in-plane border.
    index : (cell,) int array
        Slice of each cell, ascending.
    y : (cell, row) array
        Position of the rows, voxels.
    start, stop : (cell, row) arrays
        The interval along x, voxels; equal where the row is empty.
    weight : (cell, 1) array
        0 to 1.
    """

    mask: FloatArray
    index: NDArray[np.int64]
    y: FloatArray
    start: FloatArray
    stop: FloatArray
    weight: FloatArray

    @classmethod
    def of_voxels(cls, mask: FloatArray) -> Intervals:
        """Each voxel of a mask (slice, x, y), filled evenly with its value.

        Examples
        --------
        >>> mask = np.zeros((1, 4, 4))
        >>> mask[0, 1:3, 1] = 0.5
        >>> Intervals.of_voxels(mask).area.tolist()
        [1.0]
        """
        k, i, j = np.nonzero(mask)
        y = j[:, None] + _rows() - 0.5
        x = np.broadcast_to(i[:, None], y.shape)
        return cls(mask, k, y, x - 0.5, x + 0.5, mask[k, i, j][:, None])

    @property
    def area(self) -> FloatArray:
        """Weighted area (slice,), voxels."""
        return self.sum(np.ones_like(self.y))

    def sum(self, share: FloatArray) -> FloatArray:
        """Sum (slice,) of a share (cell, row) of the intervals, voxels."""
        per_cell = (share * self.weight * (self.stop - self.start)).sum(axis=1) / ROWS
        return np.asarray(np.bincount(self.index, weights=per_cell, minlength=len(self.mask)), float)

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Centroid (slice, 2) and central second moments over area (slice, 2, 2), voxels; NaN where there is no area."""
        area, middle = self.area, 0.5 * (self.start + self.stop)
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = np.stack([self.sum(middle), self.sum(self.y)], axis=-1) / area[:, None]
            dx, dy = middle - centre[self.index, :1], self.y - centre[self.index, 1:]
            xx, xy, yy = (self.sum(w) / area for w in (dx**2 + (self.stop - self.start) ** 2 / 12, dx * dy, dy**2 + 1 / (12 * ROWS**2)))
        return centre, np.moveaxis(np.array([[xx, xy], [xy, yy]]), -1, 0)

    def strip(self, centre: FloatArray, normal: FloatArray, low: float, high: float) -> FloatArray:
        """Area (slice,), voxels, of the part whose distance from `centre` along `normal` (slice, 2) is within `low` to `high`.

        `normal` is in whatever unit per voxel makes the distance comparable with `low` and `high`.
        """
        slope = normal[self.index, :1]
        offset = -slope * centre[self.index, :1] + normal[self.index, 1:] * (self.y - centre[self.index, 1:])
        a, b = slope * self.start + offset, slope * self.stop + offset
        near, far = np.minimum(a, b), np.maximum(a, b) + 1e-12
        return self.sum(np.clip(np.minimum(far, high) - np.maximum(near, low), 0.0, None) / (far - near))


@dataclass(frozen=True, eq=False)
class Outline(Intervals):
    """The region inside the outline, weight 1.

    Attributes
    ----------
    corners : (2, 2, cell) array
        Mask at the four corners of each cell, by x and y.

    Examples
    --------
    >>> mask = np.zeros((1, 4, 5))
    >>> mask[0, 1:3, 1:4] = 1
    >>> Outline.of_mask(mask).area.round(1).tolist()  # 2 x 3 voxels, less the four rounded corners
    [5.6]
    """

    corners: FloatArray

    @classmethod
    def of_mask(cls, mask: FloatArray) -> Outline:
        """Find the outline of a mask (slice, x, y)."""
        inside = mask >= HALF
        k, i, j = np.nonzero(inside[:, :-1, :-1] | inside[:, 1:, :-1] | inside[:, :-1, 1:] | inside[:, 1:, 1:])
        corners = np.stack([[mask[k, i + a, j + b] for b in (0, 1)] for a in (0, 1)])
        left, right = corners[:, 0, :, None] + (corners[:, 1] - corners[:, 0])[..., None] * _rows()
        start, stop = _above(left, right)
        return cls(mask, k, j[:, None] + _rows(), i[:, None] + start, i[:, None] + stop, np.ones((len(k), 1)), corners)

    def overlap(self, centre: FloatArray, matrix: FloatArray) -> FloatArray:
        """Area (slice,), voxels, that the region shares with its image under ``centre + matrix (p - centre)``, an involution (slice, 2, 2)."""
        moved = []
        for x in (self.start, self.stop):
            p = np.stack([x - centre[self.index, :1], self.y - centre[self.index, 1:]])
            m = np.moveaxis(matrix[self.index], 0, -1)[..., None]
            moved.append(self._interpolate(*(m[a, 0] * p[0] + m[a, 1] * p[1] + centre[self.index, a : a + 1] for a in (0, 1))))
        lower, upper = _above(*moved)
        return self.sum(upper - lower)

    def hull_area(self) -> FloatArray:
        """Area (slice,), voxels, of the convex hull; NaN where the region is empty.

        From the support function h in N directions a step d apart: the polygon that touches the hull in all of them has the area
        ``sum h (h_next + h_previous - 2 h cos d) / (2 sin d)``; a circle's excess is taken off.
        """
        (c00, c01), (c10, c11) = self.corners
        k, y, start, stop = self.index, self.y, self.start, self.stop
        border = np.minimum(np.minimum(c00, c01), np.minimum(c10, c11)) < HALF
        rows = border[:, None] & (stop > start)
        edge = (c00 >= HALF) != (c01 >= HALF)
        x_cell, y_cell = np.floor(start[edge, 0]), np.floor(y[edge, 0])
        where = np.broadcast_to(k[:, None], y.shape)[rows]
        index = np.concatenate([where, where, k[edge]])
        points = np.stack([
            np.concatenate([start[rows], stop[rows], x_cell]),
            np.concatenate([y[rows], y[rows], y_cell + (HALF - c00[edge]) / (c01[edge] - c00[edge])]),
        ])  # fmt: skip
        area = np.full(len(self.mask), np.nan)
        if index.size == 0:
            return area
        order = np.argsort(index, kind="stable")
        present, first = np.unique(index[order], return_index=True)
        step = np.pi / DIRECTIONS
        angle = step * np.arange(DIRECTIONS)
        along = np.cos(angle)[:, None] * points[0, order] + np.sin(angle)[:, None] * points[1, order]
        h = np.concatenate([np.maximum.reduceat(along, first, axis=1), -np.minimum.reduceat(along, first, axis=1)])
        polygon = 0.5 * (h * (np.roll(h, 1, axis=0) + np.roll(h, -1, axis=0) - 2 * np.cos(step) * h)).sum(axis=0) / np.sin(step)
        area[present] = polygon * (step / 2) / np.tan(step / 2)
        return area

    def _interpolate(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Mask (cell, row) at positions of its slices, bilinear, 0 outside."""
        _, nx, ny = self.mask.shape
        i, j = (np.clip(np.floor(np.nan_to_num(p)), 0, n - 2).astype(np.int64) for p, n in ((x, nx), (y, ny)))
        fx, fy = np.clip(x - i, 0, 1), np.clip(y - j, 0, 1)
        flat = self.mask.ravel()
        base = (self.index[:, None] * nx + i) * ny + j
        low = flat[base] * (1 - fy) + flat[base + 1] * fy
        high = flat[base + ny] * (1 - fy) + flat[base + ny + 1] * fy
        return np.asarray(low * (1 - fx) + high * fx)


def _rows() -> FloatArray:
    return (np.arange(ROWS) + 0.5) / ROWS


def _above(left: FloatArray, right: FloatArray) -> tuple[Any, Any]:
    """Part of 0 to 1 where the line from `left` to `right` is above one half; 0 to 0 where it is nowhere.

    Examples
    --------
    >>> [float(v) for v in _above(np.float64(1.0), np.float64(0.0))], [float(v) for v in _above(np.float64(0.0), np.float64(0.4))]
    ([0.0, 0.5], [0.0, 0.0])
    """
    a, b = left >= HALF, right >= HALF
    cut = (HALF - left) / np.where(a == b, 1.0, right - left)
    return np.where(b & ~a, cut, 0.0), np.where(b, 1.0, np.where(a, cut, 0.0))
