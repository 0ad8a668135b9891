import numpy as np
import pytest

from cohort_engine.mapping.shape import ROUND, match_sections, moments, occupancy, rotation, smooth_along


def turned(variance_x: float, variance_y: float, degrees: float = 0.0) -> np.ndarray:
    """Covariance of an ellipse, turned counter-clockwise."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s], [s, c]])
    return turn @ np.diag([variance_x, variance_y]) @ turn.T


def sections(covariance: np.ndarray, n: int = 40, centre: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """The same cross-section in n slices."""
    return np.tile(np.array(centre), (n, 1)), np.tile(covariance, (n, 1, 1))


# --- slices -----------------------------------------------------------------------------------------------------------
def test_occupancy_of_a_voxel_is_the_part_inside():
    """A straight edge 0.1 mm from the centre of a 0.5 mm voxel: 0.35 of 0.5 mm are inside."""
    assert occupancy(np.array([0.1]), 0.5) == pytest.approx(0.35 / 0.5)


@pytest.mark.parametrize("degrees", [0, 20, -35])
def test_moments_of_an_ellipse(degrees):
    """The variance along a half-axis r of a filled ellipse is r^2 / 4."""
    x, y = np.arange(-10, 10, 0.1), np.arange(-8, 12, 0.1)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    u, v = x[:, None] - 1, y[None] - 2
    inside = (((c * u + s * v) / 6) ** 2 + ((c * v - s * u) / 4) ** 2 <= 1)[:, :, None]
    centre, covariance = moments(inside, x, y)
    assert centre[0] == pytest.approx([1, 2], abs=0.01)
    assert covariance[0] == pytest.approx(turned(9, 4, degrees), abs=0.02)


def test_an_empty_slice_has_no_moments():
    centre, covariance = moments(np.stack([np.ones((3, 3)), np.zeros((3, 3))], axis=-1), np.arange(3.0), np.arange(3.0))
    assert np.isfinite(centre[0]).all()
    assert np.isnan(centre[1]).all()
    assert np.isnan(covariance[1]).all()


# --- smoothing --------------------------------------------------------------------------------------------------------
def test_smoothing_keeps_a_constant_up_to_its_ends_and_over_holes():
    values = np.full((50, 2), 3.0)
    values[[0, 20, 21]] = np.nan
    assert smooth_along(values, 4.0) == pytest.approx(3.0)


def test_what_is_out_of_reach_stays_nan():
    values = np.full((100, 1), np.nan)
    values[0] = 1.0
    smooth = smooth_along(values, 5.0)[:, 0]
    assert smooth[:21] == pytest.approx(1.0)  # four standard deviations
    assert np.isnan(smooth[21:]).all()


def test_smoothing_halves_a_wave_as_a_gaussian_does():
    """A wave of length L keeps exp(-2 (pi sigma / L)^2)."""
    z = np.arange(400)
    wave = np.sin(2 * np.pi * z / 40)[:, None]
    assert np.abs(smooth_along(wave, 5.0)[100:300]).max() == pytest.approx(np.exp(-2 * (np.pi * 5 / 40) ** 2), rel=0.01)


# --- matching ---------------------------------------------------------------------------------------------------------
def test_equal_sections_are_left_alone():
    here = sections(turned(9, 4, 10))
    match = match_sections(here, here, 0.5)
    assert match.matrix == pytest.approx(np.tile(np.eye(2), (40, 1, 1)), abs=1e-12)


@pytest.mark.parametrize("degrees", [0, 5, -8, 30])
def test_the_outline_is_matched_however_much_is_turned(degrees):
    """M C M' is the covariance of the image's section: exactly, also where the inside is turned by less."""
    template, native = turned(9, 4), turned(12, 3, degrees)
    matrix = match_sections(sections(template), sections(native), 0.5).matrix[20]
    assert matrix @ template @ matrix.T == pytest.approx(native, abs=1e-9)
    assert np.linalg.det(matrix) > 0


def test_centres_are_carried_to_centres():
    match = match_sections(sections(turned(9, 4), centre=(1, 2)), sections(turned(12, 3, 7), centre=(-3, 5)), 0.5)
    a, b = match.place(np.full((1, 40), 1.0), np.full((1, 40), 2.0))
    assert a == pytest.approx(-3)
    assert b == pytest.approx(5)


def test_place_is_the_matrix():
    match = match_sections(sections(np.eye(2)), sections(np.diag([4.0, 9.0]), centre=(1, 0)), 0.5)
    a, b = match.place(np.array([1.0, -1.0])[:, None] + np.zeros(40), np.array([2.0, 0.0])[:, None] + np.zeros(40))
    assert a[:, 0] == pytest.approx([1 + 2 * 1, 1 - 2 * 1])
    assert b[:, 0] == pytest.approx([3 * 2, 0])


@pytest.mark.parametrize("degrees", [-12, 4, 30])
def test_rotation_of_flat_sections(degrees):
    """Of the angle, |p| / (|p| + ROUND) is believed; with variances 9 and 4 the elongation q is 5/13, and p = q^2."""
    p = (5 / 13) ** 2
    angle = rotation(np.tile(turned(9, 4), (200, 1, 1)), np.tile(turned(9, 4, degrees), (200, 1, 1)), 10.0)
    assert np.degrees(angle) == pytest.approx(degrees * p / (p + ROUND))


def test_round_sections_are_not_turned():
    angle = rotation(np.tile(turned(4.02, 4.0), (50, 1, 1)), np.tile(turned(4.02, 4.0, 40), (50, 1, 1)), 10.0)
    assert np.abs(np.degrees(angle)).max() < 0.01


def test_one_odd_slice_turns_nothing():
    there = np.tile(turned(9, 4), (400, 1, 1))
    there[200] = turned(9, 4, 40)
    assert np.abs(np.degrees(rotation(np.tile(turned(9, 4), (400, 1, 1)), there, 40.0))).max() < 0.3
