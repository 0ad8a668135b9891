"""Packing: any mask, any levels, any grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cohort_engine.errors import AlignmentError
from cohort_engine.template.packing import Grid, Packing

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
MASKS = SHAPES.flatmap(lambda s: hnp.arrays(bool, s))


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Rotation by a quaternion, voxel sizes, flips, an origin."""
    q = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 0.1)))
    w, x, y, z = q / np.linalg.norm(q)
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    affine = np.eye(4)
    affine[:3, :3] = rotation * draw(st.tuples(*[st.floats(0.2, 20)] * 3)) * draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def packing(mask: np.ndarray, levels: np.ndarray | None = None) -> Packing:
    return Packing.of_mask(mask, Grid(mask.shape, np.eye(4)), np.zeros(mask.shape[2], int) if levels is None else levels)


@given(MASKS)
def test_unpack_then_pack_gives_the_values_back(mask):
    p = packing(mask)
    values = np.arange(len(p), dtype=np.float32)
    np.testing.assert_array_equal(p.pack(p.unpack(values)), values)


@given(MASKS, st.integers(0, 2**31))
def test_pack_then_unpack_keeps_the_mask_and_empties_the_rest(mask, seed):
    p = packing(mask)
    volume = np.random.default_rng(seed).normal(size=mask.shape)
    back = p.unpack(p.pack(volume))
    np.testing.assert_array_equal(back, np.where(mask, volume, np.nan))


@given(MASKS, st.integers(1, 4))
def test_pack_carries_trailing_axes(mask, channels):
    p = packing(mask)
    volume = np.broadcast_to(np.arange(channels), (*mask.shape, channels))
    assert p.pack(volume).shape == (len(p), channels)


@given(MASKS)
def test_the_axis_is_sorted_by_z_then_y_then_x(mask):
    i, j, k = packing(mask).ijk.T.astype(int)
    assert (np.diff(np.ravel_multi_index((k, j, i), mask.shape[::-1])) > 0).all()


@given(MASKS, st.data())
def test_a_block_packs_like_the_whole_grid(mask, data):
    corner = tuple(data.draw(st.integers(0, 3)) for _ in range(3))
    whole = np.pad(mask, [(c, 1) for c in corner])
    grid, levels = Grid(whole.shape, np.eye(4)), np.arange(whole.shape[2]) % 5
    one, other = Packing.of_mask(whole, grid, levels), Packing.of_mask(mask, grid, levels, corner)
    np.testing.assert_array_equal(one.ijk, other.ijk)
    np.testing.assert_array_equal(one.level, other.level)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 2**31))
def test_levels_in_runs_are_slices_that_cover_their_voxels(heights, seed):
    levels = np.repeat(np.arange(len(heights), 0, -1), heights)
    mask = np.random.default_rng(seed).random((3, 3, levels.size)) < 0.7
    p = packing(mask, levels)
    for n in range(1, len(heights) + 1):
        s = p.level_slice(n)
        assert s.stop - s.start == mask[:, :, levels == n].sum()
        assert (p.level[s] == n).all()


def test_a_level_in_two_pieces_is_no_slice():
    with pytest.raises(AlignmentError, match="level C2: expected a level to be one run of slices, found 2 voxels between 0 and 3"):
        packing(np.ones((1, 1, 3), bool), np.array([2, 1, 2])).level_slice(2)


@given(affines(), hnp.arrays(float, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-100, 100)))
def test_voxel_undoes_world(affine, ijk):
    grid = Grid((4, 4, 4), affine)
    np.testing.assert_allclose(grid.voxel(grid.world(ijk)), ijk, atol=1e-6)


@given(affines())
def test_spacing_is_the_distance_of_neighbours(affine):
    grid = Grid((4, 4, 4), affine)
    steps = [np.linalg.norm(grid.world(np.eye(3)[a]) - grid.world(np.zeros(3))) for a in range(3)]
    np.testing.assert_allclose(grid.spacing, steps, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "fill", "expected"), [("float32", np.nan, "float32"), ("float64", np.nan, "float64"), ("int16", np.nan, "float32")]
)
def test_unpacking_takes_the_smallest_type_that_holds_both(values, fill, expected):
    p = packing(np.array([[[True, False]]]))
    out = p.unpack(np.array([5], values), fill)
    assert out.dtype == expected
    assert out[0, 0, 0] == 5


def test_wrong_lengths_and_grids_are_refused():
    p = packing(np.ones((2, 2, 2), bool))
    with pytest.raises(AlignmentError, match=r"\(8,\) packed values"):
        p.unpack(np.zeros(7))
    with pytest.raises(AlignmentError, match="packing a volume"):
        p.pack(np.zeros((2, 2, 3)))
