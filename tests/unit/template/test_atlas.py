"""Names, unions and sums of labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cohort_engine.errors import UnknownNameError
from cohort_engine.template.atlas import Atlas, Region
from cohort_engine.template.parametric import CLUSTERS, LABELS, UNIONS


def make_atlas(weights: list[list[float]], labels: tuple[str, ...], unions: dict[str, tuple[int, ...]] | None = None) -> Atlas:
    return Atlas(labels, unions or {}, {}, sparse.csr_array(np.array(weights, np.float32)))


@pytest.fixture(scope="module")
def pam50_names() -> Atlas:
    return Atlas(LABELS, UNIONS, CLUSTERS, sparse.csr_array(np.eye(37, dtype=np.float32)))


@pytest.mark.parametrize(
    ("asked", "members"),
    [
        ("WM left fasciculus gracilis", (0,)),
        ("left fasciculus gracilis", (0,)),
        ("FASCICULUS GRACILIS", (0, 1)),
        ("WM lateral corticospinal tract", (4, 5)),
        ("lateral corticospinal tract", (4, 5)),
        (" spinal lemniscus ", (12, 13)),
        ("WM right spinal lemniscus (spinothalamic and spinoreticular tracts)", (13,)),
        ("right spinal lemniscus", (13,)),
        ("ventral horn", (30, 31)),
        ("white matter", tuple(range(30))),
        ("lateral funiculi", tuple(range(4, 14))),
        ("CSF contour", (36,)),
        ("left fasciculus gracilis + left fasciculus cuneatus", (0, 2)),
        ("dorsal columns + fasciculus gracilis", (0, 1, 2, 3)),
    ],
)
def test_a_region_has_many_names(pam50_names, asked, members):
    assert pam50_names.region(asked).members == members


def test_a_typo_is_answered_with_near_names(pam50_names):
    with pytest.raises(UnknownNameError, match="lateral corticospinal tract"):
        pam50_names.region("lateral cortikospinal tract")
    with pytest.raises(UnknownNameError, match="atlas"):
        pam50_names.region("dorsal columns + hippocampus")


def test_a_table_reports_labels_then_unions(pam50_names):
    assert len(pam50_names.regions) == 37 + 6
    assert pam50_names.regions[0].name == LABELS[0]
    assert [r.name for r in pam50_names.regions[37:]] == list(UNIONS)
    assert len(pam50_names.bilateral) == 15 + 3
    assert all(len(r.members) == 2 for r in pam50_names.bilateral)


def test_the_funiculi_are_the_white_matter(pam50_names):
    parts = [pam50_names.region(n).members for n in ("dorsal columns", "lateral funiculi", "ventral funiculi")]
    assert sorted(i for p in parts for i in p) == list(pam50_names.region("white matter").members)


def test_region_weights_are_sums_of_labels():
    atlas = make_atlas([[0.5, 0.0, 0.25], [0.5, 1.0, 0.0]], ("WM left a", "WM right a"), {"both": (0, 1)})
    assert atlas.region_weights(atlas.regions).toarray().tolist() == [[0.5, 0.0, 0.25], [0.5, 1.0, 0.0], [1.0, 1.0, 0.25]]
    assert atlas.membership(atlas.regions).tolist() == [[1, 0], [0, 1], [1, 1]]
    assert (atlas.membership(atlas.regions) @ atlas.weights.toarray()).tolist() == atlas.region_weights(atlas.regions).toarray().tolist()


def test_a_label_counts_once_in_a_sum():
    assert Region("a", (0, 1)) + Region("b", (1, 2)) == Region("a + b", (0, 1, 2))


def test_the_digest_sees_names_unions_and_weights():
    base = make_atlas([[0.5, 0.0], [0.5, 1.0]], ("a", "b"), {"both": (0, 1)})
    same = make_atlas([[0.5, 0.0], [0.5, 1.0]], ("a", "b"), {"both": (0, 1)})
    others = [
        make_atlas([[0.5, 0.0], [0.5, 0.9]], ("a", "b"), {"both": (0, 1)}),
        make_atlas([[0.0, 0.5], [0.5, 1.0]], ("a", "b"), {"both": (0, 1)}),
        make_atlas([[0.5, 0.0], [0.5, 1.0]], ("a", "c"), {"both": (0, 1)}),
        make_atlas([[0.5, 0.0], [0.5, 1.0]], ("a", "b"), {"both": (0,)}),
    ]
    assert base.digest == same.digest
    assert len({base.digest, *(a.digest for a in others)}) == 5
