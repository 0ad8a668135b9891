"""Parts of the cord from a template, and their cores."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.rois.cores import DRAWN_AREA, MOST, cores, depth, grow, parts_of, sizes
from cohort_engine.template.parametric import parametric_cord


def block(*edges: tuple[int, int, int, int]) -> np.ndarray:
    """Shares of rectangles on 20 x 20 pixels."""
    out = np.zeros((len(edges), 20, 20))
    for share, (x0, x1, y0, y1) in zip(out, edges, strict=True):
        share[x0:x1, y0:y1] = 1
    return out


def test_parts_are_the_columns_and_grey_matter_of_each_side() -> None:
    cord = parametric_cord(spacing=1.0, top="C4", bottom="C4")
    parts, x, y = parts_of(cord), *cord.packing.xyz.T[:2]
    whole = cord.atlas.region_weights(tuple(cord.atlas.region(n) for n in ("white matter", "gray matter"))).toarray()
    columns = [i for i, name in enumerate(schema.ROIS) if "column" in name]
    assert parts[columns].sum(0) == pytest.approx(whole[0], abs=1e-6)
    assert np.delete(parts, columns, axis=0).sum(0) == pytest.approx(whole[1], abs=1e-6)
    middle = {name: (p @ x / p.sum(), p @ y / p.sum()) for name, p in zip(schema.ROIS, parts, strict=True)}
    assert all((middle[name][0] < 0) == name.startswith("left") for name in schema.ROIS)
    assert middle["left dorsal column"][1] < middle["left lateral column"][1] < middle["left ventral column"][1]


def test_published_sizes() -> None:
    assert (DRAWN_AREA.min().round(1), DRAWN_AREA.max().round(1), DRAWN_AREA.sum().round()) == (3.4, 6.5, 40)


def test_depth_is_the_distance_to_the_border() -> None:
    below = depth(block((4, 16, 4, 16)), np.array([0.5, 0.5]))[0]
    assert below[10, 10] == pytest.approx(2.75, abs=0.15)  # 5.5 pixels of 0.5 mm
    assert below[4, 10] == pytest.approx(0.25, abs=0.1)
    assert below[0, 10] == pytest.approx(-1.75, abs=0.15)


def test_a_neighbour_is_a_border_too() -> None:
    below = depth(block((4, 10, 4, 16), (10, 16, 4, 16)), np.ones(2))
    assert below[0, 9, 10] == pytest.approx(0.5, abs=0.2)
    assert below[1, 9, 10] == pytest.approx(-0.5, abs=0.2)
    assert np.isneginf(depth(block((4, 4, 4, 4)), np.ones(2))).all()


def test_a_core_is_deep_in_one_piece_and_of_its_size() -> None:
    two = block((2, 8, 2, 8)) + block((10, 20, 2, 9))
    found = cores(two, np.ones(2), np.array([16.0]))[0]
    assert found.sum() == 16
    assert not found[:10].any()
    assert depth(two, np.ones(2))[0][found].min() > 1.5


def test_a_core_leaves_something_of_a_small_part() -> None:
    shares = block((5, 8, 5, 8))
    assert sizes(depth(shares, np.ones(2)), np.ones(2), np.array([50.0])) == pytest.approx([MOST * 9])
    assert cores(shares, np.ones(2), np.array([50.0])).sum() == 6
    assert not cores(np.zeros((1, 4, 4)), np.ones(2), np.array([5.0])).any()


def test_growing_stops_at_the_image() -> None:
    assert grow(np.zeros((2, 2)), 9).all()
    assert not grow(np.full((2, 2), -np.inf), 1).any()
    assert not grow(np.zeros((2, 2)), 0).any()
