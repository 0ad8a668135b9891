"""Somebody else's warp: the truth is a bend with a formula both ways, seen through thick slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cohort_engine.errors import GeometryError, InputError
from cohort_engine.mapping.ants import displacement_field, field_positions
from cohort_engine.mapping.warp import check_convention, cord_dice, packed_by_inversion, packed_by_opposite
from cohort_engine.template.base import Template

VOXEL = (0.9, 0.9, 5.0)


@pytest.fixture(scope="module")
def seen(make_scan: Callable[..., Any]) -> Any:
    return make_scan(VOXEL, tilt=8.0, wide=1.1, flat=0.9, turn=5.0)


@pytest.fixture(scope="module")
def positions(seen: Any) -> np.ndarray:
    """Template position of every voxel of the image, from the formula."""
    index = np.moveaxis(np.indices(seen.mask.shape), 0, -1).reshape(-1, 3)
    return seen.bend.template(index @ seen.affine[:3, :3].T + seen.affine[:3, 3]).reshape(*seen.mask.shape, 3)


def slices(seen: Any) -> np.ndarray:
    return seen.mask.any(axis=(0, 1))


def check(seen: Any, field: np.ndarray, template: Template, least: float = 0.85) -> float:
    return check_convention(field, seen.affine, seen.mask > 0.5, template, least=least, what="warp", like="cord mask")


def test_a_field_and_its_positions_are_each_others_inverse(seen: Any, positions: np.ndarray) -> None:
    holed = positions.copy()
    holed[3, 4, 5] = np.nan
    back = field_positions(displacement_field(holed, seen.affine)[:, :, :, 0], seen.affine)
    np.testing.assert_allclose(back, holed, atol=2e-5)


def test_largest_floats_are_outside(seen: Any) -> None:
    field = np.zeros((2, 2, 2, 3), np.float32)
    field[0, 0, 0] = np.finfo(np.float32).max
    field[1, 0, 0, 2] = -1e5
    assert np.isnan(field_positions(field, np.eye(4))).all(axis=-1).sum() == 2


def test_the_inverse_is_the_formula(seen: Any, positions: np.ndarray, template: Template) -> None:
    """Linear between slices of 5 mm: the chord misses the bend by at most its sagitta; nothing else is lost."""
    packed, residual = packed_by_inversion(positions, seen.affine, template, slices(seen), what="warp")
    found = np.isfinite(packed[:, 0])
    miss = np.linalg.norm(packed - seen.bend.native(template.packing.xyz), axis=1)[found]
    print(f"{found.mean():.2f} of the voxels, median {np.median(miss):.3f}, largest {miss.max():.3f} mm; residual {residual.max():.1e} mm")
    assert found.mean() > 0.5
    assert np.median(miss) < 0.05
    assert np.percentile(miss, 99) < 0.25
    assert residual.max() < 0.02


def test_at_the_slices_themselves_the_inverse_is_exact(seen: Any, positions: np.ndarray, template: Template) -> None:
    """Where a template point lies on a voxel, interpolation has no part."""
    packed, _ = packed_by_inversion(positions, seen.affine, template, slices(seen), what="warp")
    index = (packed - seen.affine[:3, 3]) @ np.linalg.inv(seen.affine[:3, :3]).T
    near = np.isfinite(packed[:, 0]) & (np.abs(index[:, 2] - np.rint(index[:, 2])) < 0.02)
    assert near.sum() > 100
    miss = np.linalg.norm(packed - seen.bend.native(template.packing.xyz), axis=1)[near]
    assert np.percentile(miss, 95) < 0.03


def test_half_a_slice_beyond_the_cord_and_no_farther(seen: Any, positions: np.ndarray, template: Template) -> None:
    some = np.zeros(seen.mask.shape[2], bool)
    some[3:8] = True
    packed, _ = packed_by_inversion(positions, seen.affine, template, some, what="warp")
    z = ((packed - seen.affine[:3, 3]) @ np.linalg.inv(seen.affine[:3, :3]).T)[:, 2]
    assert 2.5 <= np.nanmin(z) < 2.6
    assert 7.4 < np.nanmax(z) <= 7.5


def test_what_the_warp_does_not_know_is_missing(seen: Any, positions: np.ndarray, template: Template) -> None:
    holed = positions.copy()
    holed[: seen.mask.shape[0] // 2] = np.nan
    whole, _ = packed_by_inversion(positions, seen.affine, template, slices(seen), what="warp")
    half, _ = packed_by_inversion(holed, seen.affine, template, slices(seen), what="warp")
    x = ((whole - seen.affine[:3, 3]) @ np.linalg.inv(seen.affine[:3, :3]).T)[:, 0]
    edge = seen.mask.shape[0] // 2
    assert np.isnan(half[x < edge - 0.6]).all()
    inner = x > edge + 1
    np.testing.assert_allclose(half[inner], whole[inner], atol=1e-3)


def test_the_opposite_warp_is_taken_as_it_is(seen: Any, positions: np.ndarray, template: Template) -> None:
    grid = template.block_grid
    there = seen.bend.native(grid.world(np.moveaxis(np.indices(grid.shape, dtype=float), 0, -1)))
    packed, residual = packed_by_opposite(there, grid.affine, positions, seen.affine, template, slices(seen))
    found = np.isfinite(packed[:, 0])
    np.testing.assert_allclose(packed[found], seen.bend.native(template.packing.xyz)[found], atol=1e-4)
    assert np.median(residual) < 0.05
    far, residual = packed_by_opposite(there + np.array([0, 0, 4.0]), grid.affine, positions, seen.affine, template, slices(seen))
    assert np.median(residual) > 3
    assert np.isfinite(far).any()


def test_fewer_than_two_slices(seen: Any, positions: np.ndarray, template: Template) -> None:
    one = np.zeros(seen.mask.shape[2], bool)
    one[4] = True
    with pytest.raises(GeometryError, match="two slices or more, found 1"):
        packed_by_inversion(positions, seen.affine, template, one, what="warp")


def test_a_good_warp_fits(seen: Any, positions: np.ndarray, template: Template) -> None:
    assert check(seen, displacement_field(positions, seen.affine)[:, :, :, 0], template) > 0.97
    assert cord_dice(np.full_like(positions, np.nan), seen.mask > 0.5, template) == 0


@pytest.mark.parametrize(
    ("factor", "words"),
    [((-1, -1, 1), "RAS in place of LPS"), ((1e-3,) * 3, "metres in place of mm"), (tuple(1 / v for v in VOXEL), "voxels in place of mm")],
)
def test_wrong_numbers_are_told_apart(seen: Any, positions: np.ndarray, template: Template, factor: tuple[float, ...], words: str) -> None:
    moved = positions + np.array([25.0, 40.0, 0.0])  # scanners do not put the cord where the template has it
    affine = seen.affine.copy()
    affine[:3, 3] += [25.0 - 60.0, 40.0 - 90.0, 30.0]
    field = displacement_field(moved - [25.0, 40.0, 0.0], affine)[:, :, :, 0] * np.asarray(factor)
    with pytest.raises(InputError, match=f"numbers that fit as {words}"):
        check_convention(field, affine, seen.mask > 0.5, template, least=0.85, what="warp", like="cord mask")


def test_a_warp_of_another_image(seen: Any, positions: np.ndarray, template: Template) -> None:
    field = displacement_field(positions + np.array([4.0, 0, 0]), seen.affine)[:, :, :, 0]
    with pytest.raises(InputError, match=r"expected a warp that brings the template's cord onto the cord mask \(Dice 0\.85\)"):
        check(seen, field, template)
