"""Where tissue ends: a quarter of a millimetre outside the borders of masks and atlas, which a template map brings onto each other.

Masks, drawn ones as well, and the cord of PAM50 end inside the half height of the image's edge (``tests/real/test_border.py``). A map that follows
them is right as long as outlines are compared; where the atlas is to say what a voxel is made of, its border has to reach as far as the tissue does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_engine.mapping.template_map import TemplateMap, template_depth
from cohort_engine.template.base import Template
from cohort_engine.template.packing import FloatArray

RIM = 0.25
"""How far tissue reaches beyond the border, mm of the image: the median of eleven scans is 0.27 by our masks and 0.21 by drawn ones, PAM50's own
image says 0.29 of its cord (``tests/real/test_border.py``)."""
INSIDE, FLUID, OUTSIDE = 1.5, 1.5, 3.0
"""The outermost so many mm of the cord are drawn out over the rim; fluid is moved along as far as here, and pressed together up to there."""


def outgrown(block: NDArray[Any], depth: FloatArray, spacing: FloatArray, rim: float = RIM) -> NDArray[np.float32]:
    """Move what a map has at the border of a cord outwards.

    Parameters
    ----------
    block : (x, y, z, 3) array
        Position in an image, mm, of each voxel of a template. Missing: NaN, which stays.
    depth : (x, y, z) array
        Distance of the voxels from the border of the template's cord, mm, positive inside.
    spacing : (2,) array
        Of the voxels along x and y, mm.
    rim : float
        Distance in the image, mm.

    Returns
    -------
    (x, y, z, 3) float32 array

    Formula
        ``P + rim s(depth) dP/dn / |dP/dn|``: n points outwards across the border in the template's slice; s is 1 from the border to `FLUID` outside
        and falls to 0 at `INSIDE` and `OUTSIDE`.

    Examples
    --------
    >>> x = np.arange(-4.0, 5.0)[:, None, None]
    >>> plane = np.broadcast_to(np.stack([2 * x, 0 * x, 0 * x], axis=-1), (9, 2, 1, 3))
    >>> (outgrown(plane, np.broadcast_to(-x, (9, 2, 1)), np.ones(2)) - plane)[:, 0, 0, 0].round(3).tolist()
    [0.0, 0.0, 0.0, 0.083, 0.25, 0.25, 0.167, 0.0, 0.0]
    """
    out = np.array(block, np.float32)
    share = np.interp(depth, (-OUTSIDE, -FLUID, 0.0, INSIDE), (0.0, 1.0, 1.0, 0.0))
    for k in np.flatnonzero(share.any(axis=(0, 1))):
        down = np.stack(np.gradient(depth[:, :, k], *spacing[:2]))
        across = np.stack(np.gradient(np.asarray(block[:, :, k], float), *spacing[:2], axis=(0, 1)))
        outwards = -np.einsum("axy,axyc->xyc", down, across)
        outwards /= np.maximum(np.linalg.norm(outwards, axis=-1, keepdims=True), 1e-9)
        out[:, :, k] += rim * share[:, :, k, None] * outwards
    return out


def with_rim(fitted: TemplateMap, template: Template, rim: float = RIM) -> TemplateMap:
    """Let the template's tissue end where that of the image does: see `outgrown`."""
    if rim == 0:
        return fitted
    held = np.flatnonzero(fitted.covered)
    some = slice(int(held[0]), int(held[-1]) + 1)
    block = fitted.block.copy()
    block[:, :, some] = outgrown(fitted.block[:, :, some], template_depth(template, some.start, some.stop), template.block_grid.spacing, rim)
    return TemplateMap(block, fitted.quality)
