from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.qmri.receive import evened, receive_slope

SLICES, VOXELS, SNR = 6, 40, 20.0
ALONG = np.linspace(-1, 1, SLICES)[:, None]
SLOPE = np.array([0.008, -0.012]) + ALONG * [0.004, 0.006]
"""1/mm, from one end of the cord to the other."""


@pytest.fixture
def scan():
    """Signals (slice, voxel, t), brighter where slices lie nearer to the coil; b-values, directions, shifts (t, z, 2), and signals at rest (t,)."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(35, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bvals = np.where(np.arange(35) % 8, 800.0, 0.0)
    shifts = rng.normal(0, 1, (35, SLICES, 2)) + np.where(bvals[:, None, None] > 0, 0, [1.0, -1.0])
    still = np.exp(-bvals / 1000 * (0.4 + 1.6 * directions[:, 2] ** 2))
    bright = still * np.exp((shifts * SLOPE).sum(axis=-1)).T[:, None] * np.ones((1, VOXELS, 1))
    return bright + rng.normal(0, 1 / SNR, bright.shape), bvals, directions, shifts, still


def slope_of(scan):
    signals, bvals, directions, shifts, _ = scan
    return receive_slope(signals.reshape(-1, len(bvals)), np.repeat(np.arange(SLICES), VOXELS), bvals, directions, shifts)


def test_the_slope_is_found(scan):
    assert np.abs(slope_of(scan) - SLOPE).max() < 0.003


def test_volumes_are_as_bright_as_at_their_place(scan):
    """b0 lay elsewhere than the weighted volumes, which was 2 percent of their signal."""
    signals, bvals, _, shifts, still = scan
    series = np.moveaxis(signals, 0, 1)[None]
    error = {name: np.log(s.mean(axis=(0, 1)) / still) for name, s in (("as it was", series), ("evened", evened(series, slope_of(scan), shifts)))}
    apart = {name: abs(float(e[:, bvals == 0].mean() - e[:, bvals > 0].mean())) for name, e in error.items()}
    assert apart["as it was"] > 0.015
    assert apart["evened"] < 0.004


def test_lost_slices_and_broken_voxels_do_not_count(scan):
    signals = scan[0].copy()
    signals[1, :, 4] = signals[2, :, 11] = signals[3, 0, 7] = np.nan
    assert np.abs(slope_of((signals, *scan[1:])) - SLOPE).max() < 0.003


def test_without_noise_it_is_exact(scan):
    _, bvals, directions, shifts, still = scan
    bright = still * np.exp((shifts * SLOPE).sum(axis=-1)).T[:, None]
    assert np.abs(slope_of((np.repeat(bright, VOXELS, axis=1), bvals, directions, shifts, still)) - SLOPE).max() < 1e-6


def test_too_few_volumes_tell_nothing(scan):
    signals, bvals, directions, shifts, still = scan
    few = np.flatnonzero(bvals == 0)[:2].tolist() + np.flatnonzero(bvals > 0)[:7].tolist()
    assert not slope_of((signals[..., few], bvals[few], directions[few], shifts[few], still)).any()


def test_a_cord_at_rest_needs_none(scan):
    signals, bvals, directions, shifts, still = scan
    assert not slope_of((signals, bvals, directions, np.zeros_like(shifts), still)).any()
