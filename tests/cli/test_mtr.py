"""MTR of one pair of images, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import CohortError, GeometryError, InputError, UnknownNameError
from cohort_engine.io.volume import read_volume
from cohort_engine.single.mtr import ratio


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["mtr", *map(str, words)])


@pytest.fixture(scope="module")
def pair(one_subject: Path) -> dict[str, Path]:
    names = {"on": "on_MTS", "off": "off_MTS", "mask": "on_MTS_label-SC_seg"}
    return {key: next(one_subject.rglob(f"*{name}.nii.gz")) for key, name in names.items()}


@pytest.mark.parametrize("how", ["none", "slicewise"])
def test_the_map_is_that_of_the_stage(pair: dict[str, Path], tmp_path: Path, how: str) -> None:
    out = tmp_path / "mtr.nii.gz"
    result = run("--on", pair["on"], "--off", pair["off"], "--mask", pair["mask"], "--coregister", how, "-o", out)
    assert result.exit_code == 0, result.output
    on, off, cord = (read_volume(pair[key], what=key) for key in ("on", "off", "mask"))
    expected = ratio(on, off, cord, coregister=how)
    np.testing.assert_array_equal(read_volume(out, what="MTR map").data, expected.values)
    facts = json.loads((tmp_path / "mtr.json").read_text())
    assert facts["Units"] == "percent"
    assert facts["Coregistration"] == {"Method": how, "LargestMovement_mm": pytest.approx(expected.shift, abs=1e-3)}
    assert (facts["Coregistration"]["LargestMovement_mm"] > 0) == (how != "none")
    assert facts["Cord"]["Median"] == pytest.approx(np.nanmedian(expected.values[cord.data > 0.5]), abs=1e-3)
    assert facts["CordMask"] == "given"
    assert str(tmp_path) not in (tmp_path / "mtr.json").read_text()
    assert f"median {facts['Cord']['Median']:.1f} %" in result.output


def test_the_map_lies_on_the_voxels_of_mt_on_in_their_order(pair: dict[str, Path], tmp_path: Path) -> None:
    """The pair stored from right to left and from top to bottom: the map's array is turned likewise, its values are the same."""
    turned = {}
    for key, path in pair.items():
        image = nib.load(path)
        turned[key] = tmp_path / f"{key}.nii.gz"
        nib.save(image.as_reoriented(np.array([[0, -1], [2, -1], [1, 1]])), turned[key])
    outs = []
    for name, files in (("plain", pair), ("turned", turned)):
        outs.append(tmp_path / f"{name}_mtr.nii.gz")
        assert run("--on", files["on"], "--off", files["off"], "--mask", files["mask"], "-o", outs[-1]).exit_code == 0
    like, found = nib.load(turned["on"]), nib.load(outs[1])
    assert found.shape == like.shape
    np.testing.assert_allclose(found.affine, like.affine, atol=1e-6)
    np.testing.assert_allclose(*(read_volume(out, what="MTR map").data for out in outs), atol=1e-3)


def test_without_a_mask_the_cord_is_segmented(pair: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    medians = []
    for mask in ((), ("--mask", pair["mask"])):
        assert run("--on", pair["on"], "--off", pair["off"], *mask, "-o", tmp_path / "mtr.nii.gz").exit_code == 0
        facts = json.loads((tmp_path / "mtr.json").read_text())
        medians.append(facts["Cord"]["Median"])
    assert facts["CordMask"] == "given"
    assert abs(medians[0] - medians[1]) < 3


def broken(pair: dict[str, Path], folder: Path, key: str, change: str) -> dict[str, Path]:
    """The pair with one image changed."""
    image = nib.load(pair[key])
    data, affine = image.get_fdata(dtype=np.float32), image.affine.copy()
    if change == "moved":
        affine[0, 3] += 20
    elif change == "cut":
        data = data[:-2]
    elif change == "zero":
        data = 0 * data
    nib.save(nib.Nifti1Image(data, affine), folder / f"{key}.nii.gz")
    return pair | {key: folder / f"{key}.nii.gz"}


@pytest.mark.parametrize(
    ("key", "change", "kind", "words"),
    [
        ("off", "moved", GeometryError, "MT-off image: expected the grid of the MT-on image"),
        ("off", "cut", GeometryError, "MT-off image: expected the grid of the MT-on image"),
        ("mask", "moved", GeometryError, "expected the grid of the MT-on image"),
        ("off", "zero", InputError, "MT-off image: expected signal"),
        ("mask", "zero", CohortError, "cord"),
    ],
)
def test_what_cannot_be_used_is_one_error(pair: dict[str, Path], tmp_path: Path, key: str, change: str, kind: type[CohortError], words: str) -> None:
    files = broken(pair, tmp_path, key, change)
    result = run("--on", files["on"], "--off", files["off"], "--mask", files["mask"], "-o", tmp_path / "mtr.nii.gz")
    assert isinstance(result.exception, kind)
    assert words in str(result.exception)
    assert not (tmp_path / "mtr.nii.gz").exists()


def test_images_that_have_changed_places_are_refused(pair: dict[str, Path], tmp_path: Path) -> None:
    result = run("--on", pair["off"], "--off", pair["on"], "--mask", pair["mask"], "-o", tmp_path / "mtr.nii.gz")
    assert isinstance(result.exception, InputError)
    assert "swapped" in str(result.exception)


def test_a_way_of_registration_that_does_not_exist_is_named_before_anything_is_read(tmp_path: Path) -> None:
    result = run("--on", "a.nii.gz", "--off", "b.nii.gz", "--coregister", "slicewice", "-o", tmp_path / "mtr.nii.gz")
    assert isinstance(result.exception, UnknownNameError)
    assert "Did you mean 'slicewise'" in str(result.exception)
