"""Facts of the real PAM50, and what the parametric cord shares with it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from cohort_engine.template.base import Template
from cohort_engine.template.pam50 import load_pam50
from cohort_engine.template.parametric import parametric_cord

pytestmark = pytest.mark.real

DISC_SLICES = {1: 985, 2: 939, 3: 908, 4: 871, 5: 834, 6: 801, 7: 770, 8: 736, 9: 693}
LEVEL_SLICES = {2: (908, 938), 3: (871, 907), 4: (834, 870), 5: (801, 833), 6: (770, 800), 7: (736, 769), 8: (693, 735)}


@pytest.fixture(scope="module")
def pam50(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """PAM50 through its cache: the first load reads the files, the second is the one under test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        first = load_pam50(real_data / "PAM50")
        start = time.perf_counter()
        second = load_pam50(real_data / "PAM50")
        assert time.perf_counter() - start < 3  # 0.2 s on a quiet core
    assert first.digest == second.digest
    return second


def test_size_of_the_atlas(pam50):
    assert pam50.version == "r20250730"
    assert pam50.digest == "5038718e2b1de37d"
    assert pam50.grid.shape == (141, 141, 991)
    assert len(pam50.packing) == 254_766
    assert pam50.atlas.weights.nnz == 543_928
    tissue = pam50.atlas.weights[:36]
    assert tissue.nnz == 428_372
    assert np.count_nonzero(tissue.sum(axis=0)) == 191_192
    assert pam50.packing.ijk.min(axis=0).tolist() == [55, 60, 80]
    assert pam50.packing.ijk.max(axis=0).tolist() == [85, 84, 990]


def test_c1_to_t1_is_one_slice_of_the_voxel_axis(pam50):
    first, last = pam50.packing.level_slice(8), pam50.packing.level_slice(1)
    cervical = slice(first.start, last.stop)
    tissue = pam50.atlas.weights[:36, cervical]
    assert cervical.stop - cervical.start == 122_168
    assert np.count_nonzero(tissue.sum(axis=0)) == 84_095
    assert tissue.nnz == 174_960
    assert all((pam50.packing.level[cervical] >= 1) & (pam50.packing.level[cervical] <= 8))


def test_levels_and_discs_lie_where_the_template_says(pam50):
    for number, (low, high) in LEVEL_SLICES.items():
        assert np.flatnonzero(pam50.slice_level == number)[[0, -1]].tolist() == [low, high]
    for number, k in DISC_SLICES.items():
        assert pam50.landmark_z("disc", number) == pytest.approx(pam50.grid.world(np.array([0, 0, k]))[2])
    assert all(pam50.landmark_z("disc", n) > pam50.landmark_z("body", n) > pam50.landmark_z("disc", n + 1) for n in range(1, 21))
    assert sorted(pam50.landmarks["disc"]) == list(range(1, 22))
    assert sorted(pam50.landmarks["body"]) == list(range(1, 21))


def test_labels_sum_to_the_tissue_maps(pam50):
    t = pam50
    index = tuple((t.packing.ijk - np.array(t.corner)).T)
    np.testing.assert_allclose(t.atlas.weights[:30].sum(axis=0), t.wm[index], atol=1e-6)
    assert t.atlas.weights.sum(axis=0).max() <= 1 + 1e-5
    assert t.atlas.weights.data.min() > 0


def test_even_labels_lie_left_of_odd_ones(pam50):
    x = pam50.atlas.weights @ pam50.packing.xyz[:, 0] / pam50.atlas.weights.sum(axis=1)
    assert (x[0:36:2] < 0).all()
    assert (x[1:36:2] > 0).all()


def test_the_parametric_cord_speaks_of_the_same_atlas(pam50):
    cord = parametric_cord()
    assert cord.atlas.labels == pam50.atlas.labels
    assert cord.atlas.unions == pam50.atlas.unions
    assert cord.atlas.clusters == pam50.atlas.clusters


def test_the_parametric_cord_has_the_template_s_proportions(pam50):
    def share(t: Template) -> np.ndarray:
        levels = (t.packing.level >= 1) & (t.packing.level <= 9)
        area = t.atlas.weights[:36] @ levels.astype(float)
        return area / area.sum()

    ours, theirs = share(parametric_cord()), share(pam50)
    big = theirs > 0.01
    assert big.sum() == 28
    np.testing.assert_array_less(ours[big] / theirs[big], 1.25)
    np.testing.assert_array_less(theirs[big] / ours[big], 1.25)
    np.testing.assert_array_less(ours[~big] / theirs[~big], 2.5)
