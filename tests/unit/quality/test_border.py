import numpy as np
import pytest

from cohort_engine.quality.border import border

SPACING = np.array([0.9, 0.9, 5.0])
X, Y = np.meshgrid(*(np.arange(-18, 19) * 0.9,) * 2, indexing="ij")
R = np.hypot(X, Y)


def scan(slices: int = 6, *, fluid: float = 150.0, noise: float = 3.0) -> np.ndarray:
    """A round cord of 6 mm in fluid up to 9 mm, dark dura, and bright fat behind it."""
    plane = np.select([R < 6, R < 9, R < 10], [60.0, fluid, 10.0], 170.0)
    return plane[..., None] + np.random.default_rng(0).normal(0, noise, (*R.shape, slices))


def cord(slices: int = 6, x: float = 0.0) -> np.ndarray:
    return np.repeat((np.hypot(X - x, Y) < 6)[..., None], slices, axis=2)


def test_a_good_mask_lacks_nothing() -> None:
    found = border(scan(), cord(), SPACING)
    assert np.isfinite(found.offset).mean() > 0.95
    assert np.nanmax(found.missing()) < 0.6
    assert np.abs(found.shift()).max() < 0.25
    assert found.outward == 1.0


@pytest.mark.parametrize("by", [-2.7, 1.8])
def test_a_shifted_mask_is_found_with_its_direction(by: float) -> None:
    shift = np.median(border(scan(), cord(x=by), SPACING).shift(), axis=0)
    assert shift[0] * -np.sign(by) > 0.6 * abs(by)
    assert abs(shift[1]) < 0.3


def test_a_lost_front_is_found_in_its_slices() -> None:
    mask = cord()
    mask[:, :, 2:4] &= (Y < 2.0)[..., None]
    lacks = border(scan(), mask, SPACING).missing()
    assert (lacks[2:4] > 1.8).all()
    assert (lacks[[0, 1, 4, 5]] < 0.6).all()


def test_fat_behind_the_dura_is_no_border() -> None:
    """Where no fluid shows, the next rise is that of the fat: the side then has no edge, instead of one 4 mm outside."""
    image = scan()
    image[(Y > 2) & (R < 9), 3] = 60.0
    found = border(image, cord(), SPACING)
    front = np.flatnonzero(found.angle == 90)[0]
    assert np.isnan(found.offset[3, front])
    assert abs(found.offset[2, front]) < 0.6


def test_dark_fluid_is_seen_as_such() -> None:
    found = border(scan(fluid=15.0), cord(), SPACING)
    assert found.outward == 0.0
    assert np.nanmax(found.missing()) < 0.8


def test_an_empty_slice_has_no_border() -> None:
    mask = cord()
    mask[:, :, 1] = False
    found = border(scan(), mask, SPACING)
    assert found.slices.tolist() == [0, 2, 3, 4, 5]
    assert np.isnan(found.offset[1]).all()
