"""Every file that a command writes for an image lies on the image's own voxels, and a mask whose header a tool rounded is on them too."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import CohortError, GeometryError

FIELDS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
ROUNDED = 0.0004
"""A turn (rad) that moves the corners of the simulated MT image by about 0.05 mm."""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, CohortError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def turned(image: nib.Nifti1Image, axes: str, codes: tuple[int, int], *, by: float = 0.0, shift: float = 0.0) -> nib.Nifti1Image:
    """Store an image in another order of axes; its header turned by an angle about z and shifted along x, as a tool may do that rounds."""
    orientations = nib.orientations
    out = image.as_reoriented(orientations.ornt_transform(orientations.io_orientation(image.affine), orientations.axcodes2ornt(axes)))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(by), -np.sin(by)], [np.sin(by), np.cos(by)]]
    turn[0, 3] = shift
    affine = turn @ out.affine
    made = nib.Nifti1Image(np.asarray(out.dataobj), None)
    made.set_qform(affine, codes[0])
    made.set_sform(affine, codes[1])
    return made


@dataclass(frozen=True)
class Scan:
    """An MT image, its mask with a rounded header, and discs."""

    folder: Path
    image: Path
    mask: Path
    discs: Path

    def owns(self, path: Path) -> np.ndarray:
        """Check that a file lies on the image's own voxels; its array in the order of the file."""
        image, made = nib.load(self.image), nib.load(path)
        assert made.shape[:3] == image.shape[:3], path.name
        np.testing.assert_allclose(made.affine, image.affine, atol=1e-6, err_msg=path.name)
        for name in FIELDS:
            np.testing.assert_array_equal(made.header[name], image.header[name], err_msg=f"{path.name}: {name}")
        np.testing.assert_array_equal(made.header["pixdim"][:4], image.header["pixdim"][:4])
        return np.asarray(made.dataobj)


