import numpy as np
import pytest
from scipy import interpolate, ndimage

from cohort_engine.cord.centreline import SMOOTHING, Centreline, centreline_from_mask, cord_slices, number_pieces, runs, smooth
from cohort_engine.errors import CordError

WHAT = "cord mask of the MT-on image"


def helix(radius: float = 40.0, pitch: float = 300.0, n: int = 2001) -> Centreline:
    t = np.linspace(0, 1, n)
    return Centreline.through(np.stack([radius * np.cos(t), radius * np.sin(t), pitch * t], axis=1))


def tube(line: Centreline, affine: np.ndarray, shape: tuple[int, int, int], radius: float = 4.0, softness: float = 0.0) -> np.ndarray:
    """Mask of a round cord; with a softness (mm) its border is a ramp."""
    xyz = np.stack(np.indices(shape), axis=-1).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
    distance = line.project(xyz)[1].reshape(shape)
    return (distance < radius).astype(np.float32) if softness == 0 else np.clip(0.5 + (radius - distance) / softness, 0, 1)


def grid_around(line: Centreline, voxel: tuple[float, float, float], tilt: float = 0.0, field: tuple[float, float, float] = (50, 80, 90)):
    """Grid of `field` mm centred on the line, tilted about x by `tilt` degrees."""
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * voxel
    shape = tuple(round(f / v) for f, v in zip(field, voxel, strict=True))
    affine[:3, 3] = line.position(line.length / 2) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


# --- the curve --------------------------------------------------------------------------------------------------------
def test_arc_length_of_a_helix():
    assert helix().length == pytest.approx(np.hypot(40, 300), rel=1e-6)


def test_frame_is_right_handed_and_e_x_points_to_the_right():
    e_x, e_y, tangent = helix().frame(np.linspace(0, 300, 50))
    frame = np.stack([e_x, e_y, tangent], axis=-1)
    assert np.allclose(np.swapaxes(frame, -1, -2) @ frame, np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(frame), 1)
    assert (e_x[:, 0] > 0.9).all()
    assert (e_y[:, 1] > 0.9).all()


def test_straight_on_beyond_the_ends():
    line = Centreline.through(np.array([[0.0, 0, 0], [0, 0, 10], [0, 10, 20]]))
    assert line.position(-5.0).tolist() == [0, 0, -5]
    beyond = line.position(line.length + np.sqrt(2.0)) - line.points[-1]
    assert beyond == pytest.approx([0, 1, 1])
    arc, distance = line.project(np.array([[3.0, 0, -5], [0, 11, 21]]))
    assert arc == pytest.approx([-5, line.length + np.sqrt(2)])
    assert distance == pytest.approx([3, 0], abs=1e-12)


def test_projection_is_exact_between_the_points():
    line, arc = helix(n=3001), np.linspace(1, 300, 77)
    e_x, e_y, _ = line.frame(arc)
    found, distance = line.project(line.position(arc) + 3 * e_x - 4 * e_y)
    assert found == pytest.approx(arc, abs=1e-3)
    assert distance == pytest.approx(5, abs=1e-4)


# --- pieces -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
def test_pieces_are_those_of_scipy_in_its_order(share):
    rng = np.random.default_rng(7)
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = True
    for shape in ((6, 23, 17), (3, 1, 9), (2, 8, 1), (0, 4, 4)):
        inside = rng.random(shape) < share
        piece, count = number_pieces(inside)
        expected, number = ndimage.label(inside, structure=in_plane)
        assert count == number
        assert (piece == expected).all()


def test_a_spiral_is_one_piece():
    turns = np.array([[[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]], bool)
    assert number_pieces(turns)[1] == 1
    turns[0, 2, 3] = turns[0, 3, 1] = True
    turns[0, 1, 4] = turns[0, 2, 0] = False
    assert number_pieces(turns)[1] == 2


# --- from a mask ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("voxel", "tilt", "limit"),
    [((1.0, 1.0, 1.0), 0, 0.06), ((0.8, 0.8, 0.8), 20, 0.06), ((0.9, 0.9, 5.0), 18, 0.1), ((0.84, 0.84, 16.5), 7, 0.2)],
    ids=["1 mm", "0.8 mm oblique", "5 mm oblique", "16.5 mm, five slices"],
)
def test_centreline_of_a_curved_cord(voxel, tilt, limit):
    line = helix(radius=30, pitch=90)
    affine, shape = grid_around(line, voxel, tilt)
    found = centreline_from_mask(tube(line, affine, shape), affine, what=WHAT)
    arc = np.linspace(0, found.length, 200)
    error = line.project(found.position(arc))[1]
    assert error[(arc > 10) & (arc < found.length - 10)].max() < limit
    assert error.max() < 0.35
    through_slices = np.array([0, -np.sin(np.radians(tilt)), np.cos(np.radians(tilt))])
    assert np.ptp(found.points @ through_slices) == pytest.approx(shape[2] * voxel[2])  # half a slice beyond the outer centres


