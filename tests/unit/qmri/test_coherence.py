"""Flipped and permuted gradient directions are found out where the cord's course can tell them, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.qmri.coherence import AS_GIVEN, CONFIRMED, CONTRADICTED, OPEN, check_directions, ways
from cohort_engine.qmri.tensor import fit_tensor

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
PLACES = np.argwhere(np.ones((6, 6, 14)))


def course(tilt: float) -> np.ndarray:
    """Tangents of a cord that bows to front and back and leans to one side by up to about this slope."""
    z = PLACES[:, 2] / 13
    t = np.stack([0.7 * tilt * np.sin(3 * z + 1), tilt * np.cos(4 * z), np.ones(len(z))], axis=1)
    return t / np.linalg.norm(t, axis=1, keepdims=True)


def fibres(tilt: float, seed: int = 0, noise: float = 0.12) -> np.ndarray:
    e1 = course(tilt) + np.random.default_rng(seed).normal(0, noise, (len(PLACES), 3))
    return e1 / np.linalg.norm(e1, axis=1, keepdims=True)


def test_there_are_24_ways_and_none_is_another_s_negative():
    matrices = np.array(list(ways().values()))
    assert len(matrices) == 24
    np.testing.assert_array_equal(matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (24, 3, 3)))
    gram = np.abs(np.einsum("aij,bij->ab", matrices, matrices))
    np.testing.assert_array_equal(gram == 3, np.eye(24, dtype=bool))


@pytest.mark.parametrize("name", list(ways()))
def test_every_way_is_found_in_a_bent_cord(name):
    """Directions written as M g give eigenvectors M e1; the way back is what is named best."""
    matrix = ways()[name]
    found = check_directions(fibres(0.35) @ matrix.T, course(0.35), PLACES, AFFINE)
    assert found.verdict == (CONFIRMED if name == AS_GIVEN else CONTRADICTED)
    assert np.abs(np.trace(ways()[found.best] @ matrix)) == pytest.approx(3)
    assert (found.margin > 3) == (name == AS_GIVEN)


@pytest.mark.parametrize("seed", range(5))
def test_a_straight_cord_tells_its_axis_and_nothing_else(seed):
    found = check_directions(fibres(0.0, seed), course(0.0), PLACES, AFFINE)
    assert found.verdict == OPEN
    assert found.margin == 0
    assert found.axis_margin > 20
    assert set(found.rivals) == {name for name in ways() if name.endswith("z")} - {AS_GIVEN}


@pytest.mark.parametrize("seed", range(5))
def test_fibres_that_do_not_follow_the_middle_closely_speak_against_nothing(seed):
    """A mask whose middle is off by two degrees in a nearly straight cord: no flip is called better."""
    e1 = fibres(0.03, seed) + np.array([0.0, -0.035, 0.0])
    assert check_directions(e1, course(0.03), PLACES, AFFINE).verdict == OPEN


def test_two_slices_are_too_few_to_say():
    few = PLACES[:, 2] < 2
    found = check_directions(fibres(0.35)[few], course(0.35)[few], PLACES[few], AFFINE)
    assert found.verdict == OPEN
    assert np.isnan(found.margin)
    assert len(found.rivals) == 23


def test_no_way_needs_a_fit_of_its_own():
    """A fit with permuted directions gives the permuted tensor exactly, noise and all."""
    rng = np.random.default_rng(4)
    g = rng.normal(size=(20, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    g[:2] = 0
    b = np.where(g.any(axis=1), 800.0, 0.0)
    signals = rng.uniform(50, 500, (30, 20))
    matrix = ways()["+z-x+y"]
    plain, turned = (fit_tensor(signals, b, d) for d in (g, g @ matrix.T))
    first, second = (np.stack([found[f"e1_{a}"] for a in "xyz"], axis=1) for found in (plain, turned))
    np.testing.assert_allclose(np.abs(((first @ matrix.T) * second).sum(axis=1)), 1, atol=1e-9)
    np.testing.assert_allclose(plain["fa"], turned["fa"], atol=1e-9)


def test_voxels_without_eigenvector_are_left_out():
    e1 = fibres(0.35)
    e1[::7] = np.nan
    assert check_directions(e1, course(0.35), PLACES, AFFINE).verdict == CONFIRMED
    none = check_directions(np.full_like(e1, np.nan), course(0.35), PLACES, AFFINE)
    assert none.verdict == OPEN
    assert np.isnan(none.agreement)
