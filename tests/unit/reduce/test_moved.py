"""Intervals that know how far the atlas may lie off: sections of a cord whose inside moves against its outline, in fluid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.reduce.moved import Moves, Part, _Design, gradient, moves_of, seen
from cohort_engine.reduce.native import atlas_moves, reduce_group
from cohort_engine.reduce.neighbours import likeness

SPACING = np.array([0.8, 0.8, 5.0])
AFFINE = np.diag([*SPACING, 1.0])
CLUSTERS = {"white matter": (0, 1), "gray matter": (2,), "CSF": (3,)}
REGIONS = [(0,), (1,), (2,), (0, 1)]
TRUE = np.array([50.0, 50.0, 40.0, 10.0])
PLACES = np.moveaxis(np.indices((26, 22, 3)), 0, -1).reshape(-1, 3)


def weights(shift: np.ndarray) -> np.ndarray:
    """White matter right and left, grey matter in the middle, and fluid; the inside shifted (slice, 2) by mm."""
    x, y = ((PLACES[:, a] - n / 2) * SPACING[a] for a, n in ((0, 26), (1, 22)))
    u, v = x - shift[PLACES[:, 2], 0], y - shift[PLACES[:, 2], 1]

    def part(r: np.ndarray) -> np.ndarray:
        return np.clip(0.5 + (1 - r) * 3.5, 0, 1)

    cord, grey, right = part(np.hypot(x / 6.5, y / 4.5)), part(np.hypot(u / 3.0, v / 2.0)), np.clip(0.5 + u / 0.8, 0, 1)
    return np.stack([(cord - grey) * right, (cord - grey) * (1 - right), grey, part(np.hypot(x / 8.5, y / 6.5)) - cord])


def share_held(amount: float, noise: float, known: bool, count: int = 40) -> float:
    """Share of 95 % intervals of tracts that hold the truth where the atlas is off by shifts of that spread (mm)."""
    rng, w, hits = np.random.default_rng(5), weights(np.zeros((3, 2))), []
    moves = atlas_moves(w, CLUSTERS, PLACES, AFFINE) if known else None
    for _ in range(count):
        y = TRUE @ weights(rng.normal(0, amount, (3, 2))) + rng.normal(0, noise, w.shape[1])
        cells = reduce_group(y, w, REGIONS[:2], tuple(CLUSTERS.values()), estimator="map", places=PLACES, moves=moves)
        hits.append(np.abs(cells.value - TRUE[:2]) <= 1.96 * cells.se)
    return float(np.mean(hits))


@pytest.mark.parametrize(("amount", "noise"), [(0.0, 1.0), (0.3, 1.0), (0.6, 0.5)])
def test_intervals_hold_however_far_the_atlas_lies_off(amount: float, noise: float) -> None:
    assert 0.88 <= share_held(amount, noise, known=True) <= 1.0


def test_an_atlas_that_is_off_is_seen_and_widens_the_interval() -> None:
    """The same noise, the atlas right and 0.5 mm off: the error of a tract grows, most where grey matter was moved into it."""
    w, noise = weights(np.zeros((3, 2))), np.random.default_rng(1).normal(0, 0.5, len(PLACES))
    moves, clusters = atlas_moves(w, CLUSTERS, PLACES, AFFINE), tuple(CLUSTERS.values())
    right, off = (
        reduce_group(TRUE @ weights(np.full((3, 2), s)) + noise, w, REGIONS, clusters, estimator="map", places=PLACES, moves=moves)
        for s in (0.0, 0.5)
    )
    assert (off.se > 1.5 * right.se)[:2].all()
    blind = reduce_group(TRUE @ w + noise, w, REGIONS, clusters, estimator="map", places=PLACES)
    assert (right.se > blind.se).all()  # what cannot be seen may still be
    assert off.value.tolist() == pytest.approx(
        reduce_group(TRUE @ weights(np.full((3, 2), 0.5)) + noise, w, REGIONS, clusters, estimator="map").value.tolist()
    )  # the value is that of the atlas as it lies


def test_amplitudes_that_the_image_shows_are_found() -> None:
    """One tissue whose value rises by 10 a voxel, shifted by 0.2 voxels: residuals of 2, which the shift explains."""
    places = np.stack([np.arange(40), np.zeros(40, int), np.zeros(40, int)], axis=-1)
    field = np.zeros((40, 1, 3))
    field[:, 0, 0] = 0.1
    left = np.full(40, -2.0) + np.random.default_rng(2).normal(0, 0.1, 40)
    part = Part(np.arange(40), np.ones((1, 40)), left, np.zeros((1, 1)), np.ones(40))
    found = seen(Moves(field, np.zeros(40, int), np.ones((1, 1))), 10.0 * places[:, 0], places, [part])[0]
    assert np.abs(found.left).max() < 0.5
    assert found.used == pytest.approx(1, abs=0.05)
    assert np.sqrt(found.second.item()) == pytest.approx(80, rel=0.05)


def test_what_no_image_shows_widens_all_slices_alike() -> None:
    """Two slices whose sums a move shifts by 3 and 4: apart their second moments add up to 25, alike in both they are 49."""
    change, node = np.array([3.0, 4.0]), np.array([0, 1])
    part = Part(np.arange(2), np.ones((1, 2)), np.zeros(2), np.zeros((1, 1)), np.ones(2))
    design = _Design.of(change[:, None], Moves(np.zeros((2, 1, 3)), node, np.eye(2)), part)
    assert ((design.reach @ design.reach.T).item(), design.together(None).item()) == (25, 0)
    assert (design.together(np.array([0.5])) ** 2).item() == pytest.approx(49 / 4)
    w = weights(np.zeros((3, 2)))
    y, clusters = TRUE @ w + np.random.default_rng(6).normal(0, 0.5, w.shape[1]), tuple(CLUSTERS.values())
    moves = atlas_moves(w, CLUSTERS, PLACES, AFFINE)
    known, all_seen = (
        reduce_group(y, w, REGIONS, clusters, estimator="map", places=PLACES, moves=m).se for m in (moves, replace(moves, unseen=None))
    )
    assert (known > all_seen).all()
    assert known[2] > 1.3 * all_seen[2]  # of grey matter, whose size it is


def test_sections_without_a_cord_have_no_moves_but_along_it() -> None:
    places = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 4]])
    assert not moves_of(places, np.zeros(3), SPACING).field[:, :-1].any()
    assert seen(moves_of(places, np.zeros(3), SPACING), np.zeros(3), places, []) == []
    assert gradient(np.array([1.0, np.nan, 5.0]), places).tolist() == [[0.0, 0.0, 0.0]] * 3


def test_fluid_that_is_alike_says_nothing_of_tissue() -> None:
    places = np.moveaxis(np.indices((60, 30, 1)), 0, -1).reshape(-1, 3)
    fluid = (places[:, 0] >= 30).astype(float)
    residual = np.where(fluid, 1.0, np.random.default_rng(3).normal(size=len(places)))
    apart = np.concatenate([rho[fluid[first] == 0] for first, _, rho in likeness(residual, places, np.stack([1 - fluid, fluid]))])
    assert np.abs(apart).max() < 0.15
    assert min(float(rho.max()) for *_, rho in likeness(residual, places)) > 0.35


def test_each_level_has_its_own_likeness_held_back_by_all() -> None:
    places = np.moveaxis(np.indices((400, 1, 1)), 0, -1).reshape(-1, 3)
    level = (places[:, 0] >= 200).astype(int)
    residual = np.where(level, 1.0, np.resize([1.0, -1.0], 400))
    (first, _, rho), *_ = likeness(residual, places, level=level)
    assert rho[level[first] == 1][0] == pytest.approx((199 + 100 * 0.0) / 299)
    assert rho[level[first] == 0][0] == pytest.approx(-199 / 299)
