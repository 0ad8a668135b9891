"""Grey matter in shapes of its own: where its horns lie, how far they reach, and how much of the cord they are."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cohort_engine.nn.anatomy import Anatomy, anatomy_of  # noqa: E402
from cohort_engine.nn.butterfly import SIDE, STEP, draw, half_axes, looked_at  # noqa: E402
from cohort_engine.nn.draw import Draw  # noqa: E402
from cohort_engine.nn.synth import Frame, Generator, Odds  # noqa: E402
from cohort_engine.template.parametric import parametric_cord  # noqa: E402

AXES = torch.tensor([0.4, -0.3, 6.5, 4.3])
AT = (np.arange(SIDE) - (SIDE - 1) / 2) * STEP
X, Y = np.meshgrid(AT - 0.4, AT + 0.3)
CORD = (X / 6.5) ** 2 + (Y / 4.3) ** 2 < 1


@pytest.fixture(scope="module")
def shapes() -> np.ndarray:
    """300 shapes in a cord of one size, signed distance (shape, y, x)."""
    drawn = draw(Draw(1, 300, torch.device("cpu")), AXES.expand(300, 3, 4))
    assert drawn.shape == (300, 3, 2, SIDE, SIDE)
    return drawn[:, 1, 0].numpy()


def test_they_are_as_large_as_those_of_people(shapes: np.ndarray) -> None:
    """Drawn by hand, grey matter fills 0.12 to 0.24 of the cord."""
    share = (shapes[:, CORD] > 0).sum(axis=1) / CORD.sum()
    low, middle, high = np.quantile(share, [0.05, 0.5, 0.95])
    assert 0.10 < low < 0.17
    assert 0.17 < middle < 0.25
    assert 0.24 < high < 0.36


def test_most_dorsal_horns_reach_the_edge_and_ventral_horns_do_not(shapes: np.ndarray) -> None:
    """The template's end 1.5 mm before it."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(CORD, sampling=STEP)
    grey = shapes > 0
    behind, before = ([float(depth[g & CORD & side].min()) for g in grey if (g & CORD & side).any()] for side in (Y < -1.5, Y > 1))
    assert np.mean(np.array(behind) < 0.6) > 0.6
    assert np.mean(np.array(before) < 0.6) < 0.15


def test_two_horns_behind_and_two_before_with_white_matter_between(shapes: np.ndarray) -> None:
    """Along lines from side to side: grey, white in the middle, grey."""
    for y in (-1.5, 1.6):
        row = int(np.abs(AT + 0.3 - y).argmin())
        left, right = (shapes[:, row][:, (X[row] < -0.4) == side] > 0 for side in (True, False))
        middle = shapes[:, row][:, np.abs(X[row]) < 0.3] > 0
        assert np.mean(left.any(axis=1) & right.any(axis=1)) > 0.85
        assert np.mean(middle.any(axis=1)) < 0.3


def test_sides_differ_little_in_most_and_much_in_some(shapes: np.ndarray) -> None:
    left, right = ((shapes[:, (X < 0) == side] > 0).sum(axis=1) for side in (True, False))
    odd = np.abs(left - right) / (left + right)
    assert np.median(odd) < 0.12
    assert np.quantile(odd, 0.97) > 0.15


def test_neighbouring_slices_are_alike(shapes: np.ndarray) -> None:
    drawn = draw(Draw(2, 40, torch.device("cpu")), AXES.expand(40, 3, 4))[:, :, 0] > 0
    both = (drawn[:, 0] & drawn[:, 1]).sum((1, 2)) * 2 / (drawn[:, 0].sum((1, 2)) + drawn[:, 1].sum((1, 2)))
    assert 0.8 < float(both.median()) < 1


def test_a_shape_is_found_where_it_was_drawn() -> None:
    drawn = draw(Draw(3, 2, torch.device("cpu")), AXES.expand(2, 3, 4))
    at = torch.from_numpy(AT).float()
    x, y = at.expand(2, 3, 1, SIDE, SIDE), at[:, None].expand(2, 3, 1, SIDE, SIDE)
    assert torch.allclose(looked_at(drawn, x, y).grey[:, :, 0], drawn[:, :, 0], atol=1e-4)


def test_slices_without_a_cord_have_the_axes_of_the_nearest() -> None:
    section = np.full((4, 3, 21, 31), -1.0, np.float32)
    section[1, 0, 6:15, 8:21] = 1
    axes = half_axes(Anatomy(section, 0.5, (14.0, 10.0)))
    np.testing.assert_allclose(axes, np.tile([0.0, 0.0, 3.25, 2.25], (4, 1)))


def test_the_label_is_that_of_the_drawn_shape() -> None:
    anatomy = anatomy_of(parametric_cord(spacing=0.5, top="C4", bottom="C5"))
    odds = Odds(inset=0.0, compressed=0.0, absent=0.0, brain=0.0, cauda=0.0, horns=1.0)
    batch = Generator(anatomy, Frame(48, 0.45, 1.0), odds).batch(32, seed=1)
    cord, grey = batch.label.unbind(1)
    assert not grey[cord == 0].any()
    share = grey.sum((1, 2)) / cord.sum((1, 2))
    assert 0.12 < float(share.median()) < 0.3
    assert torch.equal(batch.label[:, 0], Generator(anatomy, Frame(48, 0.45, 1.0), odds).batch(32, seed=1).label[:, 0])
