"""Simulated raters."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.phantom.rater import CHANCE, HABIT, Rater, Wobble, draw_rater, raters
from cohort_engine.rois.cores import cores, depth

SPACING = np.array([0.5, 0.5])
NOTHING = Wobble(0.0, 0.0, 0.0, 0.0)
SIDES = np.array(schema.OTHER_SIDE)


def two_parts() -> np.ndarray:
    shares = np.zeros((2, 40, 30))
    shares[0, 5:20, 8:22] = shares[1, 20:35, 8:22] = 1
    return shares


AREA = np.array([6.0, 6.0])


def drawn(rater: Rater, *, chance: Wobble = CHANCE, seed: int = 0, unsure: float = 1.0) -> np.ndarray:
    shares = two_parts()
    room = np.broadcast_to(shares.any(0), shares.shape)
    return rater.draw(depth(shares, SPACING), room, AREA, SPACING, np.random.default_rng(seed), chance=chance, unsure=unsure)


def plain(**habits: np.ndarray) -> Rater:
    return Rater(**{"place": np.zeros((2, 2)), "size": np.zeros(2), "stretch": np.zeros((2, 2, 2)), **habits})


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_without_habits_and_chance_the_core_is_drawn() -> None:
    assert dice(drawn(plain(), chance=NOTHING), cores(two_parts(), SPACING, AREA)) > 0.95


def test_habits_move_and_grow_what_is_drawn() -> None:
    middle = [np.argwhere(drawn(plain(place=np.full((2, 2), move)), chance=NOTHING)[0]).mean(0) * 0.5 for move in (0.0, 1.0)]
    assert middle[1] - middle[0] == pytest.approx([1.0, 1.0], abs=0.3)
    assert drawn(plain(size=np.log([1.5, 1.0])), chance=NOTHING).sum((1, 2)) * 0.25 == pytest.approx([9.0, 6.0], abs=0.3)


def test_people_see_the_cord_and_no_pixel_is_drawn_twice() -> None:
    shares = two_parts()
    for seed in range(20):
        out = drawn(plain(place=np.array([[3.0, 3.0], [0.0, 0.0]])), seed=seed)
        assert not out[:, ~shares.any(0)].any()
        assert out.sum(0).max() == 1


def test_drawings_differ_more_where_people_are_unsure_and_between_people() -> None:
    hands = raters(2, np.array([1, 0]), seed=3)

    def agreement(a: Rater, b: Rater, unsure: float) -> float:
        return float(np.mean([dice(drawn(a, seed=i, unsure=unsure), drawn(b, seed=100 + i, unsure=unsure)) for i in range(30)]))

    same, other, unsure = agreement(hands[0], hands[0], 1.0), agreement(hands[0], hands[1], 1.0), agreement(hands[0], hands[0], 2.0)
    assert 1 > same > other > 0.2
    assert same > unsure


def test_habits_are_alike_on_both_sides() -> None:
    many = [draw_rater(np.random.default_rng(i), SIDES) for i in range(300)]
    left, right = (np.array([r.place[i] for r in many]) for i in (0, SIDES[0]))
    assert [np.corrcoef(left[:, k], right[:, k])[0, 1] for k in (0, 1)] == pytest.approx([-0.5, 0.5], abs=0.15)
    assert left.std(0) == pytest.approx([HABIT.place] * 2, rel=0.12)
    assert np.std([r.stretch for r in many]) == pytest.approx(HABIT.stretch, rel=0.05)


def test_the_first_raters_do_not_depend_on_how_many_there_are() -> None:
    assert (raters(2, SIDES)[1].place == raters(5, SIDES)[1].place).all()
