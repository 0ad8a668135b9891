"""Slices that lost signal are found, and what a compressed or bent cord shows is not taken for a loss."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cohort_engine.qmri.lost import lost_slices

SLICES, VOXELS = 12, 60
Z = 1 - (np.arange(30) + 0.5) / 30
TURN = np.pi * (3 - np.sqrt(5)) * np.arange(30)
G = np.concatenate([np.zeros((4, 3)), np.stack([np.sqrt(1 - Z**2) * np.cos(TURN), np.sqrt(1 - Z**2) * np.sin(TURN), Z], axis=1)])
B = np.r_[np.zeros(4), np.full(30, 800.0)]
B0 = B == 0
WHERE = np.repeat(np.arange(SLICES), VOXELS)


def cord(snr: float, *, seed: int = 0, odd: bool = False) -> np.ndarray:
    """Signals (n, t) of a cord; `odd`: two slices compressed (FA 0.35), the course leaning by up to 35 degrees, another S0 in each slice."""
    rng = np.random.default_rng(seed)
    values = np.tile([1.9, 0.4, 0.4], (SLICES, 1))
    lean = np.zeros(SLICES)
    if odd:
        values[[4, 5]] = [1.9, 1.1, 1.0]
        lean = 35 * np.sin(np.arange(SLICES) / 2)
    axes = Rotation.from_euler("x", lean, degrees=True).as_matrix()[:, :, [2, 0, 1]]
    tensors = np.einsum("zij,zj,zkj->zik", axes, values, axes)
    signal = np.exp(-B / 1000 * np.einsum("ti,zij,tj->zt", G, tensors, G)) * rng.uniform(200, 400, (SLICES, 1))
    signal = np.repeat(signal, VOXELS, axis=0)
    return np.hypot(signal + rng.normal(0, 300 / snr, signal.shape), rng.normal(0, 300 / snr, signal.shape))


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("snr", [7, 20])
def test_no_loss_no_flag(snr, odd):
    flags = [lost_slices(cord(snr, seed=s, odd=odd), WHERE, B, G, B0).mean() for s in range(6)]
    assert np.mean(flags) < 0.002


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.45])
def test_losses_are_found_also_where_half_of_a_slice_is_lost(odd, share):
    """One slice loses 70 % of its signal in this share of the weighted volumes, another in one volume."""
    hits, false = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed + 100)
        signals = cord(12, seed=seed, odd=odd)
        lost = np.zeros((len(B), SLICES), bool)
        lost[rng.choice(np.arange(4, 34), max(1, round(share * 30)), replace=False), 5] = True
        lost[rng.integers(4, 34), 9] = True
        signals = np.where(lost.T[WHERE], 0.3 * signals, signals)
        found = lost_slices(signals, WHERE, B, G, B0)
        hits.append(found[lost].mean())
        false.append(found[~lost].mean())
    assert np.mean(hits) > 0.85
    assert np.mean(false) < 0.005


def test_missing_slices_are_no_losses_and_little_says_nothing():
    signals = cord(15)
    signals[WHERE == 3] = np.nan
    signals[WHERE == 7, 5:9] = np.nan
    assert not lost_slices(signals, WHERE, B, G, B0).any()
    few = WHERE < 4
    gone = signals.copy()
    gone[WHERE == 2, 9] = 1
    assert not lost_slices(gone[few], WHERE[few], B, G, B0).any()
    assert lost_slices(gone, WHERE, B, G, B0)[9, 2]
    assert not lost_slices(gone[:, :10], WHERE, B[:10], G[:10], B0[:10]).any()
    assert lost_slices(np.empty((0, 34)), np.empty(0, int), B, G, B0).shape == (34, 0)
