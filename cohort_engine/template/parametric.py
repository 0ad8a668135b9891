r"""The parametric cord: a template computed from formulas, so that simulation, documentation and tests need no download.

A cross-section is an ellipse whose diameters follow published means along the cord, with a butterfly of three ellipses a side for the
grey matter and a power diagram for the tracts, in coordinates ``u = x / (RL / 2)``, ``v = y / (AP / 2)``, the same left and right::

                v = 1, ventral
              .-------|-------.
           .'   __    |    __   '.        VH  ventral horn: an ellipse, its width follows the enlargement
          /    |VH\___|___/VH|    \       IZ  intermediate zone: an ellipse that crosses the midline
    left |      \___ IZ   ___/     | right, u = 1
          \      /DH/ | \DH\      /       DH  dorsal horn: a slanted ellipse
           '.   /_/   |   \_\   .'        tract: the nearest seed, by squared distance minus a weight
              '-------|-------'           CSF contour: 1 mm around the rim

The section is sampled at points 1/8 mm apart; a weight is the part of a voxel's points that belongs to a label. So borders are soft, and
the weights of a voxel sum to one inside the cord.

References
----------
Diameters and area (which is the ellipse's): Valošek J, Bédard S et al. A database of the healthy human spinal cord morphometry in the
PAM50 template space. Imaging Neuroscience 2024;2:1-15. doi:10.1162/imag_a_00075. Here the means over its adults by level: 201 to 203 of
them down to T2, 198 at T3, 123 at T4.
Names and arrangement of the tracts, and their shares, which the weights of the diagram are set for: Lévy S et al. White matter atlas of
the human spinal cord with estimation of partial volume effect. NeuroImage 2015;119:262-271. doi:10.1016/j.neuroimage.2015.06.040.
Heights of the levels: distance of the discs in PAM50, to the millimetre (De Leener 2018, doi:10.1016/j.neuroimage.2017.10.041).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import LevelError, TemplateError
from cohort_engine.template.atlas import Atlas
from cohort_engine.template.base import Template, sparse_rows
from cohort_engine.template.packing import FloatArray, Grid, Packing

NAME = "parametric"
VERSION = "1"
MARGIN = 10.0
"""Room around the widest cord in x and y, mm."""
CONTOUR = 1.0
"""Thickness of the CSF contour (label 36), mm."""
CANAL = 3.0
"""Thickness of the CSF in the dense map, mm."""
SUBSAMPLE = 0.125
"""Distance of the points a cross-section is sampled at, mm or finer."""


class _Section(NamedTuple):
    """Cord at mid-level: height of the vertebra with its disc, diameters, half-width of the ventral horn over half the RL diameter."""

    height: float
    ap: float
    rl: float
    horn: float


SECTIONS: dict[str, _Section] = {
    "C1": _Section(23, 8.27, 11.36, 0.12), "C2": _Section(15, 7.76, 11.73, 0.14), "C3": _Section(18, 7.59, 12.14, 0.16),
    "C4": _Section(18, 7.62, 12.93, 0.19), "C5": _Section(16, 7.47, 13.03, 0.20), "C6": _Section(16, 7.07, 12.44, 0.19),
    "C7": _Section(17, 6.56, 10.94, 0.17), "T1": _Section(21, 6.29, 9.41, 0.15), "T2": _Section(23, 6.06, 8.69, 0.13),
    "T3": _Section(23, 5.80, 8.20, 0.12), "T4": _Section(24, 5.55, 7.73, 0.12),
}  # fmt: skip
"""Level -> cross-section, mm."""


class _Tract(NamedTuple):
    """Seeds (|u|, v) of the power diagram, and its weight: more weight, more area."""

    name: str
    weight: float
    seeds: tuple[tuple[float, float], ...]


TRACTS = (
    _Tract("fasciculus gracilis", 0.077, ((0.06, -0.25), (0.07, -0.55), (0.09, -0.88))),
    _Tract("fasciculus cuneatus", 0.069, ((0.18, -0.15), (0.25, -0.45), (0.34, -0.75))),
    _Tract("lateral corticospinal tract", 0.108, ((0.62, -0.30),)),
    _Tract("ventral spinocerebellar tract", 0.038, ((0.80, -0.35), (0.89, -0.10), (0.90, 0.15), (0.82, 0.42))),
    _Tract("rubrospinal tract", 0.071, ((0.65, 0.03),)),
    _Tract("lateral reticulospinal tract", 0.034, ((0.44, -0.02),)),
    _Tract("spinal lemniscus (spinothalamic and spinoreticular tracts)", 0.089, ((0.62, 0.34),)),
    _Tract("spino-olivary tract", -0.003, ((0.58, 0.68),)),
    _Tract("ventrolateral reticulospinal tract", -0.054, ((0.31, 0.63),)),
    _Tract("lateral vestibulospinal tract", -0.046, ((0.33, 0.75),)),
    _Tract("ventral reticulospinal tract", -0.048, ((0.36, 0.86),)),
    _Tract("ventral corticospinal tract", -0.061, ((0.04, 0.76),)),
    _Tract("tectospinal tract", -0.060, ((0.14, 0.72),)),
    _Tract("medial reticulospinal tract", -0.106, ((0.12, 0.47),)),
    _Tract("medial longitudinal fasciculus", -0.109, ((0.03, 0.46),)),
)
GREY = ("ventral horn", "intermediate zone", "dorsal horn")
LABELS = (
    *(f"WM {side} {t.name}" for t in TRACTS for side in ("left", "right")),
    *(f"GM {side} {name}" for name in GREY for side in ("left", "right")),
    "CSF contour",
)
"""The 37 labels, in PAM50's order and words: even = left, odd = right."""
_CSF = len(LABELS) - 1
UNIONS: dict[str, tuple[int, ...]] = {
    "spinal cord": tuple(range(36)), "white matter": tuple(range(30)), "gray matter": tuple(range(30, 36)),
    "dorsal columns": tuple(range(4)), "lateral funiculi": tuple(range(4, 14)), "ventral funiculi": tuple(range(14, 30)),
}  # fmt: skip
CLUSTERS: dict[str, tuple[int, ...]] = {"white matter": tuple(range(30)), "gray matter": tuple(range(30, 36)), "CSF": (_CSF,)}

