"""Drawn regions of a study on disk, in each of the three ways they are kept."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import CohortWarning, GeometryError, InputError, MissingInputError
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.rois.config import PRIOR
from cohort_engine.single.roi_slices import load_slices, slices_of_study
from cohort_engine.testing import imagej_roi

INFO = """# Keyword=IndivLabels
0, WM left lateral corticospinal tract, a.nii.gz
1, WM right fasciculus gracilis, b.nii.gz
2, WM left ventral corticospinal tract, c.nii.gz
3, GM left ventral horn, d.nii.gz

# Keyword=CombinedLabels
50, dorsal columns, 1
51, lateral funiculi, 0
52, ventral funiculi, 2
53, gray matter, 3

# Keyword=MAPLabels
white matter, 0:2
"""
AFFINE = np.diag([0.5, 0.5, 7.0, 1.0])


def put(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(data, affine))


def labels(shape: tuple[int, int, int]) -> np.ndarray:
    """Region r in slice 1 at x = r, y = 2; slices 0 and 2 empty."""
    out = np.zeros(shape, np.uint8)
    for r in range(8):
        out[r, 2, 1] = r + 1
    return out


def person(root: Path, name: str, shape: tuple[int, int, int] = (10, 6, 3), affine: np.ndarray = AFFINE, session: str = "") -> str:
    """Maps and cord as `dti` writes them; returns the beginning of names of masks."""
    folder = root / name / session / "dwi" if session else root / name / "dwi"
    stem = f"{name}_{session}_dwi" if session else f"{name}_dwi"
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    put(folder / f"{stem}_FA.nii.gz", value, affine)
    put(folder / f"{stem}_S0.nii.gz", 1000 + value, affine)
    put(folder / f"{stem}_mask.nii.gz", np.ones(shape, np.uint8), affine)
    return str(folder / stem)


def test_one_image_of_labels(tmp_path: Path) -> None:
    put(Path(person(tmp_path, "sub-01") + "_label-rois_dseg.nii.gz"), labels((10, 6, 3)))
    found = load_slices(tmp_path)
    assert found.position.tolist() == [1]
    assert [tuple(np.argwhere(found.drawn[0, r])[0]) for r in range(8)] == [(r, 2) for r in range(8)]
    assert found.images[schema.FA][0, 4, 2] == 4 * 18 + 2 * 3 + 1
    assert found.images[schema.B0_IMAGE][0, 4, 2] == 1000 + 4 * 18 + 2 * 3 + 1
    assert found.spacing.tolist() == [0.5, 0.5]


def test_a_mask_a_region_and_outlines_are_the_same(tmp_path: Path) -> None:
    """Two pixels of the right ventral column; seen with the right on the left, columns 9 - x and rows 5 - y."""
    mask = np.zeros((10, 6, 3), np.uint8)
    mask[7:9, 4, 2] = 1
    put(Path(person(tmp_path / "a", "sub-01") + "_label-RVC_mask.nii.gz"), mask)
    put(Path(person(tmp_path / "a", "sub-01") + "_label-LGM_mask.nii.gz"), np.roll(mask, -5, axis=0))
    person(tmp_path / "b", "sub-01")
    with zipfile.ZipFile(tmp_path / "b/sub-01/dwi/sub-01_RoiSet.zip", "w") as file:
        file.writestr("0003-0001-0001.roi", imagej_roi(1, (1, 1, 3, 2), name="R-VC", position=3))
        file.writestr("L-GM.roi", imagej_roi(1, (6, 1, 8, 2), position=3))
    first, second = load_slices(tmp_path / "a"), load_slices(tmp_path / "b")
    assert np.array_equal(first.drawn, second.drawn)
    assert np.argwhere(first.drawn[0, 6]).tolist() == [[7, 4], [8, 4]]


def test_parts_of_the_cord_by_registration_are_read_with_the_maps(tmp_path: Path) -> None:
    """Two labels of the atlas on the slice that was drawn on; the label folder lies where `register` put it, under the participant."""
    shape = (10, 6, 3)
    put(Path(person(tmp_path, "sub-01") + "_label-rois_dseg.nii.gz"), labels(shape))
    folder = tmp_path / "sub-01/dwi/registered/label/atlas"
    for name, (x, weight) in {"a": (2, 0.25), "b": (7, 0.5), "c": (0, 0), "d": (0, 0)}.items():
        data = np.zeros(shape, np.float32)
        data[x, 3, 1] = weight
        put(folder / f"{name}.nii.gz", data)
    (folder / "info_label.txt").write_text(INFO)
    found = load_slices(tmp_path, images=(schema.FA, PRIOR))
    assert list(found.images) == [schema.FA]
    assert found.prior is not None
    assert np.argwhere(found.prior[0]).tolist() == [[1, 2, 3], [4, 7, 3]]
    assert found.prior[0, 1, 2, 3] == 0.25
    assert load_slices(tmp_path, images=(schema.FA,)).prior is None
    (folder / "info_label.txt").unlink()
    with pytest.raises(MissingInputError, match="prior of scan 1: expected the label folder that register writes, found none"):
        load_slices(tmp_path, images=(schema.FA, PRIOR))


def test_people_of_several_sizes_and_sessions_are_joined(tmp_path: Path) -> None:
    for name, session, shape in (("sub-10", "", (12, 6, 3)), ("sub-9", "ses-1", (10, 8, 3)), ("sub-9", "ses-2", (10, 8, 3))):
        put(Path(person(tmp_path, name, shape, session=session) + "_label-rois_dseg.nii.gz"), labels(shape))
    person(tmp_path, "sub-11")
    with pytest.warns(CohortWarning, match="1 of 4 scans"):
        found = load_slices(tmp_path)
    assert found.patient.tolist() == [0, 0, 1]
    assert found.drawn.shape == (3, 8, 12, 8)
    assert np.argwhere(found.drawn[0, 0]).tolist() == [[1, 2]]
    assert np.argwhere(found.drawn[2, 0]).tolist() == [[0, 3]]
    assert np.isnan(found.images[schema.FA][0]).sum() == 2 * 8


@pytest.mark.parametrize(
    ("value", "said"),
    [(9, "also 9"), (-1, "also -1"), (0, "only zeros")],
)
def test_other_numbers_of_classes_are_refused(tmp_path: Path, value: int, said: str) -> None:
    wrong = labels((10, 6, 3)).astype(np.int16)
    wrong[wrong > 0] = value
    put(Path(person(tmp_path, "sub-01") + "_label-rois_dseg.nii.gz"), wrong)
    with pytest.raises(InputError, match=said):
        load_slices(tmp_path)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="none of 0 scans"):
        load_slices(tmp_path)
    stem = person(tmp_path, "sub-01")
    put(Path(stem + "_label-rois_dseg.nii.gz"), labels((10, 6, 3)), AFFINE @ np.diag([2.0, 2, 1, 1]))
    with pytest.raises(GeometryError, match="drawn regions"):
        load_slices(tmp_path)
    put(Path(stem + "_label-rois_dseg.nii.gz"), labels((10, 6, 3)))
    with pytest.raises(MissingInputError, match="md of scan 1"):
        slices_of_study(tmp_path, images=(schema.MD,))
    put(tmp_path / "derivatives/other/sub-01/dwi/sub-01_dwi_FA.nii.gz", np.ones((10, 6, 3), np.float32))
    with pytest.raises(InputError, match="fa of scan 1: expected one, found 2"):
        load_slices(tmp_path)
    (tmp_path / "derivatives/other/sub-01/dwi/sub-01_dwi_FA.nii.gz").unlink()
    other = AFFINE @ np.diag([1.5, 1.5, 1, 1])
    put(Path(person(tmp_path, "sub-02", affine=other) + "_label-rois_dseg.nii.gz"), labels((10, 6, 3)), other)
    with pytest.raises(GeometryError, match=r"0\.75 x 0\.75"):
        load_slices(tmp_path)


def test_masks_whose_names_say_no_region(tmp_path: Path) -> None:
    from cohort_engine.io.roi_masks import read_drawn

    image = Volume(np.zeros((10, 6, 3), np.float32), AFFINE)
    for name in ("label-LDC_mask.nii.gz", "other.nii.gz"):
        put(tmp_path / name, labels((10, 6, 3)))
    with pytest.raises(InputError, match="says none"):
        read_drawn([tmp_path / "label-LDC_mask.nii.gz", tmp_path / "other.nii.gz"], image)
