import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from cohort_engine.cord.centreline import Centreline, centreline_from_mask, slice_arc
from cohort_engine.cord.levels import LevelAxis
from cohort_engine.errors import CordError, GeometryError
from cohort_engine.qmri.morphometry import group_slices, measure_slices, template_profile
from cohort_engine.qmri.region import Intervals, Outline
from cohort_engine.schema import (
    ANGLE_AP,
    ANGLE_RL,
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

FINE = 6


@pytest.fixture
def cylinder():
    """Factory: an elliptic cylinder cut by slices, as a partial-volume mask, its affine and its axis."""

    def make(rl=13.0, ap=8.0, *, lean=(0.0, 0.0), turn=0.0, shape=(48, 48, 12), spacing=(0.5, 0.5, 2.0), rotation=(0.0, 0.0, 0.0), binary=False):
        lean_right, lean_front = np.tan(np.radians(lean))
        turned = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
        affine = np.eye(4)
        affine[:3, :3] = turned @ np.diag(spacing)
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
        axis = turned @ np.array([lean_right, lean_front, 1.0])
        axis /= np.linalg.norm(axis)
        e_x, e_y, _ = Centreline.through(np.stack([-axis, axis])).frame(0.0)
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        fine = 1 if binary else FINE
        part = (np.arange(fine) + 0.5) / fine - 0.5
        i, j, k = np.meshgrid(*((np.arange(n)[:, None] + part).ravel() for n in shape[:2]), np.arange(shape[2]), indexing="ij")
        p = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
        u, v = p @ (c * e_x + s * e_y), p @ (c * e_y - s * e_x)
        inside = (2 * u / rl) ** 2 + (2 * v / ap) ** 2 <= 1
        return inside.reshape(shape[0], fine, shape[1], fine, shape[2]).mean(axis=(1, 3)), affine, axis

    return make


def measured(mask, affine, **extra):
    values, pieces = measure_slices(mask, affine, centreline_from_mask(mask, affine, what="cord mask"), **extra)
    assert set(values) == set(MEASURES)
    return values, pieces


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"lean": (0.0, 30.0)},
        {"lean": (-8.0, 25.0), "turn": 12.0},
        {"lean": (10.0, 20.0), "turn": -30.0, "rotation": (12.0, -9.0, 15.0)},
        {"spacing": (0.4, 0.6, 3.0), "lean": (5.0, 5.0)},
        {"rl": 9.0, "ap": 12.0, "turn": 5.0},  # longer from front to back
    ],
)
def test_elliptic_cylinder(cylinder, case, binary):
    mask, affine, _ = cylinder(**case, binary=binary)
    values, pieces = measured(mask, affine)
    rl, ap, turn = case.get("rl", 13.0), case.get("ap", 8.0), case.get("turn", 0.0)
    lean_ap, lean_rl = case.get("lean", (0.0, 0.0))
    length = case.get("spacing", (0, 0, 2.0))[2] * np.sqrt(1 + np.tan(np.radians(lean_ap)) ** 2 + np.tan(np.radians(lean_rl)) ** 2)
    band = np.linspace(-1.5, 1.5, 2001)
    c, s = (2 / rl) ** 2, (2 / ap) ** 2
    loose = 4 if binary else 1  # voxel noise of a mask without partial volume
    assert (pieces == 1).all()
    np.testing.assert_allclose(values[AREA], np.pi / 4 * rl * ap, rtol=0.005 * loose)
    np.testing.assert_allclose(values[DIAMETER_RL], rl, rtol=0.006 * loose)
    np.testing.assert_allclose(values[DIAMETER_AP_ELLIPSE], ap, rtol=0.006 * loose)
    np.testing.assert_allclose(values[DIAMETER_AP], 2 * np.sqrt((1 - c * band**2) / s).mean(), rtol=0.06 if binary else 0.006)
    np.testing.assert_allclose(values[ECCENTRICITY], np.sqrt(1 - min(rl, ap) ** 2 / max(rl, ap) ** 2), atol=0.005 * loose)
    np.testing.assert_allclose(values[ORIENTATION], turn, atol=0.5 * loose)
    np.testing.assert_allclose(values[SOLIDITY], 1.0, atol=0.06 if binary else 0.01)
    np.testing.assert_allclose(values[SYMMETRY], 1.0, atol=0.012 * loose)
    np.testing.assert_allclose(values[AREA_RIGHT] / values[AREA], 0.5, atol=0.004 * loose)
    np.testing.assert_allclose(values[LENGTH], length, rtol=0.002 * loose)
    if "rotation" not in case:
        np.testing.assert_allclose(values[ANGLE_AP], lean_ap, atol=0.1 * loose)
        np.testing.assert_allclose(values[ANGLE_RL], lean_rl, atol=0.1 * loose)


