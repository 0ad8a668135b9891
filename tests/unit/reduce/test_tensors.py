"""Tissues that share the voxels of a tensor image: what `map` finds of them once the tensor of mixed signals is heeded."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.phantom.protocol import B800, gradients
from cohort_engine.phantom.tensors import diffusivities
from cohort_engine.qmri.mixed import mixed_tensor, weighting
from cohort_engine.qmri.tensor import fit_tensor
from cohort_engine.reduce.native import reduce_group
from cohort_engine.reduce.tensors import tensor_mixture

BVALS, DIRECTIONS = gradients(B800)
FA, MD, S0 = np.array([0.74, 0.46, 0.0]), np.array([0.95, 0.92, 3.0]), np.array([1800.0, 1950.0, 2600.0])
AXIAL, RADIAL = diffusivities(FA, MD)
CLUSTERS = [(0,), (1,), (2,)]


@pytest.fixture
def shares() -> np.ndarray:
    """White matter, grey matter and fluid: each alone in some voxels, any two or three together in the others."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.repeat(np.eye(3), 5, axis=1), rng.dirichlet([0.5] * 3, 200).T], axis=1)


@pytest.fixture
def channels(shares: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors that are fitted to the sums of the tissues' signals, in 30 directions."""
    decay = np.exp(-BVALS / 1000 * (RADIAL[:, None] + (AXIAL - RADIAL)[:, None] * DIRECTIONS[:, 2] ** 2))
    return fit_tensor(shares.T @ (S0[:, None] * decay), BVALS, DIRECTIONS)


def test_a_tensor_of_mixed_signals_is_the_one_that_is_fitted(shares, channels) -> None:
    found = mixed_tensor(shares, S0, AXIAL, RADIAL, 0.8)
    for metric in ("fa", "md", "ad", "rd"):
        assert np.abs(found[metric] - channels[metric]).max() < 2e-3, metric


@pytest.mark.parametrize(("metric", "truth"), [("fa", FA), ("md", MD), ("ad", AXIAL), ("rd", RADIAL)])
def test_every_tissue_has_its_own_value(shares, channels, metric: str, truth: np.ndarray) -> None:
    """By the mean alone white matter would be several hundredths of its value off, as fluid shares its voxels."""
    weights, excess = tensor_mixture(metric, shares, channels, np.zeros(shares.shape[1], int), CLUSTERS, 0.8)
    errors = [reduce_group(v, weights, CLUSTERS, CLUSTERS, estimator="ml").value - truth for v in (channels[metric], channels[metric] - excess)]
    assert np.abs(errors[1]).max() < 0.004
    assert np.abs(errors[1]).max() < np.abs(errors[0]).max() / 5


def test_voxels_of_one_tissue_have_nothing_beyond_it(shares, channels) -> None:
    _, excess = tensor_mixture("md", shares, channels, np.zeros(shares.shape[1], int), CLUSTERS, 0.8)
    assert np.abs(excess[:15]).max() < 1e-3
    assert np.abs(excess[15:]).max() > 0.02


def test_a_slice_without_fluid_is_left_as_it_is() -> None:
    """Tissues that no voxel tells apart: weights as they are, nothing taken off, missing stays missing."""
    weights = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    channels = {"ad": np.array([2.0, np.nan]), "rd": np.array([0.4, np.nan]), "s0": np.array([1800.0, np.nan])}
    found = tensor_mixture("md", weights, channels, np.zeros(2, int), CLUSTERS, 0.8)
    assert found.weights is weights
    assert found.excess.tolist() == [0.0, 0.0]


def test_the_weighting_is_read_off_the_mean_of_the_weighted_volumes(channels) -> None:
    predicted = np.exp(-BVALS[BVALS > 0] / 1000 * (RADIAL[0] + (AXIAL - RADIAL)[0] * DIRECTIONS[BVALS > 0, 2] ** 2)).mean()
    assert weighting(np.ones(1), np.array([predicted]), AXIAL[:1], RADIAL[:1]) == pytest.approx(0.8, abs=2e-3)
    assert np.isnan(weighting(np.ones(1), np.full(1, np.nan), AXIAL[:1], RADIAL[:1]))
