"""One image to the template, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import GeometryError, LevelError
from cohort_engine.io.label_folder import read_atlas
from cohort_engine.io.volume import Volume, read_volume, write_volume


def arguments(study: Path, out: Path) -> list[str]:
    on, mask, discs = (next(study.rglob(f"*{name}.nii.gz")) for name in ("on_MTS", "on_MTS_label-SC_seg", "discs_dlabel"))
    return ["register", str(on), "--mask", str(mask), "--levels", str(discs), "--template", "parametric", "-o", str(out)]


@pytest.fixture(scope="module")
def registered(one_subject: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("registered") / "mt"
    result = CliRunner().invoke(app, arguments(one_subject, out))
    assert result.exit_code == 0, result.output
    return one_subject, out


def test_quality_is_written(registered: tuple[Path, Path]) -> None:
    quality = json.loads((registered[1] / "quality.json").read_text())
    assert quality["template"] == "parametric"
    assert quality["dice"] > 0.95
    assert quality["grey_dice"] is None
    assert 0.3 < quality["cord_coverage"] <= 1


def test_label_folder_is_a_partial_volume_of_the_template(registered: tuple[Path, Path]) -> None:
    study, out = registered
    mask = read_volume(next(study.rglob("*on_MTS_label-SC_seg.nii.gz")), what="mask")
    cord, wm, gm, levels = (read_volume(out / "label" / "template" / f"parametric_{n}.nii.gz", what=n).data for n in ("cord", "wm", "gm", "levels"))
    assert cord[mask.data > 0].sum() == pytest.approx(mask.data.sum(), rel=0.1)
    np.testing.assert_allclose((wm + gm)[cord > 0.99], 1.0, atol=0.02)
    assert set(np.unique(levels[cord > 0.5])) >= {3, 4, 5, 6}
    assert levels[cord == 0].max() == 0
    assert read_atlas(out / "label").naming.labels[0] == "WM left fasciculus gracilis"


def test_left_stays_left(registered: tuple[Path, Path]) -> None:
    left, right = (read_volume(registered[1] / "label" / "atlas" / f"parametric_atlas_0{i}.nii.gz", what="tract") for i in (4, 5))
    x = [np.average(v.grid.world(np.argwhere(v.data > 0).astype(float))[:, 0], weights=v.data[v.data > 0]) for v in (left, right)]
    assert x[0] < x[1] - 3


def test_grey_matter_guides_the_inside(one_subject: Path, tmp_path: Path) -> None:
    """Drawn from the image, it overlaps the template's; without it there is no such number. It must lie on the image's grid."""
    pytest.importorskip("torch")
    words = arguments(one_subject, tmp_path / "mt")
    found = CliRunner().invoke(app, ["grey", *words[1:4], "-o", str(tmp_path / "grey.nii.gz")])
    assert found.exit_code == 0, found.output
    result = CliRunner().invoke(app, [*words, "--grey", str(tmp_path / "grey.nii.gz")])
    assert result.exit_code == 0, result.output
    quality = json.loads((tmp_path / "mt" / "quality.json").read_text())
    assert quality["dice"] > 0.95
    assert quality["grey_dice"] > 0.6
    other = read_volume(tmp_path / "grey.nii.gz", what="grey matter")
    write_volume(tmp_path / "other.nii.gz", Volume(other.data[:-1], other.affine))
    result = CliRunner().invoke(app, [*words, "--grey", str(tmp_path / "other.nii.gz")])
    assert isinstance(result.exception, GeometryError)
    assert "grey matter: expected the grid of the image" in str(result.exception)


def test_landmarks_of_an_unknown_kind(one_subject: Path, tmp_path: Path) -> None:
    points = tmp_path / "points.nii.gz"
    points.write_bytes(next(one_subject.rglob("*discs_dlabel.nii.gz")).read_bytes())
    words = arguments(one_subject, tmp_path / "out")
    words[words.index("--levels") + 1] = str(points)
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, LevelError)
    assert "--kind disc" in str(result.exception)
