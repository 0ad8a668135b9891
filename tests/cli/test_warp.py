"""Images from their space to the template and back, from the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import InputError, MissingInputError, UnknownNameError
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.template import load_template
from cohort_engine.template.base import Template


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["warp", *map(str, words)])


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template("parametric")


@pytest.fixture(scope="module")
def registered(one_subject: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """MT-on image, and the folder of its registration."""
    out = tmp_path_factory.mktemp("registered") / "mt"
    on, mask, discs = (next(one_subject.rglob(f"*{name}.nii.gz")) for name in ("on_MTS", "on_MTS_label-SC_seg", "discs_dlabel"))
    words = ["register", str(on), "--mask", str(mask), "--levels", str(discs), "--template", "parametric", "--no-deformable", "-o", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return on, out


def block(template: Template, values: np.ndarray, path: Path) -> Path:
    """Write an image of the template's block."""
    write_volume(path, Volume(np.asarray(values), np.asarray(template.block_grid.affine, np.float64)))
    return path


def test_to_the_image_is_what_register_writes(registered: tuple[Path, Path], template: Template, tmp_path: Path) -> None:
    """The cord of the template in slices of 5 mm is its mean over each voxel, as in the label folder."""
    _, folder = registered
    cord = block(template, np.asarray(template.cord, np.float32), tmp_path / "cord.nii.gz")
    assert run(cord, "--by", folder, "--to", "image", "-o", tmp_path / "there.nii.gz").exit_code == 0
    found, expected = (
        read_volume(p, what="cord").data for p in (tmp_path / "there.nii.gz", folder / "label" / "template" / "parametric_cord.nii.gz")
    )
    inside = np.isfinite(found) & (expected > 0)
    assert inside.sum() > 0.95 * (expected > 0).sum()
    assert np.abs(found - expected)[inside].mean() < 0.02
    assert np.nansum(found[inside]) == pytest.approx(expected[inside].sum(), rel=0.02)


def test_there_and_back(registered: tuple[Path, Path], template: Template, tmp_path: Path) -> None:
    """A smooth image of the template comes back from the image's slices as it went."""
    _, folder = registered
    x, y, z = np.moveaxis(template.block_grid.world(np.moveaxis(np.indices(template.block_grid.shape, dtype=float), 0, -1)), -1, 0)
    wave = 50 + 5 * np.sin(z / 12) + 0.5 * (x - x.mean()) - 0.3 * (y - y.mean())
    there, back = tmp_path / "there.nii.gz", tmp_path / "back.nii.gz"
    assert run(block(template, wave.astype(np.float32), tmp_path / "wave.nii.gz"), "--by", folder, "--to", "image", "-o", there).exit_code == 0
    assert run(there, "--by", folder, "--to", "template", "-o", back).exit_code == 0
    found = read_volume(back, what="wave").data
    both = np.isfinite(found) & (template.cord > 0.9)
    slices = np.flatnonzero(both.any(axis=(0, 1)))
    both[:, :, slices[:10]] = both[:, :, slices[-10:]] = False
    assert both.sum() > 10_000
    assert np.abs(found - wave)[both].mean() < 0.1
    assert np.abs(found - wave)[both].max() < 0.6


def test_levels_go_to_the_template_and_stay_whole(registered: tuple[Path, Path], template: Template, tmp_path: Path) -> None:
    _, folder = registered
    levels = folder / "label" / "template" / "parametric_levels.nii.gz"
    result = run(levels, "--by", folder, "--to", "template", "-o", tmp_path / "levels.nii.gz")
    assert result.exit_code == 0, result.output
    assert "labels" in result.output
    found = read_volume(tmp_path / "levels.nii.gz", what="levels", dtype=np.int32).data
    inner = (found > 0) & (template.cord > 0.9)
    k = np.argwhere(inner)[:, 2] + template.corner[2]
    agree = found[inner] == template.slice_level[k]
    assert inner.sum() > 10_000
    assert agree.mean() > 0.9  # a level's border lies anywhere in a slice of 5 mm


def test_landmarks_of_one_voxel_survive_both_ways(registered: tuple[Path, Path], template: Template, tmp_path: Path) -> None:
    _, folder = registered
    grid = template.block_grid
    points = np.zeros(grid.shape, np.int16)
    found = read_volume(folder / "label" / "template" / "parametric_levels.nii.gz", what="levels").data
    inside = [n for n in np.unique(found) if n > 0][1:-1]
    for n in inside:
        row = np.flatnonzero(template.slice_level == n).mean() - template.corner[2]
        x, y = (int(i.mean()) for i in np.nonzero(template.cord[:, :, int(row)] > 0.5))
        points[x, y, int(row)] = n
    there, back = tmp_path / "there.nii.gz", tmp_path / "back.nii.gz"
    assert run(block(template, points, tmp_path / "points.nii.gz"), "--by", folder, "--to", "image", "-o", there).exit_code == 0
    assert run(there, "--by", folder, "--to", "template", "-o", back).exit_code == 0
    again = read_volume(back, what="points", dtype=np.int32).data
    assert set(np.unique(again)) == {0, *map(int, inside)}
    for n in inside:
        off = (np.argwhere(again == n).mean(axis=0) - np.argwhere(points == n)[0]) * grid.spacing
        assert np.hypot(*off[:2]) < 1.0
        assert abs(off[2]) < 3.0  # half a slice and a bit