def test_smoothing_is_a_length_in_millimetres_whatever_the_voxel():
    def kept(wavelength: float, voxel: tuple[float, float, float]) -> float:
        n = round(8 * wavelength / voxel[2])
        z = np.arange(n) * voxel[2]
        y = 40 + 6 * np.sin(2 * np.pi * z / wavelength)
        rows = np.arange(round(80 / voxel[1])) * voxel[1]
        mask = np.clip(0.5 + (5 - np.abs(rows[:, None] - y)) / voxel[1], 0, 1)[None]  # partial volume: centres are exact
        found = centreline_from_mask(mask, np.diag([*voxel, 1.0]), what=WHAT)
        middle = (found.points[:, 2] > 3 * wavelength) & (found.points[:, 2] < 5 * wavelength)
        return np.ptp(found.points[middle, 1]) / 12

    for voxel in ((1, 1, 1), (1, 0.5, 2.5), (1, 2, 5)):
        assert kept(SMOOTHING, voxel) == pytest.approx(0.5, abs=0.02)
        assert kept(2 * SMOOTHING, voxel) == pytest.approx(16 / 17, abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_slices(n):
    mask = np.zeros((9, 9, n + 2))
    mask[3:6, 3:6, 1 : n + 1] = 1
    found = centreline_from_mask(mask, np.diag([1.0, 1, 10, 1]), what=WHAT)
    assert found.length == pytest.approx(10 * n)
    assert found.points[:, :2] == pytest.approx(4)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("spacing", [0.5, 5.0])
def test_the_spline_is_that_of_scipy(spacing, gaps):
    rng = np.random.default_rng(3)
    u = spacing * (np.sort(rng.choice(44, 22, replace=False)) if gaps else np.arange(22))
    values = rng.normal(50, 5, (22, 2))
    penalty = (SMOOTHING / (2 * np.pi)) ** 4 / spacing
    theirs = [interpolate.make_smoothing_spline(u, column, lam=penalty) for column in values.T]
    found, bend = smooth(u, values, spacing)
    np.testing.assert_allclose(found, np.stack([spline(u) for spline in theirs], axis=1), atol=1e-8)
    np.testing.assert_allclose(bend, np.stack([spline.derivative(2)(u) for spline in theirs], axis=1), atol=1e-8)


def test_soft_mask_gives_the_weighted_centre():
    mask = np.zeros((5, 1, 2))
    mask[:, 0] = np.array([0.05, 0.5, 1.0, 1.0, 0.0])[:, None]  # 0.05 is haze
    assert centreline_from_mask(mask, np.eye(4), what=WHAT).points[0, 0] == pytest.approx((0.5 + 2 + 3) / 2.5)


def test_soft_and_binary_masks_agree():
    line = helix(radius=30, pitch=90)
    affine, shape = grid_around(line, (1, 1, 3))
    soft, hard = (centreline_from_mask(tube(line, affine, shape, softness=s), affine, what=WHAT) for s in (1.5, 0))
    assert np.abs(soft.position(np.arange(5, 85.0)) - hard.position(np.arange(5, 85.0))).max() < 0.1


def test_the_biggest_piece_of_a_slice_stays():
    mask = np.zeros((12, 12, 6))
    mask[4:7, 4:7] = 1
    mask[10:12, 10:12, 3] = 1  # stray: 4 voxels against 9
    mask[7, 7, 2] = 1  # touches by a corner: belongs to the cord
    cord, slices = cord_slices(mask, what=WHAT)
    assert slices.tolist() == [0, 1, 2, 3, 4, 5]
    assert cord.sum(axis=(0, 1)).tolist() == [9, 9, 10, 9, 9, 9]


def test_nan_is_outside():
    mask = np.full((5, 5, 3), np.nan)
    mask[2, 2] = 1
    assert cord_slices(mask, what=WHAT)[0].sum() == 3


@pytest.mark.parametrize(
    ("slices", "found"),
    [([], "an empty mask"), ([4], "slice 4 only")],
    ids=["empty", "one slice"],
)
def test_masks_that_cannot_carry_a_registration(slices, found):
    mask = np.zeros((5, 5, 9))
    mask[2:4, 2:4, slices] = 1
    with pytest.raises(CordError, match=found) as error:
        centreline_from_mask(mask, np.eye(4), what=WHAT)
    assert error.value.where == WHAT


@pytest.mark.parametrize("scale", [255, -1, 7])
def test_a_mask_is_between_0_and_1(scale):
    with pytest.raises(CordError, match="values from 0 to 1"):
        centreline_from_mask(np.full((3, 3, 3), scale), np.eye(4), what=WHAT)


def test_a_mask_has_three_dimensions():
    with pytest.raises(CordError, match="shape"):
        centreline_from_mask(np.ones((3, 3, 3, 2)), np.eye(4), what=WHAT)


def test_the_mask_given_is_left_alone():
    mask = np.full((5, 5, 4), 0.05, np.float32)
    mask[2, 2] = 1
    before = mask.copy()
    cord_slices(mask, what=WHAT)
    assert (mask == before).all()


def test_runs():
    assert runs(np.array([1, 2, 3, 7, 9, 10])) == "1-3, 7, 9-10"
