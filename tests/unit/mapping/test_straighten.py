import numpy as np
import pytest

from cohort_engine.cord.centreline import Centreline, centreline_from_mask, cord_slices
from cohort_engine.mapping.straighten import OVERSAMPLING, PAD, StraightCord, block_depth, depth

RADIUS = 4.0


def disc(pixel: tuple[float, float], centre: tuple[float, float] = (0.0, 0.0), radius: float = RADIUS, field: float = 24.0):
    """Partial-volume image of a disc on a grid about 0, and the coordinates of its pixels."""
    x, y = (np.arange(-field / 2, field / 2, p) for p in pixel)
    edge = radius - np.hypot(x[:, None] - centre[0], y[None] - centre[1])
    return np.clip(0.5 + edge / np.mean(pixel), 0, 1), x, y


# --- depth ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pixel", [(0.5, 0.5), (1.0, 1.0), (1.0, 0.5)], ids=str)
def test_depth_of_a_disc(pixel):
    mask, x, y = disc(pixel, (0.3, -0.2))
    fine, corner = depth(mask[:, :, None], np.array(pixel))
    at = [corner[a, 0] + (np.arange(fine.shape[a]) + 0.5) / OVERSAMPLING - 0.5 for a in (0, 1)]
    fx, fy = x[0] + at[0] * pixel[0], y[0] + at[1] * pixel[1]
    true = RADIUS - np.hypot(fx[:, None] - 0.3, fy[None] + 0.2)
    error = (fine[:, :, 0] - true)[true > -PAD]
    assert np.abs(error).max() < 0.3 * max(pixel)
    assert abs(np.median(error)) < 0.05 * max(pixel)


def test_the_window_moves_with_the_mask():
    mask = np.zeros((60, 20, 2))
    mask[5:10, 8:12, 0] = 1
    mask[45:50, 8:12, 1] = 1
    fine, corner = depth(mask, np.array([1.0, 1.0]))
    assert (corner[0, 1] - corner[0, 0], corner[1, 1] - corner[1, 0]) == (40, 0)
    assert fine.shape[0] == (5 + 2 * PAD) * OVERSAMPLING
    assert np.array_equal(fine[:, :, 0], fine[:, :, 1])


def test_a_mask_at_the_border_of_the_image_ends_there():
    mask = np.ones((4, 4, 1))
    inside = block_depth(mask, np.array([1.0, 1.0]))[:, :, 0]
    assert inside[0, 0] > 0  # half a pixel
    assert inside[1, 1] == pytest.approx(1.5, abs=0.2)


def test_block_depth_is_the_distance_at_the_voxels_and_minus_pad_in_empty_slices():
    mask, x, y = disc((0.5, 0.5))
    found = block_depth(np.stack([0 * mask, mask, mask], axis=-1), np.array([0.5, 0.5]))
    true = RADIUS - np.hypot(x[:, None], y[None])
    near = np.abs(true) < PAD
    assert (found[:, :, 0] == -PAD).all()
    assert found[:, :, 1][near] == pytest.approx(true[near], abs=0.1)
    assert np.array_equal(found[:, :, 1], found[:, :, 2])


def test_depth_is_the_same_for_soft_and_hard_edges_of_one_contour():
    hard = np.zeros((16, 16, 1))
    hard[4:12, 4:12] = 1
    fine, _ = depth(hard, np.array([1.0, 1.0]))
    soft, _ = depth(np.clip(hard * 0.8 + 0.1, 0, 1), np.array([1.0, 1.0]))  # the 0.5 contour does not move
    assert np.array_equal(fine, soft)