def test_a_label_folder_goes_over_as_a_whole(registered: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = registered
    label = tmp_path / "label"
    shutil.copytree(folder / "label" / "template", label / "template")
    (label / "atlas").mkdir()
    shutil.copy(folder / "label" / "atlas" / "parametric_atlas_04.nii.gz", label / "atlas")
    result = run(label, "--by", folder, "--to", "template", "-o", tmp_path / "there")
    assert result.exit_code == 0, result.output
    files = {p.relative_to(label) for p in label.rglob("*.nii.gz")}
    assert len(files) > 4
    assert {p.relative_to(tmp_path / "there" / "label") for p in (tmp_path / "there").rglob("*.nii.gz")} == files
    wm, gm, cord = (read_volume(tmp_path / "there" / "label" / "template" / f"parametric_{n}.nii.gz", what=n).data for n in ("wm", "gm", "cord"))
    np.testing.assert_allclose((wm + gm)[cord > 0.99], 1.0, atol=0.03)


def test_onto_the_voxels_of_another_image(registered: tuple[Path, Path], template: Template, tmp_path: Path) -> None:
    """Another image of the session: finer, its axes from right to left and from top to bottom, its own header kept."""
    on, folder = registered
    image = nib.load(on)
    affine = image.affine @ np.diag([-0.5, 1.0, -0.5, 1.0])
    affine[:3, 3] = image.affine @ [image.shape[0] - 0.75, 0, image.shape[2] - 0.75, 1] @ np.eye(4)[:, :3]
    other = nib.Nifti1Image(np.zeros((2 * image.shape[0], image.shape[1], 2 * image.shape[2]), np.int16), affine)
    nib.save(other, tmp_path / "other.nii.gz")
    cord = block(template, np.asarray(template.cord, np.float32), tmp_path / "cord.nii.gz")
    assert run(cord, "--by", folder, "--to", "image", "--onto", tmp_path / "other.nii.gz", "-o", tmp_path / "there.nii.gz").exit_code == 0
    found = nib.load(tmp_path / "there.nii.gz")
    assert found.shape == other.shape
    np.testing.assert_allclose(found.affine, other.affine, atol=1e-4)
    label = read_volume(folder / "label" / "template" / "parametric_cord.nii.gz", what="cord")
    mine = read_volume(tmp_path / "there.nii.gz", what="cord")
    volumes = [float(np.nansum(v.data) * np.prod(v.grid.spacing)) for v in (label, mine)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)


def test_a_warp_alone_and_a_chosen_interpolation(registered: tuple[Path, Path], tmp_path: Path) -> None:
    on, folder = registered
    assert run(on, "--by", folder / "warp_anat2template.nii.gz", "-o", tmp_path / "spline.nii.gz").exit_code == 0
    assert run(on, "--by", folder, "--to", "template", "--interpolation", "nearest", "-o", tmp_path / "nearest.nii.gz").exit_code == 0
    spline, nearest = (read_volume(tmp_path / f"{n}.nii.gz", what="image") for n in ("spline", "nearest"))
    known = np.isfinite(spline.data) & (nearest.data != 0)
    assert set(np.unique(nearest.data[known])) <= set(np.unique(read_volume(on, what="image").data))
    straight = read_volume(folder / "anat2template.nii.gz", what="image").data
    both = known & np.isfinite(straight)
    assert np.corrcoef(spline.data[both], straight[both])[0, 1] > 0.98


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (["IMAGE", "--by", "FOLDER"], InputError, "Give --to template or --to image"),
        (["IMAGE", "--by", "FOLDER", "--to", "templat"], UnknownNameError, "Did you mean 'template'"),
        (["IMAGE", "--by", "FOLDER", "--to", "image", "--interpolation", "cubic"], UnknownNameError, "expected a known interpolation"),
        (["IMAGE", "--by", "EMPTY", "--to", "image"], MissingInputError, "warp_template2anat.nii.gz"),
        (["IMAGE", "--by", "IMAGE"], InputError, "expected displacements"),
        (["EMPTY", "--by", "FOLDER", "--to", "template"], MissingInputError, "images to warp"),
        (["IMAGE", "FOLDER", "--by", "FOLDER", "--to", "template"], InputError, "a folder for more than one image"),
        (["IMAGE", "--by", "FOLDER", "--to", "template", "--interpolation", "labels"], InputError, "whole numbers"),
    ],
)
def test_what_cannot_be_done_is_one_error(registered: tuple[Path, Path], tmp_path: Path, words: list[str], kind: type[Exception], text: str) -> None:
    image, folder = registered
    (tmp_path / "empty").mkdir()
    named = {"IMAGE": str(image), "FOLDER": str(folder), "EMPTY": str(tmp_path / "empty")}
    result = run(*(named.get(w, w) for w in words), "-o", tmp_path / "out.nii.gz")
    assert isinstance(result.exception, kind), result.output
    assert text in str(result.exception)
    assert not (tmp_path / "out.nii.gz").exists()


def test_two_images_of_one_name_are_not_written_over_each_other(registered: tuple[Path, Path], tmp_path: Path) -> None:
    image, folder = registered
    (tmp_path / "a").mkdir()
    shutil.copy(image, tmp_path / "a" / image.name)
    result = run(image, tmp_path / "a" / image.name, "--by", folder, "--to", "template", "-o", tmp_path / "out")
    assert isinstance(result.exception, InputError)
    assert "different names" in str(result.exception)
