"""The optimal curve: exact on small problems, and not led astray."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from cohort_engine.cord.curve import STIFFNESS, optimal_curve, optimal_path


def bump(shape: tuple[int, int], y: float, x: float, spacing: float, sigma: float = 2.5) -> np.ndarray:
    rows, columns = np.indices(shape) * spacing
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))


def test_the_path_is_the_best_of_all_paths() -> None:
    rng = np.random.default_rng(1)
    cost, gaps, spacing = rng.random((4, 3, 3)) * 4, np.array([3.0, 4.0, 5.0]), 1.5

    def price(path: tuple[tuple[int, int], ...]) -> float:
        steps = np.diff(np.array(path), axis=0) * spacing
        return sum(cost[k, j, i] for k, (j, i) in enumerate(path)) + STIFFNESS * float(((steps**2).sum(1) / gaps).sum())

    pixels = list(product(range(3), range(3)))
    best = min(product(pixels, repeat=4), key=price)
    assert [tuple(p) for p in optimal_path(cost, spacing, gaps)] == list(best)


@pytest.mark.parametrize("spacing", [1.0, 1.5, 2.0])
def test_sub_voxel_on_a_slanted_cord(spacing: float) -> None:
    z = np.arange(40) * 4.0
    y, x = 40 + 0.2 * z, 45 + 6 * np.sin(z / 60)
    heat = np.stack([bump((80, 60), a, b, spacing) for a, b in zip(y, x, strict=True)])
    curve = optimal_curve(heat, spacing, z)
    error = np.hypot(curve.x - x, curve.y - y)
    assert error.max() < 0.35
    assert error[5:-5].max() < 0.15
    assert curve.confidence.min() > 0.8


def test_blanked_and_noisy_slices_do_not_lead_it_astray() -> None:
    rng = np.random.default_rng(2)
    z = np.arange(50) * 4.0
    y, x = 50 + 0.15 * z, 48 + 5 * np.sin(z / 50)
    heat = np.stack([0.9 * bump((64, 64), a, b, 1.5) for a, b in zip(y, x, strict=True)])
    blank = rng.choice(np.arange(1, 49), 8, replace=False)
    heat[blank] = 0
    heat = np.clip(heat + rng.random(heat.shape) ** 8 * 0.6, 0, 1)
    for k in blank:  # and something as bright as the cord, somewhere else
        heat[k] = np.maximum(heat[k], 0.7 * bump((64, 64), *rng.uniform(0, 90, 2), 1.5))
    curve = optimal_curve(heat, 1.5, z)
    greedy = np.array([np.unravel_index(h.argmax(), h.shape) for h in heat]) * 1.5
    assert np.hypot(greedy[:, 0] - y, greedy[:, 1] - x).max() > 20
    assert np.hypot(curve.x - x, curve.y - y).max() < 3.0


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_slices(n: int) -> None:
    heat = np.stack([bump((20, 20), 12.0, 9.0, 1.5)] * n)
    curve = optimal_curve(heat, 1.5, np.arange(n) * 17.0)
    assert curve.x == pytest.approx(9.0, abs=0.1)
    assert curve.y == pytest.approx(12.0, abs=0.1)


def test_nothing_to_see_gives_a_curve_without_confidence() -> None:
    curve = optimal_curve(np.full((6, 10, 10), np.nan), 1.5, np.arange(6) * 3.0)
    assert not curve.confidence.any()
    assert np.isfinite(curve.x).all()
