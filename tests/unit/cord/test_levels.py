import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.cord.centreline import Centreline
from cohort_engine.cord.levels import Landmarks, LevelAxis, landmarks_from_labels, level_axis, transfer
from cohort_engine.errors import GeometryError, LevelError
from cohort_engine.template.parametric import parametric_cord

WHAT = "vertebral landmarks of the T2w image"
TEMPLATE = parametric_cord(spacing=2.0)
DISC = TEMPLATE.landmarks[schema.DISC]


def straight(low: float, high: float, x: float = 0.0) -> Centreline:
    return Centreline.through(np.array([[x, 0, low], [x, 0, high]]))


def marks(numbers: list[int], z: list[float], *, kind: str = schema.DISC, front: float = 18.0) -> Landmarks:
    """Landmarks in front of a straight cord, as discs lie."""
    return Landmarks(kind, np.array(numbers), np.array([[0.0, front, k] for k in z]))


# --- reading ----------------------------------------------------------------------------------------------------------
def test_point_labels_are_centres_of_mass():
    labels = np.zeros((6, 6, 20))
    labels[2:4, 3, 15], labels[2, 2, 4] = 3, 5
    found = landmarks_from_labels(labels, np.diag([2.0, 1, 1, 1]), kind=schema.BODY, what=WHAT)
    assert (found.kind, found.numbers.tolist()) == (schema.BODY, [3, 5])
    assert found.xyz.tolist() == [[5, 3, 15], [4, 2, 4]]


def test_discs_of_a_labelled_mask_lie_at_the_borders():
    labels = np.zeros((5, 5, 36), np.int16)
    labels[1:4, 1:4] = np.repeat([5, 4, 3, 2], 9)  # from the bottom up
    found = landmarks_from_labels(labels, np.eye(4), kind=schema.BODY, what=WHAT)
    assert (found.kind, found.numbers.tolist()) == (schema.DISC, [3, 4, 5])
    assert found.xyz.tolist() == [[2, 2, 26.5], [2, 2, 17.5], [2, 2, 8.5]]


def test_discs_of_thick_labelled_slices():
    found = landmarks_from_labels(np.array([[[6, 5, 5, 4]]]), np.diag([1.0, 1, 16.5, 1]), kind=schema.BODY, what=WHAT)
    assert found.numbers.tolist() == [5, 6]
    assert found.xyz[:, 2].tolist() == [2.5 * 16.5, 0.5 * 16.5]


def test_slanted_borders_of_a_labelled_mask():
    y, z = np.indices((40, 60))
    labels = np.where(z - 30 > 0.5 * (y - 19.5), 3, 4)[None].repeat(3, axis=0)
    found = landmarks_from_labels(labels, np.eye(4), kind=None, what=WHAT)
    assert found.xyz[0] == pytest.approx([1, 19.5, 30], abs=0.6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 3, 30)), "no labels"),
        (np.r_[3.5, np.zeros(29)].reshape(1, 1, 30), "whole positive numbers, found 3.5"),
        (np.r_[-3.0, np.zeros(29)].reshape(1, 1, 30), "whole positive numbers, found -3"),
        (np.r_[3.0, np.zeros(28), 3.0].reshape(1, 1, 30), "disc 3 in one place, found voxels 29 mm apart"),
    ],
    ids=["none", "interpolated", "negative", "twice"],
)
def test_labels_that_cannot_be_read(labels, message):
    with pytest.raises(LevelError, match=message):
        landmarks_from_labels(labels, np.eye(4), kind=schema.DISC, what=WHAT)


# --- the axis ---------------------------------------------------------------------------------------------------------
def test_landmarks_land_on_the_template():
    axis = level_axis(straight(0, 100), marks([3, 5, 7], [80, 50, 20]), TEMPLATE)
    assert axis.z(np.array([80.0, 50.0, 20.0])) == pytest.approx([DISC[3], DISC[5], DISC[7]])
    assert axis.arc(DISC[5]) == pytest.approx(50)


def test_order_of_the_labels_does_not_matter():
    a, b = (level_axis(straight(0, 100), marks(n, z), TEMPLATE) for n, z in (([3, 5, 7], [80, 50, 20]), ([7, 3, 5], [20, 80, 50])))
    assert a.z(np.arange(100.0)) == pytest.approx(b.z(np.arange(100.0)))


def test_axis_and_inverse_agree_beyond_the_landmarks():
    axis = level_axis(straight(0, 100), marks([3, 4, 7], [80, 62, 20]), TEMPLATE)
    arc = np.linspace(-60, 160, 89)
    assert axis.arc(axis.z(arc)) == pytest.approx(arc)
    assert (np.diff(axis.z(arc)) > 0).all()


def test_stretch_beyond_the_landmarks_is_that_of_30_mm():
    # C3/C4 marked 3 mm low: its interval alone would stretch what is above by 21/15
    axis = level_axis(straight(0, 100), marks([3, 4, 6], [70, 49, 18]), TEMPLATE)
    slope = (axis.z(90.0) - axis.z(80.0)) / 10
    assert slope == pytest.approx((DISC[3] - DISC[6]) / 52)


