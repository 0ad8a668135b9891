"""One image to mask and centreline, from the command line, whatever the axes of the file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import GeometryError
from cohort_engine.io.volume import Volume, read_volume, write_volume

pytest.importorskip("torch")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def scan(one_subject: Path) -> Path:
    return next(one_subject.rglob("*on_MTS.nii.gz"))


def test_segment_finds_the_simulated_cord(scan: Path, one_subject: Path, tmp_path: Path) -> None:
    said = run("segment", scan, "-o", tmp_path / "mask.nii.gz", "--soft", tmp_path / "soft.nii.gz")
    assert "cord in" in said
    mask, soft = (read_volume(tmp_path / f"{n}.nii.gz", what="mask").data for n in ("mask", "soft"))
    truth = read_volume(next(one_subject.rglob("*on_MTS_label-SC_seg.nii.gz")), what="mask").data > 0.5
    assert set(np.unique(mask)) == {0, 1}
    assert 2 * (mask * truth).sum() / (mask.sum() + truth.sum()) > 0.85  # of the whole cord: the border lies 0.25 mm inside it
    assert soft.sum() == pytest.approx(mask.sum(), rel=0.05)


def test_grey_draws_what_the_image_shows(scan: Path, one_subject: Path, tmp_path: Path) -> None:
    """Of a simulated MT image: brighter than white matter, inside the mask; a mask on another grid is refused."""
    mask = next(one_subject.rglob("*on_MTS_label-SC_seg.nii.gz"))
    assert "stands out by +" in run("grey", scan, "--mask", mask, "-o", tmp_path / "grey.nii.gz")
    cord, grey = (read_volume(f, what="mask") for f in (mask, tmp_path / "grey.nii.gz"))
    assert (grey.data <= cord.data).all()
    assert 0.1 < grey.data.sum() / cord.data.sum() < 0.35
    write_volume(tmp_path / "cut.nii.gz", Volume(cord.data[:-1], cord.affine))
    result = CliRunner().invoke(app, ["grey", str(scan), "--mask", str(tmp_path / "cut.nii.gz"), "-o", str(tmp_path / "none.nii.gz")])
    assert isinstance(result.exception, GeometryError)
    assert not (tmp_path / "none.nii.gz").exists()


def test_the_orientation_of_the_file_does_not_matter(scan: Path, tmp_path: Path) -> None:
    image = nib.load(scan)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("PIL"))  # not the closest to RAS+
    nib.save(turned, tmp_path / "turned.nii.gz")
    for name, file in (("a", scan), ("b", tmp_path / "turned.nii.gz")):
        run("segment", file, "-o", tmp_path / f"{name}.nii.gz")
    a, b = (read_volume(tmp_path / f"{n}.nii.gz", what="mask") for n in "ab")
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)


def test_centerline_as_table_and_as_image(scan: Path, tmp_path: Path) -> None:
    run("centerline", scan, "-o", tmp_path / "line.csv")
    run("centerline", scan, "-o", tmp_path / "line.nii.gz")
    table, line = pd.read_csv(tmp_path / "line.csv"), read_volume(tmp_path / "line.nii.gz", what="line")
    assert list(table) == ["slice", "x", "y", "z", "confidence"]
    assert (line.data.sum(axis=(0, 1))[table["slice"]] == 1).all()
    voxels = np.argwhere(line.data)[np.argsort(np.argwhere(line.data)[:, 2])]
    apart = line.grid.world(voxels.astype(float)) - table[["x", "y", "z"]].to_numpy()
    assert np.abs(apart).max() < 0.5 * line.grid.spacing.max()


def test_an_image_without_a_cord_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).rayleigh(size=(50, 50, 10)).astype(np.float32)
    write_volume(tmp_path / "air.nii.gz", Volume(noise, np.diag([1.0, 1.0, 3.0, 1.0])))
    said = run("segment", tmp_path / "air.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert "no cord" in said
    assert not read_volume(tmp_path / "mask.nii.gz", what="mask").data.any()
    result = CliRunner().invoke(app, ["centerline", str(tmp_path / "air.nii.gz"), "-o", str(tmp_path / "line.csv")])
    assert "no cord was found" in str(result.exception)
    assert not (tmp_path / "line.csv").exists()
