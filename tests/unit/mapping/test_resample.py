"""Images on another grid: what is averaged, what is voted, and what an image asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cohort_engine.mapping.resample import LABELS, LINEAR, NEAREST, SPLINE, Pull, interpolation_of
from cohort_engine.template.packing import Grid

FINE = Grid((24, 20, 40), np.diag([0.5, 0.5, 0.5, 1.0]))


def coarse(spacing: tuple[float, float, float]) -> Grid:
    """Voxels that tile the fine ones."""
    ratio = np.array(spacing) / 0.5
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (ratio - 1) / 2 * 0.5
    x, y, z = (np.array(FINE.shape) / ratio).astype(int)
    return Grid((int(x), int(y), int(z)), affine)


def home(grid: Grid) -> Any:
    return grid.world(np.moveaxis(np.indices(grid.shape, dtype=float), 0, -1))


def moved(grid: Grid, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Any:
    return home(grid) + shift


@pytest.mark.parametrize("how", [NEAREST, LINEAR, SPLINE])
def test_onto_itself_nothing_changes(how: str) -> None:
    image = np.random.default_rng(1).normal(size=FINE.shape).astype(np.float32)
    np.testing.assert_allclose(Pull(moved(FINE), FINE, FINE)(image, FINE.affine, how=how), image, atol=2e-5)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 5.0), (1.0, 1.0, 2.0), (2.0, 0.5, 0.5)])
def test_a_large_voxel_takes_the_mean_of_the_small_ones_in_it(spacing: tuple[float, float, float]) -> None:
    rng, thick = np.random.default_rng(2), coarse(spacing)
    image = (rng.uniform(size=FINE.shape) > 0.7).astype(np.float32)
    nx, ny, nz = np.rint(np.array(spacing) / 0.5).astype(int)
    x, y, z = thick.shape
    mean = image.reshape(x, nx, y, ny, z, nz).mean(axis=(1, 3, 5))
    found = Pull(moved(FINE), FINE, thick)(image, FINE.affine, how=LINEAR)
    np.testing.assert_allclose(found, mean, atol=1e-5)
    voted = Pull(moved(FINE), FINE, thick)(image.astype(np.int32), FINE.affine, how=LABELS)
    clear = np.abs(mean - 0.5) > 1e-6
    assert np.array_equal(voted[clear] == 1, mean[clear] > 0.5)


def test_a_shift_is_a_shift() -> None:
    image = np.random.default_rng(3).normal(size=FINE.shape).astype(np.float32)
    found = Pull(moved(FINE, (1.0, 0.0, -0.5)), FINE, FINE)(image, FINE.affine, how=LINEAR)
    np.testing.assert_allclose(found[:-2, :, 1:], image[2:, :, :-1], atol=1e-5)
    assert np.isnan(found[-2:]).all()
    assert np.isnan(found[:, :, 0]).all()


def test_where_the_warp_says_nothing_there_is_nothing() -> None:
    field = moved(FINE)
    field[:12] = np.nan
    image = np.full(FINE.shape, 7.0, np.float32)
    assert np.isnan(Pull(field, FINE, FINE)(image, FINE.affine, how=SPLINE)[:12]).all()
    assert Pull(field, FINE, FINE)(image.astype(np.int32), FINE.affine, how=LABELS)[:12].max() == 0
    assert Pull(field, FINE, FINE)(image.astype(np.int32), FINE.affine, how=LABELS)[12:].min() == 7
    field[:] = np.nan
    assert np.isnan(Pull(field, FINE, FINE)(image, FINE.affine, how=LINEAR)).all()


def test_nan_of_the_image_carries_no_weight() -> None:
    image = np.full(FINE.shape, 40.0, np.float32)
    image[::3] = np.nan
    found = Pull(moved(FINE), FINE, coarse((3.0, 1.0, 1.0)))(image, FINE.affine, how=LINEAR)
    np.testing.assert_allclose(found, 40.0, rtol=1e-6)


def test_labels_are_never_mixed_and_none_is_lost() -> None:
    """Beside 3 and 9 there is no 6; a point of one voxel wins no voxel of 2 mm and is still there, at its place."""
    image = np.zeros(FINE.shape, np.int32)
    image[:, :, :20], image[:, :, 20:] = 3, 9
    image[5, 6, 8] = 4
    thick = coarse((2.0, 2.0, 2.0))
    found = Pull(moved(FINE, (0.0, 0.0, -0.25)), FINE, thick)(image, FINE.affine, how=LABELS)
    assert set(np.unique(found)) == {3, 4, 9}
    assert np.argwhere(found == 4).tolist() == [[1, 1, 2]]


def test_a_label_out_of_view_is_not_brought_back() -> None:
    image = np.zeros(FINE.shape, np.int32)
    image[2, 2, 2], image[12, 10, 30] = 1, 2
    field = moved(FINE)
    field[:, :, :15] = np.nan
    assert set(np.unique(Pull(field, FINE, FINE)(image, FINE.affine, how=LABELS))) == {0, 2}


def test_positions_on_another_grid_are_those_of_the_field_between_its_voxels() -> None:
    field = home(FINE) * [1.1, 0.9, 1.0] + [0.3, 0.0, -2.0]
    other = Grid((5, 6, 7), np.array([[0.7, 0.1, 0, 1.1], [-0.1, 0.7, 0, 2.1], [0, 0, 1.3, 3.3], [0, 0, 0, 1]]))
    np.testing.assert_allclose(Pull(field, FINE, other).at(np.zeros(3)), home(other) * [1.1, 0.9, 1.0] + [0.3, 0.0, -2.0], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1], LABELS), ([0, 8, 21.0], LABELS), ([0.0, 0.3, 1.0], LINEAR), ([-1e-7, 1.0000001], LINEAR),
        ([0.0, 40.5], SPLINE), ([-1, 0, 1], SPLINE), (list(range(300)), SPLINE), ([np.nan, 0, 2], LABELS), ([np.nan], SPLINE),
    ],
)  # fmt: skip
def test_values_say_what_an_image_is(values: list[float], kind: str) -> None:
    assert interpolation_of(np.array(values)) == kind