def test_body_landmarks():
    body = TEMPLATE.landmarks[schema.BODY]
    axis = level_axis(straight(0, 150), marks([2, 9], [140, 20], kind=schema.BODY, front=0), TEMPLATE)
    assert axis.z(80.0) == pytest.approx((body[2] + body[9]) / 2)


def test_a_landmark_meets_an_oblique_cord_at_a_right_angle():
    line = Centreline.through(np.array([[0.0, 0, 0], [0, 60, 80]]))  # leans forward: (0, 0.6, 0.8)
    across = np.array([0, 0.8, -0.6])
    points = line.position(np.array([80.0, 20.0])) + 15 * across
    axis = level_axis(line, Landmarks(schema.DISC, np.array([3, 6]), points), TEMPLATE)
    assert axis.knot_arc == pytest.approx([20, 80])


def test_leave_one_out_residual():
    height = DISC[3] - DISC[7]
    z = [100 - (DISC[3] - DISC[n]) for n in (3, 4, 5, 7)]
    assert level_axis(straight(0, 120), marks([3, 4, 5, 7], z), TEMPLATE).residual == pytest.approx(0, abs=1e-9)
    z[2] += 3.0
    assert level_axis(straight(0, 120), marks([3, 4, 5, 7], z), TEMPLATE).residual == pytest.approx(3.0)
    assert np.isnan(level_axis(straight(0, 120), marks([3, 7], [100, 100 - height]), TEMPLATE).residual)  # nothing to check against


def test_labels_of_other_things_are_left_out():
    plain = level_axis(straight(0, 100), marks([3, 5], [80, 45]), TEMPLATE)
    more = level_axis(straight(0, 100), marks([49, 3, 5, 9], [95, 80, 45, -60]), TEMPLATE)  # groove; disc 9 60 mm below the mask
    assert more.knot_z == pytest.approx(plain.knot_z)


def test_disc_1_counts_only_where_it_must():
    assert len(level_axis(straight(0, 100), marks([1, 3, 5], [99, 80, 45]), TEMPLATE).knot_z) == 2
    assert len(level_axis(straight(0, 100), marks([1, 3], [99, 60]), TEMPLATE).knot_z) == 2


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (marks([3], [80]), "at least two landmarks on the cord, found 1"),
        (marks([3, 9], [80, -40]), r"found 1 \(disc 9 more than 20 mm beyond the cord mask\)"),
        (marks([3, 49], [80, 90]), r"found 1 \(disc 49 unknown to template parametric\)"),
        (marks([3, 4, 3], [80, 62, 50]), "disc 3 more than once"),
        (marks([3, 5], [45, 80]), "disc 3 about 36 mm above disc 5, found 35 mm below"),
        (marks([3, 5], [60, 60]), "found 0 mm above"),
        (marks([3, 9], [80, 70]), "disc 3 about 106 mm above disc 9, found 10 mm above"),
        (marks([3, 5], [80, 45], front=45), "within 30 mm of the cord, found disc 3, 5 at 45 mm"),
    ],
    ids=["one", "one in the mask", "one known", "twice", "upside down", "on one spot", "wrong number", "another image"],
)
def test_landmarks_that_cannot_be_used(landmarks, message):
    with pytest.raises(LevelError, match=message) as error:
        level_axis(straight(0, 100), landmarks, TEMPLATE, what=WHAT)
    assert error.value.where == WHAT


# --- to another image -------------------------------------------------------------------------------------------------
def test_levels_travel_by_scanner_coordinates():
    axis = level_axis(straight(0, 150), marks([3, 7], [130, 60]), TEMPLATE)
    slab = straight(70, 110, x=2.0)  # the patient moved by 2 mm
    moved = transfer(axis, slab)
    assert moved.z(np.array([0.0, 40.0])) == pytest.approx(axis.z(np.array([70.0, 110.0])))
    assert np.array_equal(moved.residual, axis.residual, equal_nan=True)


def test_levels_travel_beyond_the_first_mask():
    axis = LevelAxis(straight(0, 50), np.array([0.0, 50.0]), np.array([-150.0, -100.0]), np.nan)
    assert transfer(axis, straight(40, 70)).z(30.0) == pytest.approx(-80)


def test_a_bent_neck_is_carried_by_the_nearest_point():
    angle = np.linspace(0, 0.6, 400)[:, None]
    circle = lambda r: Centreline.through(np.array([0, 300.0, 0]) + r * np.hstack([0 * angle, -np.cos(angle), np.sin(angle)]))  # noqa: E731
    axis = LevelAxis(circle(200.0), np.array([0.0, 120.0]), np.array([-150.0, -30.0]), np.nan)
    inner = transfer(axis, circle(198.0))
    assert inner.z(59.4) == pytest.approx(-90, abs=0.01)  # the same angle on the smaller circle


def test_images_of_different_frames():
    axis = LevelAxis(straight(0, 50), np.array([0.0, 50.0]), np.array([-150.0, -100.0]), np.nan)
    with pytest.raises(GeometryError, match="25 mm"):
        transfer(axis, straight(0, 50, x=25.0))
    with pytest.raises(LevelError, match="increase"):
        transfer(axis, Centreline.through(np.array([[0.0, 0, 10], [0, 0, 30], [0, 1, 20]])))
