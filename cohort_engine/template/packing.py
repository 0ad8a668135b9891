"""Grids, and the packed voxel axis: the list of template voxels where the atlas is non-zero.

A dense PAM50 map is 78.8 MB, a packed one 1.02 MB. The axis is sorted by z, then y, then x, so that a vertebral level is one slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import AlignmentError

FloatArray = NDArray[np.floating[Any]]
PARTS = 0.5
"""How far corresponding corners of one grid may lie apart in two headers, in shortest edges of a voxel: each voxel is then nearest to its own."""


def apply_affine(affine: FloatArray, points: FloatArray) -> FloatArray:
    """Map (..., 3) points through a (4, 4) affine.

    Examples
    --------
    >>> apply_affine(np.diag([2.0, 2.0, 2.0, 1.0]), np.array([1.0, 0.0, 3.0]))
    array([2., 0., 6.])
    """
    mapped: FloatArray = np.asarray(points) @ affine[:3, :3].T + affine[:3, 3]
    return mapped


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid in the world.

    Attributes
    ----------
    shape : (3,) tuple of int
    affine : (4, 4) float64
        Voxel index (centre of the voxel) to world, RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def world(self, ijk: FloatArray) -> FloatArray:
        """Voxel indices (..., 3) to mm (..., 3)."""
        return apply_affine(self.affine, ijk)

    def voxel(self, xyz: FloatArray) -> FloatArray:
        """Mm (..., 3) to fractional voxel indices (..., 3)."""
        return apply_affine(np.linalg.inv(self.affine), xyz)

    @property
    def spacing(self) -> FloatArray:
        """Voxel size (3,), mm."""
        spacing: FloatArray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    @property
    def corners(self) -> FloatArray:
        """Centres of the outermost voxels (8, 3), mm."""
        return self.world(np.array(list(product(*((0, n - 1) for n in self.shape))), float))

    def apart(self, other: Grid) -> float:
        """Return the largest distance between corresponding corners of two grids, mm.

        Examples
        --------
        >>> Grid((2, 2, 11), np.eye(4)).apart(Grid((2, 2, 11), np.diag([1.0, 1.0, 1.2, 1.0])))
        2.0
        """
        return float(np.linalg.norm(self.corners - other.corners, axis=1).max().round(6))

    def same(self, other: Grid) -> bool:
        """Tell whether two grids are one: the same shape, and corners within half the shortest edge of a voxel.

        This alone decides it. Headers of one image differ by what tools round (a quaternion, decimals of a text); voxel i of the one is then
        voxel i of the other.

        Examples
        --------
        >>> Grid((2, 2, 11), np.eye(4)).same(Grid((2, 2, 11), np.diag([1.0, 1.0, 1.04, 1.0])))
        True
        """
        return tuple(self.shape) == tuple(other.shape) and self.apart(other) <= PARTS * float(np.min(self.spacing))


@dataclass(frozen=True, eq=False)
class Packing:
    """The packed voxel axis of a template.

    Attributes
    ----------
    grid : Grid
    ijk : (voxel, 3) int16
        Grid index of each packed voxel, sorted by k, then j, then i.
    level : (voxel,) int8
        Vertebral level number, 0 where there is none.

    Examples
    --------
    >>> grid = Grid((2, 1, 2), np.eye(4))
    >>> p = Packing.of_mask(np.array([[[True, False]], [[True, True]]]), grid, slice_level=np.array([2, 1]))
    >>> p.ijk.tolist(), p.level.tolist()
    ([[0, 0, 0], [1, 0, 0], [1, 0, 1]], [2, 2, 1])
    >>> p.unpack(np.array([5.0, 6.0, 7.0]))[:, 0].tolist()
    [[5.0, nan], [6.0, 7.0]]
    """

    grid: Grid
    ijk: NDArray[np.int16]
    level: NDArray[np.int8]

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_], grid: Grid, slice_level: NDArray[np.integer[Any]], corner: tuple[int, int, int] = (0, 0, 0)) -> Packing:
        """Pack the true voxels of a mask that begins at grid index `corner`; `slice_level` is per grid slice."""
        k, j, i = np.nonzero(mask.transpose(2, 1, 0))
        ijk = np.stack([i, j, k], axis=1) + np.asarray(corner)
        return cls(grid, ijk.astype(np.int16), np.asarray(slice_level)[ijk[:, 2]].astype(np.int8))

    def __len__(self) -> int:
        return len(self.ijk)

    @property
    def xyz(self) -> FloatArray:
        """World position (voxel, 3), RAS+ mm."""
        return self.grid.world(self.ijk.astype(float))

    def level_slice(self, number: int) -> slice:
        """Packed voxels of a level, as one slice. PAM50 levels run downwards while z runs up; both are contiguous."""
        inside = np.flatnonzero(self.level == number)
        if inside.size == 0:
            return slice(0, 0)
        first, last = int(inside[0]), int(inside[-1]) + 1
        if last - first != inside.size:
            raise AlignmentError(
                expected="a level to be one run of slices", found=f"{inside.size} voxels between {first} and {last}",
                where=f"level {schema.LEVEL_NAMES[number - 1]}", remedy="Check the level map of the template.",
            )  # fmt: skip
        return slice(first, last)

    def pack(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Take the packed voxels (voxel, ...) of a volume on the full grid (x, y, z, ...)."""
        if volume.shape[:3] != tuple(self.grid.shape):
            raise AlignmentError(
                expected=f"grid {tuple(self.grid.shape)}", found=f"shape {volume.shape}", where="packing a volume",
                remedy="Resample to the template first.",
            )  # fmt: skip
        packed: NDArray[Any] = volume[tuple(self.ijk.T)]
        return packed

    def unpack(self, values: NDArray[Any], fill: float = np.nan) -> NDArray[Any]:
        """Put packed values (voxel,) back on the full grid (x, y, z); `fill` elsewhere, in the smallest type that holds both."""
        if values.shape != (len(self),):
            raise AlignmentError(
                expected=f"({len(self)},) packed values", found=f"shape {values.shape}", where="unpacking a map",
                remedy="Use the template the map was packed with.",
            )  # fmt: skip
        out = np.full(self.grid.shape, fill, dtype=np.result_type(values.dtype, np.min_scalar_type(fill)))
        out[tuple(self.ijk.T)] = values
        return out
