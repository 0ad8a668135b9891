"""Names, unions and sums of labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cohort_engine.errors import InputError, UnknownNameError
from cohort_engine.template.atlas import Atlas, Region, label_files, parse_info
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


# --- info_label.txt ---------------------------------------------------------------------------------------------------
INFO = """\ufeff# Atlas\r
# Keyword=IndivLabels (Please DO NOT change this line)\r
# ID, name, file\r
0, WM left gracilis, a.nii.gz\r
2, WM right gracilis, b.nii.gz\r
1, horn, left and right, c.nii.gz\r
7, CSF (contour, outer), d.nii.gz\r
# Keyword=CombinedLabels\r
# Keyword=MAPLabels\r
"""


def info(group: str = "", cluster: str = "") -> str:
    return INFO.replace("# Keyword=MAPLabels\r\n", f"{group}\n# Keyword=MAPLabels\n{cluster}\n")


@pytest.mark.parametrize(
    ("row", "name", "members"),
    [
        ("56, left dorsal WM, 0,2", "left dorsal WM", (0, 2)),
        ("56, all, 0:2", "all", (0, 1, 2)),
        ("56, all, 0-2", "all", (0, 1, 2)),
        ("56, all, 2 : 2, 0 - 1,", "all", (0, 1, 2)),
        ("56, twice, 1,0:1,1", "twice", (0, 1)),
        ("56, semicolons, 0;7", "semicolons", (0, 3)),
        ("56, cord, without fluid, 0:2", "cord, without fluid", (0, 1, 2)),
        ("56, one, 7", "one", (3,)),
        ('56, "dorsal, left", 0,1', "dorsal, left", (0, 1)),
    ],
)
def test_a_group_is_any_list_of_numbers(row, name, members):
    """The name took all but the last number, and the group was that number alone."""
    labels, unions, clusters = parse_info(info(row, row.partition(",")[2]))
    assert labels == ("WM left gracilis", "horn, left and right", "WM right gracilis", "CSF (contour, outer)")
    assert unions == clusters == {name: members}
    assert label_files(info(row)) == ("a.nii.gz", "c.nii.gz", "b.nii.gz", "d.nii.gz")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("56, cord, 0:7", r"line 9: expected numbers of section IndivLabels.*'56, cord, 0:7'"),
        ("56, cord, 2:0", "the smaller one first"),
        ("56, cord, zero", "expected number, name, group"),
        ("56, 0", "expected number, name, group"),
        ("cord, 0:1", "expected number, name, group"),
        ("56, cord, 0\n57, cord, 1", r"line 10: expected a name of its own"),
        ("56, wm left GRACILIS, 2", "a name of its own"),
        ("56, cord, 0:999999999999", "numbers of section IndivLabels"),
    ],
)
def test_a_group_that_cannot_be_read_names_its_line(row, words):
    with pytest.raises(InputError, match=words):
        parse_info(info(row))


@pytest.mark.parametrize(("old", "new"), [("2, WM right", "0, WM right"), ("WM right gracilis", "wm LEFT gracilis"), (", a.nii.gz", "")])
def test_a_label_is_given_once_and_whole(old, new):
    with pytest.raises(InputError, match=r"info_label\.txt, line [45]: expected (each number and name once|number, name, file)"):
        parse_info(INFO.replace(old, new))


def test_a_list_without_sections():
    with pytest.raises(InputError, match="expected sections IndivLabels, CombinedLabels and MAPLabels, found IndivLabels"):
        parse_info("# Keyword=IndivLabels\n0, a, a.nii.gz\n")
