"""What the viewer shows is what the store holds."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("panel", reason="panel is not installed")

from cohort_engine.explore.viewer import VENDOR, images
from cohort_engine.query.accessor import open_cohort
from cohort_engine.template.parametric import parametric_cord
from cohort_engine.testing import simulate_store


def test_images_are_the_map_the_cord_and_the_region_around_a_level(tmp_path: Path) -> None:
    url = str(tmp_path / "study.zarr")
    simulate_store(url, 2, parametric_cord(spacing=2.0, top="C3", bottom="C6"))
    ds = open_cohort(url)
    found = {name: nib.Nifti1Image.from_bytes(gzip.decompress(raw)) for name, raw in images(ds, 1, "mtr", "dorsal columns", "C4").items()}
    whole = ds.cohort.unpack("mtr", 1)
    ijk = np.rint(np.linalg.inv(whole.attrs["affine"]) @ found["image"].affine @ np.eye(4)[:, 3]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(ijk[:3], found["image"].shape, strict=True))
    assert np.array_equal(found["image"].get_fdata(dtype=np.float32), whole.to_numpy()[box], equal_nan=True)
    assert len({image.shape for image in found.values()}) == 1
    inside = found["atlas"].get_fdata() > 0.5
    assert inside.any()
    assert (found["mask"].get_fdata()[inside] == 1).all()
    levels = ds.z_mm.to_numpy()[ds.voxel_level.to_numpy() == 4]
    heights = found["image"].affine[2, 3] + 2.0 * np.arange(found["image"].shape[2])
    assert heights.min() < levels.min()
    assert heights.max() > levels.max()
    assert len(heights) < whole.shape[2]


def test_the_viewer_comes_with_its_licence() -> None:
    assert (VENDOR / "niivue.umd.js").stat().st_size < 3e6
    assert "BSD 2-Clause" in (VENDOR / "README.md").read_text()
