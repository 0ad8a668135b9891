"""The atlas in an image that was put together of displaced ones: each a mean over voxels of its own, brought back by interpolation.

Correction of motion blurs a series in its planes, each slice by what its volumes moved. Weights that went the same way are blurred alike, and a
mixture of tissues is taken apart as in an image at rest.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from cohort_engine.mapping.fractions import atlas_columns, native_fractions, scatter
from cohort_engine.mapping.template_map import TemplateMap
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray, Grid

SPLIT = 4
"""Cells along each edge of a voxel in the plane: what is displaced is told apart to so much."""
STEPS = 16
"""Displacements are told apart to this part of a voxel."""
ROOM = 8
"""Voxels around the cord, in which the spline's reach ends."""
LEAST = 1e-3
"""Weight of a label, of either sign, from which on it counts in a voxel."""


def displaced_weights(
    fitted: TemplateMap, template: Template, affine: FloatArray, shape: tuple[int, int, int], shifts: FloatArray,
    widths: tuple[float, float] = (1.0, 1.0),
) -> tuple[NDArray[np.int64], FloatArray]:  # fmt: skip
    """Weights of the atlas' labels in the voxels of an image that is the mean of displaced ones.

    Parameters
    ----------
    fitted : TemplateMap
        Into the image.
    template : Template
    affine : (4, 4) array
        Of the image, RAS+ mm.
    shape : (3,) tuple
        Its grid; slices along the last axis.
    shifts : (t, z, 2) array
        mm along the first and second array axis: ``image(p)`` is the mean over t of ``scan_t(p + shift_t)``. NaN: no part of the slice's mean. A
        slice of which nothing is known is one at rest.
    widths : pair of float
        Of what was measured along either axis, in voxels of the image (`qmri.acquired`).

    Returns
    -------
    voxel : (n,) int64 array
        Flat C-order index of the voxels in which some label's weight is beyond `LEAST`.
    weights : (label, n) float64 array
        As an interpolated image may leave its range, so may these leave 0 to 1 beside an edge.

    Formula
        Of each slice ``mean_t R(s_t) c R(s_t)'``: c the labels in `SPLIT` times `SPLIT` cells a voxel, R the mean over voxels that lie s aside and
        the cubic spline back (`resampling`), along either axis. Whole voxels move nothing: only the rest of s counts.
    """
    seen = Grid(shape, np.asarray(affine, float)).voxel(fitted.block[np.isfinite(fitted.block).all(axis=-1)].astype(float))[:, :2]
    low = np.clip(np.floor(seen.min(axis=0)).astype(int) - ROOM, 0, shape[:2])
    size = np.clip(np.ceil(seen.max(axis=0)).astype(int) + ROOM + 1, 0, shape[:2]) - low
    fine = np.array(affine, float)
    fine[:3, 3] += fine[:3, :2] @ (low - 0.5 + 0.5 / SPLIT)
    fine[:3, :2] /= SPLIT
    cells = int(size[0]) * SPLIT, int(size[1]) * SPLIT, shape[2]
    fractions = native_fractions(fitted, template, fine, cells, columns=atlas_columns(template), apart=1.0)
    labels = sparse.csc_array(scatter(fractions, template, template.atlas.weights))
    steps = np.asarray(shifts, float) / np.linalg.norm(np.asarray(affine, float)[:3, :2], axis=0)
    part = np.rint((steps - np.rint(steps)) * STEPS)
    out = np.zeros((labels.shape[0], *shape))

    @cache
    def along(axis: int, step: float) -> NDArray[np.float64]:
        return resampling(int(size[axis]), SPLIT, step / STEPS, widths[axis])

    for k in np.flatnonzero(np.diff(labels.indptr).reshape(cells).any(axis=(0, 1))):
        here = labels[:, k :: shape[2]].toarray().reshape(-1, *cells[:2])
        ways = part[np.isfinite(part[:, k]).all(axis=1), k]
        ways = ways if len(ways) else np.zeros((1, 2))
        for step in np.unique(ways[:, 0]):
            rest = sum(along(1, other) for other in ways[ways[:, 0] == step, 1]) / len(ways)
            out[:, low[0] : low[0] + size[0], low[1] : low[1] + size[1], k] += along(0, step) @ here @ np.asarray(rest).T
    flat = out.reshape(len(out), -1)
    voxel = np.flatnonzero(np.abs(flat).max(axis=0) > LEAST).astype(np.int64)
    return voxel, flat[:, voxel]


def resampling(n: int, split: int, shift: float, width: float = 1.0) -> NDArray[np.float64]:
    """Matrix (n, n * split) from cells to voxels: the mean over n voxels that lie `shift` voxels below their place, and the cubic spline back.

    Voxels of a `width` above 1 reach over their neighbours, as those of an image do that the scanner interpolated.

    Examples
    --------
    A line is a line again, wherever it was scanned.

    >>> middles = (np.arange(48) + 0.5) / 4 - 0.5
    >>> (resampling(12, 4, 0.375) @ middles)[4:8].round(2).tolist()
    [4.0, 5.0, 6.0, 7.0]
    >>> (resampling(2, 2, 0.0).round(9) + 0.0).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> (resampling(3, 2, 0.0, 2.0)[1].round(9) + 0.0).tolist()
    [0.0, 0.25, 0.25, 0.25, 0.25, 0.0]
    """
    middle, cells = np.arange(n)[:, None] + 0.5 - shift, np.arange(n * split)
    upper, lower = (np.clip((middle + side * width / 2) * split - cells, 0, 1) for side in (1, -1))
    return np.asarray(ndimage.shift((upper - lower) / (split * width), (-shift, 0), order=3, mode="mirror"))
