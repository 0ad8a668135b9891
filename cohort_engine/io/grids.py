"""What is said of two images that must lie on one grid: `Grid.same` decides whether they do."""

from __future__ import annotations

from cohort_engine.errors import GeometryError, warn
from cohort_engine.template.packing import Grid

TOLD = 0.1
"""From this distance on (mm) a reader is told: quaternions, and the float32 of headers, round to less."""
REMEDY = "Warp the template to the space of this image, or resample one to the other."


def require_grid(found: Grid, expected: Grid, *, what: str, like: str, remedy: str = REMEDY) -> None:
    """Refuse an image whose grid is not that of another, see `Grid.same`; where they are one by a margin that can be seen, say so.

    Raises
    ------
    GeometryError
        Says which, by how much, and what to do.

    Warns
    -----
    CohortWarning
        Headers of one grid that lie further apart than tools round.
    """
    distance = found.apart(expected)
    if expected.same(found):
        if distance > TOLD:
            warn(f"its header lies up to {distance:.2f} mm from that of {like}, less than half a voxel: taken voxel by voxel", where=what)
        return
    voxels, needed = ("x".join(map(str, grid.shape)) for grid in (found, expected))
    raise GeometryError(
        expected=f"the grid of {like} ({needed} voxels)", where=what, remedy=remedy,
        found=f"{'the same shape' if voxels == needed else f'{voxels} voxels'}, up to {distance:.2f} mm away",
    )  # fmt: skip