# Classes of a point of the right half: a tract, a grey region, and around the cord the contour, the canal, nothing.
_CONTOUR_CLASS = len(TRACTS) + len(GREY)
_CANAL_CLASS = _CONTOUR_CLASS + 1
_CLASSES = _CANAL_CLASS + 1
_SLAB = 64
"""Slices computed at a time: bounds the memory."""


@cache
def parametric_cord(*, spacing: float = 0.5, top: str = "C1", bottom: str = "T2") -> Template:
    """Build the parametric cord: straight along z, centred on x = y = 0, z = 0 at the top of C1.

    Parameters
    ----------
    spacing : float
        Voxel size, mm, isotropic, up to 2. Take 1 for quick tests.
    top, bottom : str
        First and last vertebral level, from C1 to T4. The position of a level does not depend on them.

    Returns
    -------
    Template
        Its block is its grid. `cord` is `wm` + `gm`, soft. Labels 0-29 sum to `wm`, 30-35 to `gm`, 36 surrounds the cord. The same
        object is returned for the same arguments: do not write into it.

    Raises
    ------
    TemplateError
        `spacing` outside ]0, 2].
    LevelError
        A level that this cord does not have, or `bottom` above `top`.

    Examples
    --------
    >>> cord = parametric_cord(spacing=1.0, top="C3", bottom="C4")
    >>> cord.levels, cord.landmark_z("disc", 4)
    (('C3', 'C4'), -56.0)
    >>> area = cord.cord[:, :, cord.slice_level == 3].sum(axis=(0, 1)).mean()  # mm2, 1 mm voxels; published 72.5
    >>> bool(abs(area - 72.5) < 1.5)
    True
    """
    if not 0 < spacing <= 2:
        raise TemplateError(expected="a voxel size above 0, up to 2 mm", found=f"{spacing} mm", where="parametric cord", remedy="Take 0.5 or 1.")
    first, last = (_number(n) for n in (top, bottom))
    if last < first:
        raise LevelError(expected=f"a level at or below {top}", found=bottom, where="parametric cord: bottom", remedy="Swap top and bottom.")
    border = 0.0 - np.cumsum([0.0, *(s.height for s in SECTIONS.values())])
    centre = (border[1:] + border[:-1]) / 2
    n_slices = round((border[first - 1] - border[last]) / spacing)
    z = border[last] + (np.arange(n_slices) + 0.5) * spacing
    slice_level = np.searchsorted(-border, -z).astype(np.int8)
    ap, rl, horn = (np.interp(-z, -centre, [getattr(s, name) for s in SECTIONS.values()]) for name in ("ap", "rl", "horn"))
    half = [int(np.ceil((max(getattr(s, name) for s in SECTIONS.values()) / 2 + MARGIN) / spacing)) for name in ("rl", "ap")]
    shape = (2 * half[0] + 1, 2 * half[1] + 1, n_slices)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -half[0] * spacing, -half[1] * spacing, z[0]
    grid = Grid(shape, affine)
    right = _right_fractions(shape, spacing, ap / 2, rl / 2, horn)
    return _assemble(grid, right, slice_level, {
        schema.DISC: {n: float(border[n - 1]) for n in range(first, last + 2)},
        schema.BODY: {n: float(centre[n - 1]) for n in range(first, last + 1)},
    })  # fmt: skip


def _number(level: str) -> int:
    n = schema.level_number(level, where="parametric cord")
    if n > len(SECTIONS):
        raise LevelError(expected=f"a level from {' '.join(SECTIONS)}", found=level, where="parametric cord", remedy="Take PAM50 for the lower cord.")
    return n