@pytest.fixture(scope="module", params=[("PSR", (1, 1)), ("LAI", (0, 2)), ("RPI", (1, 0))], ids=["PSR", "LAI", "RPI"])
def scan(request: pytest.FixtureRequest, one_subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    axes, codes = request.param
    folder = tmp_path_factory.mktemp(axes)
    on, mask, discs = (next(one_subject.rglob(f"*{n}.nii.gz")) for n in ("on_MTS", "on_MTS_label-SC_seg", "discs_dlabel"))
    turned(nib.load(on), axes, codes).to_filename(folder / "mt.nii.gz")
    turned(nib.load(mask), axes, (1, 1), by=ROUNDED).to_filename(folder / "mask.nii.gz")
    turned(nib.load(discs), axes, codes).to_filename(folder / "discs_dlabel.nii.gz")
    return Scan(folder, folder / "mt.nii.gz", folder / "mask.nii.gz", folder / "discs_dlabel.nii.gz")


def test_mask_soft_mask_centreline_and_grey_matter(scan: Scan) -> None:
    pytest.importorskip("torch")
    out = {name: scan.folder / f"{name}.nii.gz" for name in ("seg", "soft", "line", "grey")}
    run("segment", scan.image, "-o", out["seg"], "--soft", out["soft"])
    run("centerline", scan.image, "-o", out["line"])
    run("grey", scan.image, "--mask", scan.mask, "-o", out["grey"])
    seg, soft, line, grey = (scan.owns(path) for path in out.values())
    truth = np.asarray(nib.load(scan.mask).dataobj) > 0
    assert 2 * (truth & (seg > 0)).sum() / (truth.sum() + seg.sum()) > 0.85
    assert (soft[seg > 0] >= 0.5).all()
    assert seg[line > 0].mean() > 0.95
    assert (grey[~truth] == 0).all()


def test_levels_and_discs(scan: Scan) -> None:
    pytest.importorskip("torch")
    levels, discs = scan.folder / "levels.nii.gz", scan.folder / "points.nii.gz"
    run("label", scan.image, "--mask", scan.mask, "--points", scan.discs, "-o", levels, "--discs", discs, "--template", "parametric")
    truth = np.asarray(nib.load(scan.mask).dataobj) > 0
    found = scan.owns(levels)
    np.testing.assert_array_equal(found > 0, truth & (found > 0))
    assert (found > 0).sum() > 0.9 * truth.sum()
    assert truth[scan.owns(discs) > 0].mean() > 0.8


def test_registration_and_what_is_extracted_with_it(scan: Scan) -> None:
    out = scan.folder / "registered"
    run(
        "register", scan.image, "--mask", scan.mask, "--levels", scan.discs, "-o", out, "--template", "parametric", "--no-deformable",
    )  # fmt: skip
    truth = np.asarray(nib.load(scan.mask).dataobj) > 0
    files = sorted((out / "label").rglob("*.nii.gz"))
    assert len(files) == 42
    arrays = {path.name: scan.owns(path) for path in [*files, out / "warp_template2anat.nii.gz"]}
    cord = arrays["parametric_cord.nii.gz"] > 0.5
    assert 2 * (truth & cord).sum() / (truth.sum() + cord.sum()) > 0.9
    run("warp", out / "anat2template.nii.gz", "--by", out, "--to", "image", "-o", scan.folder / "back.nii.gz")
    back = scan.owns(scan.folder / "back.nii.gz")
    there = np.asarray(nib.load(scan.image).dataobj, float)
    seen = cord & np.isfinite(back)
    assert seen.sum() > 0.9 * cord.sum()
    assert np.corrcoef(back[seen], there[seen])[0, 1] > 0.8
    # a map on the image's grid by another tool, its header rounded
    metric = np.where(cord, 30.0, 0.0).astype(np.float32)
    made = nib.Nifti1Image(metric, nib.load(scan.mask).affine)
    made.to_filename(scan.folder / "mtr.nii.gz")
    said = run(
        "extract", "--metric", scan.folder / "mtr.nii.gz", "--labels", out / "label", "--estimator", "bin", "--per", "all", "--regions", "spinal cord"
    )
    (row,) = csv.DictReader(said.splitlines())
    assert float(row["BIN()"]) == pytest.approx(30, abs=0.5)


def test_mtr_of_an_image_whose_partner_and_mask_have_rounded_headers(scan: Scan, one_subject: Path) -> None:
    """The mask holds NaN outside; the map is that of the same images with whole headers."""
    image = nib.load(scan.image)
    axes = "".join(nib.aff2axcodes(image.affine))
    off = nib.load(next(one_subject.rglob("*off_MTS.nii.gz")))
    turned(off, axes, (1, 1), by=-ROUNDED).to_filename(scan.folder / "off.nii.gz")
    mask = nib.load(scan.mask)
    cord = np.asarray(mask.dataobj, np.float32)
    nib.Nifti1Image(np.where(cord > 0, cord, np.float32(np.nan)), mask.affine).to_filename(scan.folder / "nan.nii.gz")
    words = ["mtr", "--on", scan.image, "--off", scan.folder / "off.nii.gz", "--coregister", "none"]
    run(*words, "--mask", scan.folder / "nan.nii.gz", "-o", scan.folder / "mtr_own.nii.gz")
    found = scan.owns(scan.folder / "mtr_own.nii.gz")
    first, second = (np.asarray(i.dataobj, float)[cord > 0] for i in (image, turned(off, axes, (1, 1))))
    np.testing.assert_allclose(found[cord > 0], 100 * (second - first) / second, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::cohort_engine.errors.CohortWarning")
@pytest.mark.parametrize(("shift", "fits"), [(0.3, True), (0.9, False)])
def test_how_far_a_mask_may_lie(scan: Scan, shift: float, fits: bool) -> None:
    """Within half a voxel it is the image's grid; beyond, the message says how far and what to do."""
    moved = scan.folder / "moved.nii.gz"
    image = nib.load(scan.mask)
    nib.Nifti1Image(np.asarray(image.dataobj), np.array([[1, 0, 0, shift], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ image.affine).to_filename(
        moved
    )
    words = ("label", scan.image, "--mask", moved, "--points", scan.discs, "-o", scan.folder / "x.nii.gz", "--template", "parametric")
    if fits:
        run(*words)
        assert ((scan.owns(scan.folder / "x.nii.gz") > 0) <= (np.asarray(image.dataobj) > 0)).all()
    else:
        with pytest.raises(GeometryError, match=r"cord mask: expected the grid of the image .* up to 0\.9\d mm away\. Segment this very image\."):
            run(*words)
