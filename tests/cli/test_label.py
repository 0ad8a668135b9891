"""Vertebral levels of one image from the command line: found, given, or asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.errors import CohortError, ConfigError, GeometryError, LevelError
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.single.reading import read_landmarks

pytest.importorskip("torch")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["label", *map(str, arguments), "--template", "parametric", "--device", "cpu"])
    if isinstance(result.exception, CohortError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def scan(one_subject: Path) -> tuple[Path, Path, Path]:
    """T2w image, its cord mask, its true discs."""
    return tuple(next(one_subject.rglob(f"*{n}.nii.gz")) for n in ("_T2w", "_T2w_label-SC_seg", "_T2w_label-discs_dlabel"))  # type: ignore[return-value]


def off(found: Path, scan: tuple[Path, Path, Path]) -> dict[int, float]:
    """How far (mm, along the cord) each labelled disc lies from the true one."""
    mask = read_volume(scan[1], what="mask")
    line = centreline_from_mask(mask.data, mask.affine, what="mask")
    places = []
    for path in (found, scan[2]):
        marks = read_landmarks(path)
        places.append(dict(zip(marks.numbers.tolist(), line.project(marks.xyz)[0].tolist(), strict=True)))
    return {n: places[0][n] - places[1][n] for n in places[0].keys() & places[1].keys() if n > 2}


def test_discs_are_found_and_levels_written(scan: tuple[Path, Path, Path], tmp_path: Path) -> None:
    image, mask, _ = scan
    said = run(image, "--mask", mask, "-o", tmp_path / "levels.nii.gz", "--discs", tmp_path / "discs.nii.gz")
    assert "C2/C3" in said
    for name in ("discs", "levels"):
        error = off(tmp_path / f"{name}.nii.gz", scan)
        assert {3, 4, 5, 6, 7} <= error.keys()
        assert max(map(abs, error.values())) < 3
    levels, cord = (read_volume(p, what="mask").data for p in (tmp_path / "levels.nii.gz", mask))
    assert (levels[cord == 0] == 0).all()
    assert set(np.unique(levels[cord > 0])) >= {2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("number", [3, 6])
def test_one_known_disc(scan: tuple[Path, Path, Path], tmp_path: Path, number: int) -> None:
    image, mask, discs = scan
    z = int(np.argwhere(read_volume(discs, what="discs").data == number)[0, 2])
    run(image, "--mask", mask, "-o", tmp_path / "levels.nii.gz", "--discs", tmp_path / "discs.nii.gz", "--init-disc", number, "--init-z", z)
    error = off(tmp_path / "discs.nii.gz", scan)
    assert {3, 4, 5, 6, 7} <= error.keys()
    assert max(map(abs, error.values())) < 3


def test_known_points_are_taken_as_they_are(scan: tuple[Path, Path, Path], tmp_path: Path) -> None:
    image, mask, discs = scan
    said = run(image, "--mask", mask, "-o", tmp_path / "levels.nii.gz", "--points", discs)
    assert "given" in said
    error = off(tmp_path / "levels.nii.gz", scan)
    assert max(map(abs, error.values())) < 1


def test_an_image_without_discs_is_asked_about(scan: tuple[Path, Path, Path], tmp_path: Path) -> None:
    image, mask, _ = scan
    volume = read_volume(image, what="image")
    noise = np.random.default_rng(1).uniform(50, 150, volume.data.shape).astype(np.float32)
    write_volume(tmp_path / "noise.nii.gz", Volume(noise, np.asarray(volume.affine, float)))
    with pytest.raises(LevelError, match="--init-disc 3 --init-z SLICE"):
        run(tmp_path / "noise.nii.gz", "--mask", mask, "-o", tmp_path / "levels.nii.gz")
    assert not (tmp_path / "levels.nii.gz").exists()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--init-disc", 3], ConfigError, "--init-disc and --init-z"),
        (["--init-disc", 3, "--init-z", 9999], LevelError, "a slice from 0 to"),
        (["--init-disc", 30, "--init-z", 50], LevelError, "disc 30"),
    ],
)
def test_what_cannot_be_known(scan: tuple[Path, Path, Path], tmp_path: Path, words: list[object], error: type[CohortError], message: str) -> None:
    with pytest.raises(error, match=message):
        run(scan[0], "--mask", scan[1], "-o", tmp_path / "levels.nii.gz", *words)


def test_two_kinds_of_landmark_are_one_too_many(scan: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one kind of landmark"):
        run(scan[0], "--mask", scan[1], "-o", tmp_path / "levels.nii.gz", "--points", scan[2], "--init-disc", 3, "--init-z", 50)


def test_points_of_an_unknown_kind(scan: tuple[Path, Path, Path], tmp_path: Path) -> None:
    points = tmp_path / "points.nii.gz"
    points.write_bytes(scan[2].read_bytes())
    with pytest.raises(LevelError, match="--kind disc"):
        run(scan[0], "--mask", scan[1], "-o", tmp_path / "levels.nii.gz", "--points", points)


def test_the_mask_of_another_image(scan: tuple[Path, Path, Path], one_subject: Path, tmp_path: Path) -> None:
    other = next(one_subject.rglob("*on_MTS_label-SC_seg.nii.gz"))
    with pytest.raises(GeometryError, match="the grid of the image"):
        run(scan[0], "--mask", other, "-o", tmp_path / "levels.nii.gz")
