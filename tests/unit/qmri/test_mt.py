import numpy as np
import pytest

from cohort_engine.errors import CordError, InputError
from cohort_engine.qmri.mt import check_not_swapped, cord_floor, mtr


@pytest.mark.parametrize(
    ("off", "on", "expected"),
    [
        (200.0, 110.0, 45.0),
        (100.0, 103.0, -3.0),  # a small negative is noise and stays
        (100.0, 100.0, 0.0),  # zero is a value
        (5.0, 1.0, np.nan),  # at the floor
        (4.9, 1.0, np.nan),
        (0.0, 0.0, np.nan),
        (100.0, 0.0, np.nan),  # the Spinal Cord Toolbox keeps this one as 100
        (100.0, -3.0, np.nan),
        (100.0, 200.0, np.nan),  # -100
        (np.nan, 50.0, np.nan),
        (100.0, np.nan, np.nan),
        (np.inf, 50.0, np.nan),
    ],
)
def test_one_voxel(off, on, expected):
    value, flagged = mtr(np.array([off]), np.array([on]), floor=5.0)
    np.testing.assert_array_equal(value, np.float32([expected]))
    assert flagged[0] == np.isnan(expected)
    assert value.dtype == np.float32


def test_negatives_keep_the_mean_unbiased():
    noise = np.random.default_rng(0).normal(0, 5, (2, 100_000))
    value, _ = mtr(100 + noise[0], 100 + noise[1], floor=5.0)
    assert abs(np.nanmean(value)) < 0.4  # E[off/on] costs 0.25; clipping at zero would give 2.7


def test_images_of_two_shapes():
    with pytest.raises(InputError, match="shape of the MT-on image"):
        mtr(np.ones((2, 2)), np.ones((2, 3)), floor=0.1)


def test_floor_is_a_fraction_of_the_cord_median():
    assert cord_floor(np.array([1.0, 100.0, 120.0, 9000.0]), np.array([0, 1, 1, 0]), 0.1) == pytest.approx(11.0)


@pytest.mark.parametrize("mask", [[0, 0, 0], [1, 0, 0], [0, 0, 1]])
def test_floor_needs_signal_in_the_cord(mask):
    with pytest.raises(CordError, match="signal inside the cord mask"):
        cord_floor(np.array([0.0, 100.0, np.nan]), np.array(mask), 0.05)


@pytest.mark.parametrize("truth", [20.0, 45.0, 49.0, 55.0])
def test_swapped_images_are_found(truth):
    off = np.full(100, 500.0)
    on = off * (1 - truth / 100) + np.random.default_rng(0).normal(0, 10, 100)
    mask = np.ones(100)
    check_not_swapped(mtr(off, on, floor=20.0)[0], mask)
    with pytest.raises(InputError, match="swapped"):
        check_not_swapped(mtr(on, off, floor=20.0)[0], mask)
