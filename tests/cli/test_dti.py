"""Tensor maps of one diffusion series, from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import CohortError, GeometryError, InputError, UnknownNameError
from cohort_engine.io.gradients import read_gradients
from cohort_engine.io.volume import Volume, decode_series, read_mask, read_raw, read_volume, write_volume
from cohort_engine.phantom.diffusion import make_dwi
from cohort_engine.phantom.protocol import B800
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.single.dti import tensor_image
from cohort_engine.single.moco import correct
from cohort_engine.template.parametric import parametric_cord

MAPS = {"FA": "fa", "MD": "md", "AD": "ad", "RD": "rd", "S0": "s0", "FAse": "fa_se", "reliable": "reliable"}


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["dti", *map(str, words)])


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A simulated series of 6 slices and 20 directions, as a scanner's converter writes it, with its true mask."""
    folder = tmp_path_factory.mktemp("dwi")
    made = make_dwi(
        parametric_cord(spacing=1.0, top="C3", bottom="C5"),
        group="HC",
        seed=3,
        protocol=replace(B800, directions=20, b0_at=(0, 11, 22, 23, 24), slices=6),
    )
    paths = {"series": folder / "dwi.nii.gz", "mask": folder / "mask.nii.gz", "bval": folder / "dwi.bval", "bvec": folder / "dwi.bvec"}
    write_volume(paths["series"], made.series)
    write_volume(paths["mask"], made.truth.mask.with_data(made.truth.mask.data > 0.5))
    paths["bval"].write_text(made.bval)
    paths["bvec"].write_text(made.bvec)
    return paths


def words(files: dict[str, Path], *, mask: bool = True) -> list[object]:
    return [files["series"], "--bval", files["bval"], "--bvec", files["bvec"], *(("--mask", files["mask"]) if mask else ())]


def test_the_maps_are_those_of_the_stage(scan: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "sub-01"
    result = run(*words(scan), "-o", out)
    assert result.exit_code == 0, result.output
    series = decode_series(read_raw(scan["series"], what="series"), what="series")
    gradients, cord = read_gradients(scan["bval"], scan["bvec"], series), read_mask(scan["mask"], what="mask")
    image, quality = tensor_image(correct(series, gradients, cord=cord).series, gradients, cord)
    for ending, name in MAPS.items():
        found = read_volume(f"{out}_{ending}.nii.gz", what=ending).data
        expected = image.data[..., CHANNELS.index(name)]
        np.testing.assert_array_equal(found, np.nan_to_num(expected) if name == "reliable" else expected)
    facts = json.loads(Path(f"{out}_dti.json").read_text())
    assert facts["CordMask"] == "given"
    assert facts["Shells"] == {"b = 800 s/mm2": 20, "b0": 5}
    assert facts["Cord"]["SNR"] == pytest.approx(quality["snr"], rel=1e-3)
    assert facts["Motion"]["largest_shift"] > 0
    assert 0.5 < facts["Cord"]["FA"] < 0.9
    assert f"median FA {facts['Cord']['FA']}" in result.output
    assert str(tmp_path) not in Path(f"{out}_dti.json").read_text()


def test_a_series_stored_otherwise_gives_the_same_maps_on_its_own_voxels(scan: dict[str, Path], tmp_path: Path) -> None:
    """Stored from front to top and from left: the texts of the directions differ, FA and eigenvectors in the scanner do not."""
    turned = {}
    for key in ("series", "mask"):
        image = nib.load(scan[key])
        turned[key] = tmp_path / f"{key}.nii.gz"
        change = nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("PSR"))
        nib.save(image.as_reoriented(change), turned[key])
    axes = {k: nib.load(files["series"]).affine[:3, :3] for k, files in (("plain", scan), ("turned", turned))}
    axes = {k: a / np.linalg.norm(a, axis=0) for k, a in axes.items()}
    signs = {k: np.array([-1.0 if np.linalg.det(a) > 0 else 1.0, 1, 1]) for k, a in axes.items()}
    world = axes["plain"] @ (np.loadtxt(scan["bvec"]) * signs["plain"][:, None])
    np.savetxt(tmp_path / "dwi.bvec", (axes["turned"].T @ world) * signs["turned"][:, None], fmt="%.9f")
    files = turned | {"bval": scan["bval"], "bvec": tmp_path / "dwi.bvec"}
    for k, given in (("plain", scan), ("turned", files)):
        assert run(*words(given), "--no-moco", "-o", tmp_path / k).exit_code == 0
    like, fa = nib.load(turned["series"]), nib.load(tmp_path / "turned_FA.nii.gz")
    assert fa.shape == like.shape[:3]
    np.testing.assert_allclose(fa.affine, like.affine, atol=1e-5)
    for ending in ("FA", "FAse", "MD"):
        np.testing.assert_allclose(*(read_volume(tmp_path / f"{k}_{ending}.nii.gz", what=ending).data for k in ("plain", "turned")), atol=1e-5)
    first, second = (decode_series(read_raw(tmp_path / f"{k}_V1.nii.gz", what="V1"), what="V1").data for k in ("plain", "turned"))
    cosine = np.abs((first * second).sum(axis=3))
    np.testing.assert_allclose(cosine[np.isfinite(cosine)], 1, atol=1e-5)


