"""Left and right by one midline a person."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import InputError
from cohort_engine.rois.midline import ALIKE, OWN, midline_of, pooled, sided
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.rois.thresholds import above
from cohort_engine.rois.train import RoiNet, build
from tests.unit.rois.test_train import drawn_slices, settings

SIZE, STEP = 33, 0.5
X, Y = np.meshgrid(STEP * (np.arange(SIZE) - 16), STEP * (np.arange(SIZE) - 16), indexing="ij")


def of_left(a: float, b: float, sharp: float) -> np.ndarray:
    return 1 / (1 + np.exp(sharp * (X - a - b * Y)))


def dorsal(left: np.ndarray) -> np.ndarray:
    """Heat (roi, x, y) of two dorsal columns that fill the middle, a pixel on the left by its share."""
    out = np.zeros((8, SIZE, SIZE), np.float32)
    middle = np.hypot(X, Y) < 4
    out[0], out[4] = middle * left, middle * (1 - left)
    return out


def slices(patients: list[int], prior: np.ndarray | None) -> RoiSlices:
    n = len(patients)
    cord = np.repeat((np.hypot(X, Y) < 5)[None], n, 0)
    whole = None if prior is None else np.repeat(prior[None], n, 0).astype(np.float32)
    return RoiSlices({}, np.zeros((n, 8, SIZE, SIZE), bool), cord, np.array(patients), np.arange(n), np.full(2, STEP), prior=whole)


def test_lines_are_found() -> None:
    lines = np.array([[0.3, 0.0], [-0.6, 0.1], [0.0, -0.2]])
    share = np.stack([of_left(a, b, 3.0) for a, b in lines]).reshape(3, -1)
    at = X.reshape(1, -1), Y.reshape(1, -1)
    np.testing.assert_allclose(midline_of(share, 1 - share, *at), lines, atol=0.01)
    assert np.array_equal(midline_of(np.zeros((1, 9)), np.zeros((1, 9)), *(p[:, :9] for p in at)), [[0, 0]])


def test_slices_of_one_person_are_trusted_further_than_one() -> None:
    aside = np.array([0.1, 0.1, 0.1, 0.1, 0.2, np.nan, np.nan])
    found = pooled(aside, np.array([7, 7, 7, 7, 3, 3, 9]))
    np.testing.assert_allclose(found, [*[0.4 / (1 + 3 * ALIKE)] * 4, 0.2, np.nan, np.nan])
    own = pooled(np.array([-0.1, 0.1]), np.zeros(2))
    np.testing.assert_allclose(own, [-0.1 * OWN, 0.1 * OWN])


def test_heat_moves_to_the_side_that_all_slices_together_speak_for() -> None:
    """Each of twelve slices sees a third of how far the midline lies aside."""
    truth, registered = 0.9, of_left(0.0, 0.0, 50.0)
    heat = np.repeat(dorsal(of_left(truth / 3, 0.0, 1.5))[None], 12, 0)
    some = slices([0] * 12, dorsal(registered))
    dealt = sided(heat, some)
    np.testing.assert_allclose(dealt[:, 0] + dealt[:, 4], heat[:, 0] + heat[:, 4], atol=1e-6)
    assert not dealt[:, [1, 2, 3, 5, 6, 7]].any()
    right = dorsal(of_left(truth, 0.0, 50.0)) > 0.5
    wrong = [int((above(maps, np.full(8, 0.5)) & right[list(schema.OTHER_SIDE)]).sum()) for maps in (heat, dealt)]
    assert wrong[0] > 0
    assert wrong[1] < wrong[0] / 2
    mirrored = sided(heat[:, list(schema.OTHER_SIDE), ::-1], slices([0] * 12, dorsal(registered)[list(schema.OTHER_SIDE), ::-1]))
    np.testing.assert_allclose(mirrored, dealt[:, list(schema.OTHER_SIDE), ::-1], atol=1e-4)


def test_people_have_midlines_of_their_own() -> None:
    heat = np.stack([dorsal(of_left(a, 0.0, 1.5)) for a in (0.3, 0.3, -0.3, -0.3)])
    prior = dorsal(of_left(0.0, 0.0, 50.0))
    together = sided(heat, slices([0, 0, 1, 1], prior))
    np.testing.assert_array_equal(together[:2], sided(heat[:2], slices([5, 5], prior)))
    assert together[0, 0].sum() > heat[0, 0].sum()
    assert together[2, 0].sum() < heat[2, 0].sum()


def test_slices_without_a_midline_stay_as_they_are() -> None:
    heat = np.stack([dorsal(of_left(0.3, 0.0, 1.5)), np.zeros((8, SIZE, SIZE), np.float32)])
    nowhere = slices([0, 0], np.full((8, SIZE, SIZE), np.nan))
    assert np.array_equal(sided(heat, nowhere), heat)
    assert np.array_equal(sided(heat, slices([0, 0], dorsal(of_left(0.0, 0.0, 50.0))))[1], heat[1])
    with pytest.raises(InputError, match="Register the slices"):
        sided(heat, slices([0, 0], None))


def test_a_network_deals_its_heat_by_the_midline_where_it_is_told_to() -> None:
    some, config = drawn_slices(2), settings(loss={"kind": "dice"})
    facts = {"config": config.model_dump(mode="json"), "thresholds": [0.5] * 8, "area": [4.0] * 8}
    state = build(config).state_dict()
    plain = RoiNet(state, facts).predict(some)
    dealt = RoiNet(state, facts | {"config": {**facts["config"], "midline": True}}).predict(some)
    np.testing.assert_array_equal(dealt, sided(plain, some))
    assert not np.array_equal(dealt, plain)
