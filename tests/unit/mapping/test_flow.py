"""Registration in torch: known displacements come back, a pair is alone what it is among others, nothing folds."""

import numpy as np
import pytest

pytest.importorskip("torch")

from cohort_engine.mapping.flow import deform
from cohort_engine.mapping.template_map import area_change

SHAPE = (36, 32, 8)


def blob(rx: float, ry: float, dx: float = 0.0) -> np.ndarray:
    """Depth of an ellipse as a ramp of eight voxels."""
    i, j, _ = np.indices(SHAPE)
    return np.clip(0.5 + min(rx, ry) * (1 - np.hypot((i - 17.5 - dx) / rx, (j - 15.5) / ry)) / 8, 0, 1)


def test_the_edge_of_the_fixed_image_leads_to_that_of_the_moving_one() -> None:
    found = deform(blob(9, 7)[None], blob(10, 6, dx=1.5)[None], iterations=(10, 5), flow_sigma=1.2)[0]
    right, left, top = found[26, 15, 4, 0], found[9, 15, 4, 0], found[17, 22, 4, 1]
    assert right == pytest.approx(2.5, abs=0.3)  # edges at 26.5 and 29
    assert left == pytest.approx(0.5, abs=0.3)  # at 8.5 and 9
    assert top == pytest.approx(-1.0, abs=0.3)


def test_the_other_way_is_the_inverse() -> None:
    one, other = blob(9, 7), blob(10, 6, dx=1.5)
    to, back = deform(np.stack([one, other]), np.stack([other, one]), iterations=(10, 5), flow_sigma=1.2)
    there = 26 + to[26, 15, 4, 0]
    low = int(there)
    returned = back[low, 15, 4, 0] * (low + 1 - there) + back[low + 1, 15, 4, 0] * (there - low)
    assert to[26, 15, 4, 0] + returned == pytest.approx(0, abs=0.05)


def test_a_pair_is_alone_what_it_is_among_longer_ones() -> None:
    short, long = blob(9, 7)[..., :5], blob(7, 9, dx=-1)
    filled = np.concatenate([short, np.full((36, 32, 3), 7.0)], axis=2)
    among = deform(np.stack([filled, long]), np.stack([filled[::-1] * 0.9, blob(8, 8)]), iterations=(5, 3), flow_sigma=1.2, lengths=np.array([5, 8]))
    alone = deform(short[None], short[None, ::-1] * 0.9, iterations=(5, 3), flow_sigma=1.2)
    assert np.allclose(among[0, :, :, :5], alone[0], atol=1e-5)
    assert (among[0, :, :, 5:] == 0).all()
    assert np.abs(among[1]).max() > 0.5


def test_nothing_folds_where_the_images_have_little_in_common() -> None:
    found = deform(blob(14, 3)[None], blob(4, 12)[None], iterations=(30, 10), flow_sigma=1.0)[0]
    assert area_change(found, np.ones(3)).min() > 0
