"""Motion and distortion of a diffusion series, from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import GeometryError, UnknownNameError
from cohort_engine.io.volume import write_volume
from cohort_engine.phantom.diffusion import make_dwi
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import B800
from cohort_engine.template.parametric import parametric_cord


def run(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short series with a jump and a lost slice, its reverse image, and its cord mask where the scan has it."""
    folder = tmp_path_factory.mktemp("dwi")
    imperfection = DwiImperfection(jumps=1, jump=6.0, dropped=1, distortion=3.0)
    scan = make_dwi(
        parametric_cord(spacing=2.0, top="C4", bottom="C5"), group="HC", protocol=replace(B800, slices=4, directions=12, b0_at=(0, 6)),
        imperfection=imperfection, reverse=True,
    )  # fmt: skip
    paths = {name: folder / f"{name}.nii.gz" for name in ("dwi", "reverse", "mask")}
    shift = round(np.median(scan.truth.displacement[scan.truth.mask.data > 0]) / 0.9)
    write_volume(paths["dwi"], scan.series)
    write_volume(paths["reverse"], scan.reverse)
    write_volume(paths["mask"], scan.series.with_data(np.roll(scan.truth.mask.data, shift, axis=1)))
    for name in ("bval", "bvec"):
        paths[name] = folder / f"dwi.{name}"
        paths[name].write_text(getattr(scan, name))
    return paths


def test_moco_writes_series_mean_table_picture_and_sidecar(files: dict[str, Path], tmp_path: Path) -> None:
    out, mean = tmp_path / "moco.nii.gz", tmp_path / "mean.nii.gz"
    given = ("--bval", files["bval"], "--bvec", files["bvec"], "--mask", files["mask"], "--reverse", files["reverse"])
    result = run("moco", files["dwi"], *given, "-o", out, "--mean", mean)
    assert result.exit_code == 0, result.output
    raw, image = nib.load(files["dwi"]), nib.load(out)
    assert image.shape == raw.shape
    assert np.array_equal(image.affine, raw.affine)
    assert nib.load(mean).shape == raw.shape[:3]
    facts = json.loads((tmp_path / "moco.json").read_text())
    assert facts["Sources"]["reverse"] == "reverse.nii.gz"
    assert str(tmp_path) not in json.dumps(facts)
    assert len(facts["Flags"]["dropped"]) == len(facts["Flags"]["moved"]) == 1
    table = pd.read_csv(tmp_path / "moco_motion.tsv", sep="\t", keep_default_na=False)
    assert len(table) == raw.shape[2] * raw.shape[3]
    lost = table[table["flags"] == "dropped"]
    assert lost["agreement"].tolist() == ["n/a"]
    data = image.get_fdata()
    stored = int(lost["slice"].iloc[0])
    assert np.isnan(data[:, :, stored, int(lost["volume"].iloc[0])]).all()
    assert (tmp_path / "moco_motion.png").read_bytes()[:4] == b"\x89PNG"
    assert "moved: 4 slices" in result.output
    assert "distortion of up to" in result.output


def test_undistort(files: dict[str, Path], tmp_path: Path) -> None:
    image = nib.load(files["dwi"])
    one = tmp_path / "b0.nii.gz"
    nib.save(image.slicer[..., 0], one)
    out, field = tmp_path / "out.nii.gz", tmp_path / "field.nii.gz"
    result = run("undistort", one, "--reverse", files["reverse"], "-o", out, "--mask", files["mask"], "--field", field)
    assert result.exit_code == 0, result.output
    assert nib.load(out).shape == nib.load(field).shape == image.shape[:3]
    largest = json.loads((tmp_path / "out.json").read_text())["Displacement_mm"]["Largest"]
    assert f"up to {largest:.1f} mm" in result.output
    assert 1.5 < largest < 5


def test_a_pair_of_another_geometry_and_an_unknown_direction(files: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.nii.gz"
    nib.save(nib.load(files["reverse"]).slicer[:, :, :3], other)
    result = run("undistort", files["reverse"], "--reverse", other, "-o", tmp_path / "x.nii.gz", "--mask", files["mask"])
    assert isinstance(result.exception, GeometryError)
    assert "same slices" in str(result.exception)
    result = run("undistort", files["reverse"], "--reverse", files["reverse"], "-o", tmp_path / "x.nii.gz", "--phase-encoding", "up")
    assert isinstance(result.exception, UnknownNameError)
    assert not (tmp_path / "x.nii.gz").exists()