def test_an_oblique_image_changes_nothing_but_the_angles(cylinder):
    straight, a, _ = cylinder(lean=(0.0, 20.0))
    oblique, b, _ = cylinder(rotation=(-20.0, 0.0, 0.0), lean=(0.0, 20.0))
    np.testing.assert_array_equal(straight > 0.5, oblique > 0.5)  # the same voxels in another frame
    first, second = measured(straight, a)[0], measured(oblique, b)[0]
    for name in MEASURES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blur", [0.25, 0.5, 1.0])
def test_soft_edges_keep_the_area_and_the_diameters(cylinder, blur):
    mask, affine, _ = cylinder(lean=(0.0, 15.0))
    soft = ndimage.gaussian_filter(mask, (blur / 0.5, blur / 0.5, 0))
    line = centreline_from_mask(mask, affine, what="cord mask")
    sharp, blurred = measure_slices(mask, affine, line)[0], measure_slices(soft, affine, line)[0]
    np.testing.assert_allclose(blurred[AREA], sharp[AREA], rtol=1e-4)
    np.testing.assert_allclose(blurred[DIAMETER_AP], sharp[DIAMETER_AP], rtol=0.02)
    np.testing.assert_allclose(blurred[DIAMETER_AP_ELLIPSE], 8.0, rtol=0.01 if blur < 1 else 0.04)
    np.testing.assert_allclose(blurred[SYMMETRY], 1.0, atol=0.01)


def test_a_half_filled_slice_counts_half(cylinder):
    mask, affine, _ = cylinder()
    line = centreline_from_mask(mask, affine, what="cord mask")
    faint = mask.copy()
    faint[:, :, 0] *= 0.6  # a slice at the end of the cord: no stretching to 1
    values, _ = measure_slices(faint, affine, line)
    np.testing.assert_allclose(values[AREA][0], 0.6 * values[AREA][1], rtol=1e-12)
    faint[:, :, 0] *= 0.5
    assert np.isnan(measure_slices(faint, affine, line)[0][AREA][0])  # below one half everywhere: no cord


def test_empty_slices_are_nan_and_an_empty_mask_too(cylinder):
    mask, affine, _ = cylinder()
    line = centreline_from_mask(mask, affine, what="cord mask")
    mask[:, :, [0, 5]] = 0
    values, pieces = measure_slices(mask, affine, line)
    for v in values.values():
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(v)), [0, 5])
    np.testing.assert_array_equal(np.flatnonzero(pieces == 0), [0, 5])
    values, pieces = measure_slices(np.zeros_like(mask), affine, line)
    assert all(np.isnan(v).all() for v in values.values())
    assert not pieces.any()


def test_nan_at_the_cord_is_nan_and_nan_elsewhere_is_background(cylinder):
    mask, affine, _ = cylinder()
    line = centreline_from_mask(mask, affine, what="cord mask")
    whole, _ = measure_slices(mask, affine, line)
    mask[:3, :, :] = np.nan  # a field of view that ends beside the cord
    mask[24, 24, 4] = np.nan
    values, pieces = measure_slices(mask, affine, line)
    assert np.flatnonzero(np.isnan(values[AREA])).tolist() == [4]
    assert pieces[4] == 1
    keep = np.arange(12) != 4
    for name in MEASURES:
        np.testing.assert_allclose(values[name][keep], whole[name][keep], rtol=1e-9, atol=1e-9)


def test_the_largest_piece_counts_and_the_others_raise_a_flag(cylinder):
    mask, affine, _ = cylinder()
    line = centreline_from_mask(mask, affine, what="cord mask")
    whole, _ = measure_slices(mask, affine, line)
    mask[1:4, 1:4, 3] = 1.0
    mask[1:4, 1:4, 6] = 0.3  # haze is not a piece
    values, pieces = measure_slices(mask, affine, line)
    assert pieces.tolist() == [1, 1, 1, 2] + [1] * 8
    for name in MEASURES:
        np.testing.assert_allclose(values[name], whole[name], rtol=1e-9, atol=1e-9)


