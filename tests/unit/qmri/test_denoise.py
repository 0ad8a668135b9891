"""Denoising takes noise away and nothing of the cord, and says so where a filter does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine.errors import CordError, InputError
from cohort_engine.qmri.denoise import CORRELATED, EXCESS, denoise, judge_residual
from cohort_engine.qmri.tensor import fit_tensor

pytest.importorskip("dipy")
SPACING = np.array([1.0, 1.0, 5.0])
Z = 1 - (np.arange(24) + 0.5) / 24
TURN = np.pi * (3 - np.sqrt(5)) * np.arange(24)
G = np.concatenate([np.zeros((4, 3)), np.stack([np.sqrt(1 - Z**2) * np.cos(TURN), np.sqrt(1 - Z**2) * np.sin(TURN), Z], axis=1)])
B = np.r_[np.zeros(4), np.full(24, 800.0)]


def scan(snr: float = 15.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True signal, noisy signal and mask: a cord in water in darker tissue."""
    x, y, _ = np.indices((26, 26, 6)).astype(float)
    r = np.hypot(x - 12.5, y - 12.5)[..., None]
    cord, water = 1 / (1 + np.exp(3 * (r - 5.0))), 1 / (1 + np.exp(3 * (r - 7.5)))
    along = G[:, 2] ** 2
    tissue = 300 * np.exp(-B / 1000 * (0.4 + 1.5 * along)), 600 * np.exp(-B / 1000 * 3.0), 120 * np.exp(-B / 1000 * 1.2)
    truth = cord * tissue[0] + (water - cord) * tissue[1] + (1 - water) * tissue[2]
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 300 / snr, (2, *truth.shape))
    return truth, np.hypot(truth + noise[0], noise[1]), r[..., 0] < 5


def test_noise_goes_and_the_cord_stays():
    truth, noisy, cord = scan()
    found = denoise(noisy.astype(np.float32), cord, SPACING)
    before, after = (np.sqrt(np.mean((v[cord] - truth[cord]) ** 2)) for v in (noisy, found.series))
    assert after < 0.5 * before
    assert found.sigma == pytest.approx(20, rel=0.1)
    assert 0.7 < found.removed < 1.05
    assert not found.structured
    x, y, _ = np.indices(cord.shape)
    deep = np.hypot(x - 12.5, y - 12.5) < 3
    errors = [fit_tensor(v[deep], B, G)["fa"].std() for v in (noisy, found.series)]
    assert errors[1] < 0.6 * errors[0]
    np.testing.assert_array_equal(found.series[0, 0], noisy.astype(np.float32)[0, 0])


def test_a_filter_that_takes_the_border_is_found_out():
    _, noisy, cord = scan()
    excess, _ = judge_residual((noisy - ndimage.gaussian_filter(noisy, (1, 1, 0, 0))) / 20, cord, SPACING)
    assert excess > EXCESS


def test_a_faint_border_in_the_residual_is_found_by_its_likeness():
    """A little of the border's shape in every volume, too weak to be seen in the strength of the residual."""
    rng = np.random.default_rng(3)
    x, y, _ = np.indices((26, 26, 6))
    r = np.hypot(x - 12.5, y - 12.5)
    residual = rng.normal(size=(26, 26, 6, 28))
    faint = residual + 0.5 * np.exp(-((r - 5) ** 2))[..., None] * rng.choice([-1, 1], 28)
    plain, marked = (judge_residual(v, r < 5, SPACING) for v in (residual, faint))
    assert abs(plain[0] - 1) < 0.03
    assert abs(plain[1]) < 0.03
    assert marked[0] < EXCESS
    assert marked[1] > CORRELATED


def test_missing_signals_stay_missing():
    _, noisy, cord = scan()
    noisy[:, :, 2, 7] = np.nan
    found = denoise(noisy, cord, SPACING)
    np.testing.assert_array_equal(np.isnan(found.series), np.isnan(noisy))


def test_few_slices_are_enough_and_too_little_is_refused():
    _, noisy, cord = scan()
    assert denoise(noisy[:, :, :1], cord[:, :, :1], SPACING).removed > 0.5
    with pytest.raises(InputError, match="at least 5 voxels in the plane"):
        denoise(noisy[12:15], cord[12:15], SPACING)
    with pytest.raises(CordError, match="empty mask"):
        denoise(noisy, cord & False, SPACING)
