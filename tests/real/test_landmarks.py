"""Landmarks on real cords: points in neighbouring thick slices are points, and a file name means one thing to every command."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import CohortError
from cohort_engine.io.volume import Volume, read_volume, write_volume

pytestmark = pytest.mark.real


def rows(real_data: Path, out: Path, *words: object) -> list[dict[str, str]]:
    result = CliRunner().invoke(app, ["shape", *map(str, words), "--template-path", str(real_data / "PAM50"), "-o", str(out)])
    if isinstance(result.exception, CohortError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(out.read_text().splitlines()))


@pytest.mark.parametrize(("wide", "apart"), [(0, 0), (0, 2), (1, 0), (2, 1)], ids=["one column", "side by side", "squares", "large squares"])
def test_points_in_neighbouring_slices_of_16_mm(real_data: Path, tmp_path: Path, wide: int, apart: int) -> None:
    path = real_data / "errsm_23" / "mt" / "mt_seg.nii.gz"
    mask = read_volume(path, what="mask")
    x, y = np.rint(np.argwhere(mask.data[:, :, 2] > 0).mean(axis=0)).astype(int)
    labels = np.zeros(mask.data.shape, np.uint8)
    for j, (k, n) in enumerate({3: 4, 2: 5, 1: 6}.items()):
        at = x + apart * (j - 1)
        labels[at - wide : at + wide + 1, y - wide : y + wide + 1, k] = n
    write_volume(tmp_path / "points.nii.gz", Volume(labels, mask.affine))
    found = rows(real_data, tmp_path / "out.csv", path, "--levels", tmp_path / "points.nii.gz", "--kind", "disc")
    assert [r["VertLevel"] for r in found] == ["7", "5", "4", "3", "3"]  # C3/C4 lies in the middle of slice 3


@pytest.mark.parametrize("name", ["t2_bodies", "sub-01_T2w_label-vertebrae_dlabel", "sub-01_T2w_labels-vert-manual"])
def test_a_name_that_says_vertebrae_says_bodies(real_data: Path, tmp_path: Path, name: str) -> None:
    folder = real_data / "errsm_11" / "t2"
    labels = tmp_path / f"{name}.nii.gz"
    shutil.copy(folder / "t2_landmarks_C2_T2_center.nii.gz", labels)
    named, said = (
        rows(real_data, tmp_path / "out.csv", folder / "t2_manual_segmentation.nii.gz", "--levels", labels, "--per", "level", *kind)
        for kind in ((), ("--kind", "body"))
    )
    assert named == said
    second = next(r for r in named if r["VertLevel"] == "2")
    assert second["Slice (I->S)"] == "181:194"
    assert float(second["MEAN(area)"]) == pytest.approx(73.86, abs=0.01)