def test_symmetry_of_a_lopsided_cord():
    mask = np.zeros((14, 8, 3))
    mask[2:12, 2:6] = 1
    mask[7:12, 4:6] = 0  # a quarter is missing on the right, in front
    mask = np.kron(mask, np.ones((5, 5, 1)))
    affine = np.diag([0.2, 0.2, 5.0, 1.0])
    values, _ = measured(mask, affine)
    assert values[AREA] == pytest.approx([30.0] * 3)
    assert values[AREA_RIGHT] + values[AREA_LEFT] == pytest.approx([30.0] * 3)
    assert values[SYMMETRY][0] < 0.85
    assert values[SOLIDITY][0] == pytest.approx(30 / 35, abs=0.005)
    mirrored, _ = measured(mask[::-1], affine)
    assert mirrored[AREA_RIGHT] == pytest.approx(values[AREA_LEFT])
    assert mirrored[ORIENTATION] == pytest.approx(-values[ORIENTATION])
    assert mirrored[SYMMETRY] == pytest.approx(values[SYMMETRY])


def test_right_is_right():
    """Right and left exchanged add up to the same area, and were noticed by no test."""
    mask = np.zeros((16, 8, 3))
    mask[2:8, 2:6] = 1  # six columns
    mask[8:12, 3:5] = 1  # a thin horn beyond, at larger x: on the right
    values, _ = measured(np.kron(mask, np.ones((5, 5, 1))), np.diag([0.2, 0.2, 5.0, 1.0]))
    assert values[AREA] == pytest.approx([32.0] * 3)
    centre = (24 * 4.5 + 8 * 9.5) / 32  # x of the centroid in columns: 5.75
    right = (7.5 - centre) * 4 + 8
    assert values[AREA_RIGHT] == pytest.approx([right] * 3, abs=0.01)
    assert values[AREA_LEFT] == pytest.approx([32 - right] * 3, abs=0.01)


def test_intervals_against_a_fine_picture():
    x, y = np.meshgrid(np.arange(30.0), np.arange(26.0), indexing="ij")
    left, right = np.hypot((x - 11) / 1.2, y - 13), np.hypot((x - 17) / 1.1, (y - 11) / 0.7)
    sharp = np.stack([(left < 6) | (right < 6), left < 6.3, (left < 6) & (right > 4)]).astype(float)
    mask = np.concatenate([sharp, ndimage.gaussian_filter(sharp, (0, 0.7, 0.7))])
    mask[mask < 1e-9] = 0
    outline = Outline.of_mask(mask)
    centre, moments = outline.moments()
    angle = 0.3
    normal = np.broadcast_to([np.cos(angle), np.sin(angle)], (6, 2))
    mirror = np.eye(2) - 2 * normal[:, :, None] * normal[:, None, :]
    shared, hull = outline.overlap(centre, mirror), outline.hull_area()
    strip = Intervals.of_voxels(mask).strip(centre, normal, -1.5, 2.0)
    step = 1 / 20
    grid = np.stack(np.meshgrid(np.arange(step / 2, 29, step), np.arange(step / 2, 25, step), indexing="ij"))
    for k in range(6):
        here = ndimage.map_coordinates(mask[k], grid, order=1) > 0.5
        away = grid - centre[k][:, None, None]
        there = ndimage.map_coordinates(mask[k], centre[k][:, None, None] + np.tensordot(mirror[k], away, 1), order=1) > 0.5
        band = (np.tensordot(normal[k], away, 1) >= -1.5) & (np.tensordot(normal[k], away, 1) <= 2.0)
        nearest = ndimage.map_coordinates(mask[k], np.rint(grid), order=0)
        assert here.sum() * step**2 == pytest.approx(outline.area[k], rel=2e-3)
        assert np.cov(grid[:, here], bias=True) == pytest.approx(moments[k], rel=5e-3, abs=2e-2)
        assert (here & there).sum() * step**2 == pytest.approx(shared[k], rel=5e-3)
        assert (nearest * band).sum() * step**2 == pytest.approx(strip[k], rel=5e-3)
        assert ConvexHull(grid[:, here].T).volume == pytest.approx(hull[k], rel=1e-2)


