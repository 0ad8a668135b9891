import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohort_engine.cord.centreline import Centreline
from cohort_engine.cord.levels import LevelAxis
from cohort_engine.qmri.morphometry import group_slices, measure_slices, template_profile
from cohort_engine.schema import (
    AREA,
    AREA_LEFT,
    AREA_RIGHT,
    DIAMETER_AP,
    DIAMETER_AP_ELLIPSE,
    DIAMETER_RL,
    ECCENTRICITY,
    LENGTH,
    MEASURES,
    ORIENTATION,
    SOLIDITY,
    SYMMETRY,
)

LEAN = st.floats(-35, 35)


def scene(seed, lean_right, lean_front, soft):
    """A lumpy cord, as long from right to left as a cord is, and a straight centreline through it."""
    rng = np.random.default_rng(seed)
    x, y = np.ogrid[:26, :20]
    lumps = ndimage.gaussian_filter(rng.normal(size=(26, 20, 4)), (1.5, 1.5, 0))
    mask = ndimage.gaussian_filter((((x - 12.6) / 8.5) ** 2 + ((y - 9.7) / 5.5) ** 2)[..., None] + lumps < 1.0, (soft, soft, 0), output=float)
    mask[mask < 1e-9] = 0
    affine = np.diag([0.7, 0.8, 3.0, 1.0])
    middle = np.array([12.6 * 0.7, 9.7 * 0.8, 4.5])
    along = 40 * np.array([np.tan(np.radians(lean_right)), np.tan(np.radians(lean_front)), 1.0])
    return mask, affine, Centreline.through(np.stack([middle - along, middle + along]))


scenes = st.builds(scene, st.integers(0, 99), LEAN, LEAN, st.floats(0, 1.5))


@settings(max_examples=40, deadline=None)
@given(scenes)
def test_ranges(case):
    values, pieces = measure_slices(*case)
    assert (pieces >= 1).all()
    for name in (SYMMETRY, ECCENTRICITY, SOLIDITY):
        assert ((values[name] >= 0) & (values[name] <= 1 + 1e-12)).all()
    for name in (AREA, AREA_LEFT, AREA_RIGHT, DIAMETER_AP, DIAMETER_AP_ELLIPSE, DIAMETER_RL, LENGTH):
        assert (values[name] > 0).all()
    np.testing.assert_allclose(values[AREA_LEFT] + values[AREA_RIGHT], values[AREA])
    assert (np.abs(values[ORIENTATION]) <= 45).all()
    assert (values[AREA] <= case[0].sum(axis=(0, 1)) * 0.56 + 1e-9).all()  # across the cord is the smallest cut


@settings(max_examples=25, deadline=None)
@given(scenes, st.sampled_from([(0,), (1,), (0, 1)]))
def test_the_order_of_voxels_in_the_slice_does_not_matter(case, flipped):
    mask, affine, line = case
    other = affine.copy()
    for axis in flipped:
        other[:3, 3] += affine[:3, axis] * (mask.shape[axis] - 1)
        other[:3, axis] *= -1
    first, second = measure_slices(mask, affine, line)[0], measure_slices(np.flip(mask, flipped), other, line)[0]
    for name in MEASURES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-3, atol=2e-3)  # rows run along x whichever way


@settings(max_examples=25, deadline=None)
@given(scenes)
def test_left_becomes_right_in_a_mirror(case):
    mask, affine, line = case
    other, turn = affine.copy(), np.diag([-1.0, 1.0, 1.0])
    other[0] *= -1
    mirrored = Centreline.through(line.points @ turn)
    first, second = measure_slices(mask, affine, line)[0], measure_slices(mask, other, mirrored)[0]
    np.testing.assert_allclose(first[AREA_LEFT], second[AREA_RIGHT])
    for name in (AREA, DIAMETER_AP, DIAMETER_RL, SYMMETRY, LENGTH):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9)
    np.testing.assert_allclose(first[ORIENTATION], -second[ORIENTATION], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(scenes, st.floats(0.6, 1.0))
def test_the_area_is_linear_in_the_mask(case, share):
    mask, affine, line = case
    mask = np.round(mask)  # its voxels stay above one half
    whole, part = measure_slices(mask, affine, line)[0], measure_slices(share * mask, affine, line)[0]
    np.testing.assert_allclose(part[AREA], share * whole[AREA])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.just(np.nan), st.floats(30, 90)), min_size=1, max_size=12),
    st.data(),
)
def test_groups_add_up(values, data):
    values = np.array(values)
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values))))
    out = group_slices({AREA: values, LENGTH: values}, groups)
    kept = values[(groups > 0) & np.isfinite(values)]
    assert np.nansum(out.value[LENGTH]) == pytest.approx(kept.sum())
    assert np.nansum(out.value[AREA] * out.n[AREA]) == pytest.approx(kept.sum())
    assert out.n[AREA].sum() == len(kept)
    assert (np.isnan(out.std[AREA]) == (out.n[AREA] < 2)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.5, 20), min_size=2, max_size=10), st.floats(-5, 5), st.floats(0.5, 2))
def test_a_straight_line_stays_one(gaps, slope, stretch):
    arc = np.cumsum(gaps)
    line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, arc[-1] + 20.0]]))
    axis = LevelAxis(line, np.array([0.0, line.length]), np.array([0.0, stretch * line.length]), 0.0)
    z = np.linspace(stretch * arc[0], stretch * arc[-1], 50)
    np.testing.assert_allclose(template_profile(70 + slope * arc, arc, axis, z), 70 + slope * z / stretch, atol=1e-6)