# --- straight ---------------------------------------------------------------------------------------------------------
def bent(voxel: tuple[float, float, float], tilt: float) -> tuple[np.ndarray, np.ndarray, Centreline]:
    """Mask of a round cord on a circle of 150 mm in the sagittal plane, seen by slices tilted about x (degrees), and its true centreline."""
    angle = np.linspace(-0.45, 0.45, 1500)
    line = Centreline.through(np.stack([0 * angle, 150 - 150 * np.cos(angle), 150 * np.sin(angle)], axis=1))
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * voxel
    shape = tuple(round(f / v) for f, v in zip((24, 36, 80), voxel, strict=True))
    affine[:3, 3] = line.position(line.length / 2) + np.array([0, 5, 0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    xyz = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    distance = line.project(xyz.reshape(-1, 3))[1].reshape(shape)
    return np.clip(0.5 + (RADIUS - distance) / voxel[0], 0, 1).astype(np.float32), affine, line


@pytest.mark.parametrize(("voxel", "tilt"), [((1, 1, 1), 0), ((0.8, 0.8, 0.8), 12), ((0.9, 0.9, 5), 8), ((0.84, 0.84, 16), -5)], ids=str)
def test_a_bent_cord_becomes_a_straight_one(voxel, tilt):
    """Along each line (a, b) the depth is RADIUS - |(a, b)|, however the slices cut the cord: obliqueness is undone."""
    mask, affine, true = bent(voxel, tilt)
    cord, slices = cord_slices(mask, what="cord mask")
    straight = StraightCord.of_mask(cord, affine, slices, true, reach=8.0, step=0.5)
    a = np.arange(-6, 6.5, 0.5)
    low, high = true.project(centreline_from_mask(mask, affine, what="cord mask").points[[0, -1]])[0]
    arc = np.linspace(low + 6, high - 6, 40)
    grid = np.broadcast_arrays(a[:, None, None], a[None, :, None], arc)
    found, expected = straight.depth(grid[0], grid[1], arc), RADIUS - np.hypot(grid[0], grid[1])
    error = (found - expected)[np.abs(expected) < 2]
    assert abs(error.mean()) < 0.06
    assert np.percentile(np.abs(error), 99) < 0.2


def test_world_is_the_centreline_and_its_frame():
    mask, affine, line = bent((1, 1, 1), 0)
    straight = StraightCord.of_mask(
        *(cord_slices(mask, what="cord mask")[0], affine, cord_slices(mask, what="cord mask")[1]), line, reach=8.0, step=1.0
    )
    arc = np.array([50.0, 60.0])
    e_x, e_y, _ = line.frame(arc)
    zero, moved = (straight.world(np.full((1, 2), a), np.full((1, 2), b), arc)[0] for a, b in ((0.0, 0.0), (2.0, -3.0)))
    assert zero == pytest.approx(line.position(arc))
    assert moved - zero == pytest.approx(2 * e_x - 3 * e_y)


def test_the_end_slices_reach_on():
    mask, affine, line = bent((1, 1, 1), 0)
    cord, slices = cord_slices(mask, what="cord mask")
    straight = StraightCord.of_mask(cord, affine, slices, line, reach=8.0, step=0.5)
    beyond = straight.depth(np.zeros((1, 2)), np.zeros((1, 2)), np.array([-20.0, line.length + 20.0]))
    assert beyond == pytest.approx(np.full((1, 2), RADIUS), abs=0.3)


def test_other_images_are_seen_along_the_same_lines():
    """A ramp along the slices' first axis is met where the lines are; outside the image there is nothing."""
    mask, affine, line = bent((0.9, 0.9, 5), 8)
    cord, slices = cord_slices(mask, what="cord mask")
    straight = StraightCord.of_mask(cord, affine, slices, line, reach=8.0, step=0.5)
    ramp = np.broadcast_to(np.arange(mask.shape[0], dtype=np.float32)[:, None, None], mask.shape)
    low, high = line.project(centreline_from_mask(mask, affine, what="cord mask").points[[0, -1]])[0]
    arc = np.linspace(low + 6, high - 6, 10)
    a, b, _ = np.broadcast_arrays(np.arange(-3, 4.0)[:, None, None], np.arange(-3, 4.0)[None, :, None], arc)
    x = np.einsum("...k,k->...", straight.world(a, b, arc), np.linalg.inv(affine)[0, :3]) + np.linalg.inv(affine)[0, 3]
    assert straight.look(ramp, a, b, arc) == pytest.approx(x, abs=0.05)
    far = np.full((1, 1, 10), 500.0)
    assert (straight.look(ramp + 1, far, far, arc)[0, 0] >= 0).all()
