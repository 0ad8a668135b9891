"""Whether two images lie on one grid is decided once: it used to be asked in six places with two limits."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.errors import CohortWarning, GeometryError
from cohort_engine.io.grids import require_grid
from cohort_engine.template.packing import Grid

HERE = Grid((2, 2, 201), np.eye(4))


def grid(shape: tuple[int, int, int] = (2, 2, 201), **cells: float) -> Grid:
    affine = np.eye(4)
    for name, value in cells.items():
        affine[int(name[1]), int(name[2])] = value
    return Grid(shape, affine)


def check(other: Grid) -> None:
    require_grid(other, HERE, what="cord mask", like="the T2w image", remedy="Segment this very image.")


@pytest.mark.parametrize("cells", [{}, {"a13": 0.04}, {"a13": -0.09}, {"a02": 1e-4}])
def test_headers_that_tools_rounded_are_one_grid(cells: dict[str, float]) -> None:
    """A mask whose corners lay 0.04 mm away was refused, with a message in which both sides were the same."""
    check(grid(**cells))


@pytest.mark.parametrize(("cells", "apart"), [({"a13": 0.6}, "0.60"), ({"a02": 3e-3}, "0.60")])
def test_how_far_apart_is_said_as_seen_at_the_far_corner(cells: dict[str, float], apart: str) -> None:
    """3e-3 rad is nothing at the origin and 0.6 mm at the end of 200 slices."""
    with pytest.raises(
        GeometryError, match=rf"cord mask: expected the grid of the T2w image .*found the same shape, up to {apart} mm away.*very image"
    ):
        check(grid(**cells))


@pytest.mark.parametrize("cells", [{"a13": 0.2}, {"a02": 2e-3}])
def test_a_header_that_a_tool_wrote_with_few_decimals_is_taken_voxel_by_voxel_and_named(cells: dict[str, float]) -> None:
    with pytest.warns(CohortWarning, match=r"cord mask: its header lies up to 0\.[24]0 mm from that of the T2w image"):
        check(grid(**cells))


def test_half_a_voxel_is_that_of_the_shortest_edge() -> None:
    """0.2 mm are nothing beside slices of 5 mm, and another voxel where the pixels have 0.3 mm."""
    fine = Grid((2, 2, 3), np.diag([0.3, 0.3, 5.0, 1.0]))
    moved = fine.affine.copy()
    moved[2, 3] = 0.2
    with pytest.raises(GeometryError, match=r"up to 0\.20 mm away"):
        require_grid(Grid(fine.shape, moved), fine, what="cord mask", like="the image")


def test_another_shape() -> None:
    with pytest.raises(GeometryError, match=r"found 2x2x200 voxels, up to 1\.00 mm away"):
        check(grid((2, 2, 200)))
