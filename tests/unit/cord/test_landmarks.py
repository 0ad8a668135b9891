"""What a label image is (points, or a mask labelled by level), and what its numbers count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.cord.levels import landmarks_from_labels
from cohort_engine.errors import LevelError
from cohort_engine.io.names import kind_of_landmarks

WHAT = "vertebral landmarks"
DISCS = {4: 45.0, 5: 30.0, 6: 15.0}  # place along the cord, mm
Labels = tuple[NDArray[np.int16], NDArray[np.float64]]


def points(thickness: float, pixel: float = 0.8, *, ball: float = 0.0, cube: int = 0, numbers: dict[int, float] = DISCS) -> Labels:
    """Points drawn as one voxel, as balls (radius, mm) or as cubes (voxels to either side) in slices of some thickness."""
    affine = np.diag([pixel, pixel, thickness, 1.0])
    shape = (round(30 / pixel), round(30 / pixel), round(60 / thickness))
    at = np.moveaxis(np.indices(shape), 0, -1)
    labels = np.zeros(shape, np.int16)
    for n, z in numbers.items():
        centre = np.array([shape[0] // 2, shape[1] // 2, round(z / thickness)])
        step = np.abs(at - centre)
        inside = (step == 0).all(axis=-1)
        if cube:
            inside = (step <= cube).all(axis=-1) & (step[..., 2] <= (cube if thickness < 10 else 0))
        if ball:
            inside = np.linalg.norm(step * affine[[0, 1, 2], [0, 1, 2]], axis=-1) <= ball
        labels[inside] = n
    return labels, affine


def labelled_mask(thickness: float, *, width: float = 12.0, gap: tuple[float, float] | None = None) -> Labels:
    """A cord of 8 mm by `width`, vertebra 3 to 6 between the discs of `DISCS`, and no mask in some mm along it."""
    affine = np.diag([0.8, 0.8, thickness, 1.0])
    x, y, z = np.indices((38, 38, round(60 / thickness))) * np.array([0.8, 0.8, thickness]).reshape(3, 1, 1, 1)
    level = np.select([z >= DISCS[n] for n in (4, 5, 6)], [3, 4, 5], 6)
    inside = ((x - 15) / (width / 2)) ** 2 + ((y - 15) / 4) ** 2 < 1
    if gap is not None:
        inside &= (z < gap[0]) | (z > gap[1])
    return np.where(inside, level, 0).astype(np.int16), affine


@pytest.mark.parametrize(
    "draw",
    [
        lambda: points(16.5, numbers={4: 49.5, 5: 33.0, 6: 16.5}),
        lambda: points(15.0, ball=3.0),
        lambda: points(15.0, cube=1),
        lambda: points(5.0, cube=1),  # three slices each: they touch all along
        lambda: points(5.0, 0.5, cube=2, numbers={4: 50.0, 5: 30.0, 6: 10.0}),
        lambda: points(1.0, ball=3.0),
        lambda: points(1.0, cube=2),
    ],
    ids=["voxels in neighbouring slices", "balls in them", "squares in them", "cubes that touch", "large cubes", "balls", "cubes"],
)
@pytest.mark.parametrize("kind", [schema.DISC, schema.BODY])
def test_points_however_they_are_drawn(draw: Callable[[], Labels], kind: str) -> None:
    labels, affine = draw()
    found = landmarks_from_labels(labels, affine, kind=kind, what=WHAT)
    assert (found.kind, found.numbers.tolist()) == (kind, [4, 5, 6])
    for n, z in zip(found.numbers, found.xyz[:, 2], strict=True):
        assert abs(z - np.flatnonzero((labels == n).any(axis=(0, 1))).mean() * affine[2, 2]) < 0.01
    with pytest.raises(LevelError, match="whether points are discs or bodies"):
        landmarks_from_labels(labels, affine, kind=None, what=WHAT)


@pytest.mark.parametrize(
    "labels",
    [
        labelled_mask(1.0), labelled_mask(5.0), labelled_mask(15.0), labelled_mask(1.0, width=5.0),
        labelled_mask(1.0, gap=(28.4, 31.4)), labelled_mask(0.8, gap=(20.0, 24.0)),
    ],
    ids=["thin slices", "thick slices", "one slice a level", "a compressed cord", "a gap at a border", "a gap within a level"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [None, schema.BODY])
def test_a_mask_labelled_by_level_needs_no_name(labels: Labels, kind: str | None) -> None:
    found = landmarks_from_labels(*labels, kind=kind, what=WHAT)
    assert (found.kind, found.numbers.tolist()) == (schema.DISC, [4, 5, 6])
    thickness = labels[1][2, 2]
    np.testing.assert_allclose(found.xyz[:, 2], [45, 30, 15], atol=0.51 * thickness + 0.6)


def test_numbers_that_should_count_discs_are_no_mask() -> None:
    with pytest.raises(LevelError, match="one point for each disc, found a mask labelled by level"):
        landmarks_from_labels(*labelled_mask(1.0), kind=schema.DISC, what=WHAT)


def test_a_binary_mask_is_no_point() -> None:
    labels, affine = labelled_mask(1.0)
    with pytest.raises(LevelError, match="disc 1 in one place"):
        landmarks_from_labels((labels > 0).astype(np.int16), affine, kind=schema.DISC, what=WHAT)


def test_a_number_in_two_places_is_named_with_its_slices() -> None:
    labels, affine = points(1.0)
    labels[18, 18, 50] = 5
    with pytest.raises(LevelError, match=r"disc 5 in one place, found voxels 20 mm apart \(slices 30, 50 from the bottom\)"):
        landmarks_from_labels(labels, affine, kind=schema.DISC, what=WHAT)


def test_a_point_of_two_thick_slices_is_in_one_place() -> None:
    labels, affine = points(16.5, numbers={3: 49.5, 5: 0.0})
    labels[18, 18, 2] = 3
    labels[labels == 5] = 0
    labels[18, 18, 0] = 5
    found = landmarks_from_labels(labels, affine, kind=schema.BODY, what=WHAT)
    assert found.xyz[:, 2].tolist() == [2.5 * 16.5, 0]


def test_discs_far_down_and_of_the_head_keep_their_numbers() -> None:
    labels, affine = points(1.0, numbers={3: 50.0, 21: 30.0, 49: 5.0})
    assert landmarks_from_labels(labels, affine, kind=schema.DISC, what=WHAT).numbers.tolist() == [3, 21, 49]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sub-01_T2w_label-discs_dlabel.nii.gz", schema.DISC),
        ("sub-01_T2w_label-vertebrae_dlabel.nii.gz", schema.BODY),
        ("t2_bodies.nii.gz", schema.BODY),
        ("sub-01_T2w_labels-disc-manual.nii.gz", schema.DISC),
        ("sub-01_ses-1_T2w_label-disc_desc-manual_dlabel.nii.gz", schema.DISC),
        ("sub-01_T2w_seg_labeled_discs.nii.gz", schema.DISC),
        ("sub-01_T2w_label-SC_seg_labeled.nii.gz", schema.BODY),
        ("PAM50_label_body.nii.gz", schema.BODY),
        ("PAM50_label_discPosterior.nii.gz", schema.DISC),
        ("vertebral-discs.nii", schema.DISC),
        ("disk_points.nii.gz", schema.DISC),
        ("s3://bucket/discs/t2_vert.nii.gz", schema.BODY),
        ("sub-disc_T2w_label-vertebrae_dlabel.nii.gz", schema.BODY),
        ("sub-body_T2w_landmarks.nii.gz", None),
        ("t2_landmarks_C2_T2_center.nii.gz", None),
    ],
)
def test_what_a_file_name_says(name: str, kind: str | None) -> None:
    assert kind_of_landmarks(name) == kind