def _assemble(grid: Grid, right: NDArray[np.float32], slice_level: NDArray[np.int8], landmarks: dict[str, dict[int, float]]) -> Template:
    """Mirror the right half, pack what carries a label, and keep the sums as dense maps."""
    halves = (right[:, :, :, ::-1], right)
    volumes = [half[c] for c in range(_CONTOUR_CLASS) for half in halves]
    volumes.append(halves[0][_CONTOUR_CLASS] + halves[1][_CONTOUR_CLASS])
    white, grey, fluid = slice(len(TRACTS)), slice(len(TRACTS), _CONTOUR_CLASS), slice(_CONTOUR_CLASS, None)
    wm, gm, csf = (sum(half[classes].sum(axis=0) for half in halves) for classes in (white, grey, fluid))
    packed = np.flatnonzero(wm + gm + volumes[_CSF])
    ijk = np.stack(np.unravel_index(packed, wm.shape)[::-1], axis=1).astype(np.int16)
    values = (v.reshape(-1)[packed] for v in volumes)
    return Template(
        name=NAME, version=VERSION, grid=grid, corner=(0, 0, 0), cord=(wm + gm).T, wm=wm.T, gm=gm.T, csf=csf.T,
        slice_level=slice_level, landmarks=landmarks, packing=Packing(grid, ijk, slice_level[ijk[:, 2]]),
        atlas=Atlas(LABELS, UNIONS, CLUSTERS, sparse_rows([(np.flatnonzero(v), v[v != 0]) for v in values], len(packed))),
    )  # fmt: skip


def _right_fractions(shape: tuple[int, int, int], spacing: float, b: FloatArray, a: FloatArray, horn: FloatArray) -> NDArray[np.float32]:
    """Fraction (class, z, y, x) of each voxel that each class of the right half (x > 0) fills; `a`, `b` semi-axes in x, y of each slice."""
    nx, ny, nz = shape
    fine = 2 * int(np.ceil(spacing / SUBSAMPLE / 2))  # even: no point lies on the midline
    step = spacing / fine
    x = (np.arange(int(np.ceil((a.max() + CANAL) / step))) + 0.5) * step
    y = (np.arange(-x.size, x.size) + 0.5) * step
    y = y[np.abs(y) < b.max() + CANAL]
    i, j = np.rint(x / spacing).astype(int) + nx // 2, np.rint(y / spacing).astype(int) + ny // 2
    out = np.empty((_CLASSES, nz, ny, nx), np.float32)
    for first in range(0, nz, _SLAB):
        slab = slice(first, min(first + _SLAB, nz))
        k, row, column = np.nonzero(_inside(x, y, a[slab] + CANAL, b[slab] + CANAL))
        klass = np.full(k.size, _CANAL_CLASS, np.int8)
        klass[_inside(x, y, a[slab] + CONTOUR, b[slab] + CONTOUR)[k, row, column]] = _CONTOUR_CLASS
        within = np.flatnonzero(_inside(x, y, a[slab], b[slab])[k, row, column])
        s = k[within] + first
        u, v, h = (q.astype(np.float32) for q in (x[column[within]] / a[s], y[row[within]] / b[s], horn[s]))
        klass[within] = _tissue(u, v, h)
        size = (_CLASSES, slab.stop - first, ny, nx)
        out[:, slab] = np.bincount(np.ravel_multi_index((klass, k, j[row], i[column]), size), minlength=int(np.prod(size))).reshape(size)
    return out / np.float32(fine**2)


def _inside(x: FloatArray, y: FloatArray, a: FloatArray, b: FloatArray) -> NDArray[np.bool_]:
    """(z, y, x) truth of the ellipse with semi-axes `a`, `b` (z,)."""
    inside: NDArray[np.bool_] = (x / a[:, None])[:, None, :] ** 2 + (y / b[:, None])[:, :, None] ** 2 < 1
    return inside


def _tissue(u: NDArray[np.float32], v: NDArray[np.float32], horn: NDArray[np.float32]) -> NDArray[np.int8]:
    """Class of points inside the cord: the grey region whose ellipse holds them deepest, else the tract of the nearest seed."""
    along, across = 0.42 * (u - 0.40) - 0.91 * (v + 0.30), 0.91 * (u - 0.40) + 0.42 * (v + 0.30)
    depth = np.stack([
        ((u - 0.18 - horn) / horn) ** 2 + ((v - 0.34) / 0.22) ** 2,
        ((u - 0.20) / 0.24) ** 2 + ((v - 0.11) / 0.165) ** 2,
        (along / 0.34) ** 2 + (across / 0.075) ** 2,
    ])  # fmt: skip
    grey = depth.argmin(axis=0)
    out: NDArray[np.int8] = (grey + len(TRACTS)).astype(np.int8)
    white = np.flatnonzero(depth.min(axis=0) >= 1)
    u, v = u[white], v[white]
    best = np.full(white.size, np.inf, np.float32)
    nearest = np.zeros(white.size, np.int8)
    for number, tract in enumerate(TRACTS):
        for su, sv in tract.seeds:
            distance = (u - np.float32(su)) ** 2 + (v - np.float32(sv)) ** 2 - np.float32(tract.weight)
            closer = distance < best
            best[closer], nearest[closer] = distance[closer], number
    out[white] = nearest
    return out
