"""Headers of published images: all are understood, and none is said to contradict itself."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort_engine.io.header import judge_header
from cohort_engine.io.volume import read_volume, write_volume

pytestmark = pytest.mark.real


def test_nothing_is_to_be_said_of_the_header_of_a_published_image(real_data: Path) -> None:
    """Quaternions near half a turn, codes 1, 2 and 0, no unit, NIfTI of six tools: one matrix each."""
    files = sorted(real_data.rglob("*.nii*"))
    assert len(files) > 300
    said = {str(path.relative_to(real_data)): notes for path in files if (notes := judge_header(path, what="image"))}
    assert said == {}


@pytest.mark.parametrize("name", ["errsm_23/t2/t2.nii.gz", "t2_ms/t2.nii.gz", "sct_019/mt/mt1.nii.gz"])
def test_a_mask_of_a_published_image_is_on_its_voxels(real_data: Path, name: str, tmp_path: Path) -> None:
    path = real_data / name
    if not path.exists():
        pytest.skip(f"{name} is absent")
    image = read_volume(path, what="image")
    write_volume(tmp_path / "mask.nii.gz", image.with_data(image.data > np.median(image.data)))
    there, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, there.affine)
    values = np.asarray(there.dataobj)
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, values > np.median(values))
