"""Whether two images lie on one grid: decided here, and nowhere else."""

from __future__ import annotations

from itertools import product

import numpy as np

from cohort_engine.errors import GeometryError
from cohort_engine.template.packing import Grid

GRID_TOLERANCE = 0.1
"""How far (mm) the corners of one grid may lie apart in two headers: quaternions and tools round."""
REMEDY = "Warp the template to the space of this image, or resample one to the other."


def require_grid(found: Grid, expected: Grid, *, what: str, like: str, tolerance: float = GRID_TOLERANCE, remedy: str = REMEDY) -> None:
    """Refuse an image whose grid is not that of another: shape, and place of the corners within `tolerance` mm.

    Raises
    ------
    GeometryError
        Says which, and by how much.
    """
    if found.shape != expected.shape:
        text = f"{'x'.join(map(str, found.shape))} voxels"
    else:
        corners = np.array(list(product(*((0, n - 1) for n in found.shape))), float)
        distance = float(np.linalg.norm(found.world(corners) - expected.world(corners), axis=1).max())
        if distance <= tolerance:
            return
        text = f"the same shape, up to {distance:.2f} mm away"
    raise GeometryError(
        expected=f"the grid of {like} ({'x'.join(map(str, expected.shape))} voxels)", found=text, where=what,
        remedy=remedy,
    )  # fmt: skip