def test_without_a_mask_the_cord_is_segmented(scan: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = run(*words(scan, mask=False), "-o", tmp_path / "x", "--reliable", "--method", "irls")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "x_dti.json").read_text())
    assert facts["CordMask"].startswith("segmented")
    found, drawn = (read_mask(p, what="mask").data > 0.5 for p in (tmp_path / "x_mask.nii.gz", scan["mask"]))
    assert 2 * (found & drawn).sum() / (found.sum() + drawn.sum()) > 0.8
    assert facts["Fit"]["Method"] == "irls"
    fa, relied = (read_volume(tmp_path / f"x_{k}.nii.gz", what=k).data for k in ("FA", "reliable"))
    assert np.isnan(fa[relied == 0]).all()
    assert np.isfinite(fa[relied == 1]).all()


def test_denoising_comes_first_and_is_told(scan: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("dipy")
    assert run(*words(scan), "-o", tmp_path / "plain", "--no-moco").exit_code == 0
    assert run(*words(scan), "-o", tmp_path / "less", "--no-moco", "--denoise").exit_code == 0
    plain, less = (json.loads((tmp_path / f"{k}_dti.json").read_text()) for k in ("plain", "less"))
    assert plain["Denoising"] is None
    assert less["Denoising"]["Method"] == "MP-PCA"
    assert plain["LostSlices"]
    assert less["Fit"]["Noise"] < plain["Fit"]["Noise"]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ("volumes", InputError, "b-values of the diffusion series: expected 25 b-values, one a volume, found 24"),
        ("swapped", InputError, "bval and bvec have changed places"),
        ("mask", GeometryError, "expected the grid of the diffusion series"),
        ("empty", CohortError, "cord"),
        ("method", UnknownNameError, "Did you mean 'irls'"),
        ("axis", UnknownNameError, "direction of phase encoding"),
        ("reverse", InputError, "expected correction of motion together with that of distortion"),
    ],
)
def test_what_cannot_be_used_is_one_error(scan: dict[str, Path], tmp_path: Path, change: str, kind: type[CohortError], said: str) -> None:
    files, more = dict(scan), []
    if change == "volumes":
        files["bval"] = tmp_path / "short.bval"
        files["bval"].write_text(scan["bval"].read_text().rsplit(maxsplit=1)[0])
    elif change == "swapped":
        files |= {"bval": scan["bvec"], "bvec": scan["bval"]}
    elif change in ("mask", "empty"):
        mask = read_mask(scan["mask"], what="mask")
        files["mask"] = tmp_path / "mask.nii.gz"
        write_volume(files["mask"], Volume(mask.data, mask.affine + np.eye(4)) if change == "mask" else mask.with_data(0 * mask.data))
    else:
        more = {"method": ["--method", "irsl"], "axis": ["--phase-encoding", "up"], "reverse": ["--no-moco", "--reverse", scan["series"]]}[change]
    result = run(*words(files), *more, "-o", tmp_path / "x")
    assert isinstance(result.exception, kind), result.exception
    assert said in str(result.exception)
    assert not list(tmp_path.glob("x_*"))
