"""The mask of another image of the person fills slices that this one leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cohort_engine.cord.curve import Curve
from cohort_engine.cord.prior import agreement, completed, onto
from cohort_engine.cord.segment import BROKEN, PARTIAL, TAKEN, Segmentation

DEPTH = 10
AFFINE = np.diag([0.5, 0.5, 5.0, 1.0])


def ellipse(x0: float, y0: float) -> NDArray[np.float32]:
    x, y = np.meshgrid(np.arange(60) * 0.5, np.arange(60) * 0.5, indexing="ij")
    return ((1 - np.hypot((x - x0) / 6, (y - y0) / 4)) * 8 + 0.5).clip(0, 1).astype(np.float32)


def found(lost: list[int], moved: float = 0.0) -> Segmentation:
    """A cord that leans to the right by 0.3 mm a slice; slices are lost."""
    soft = np.stack([ellipse(14 + 0.3 * z + moved, 15) * (z not in lost) for z in range(DEPTH)], axis=2)
    line = np.arange(DEPTH) * 5.0
    curve = Curve(line, 14 + 0.06 * line, np.full(DEPTH, 15.0), np.ones(DEPTH))
    flags = tuple(f for f, on in ((BROKEN, 4 in lost), (PARTIAL, 0 in lost or 9 in lost)) if on)
    return Segmentation(soft, soft >= 0.5, curve, AFFINE, flags, np.ones(DEPTH))


IMAGE = np.random.default_rng(1).random((60, 60, DEPTH))
TRUTH = found([]).soft


@pytest.mark.parametrize("lost", [[4], [0, 4, 9], [4, 5, 6]])
@pytest.mark.parametrize("moved", [0.0, 1.5])
def test_open_slices_are_filled_where_the_person_lies_in_this_scan(lost: list[int], moved: float) -> None:
    out = completed(found(lost, moved), TRUTH, IMAGE)
    assert out.taken == tuple(lost)
    assert out.flags == (TAKEN,)
    assert f"slices {lost[0]}" in out.told()[TAKEN]
    score = agreement(out.mask, found([], moved).mask, np.diag(AFFINE)[:3]).dice
    assert score.min() > 0.95


@pytest.mark.parametrize("why", ["another place", "another shape", "blank", "not there"])
def test_what_nothing_vouches_for_is_left_open(why: str) -> None:
    prior, image = TRUTH.copy(), IMAGE.copy()
    if why == "another place":
        prior = np.roll(prior, 12, axis=0)
    elif why == "another shape":
        prior[:, 30:] = 0
    elif why == "blank":
        image[:, :, 4] = 0
    else:
        prior[:, :, 4] = 0
    out = completed(found([4]), prior, image)
    assert out.taken == ()
    assert out.flags == (BROKEN,)


def test_a_mask_of_another_orientation_and_resolution_comes_where_it_is() -> None:
    """1 mm slices over 5 mm ones; axes as the scanner's, the origin elsewhere."""
    fine = np.repeat(TRUTH, 5, axis=2)
    there = np.diag([0.5, 0.5, 1.0, 1.0])
    there[2, 3] = -2.0
    out = onto(fine, there, TRUTH.shape, AFFINE)
    assert np.abs(out[:, :, 1:-1] - TRUTH[:, :, 1:-1]).max() < 0.1
    turned = there @ np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(onto(fine.transpose(1, 0, 2), turned, TRUTH.shape, AFFINE), out, atol=1e-4)