def test_lengths_add_up_to_the_curve(cylinder):
    mask, affine, _ = cylinder(lean=(5.0, 25.0), shape=(64, 64, 14))
    bend = np.linspace(-1, 1, 14) ** 2
    mask = np.stack([ndimage.shift(mask[:, :, k], (0, 6 * bend[k] - 3), order=1) for k in range(14)], axis=-1).clip(0, 1)
    line = centreline_from_mask(mask, affine, what="cord mask")
    values, _ = measure_slices(mask, affine, line)
    assert group_slices(values, np.ones(14, int)).value[LENGTH][0] == pytest.approx(line.length, rel=1e-9)


@pytest.mark.parametrize(
    ("mask", "message"), [(np.ones((3, 3)), "3-D mask"), (np.full((3, 3, 2), 255.0), "0 to 255"), (np.full((3, 3, 2), -1.0), "-1 to 0")]
)
def test_masks_that_are_none(mask, message):
    with pytest.raises(CordError, match=message):
        measure_slices(mask, np.eye(4), Centreline.through(np.array([[1.0, 1.0, -1.0], [1.0, 1.0, 3.0]])))


def test_a_centreline_that_turns_back():
    line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]))
    with pytest.raises(GeometryError, match="crosses each slice once"):
        slice_arc(line, np.eye(4), np.arange(2))


def test_a_single_voxel_at_one_half_has_no_outline():
    mask = np.zeros((5, 5, 3))
    mask[2, 2] = 0.5
    values, pieces = measure_slices(mask, np.eye(4), Centreline.through(np.array([[2.0, 2.0, -1.0], [2.0, 2.0, 3.0]])))
    assert pieces.tolist() == [1, 1, 1]
    assert values[AREA].tolist() == [0.5] * 3
    assert np.isnan(values[DIAMETER_RL]).all()


def test_groups_are_levels_or_any_slices():
    values = {AREA: np.array([60.0, 62.0, 70.0, np.nan]), LENGTH: np.array([1.0, 1.0, 1.0, np.nan])}
    out = group_slices(values, np.array([7, 7, 0, 4]))
    assert out.groups.tolist() == [4, 7]
    np.testing.assert_array_equal(out.value[AREA], [np.nan, 61.0])
    np.testing.assert_array_equal(out.std[AREA], [np.nan, 1.0])
    assert out.n[AREA].tolist() == [0, 2]
    np.testing.assert_array_equal(out.value[LENGTH], [np.nan, 2.0])
    with pytest.raises(GeometryError, match="4 slices"):
        group_slices({AREA: np.ones(3)}, np.zeros(4, int))


def test_a_profile_has_no_step_at_a_border_of_levels():
    line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 100.0]]))
    axis = LevelAxis(line, np.array([0.0, 40.0, 100.0]), np.array([200.0, 230.0, 300.0]), 0.0)  # two stretches, meeting at z = 230
    z = np.arange(190.0, 310.0, 0.5)
    profile = template_profile(60 + 0.1 * np.arange(0.0, 101.0, 5.0), np.arange(0.0, 101.0, 5.0), axis, z)
    np.testing.assert_allclose(
        profile, np.where((axis.arc(z) >= -2.5) & (axis.arc(z) <= 102.5), 60 + 0.1 * axis.arc(z).clip(0, 100), np.nan), atol=1e-9
    )
    assert np.nanmax(np.abs(np.diff(profile))) < 0.1


def test_a_profile_leaves_a_gap_where_the_cord_does():
    line = Centreline.through(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 20.0]]))
    axis = LevelAxis(line, np.array([0.0, 20.0]), np.array([0.0, 20.0]), 0.0)
    z = np.array([-2.4, -2.6, 4.0, 7.0, 8.0, 12.0, 13.0, 15.0, 17.4, 17.6])
    out = template_profile(np.array([[1.0, 2.0, np.nan, 4.0]]), np.array([0.0, 5.0, 10.0, 15.0]), axis, z)
    np.testing.assert_allclose(out, [[1.0, np.nan, 1.8, 2.0, np.nan, np.nan, 4.0, 4.0, 4.0, np.nan]])
    one = template_profile(np.array([3.0]), np.array([5.0]), axis, z)
    assert np.isnan(one).all()  # how thick is one slice?
