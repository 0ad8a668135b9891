"""Template: block, landmarks, digest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.errors import LevelError, TemplateError
from cohort_engine.template.base import Template, sparse_rows
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def cord() -> Template:
    return parametric_cord(spacing=2.0)


def test_the_block_has_the_template_s_world(cord):
    cut = replace(cord, corner=(2, 3, 4), cord=cord.cord[2:9, 3:8, 4:20])
    assert cut.block_grid.shape == (7, 5, 16)
    np.testing.assert_array_equal(cut.block_grid.world(np.zeros(3)), cord.grid.world(np.array([2.0, 3.0, 4.0])))
    np.testing.assert_array_equal(cut.block_grid.spacing, cord.grid.spacing)


def test_an_unknown_landmark_is_answered_with_the_known_ones(cord):
    assert cord.landmark_z("disc", 3) == -38
    with pytest.raises(LevelError, match=r"disc number of the template \(1, 2, 3, .*10\), found 14"):
        cord.landmark_z("disc", 14)
    with pytest.raises(LevelError):
        cord.landmark_z("rootlet", 3)


def test_the_digest_depends_on_everything_that_changes_a_result(cord):
    def nudged(a: np.ndarray) -> np.ndarray:
        out = a.copy()
        out[out.shape[0] // 2] += 1
        return out

    weights = cord.atlas.weights.copy()
    weights.data[0] *= 0.5
    others = [
        replace(cord, version="2"),
        replace(cord, cord=nudged(cord.cord)),
        replace(cord, gm=nudged(cord.gm)),
        replace(cord, slice_level=nudged(cord.slice_level)),
        replace(cord, grid=replace(cord.grid, affine=nudged(cord.grid.affine))),
        replace(cord, landmarks={**cord.landmarks, "disc": {**cord.landmarks["disc"], 3: -37.9}}),
        replace(cord, packing=replace(cord.packing, ijk=nudged(cord.packing.ijk))),
        replace(cord, atlas=replace(cord.atlas, weights=weights)),
    ]
    assert replace(cord).digest == cord.digest
    assert len({cord.digest, *(t.digest for t in others)}) == 1 + len(others)


def test_another_template_is_refused(cord):
    cord.check_digest(cord.digest, where="store")
    with pytest.raises(TemplateError, match=f"store: expected template 0123456789abcdef, found parametric 1 with hash {cord.digest}"):
        cord.check_digest("0123456789abcdef", where="store")


def test_sparse_rows_sorts_and_drops_zeros():
    rows = sparse_rows([(np.array([3, 1]), np.array([0.5, 0.25])), (np.array([0, 2]), np.array([0.0, 1.0]))], 4)
    assert rows.toarray().tolist() == [[0, 0.25, 0, 0.5], [0, 0, 1, 0]]
    assert rows.nnz == 3
    assert rows.has_sorted_indices
