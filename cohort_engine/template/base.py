"""What a template is: grid, cord maps on a cord-sized block, vertebral landmarks, packed voxels and a sparse atlas.

Everything is in RAS+ millimetres. Builders (`template.pam50`, `template.parametric`) make these objects; nobody else does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import LevelError, TemplateError
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.packing import Grid, Packing

if TYPE_CHECKING:
    from scipy import sparse

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Heights:
    """Where the vertebrae lie along a template: all that it takes to place a cord, and quick to load.

    Attributes
    ----------
    name, version : str
    grid : Grid
        Full grid of the template's volumes, axes ordered R->L increasing x, y, z (RAS+).
    slice_level : (grid z,) int8
        Vertebral level number of each grid slice, 0 where there is none.
    landmarks : {kind: {number: z}}
        World z (mm) of the landmarks, kind `schema.DISC` (n = disc above vertebra n) and `schema.BODY` (n = mid-body).
    """

    name: str
    version: str
    grid: Grid
    slice_level: NDArray[np.int8]
    landmarks: Mapping[str, Mapping[int, float]]

    @property
    def z(self) -> FloatArray:
        """World z (mm) of the slices of the full grid, from the bottom."""
        z: FloatArray = self.grid.affine[2, 3] + self.grid.affine[2, 2] * np.arange(self.grid.shape[2])
        return z

    def landmark_z(self, kind: str, number: int) -> float:
        """World z (mm) of a landmark; an error names what the template has."""
        known = self.landmarks.get(kind, {})
        if number not in known:
            raise LevelError(
                expected=f"a {kind} number of the template ({', '.join(map(str, sorted(known)))})", found=str(number), where="vertebral landmarks",
                remedy=f"Disc n is the disc above vertebra n (3 = C2/C3); body n is vertebra n (2 = C2, 9 = T2). Template {self.name}.",
            )  # fmt: skip
        return float(known[number])


@dataclass(frozen=True, eq=False)
class Template(Heights):
    """A reference space of the straight spinal cord.

    Attributes
    ----------
    name, version, grid, slice_level, landmarks : see `Heights`
    corner : (3,) tuple of int
        Grid index of the first voxel of the block that the dense maps below cover.
    cord, wm, gm, csf : (x, y, z) float32 arrays on the block, 0 to 1
    packing : Packing
        The packed voxel axis.
    atlas : Atlas
        Weights on the packed axis.
    """

    corner: tuple[int, int, int]
    cord: FloatArray
    wm: FloatArray
    gm: FloatArray
    csf: FloatArray
    packing: Packing
    atlas: Atlas

    @cached_property
    def digest(self) -> str:
        """Content hash of all that changes a result: 16 hex digits."""
        h = hashlib.sha256(f"{self.name} {self.version} {self.grid.shape} {self.corner}".encode())
        for a in (self.grid.affine, self.cord, self.wm, self.gm, self.csf, self.slice_level, self.packing.ijk):
            h.update(np.ascontiguousarray(a).tobytes())
        h.update(repr({k: sorted(v.items()) for k, v in sorted(self.landmarks.items())}).encode())
        h.update(self.atlas.digest.encode())
        return h.hexdigest()[:16]

    @property
    def block_grid(self) -> Grid:
        """Grid of the dense maps: the same voxels, its origin at `corner`."""
        affine = self.grid.affine.copy()
        affine[:3, 3] = self.grid.world(np.asarray(self.corner, float))
        return Grid(self.cord.shape, affine)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels the template has voxels in, from the top down."""
        present = np.unique(self.packing.level)
        return tuple(schema.LEVEL_NAMES[n - 1] for n in present if n > 0)

    def check_digest(self, digest: str, *, where: str) -> None:
        """Refuse to work on something made with another template."""
        if digest != self.digest:
            raise TemplateError(
                expected=f"template {digest}", found=f"{self.name} {self.version} with hash {self.digest}", where=where,
                remedy="Load the template the store was built with, or build a new store.",
            )  # fmt: skip


def cut(template: Template, top: str, bottom: str) -> Template:
    """Keep the levels from `top` to `bottom` of a template's maps and atlas, which then has fewer voxels; grid, levels and landmarks stay.

    Examples
    --------
    >>> from cohort_engine.template.parametric import parametric_cord
    >>> cut(parametric_cord(spacing=2.0), "C3", "C4").levels
    ('C3', 'C4')
    """
    numbers = range(schema.level_number(top, where="top"), schema.level_number(bottom, where="bottom") + 1)
    k = np.flatnonzero(np.isin(template.slice_level, numbers))
    if not k.size:
        raise LevelError(
            expected=f"levels of the template ({', '.join(template.levels)})", found=f"{top} to {bottom}", where="cutting a template",
            remedy="Ask for those.",
        )  # fmt: skip
    low, high = int(k[0]), int(k[-1]) + 1
    kept = np.flatnonzero((template.packing.ijk[:, 2] >= low) & (template.packing.ijk[:, 2] < high))
    block = slice(low - template.corner[2], high - template.corner[2])
    maps = {name: getattr(template, name)[:, :, block] for name in ("cord", "wm", "gm", "csf")}
    packing = replace(template.packing, ijk=template.packing.ijk[kept], level=template.packing.level[kept])
    atlas = replace(template.atlas, weights=template.atlas.weights[:, kept])
    return replace(template, corner=(*template.corner[:2], low), **maps, packing=packing, atlas=atlas)


def sparse_rows(columns: list[tuple[NDArray[np.int64], FloatArray]], n_columns: int) -> sparse.csr_array:
    """Build a (row, column) CSR array from one (indices, values) pair a row, indices sorted, zeros dropped."""
    from scipy import sparse

    kept = [(i[v != 0], v[v != 0]) for i, v in columns]
    order = [np.argsort(i, kind="stable") for i, _ in kept]
    indptr = np.cumsum([0, *(len(i) for i, _ in kept)])
    indices = np.concatenate([i[o] for (i, _), o in zip(kept, order, strict=True)]).astype(np.int32)
    data = np.concatenate([v[o] for (_, v), o in zip(kept, order, strict=True)]).astype(np.float32)
    return sparse.csr_array((data, indices, indptr), shape=(len(columns), n_columns))
