"""One cord behind headers of every kind: the same table, in a one-image command and in a build, and a word where something was settled."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app, main
from cohort_engine.config import load_config
from cohort_engine.engine.build import build, status
from cohort_engine.store.writer import read_subject

told = pytest.mark.filterwarnings("always::cohort_engine.errors.CohortWarning")


def plain(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return image


def micrometres(image: nib.Nifti1Image) -> nib.Nifti1Image:
    out = nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1e3, 1e3, 1e3, 1]) @ image.affine)
    out.header.set_xyzt_units("micron", "sec")
    return out


def metres(image: nib.Nifti1Image) -> nib.Nifti1Image:
    out = nib.Nifti2Image(np.asarray(image.dataobj), np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine)
    out.header.set_xyzt_units("meter", "sec")
    return out


def scaled(image: nib.Nifti1Image) -> nib.Nifti1Image:
    other = image.affine.copy()
    other[:3, :3] *= 1.25
    out = nib.Nifti1Image(np.asarray(image.dataobj), None)
    out.set_qform(image.affine, 1)
    out.set_sform(other, 4)
    return out


def nowhere(image: nib.Nifti1Image) -> nib.Nifti1Image:
    out = nib.Nifti1Image(np.asarray(image.dataobj), None)
    out.set_qform(image.affine, 1)
    out.set_sform(image.affine, 2)
    return out  # `store` makes the sform zero


def unmeasured(image: nib.Nifti1Image) -> nib.Nifti1Image:
    data = np.asarray(image.dataobj, np.float32)
    return nib.Nifti1Image(np.where(data > 0, data, np.float32(np.nan)), image.affine)


def infinite(image: nib.Nifti1Image) -> nib.Nifti1Image:
    data = np.asarray(image.dataobj, np.float32)
    return nib.Nifti1Image(np.where(data > 0, data, np.float32(np.inf)), image.affine)


def turned(axes: str) -> Callable[[nib.Nifti1Image], nib.Nifti1Image]:
    def turn(image: nib.Nifti1Image) -> nib.Nifti1Image:
        orientations = nib.orientations
        return image.as_reoriented(orientations.ornt_transform(orientations.io_orientation(image.affine), orientations.axcodes2ornt(axes)))

    return turn


def one_more_axis(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)


KINDS = {
    "plain": plain, "micrometres": micrometres, "metres": metres, "scaled": scaled, "nowhere": nowhere, "unmeasured": unmeasured,
    "infinite": infinite, "PSR": turned("PSR"), "LPI": turned("LPI"), "axis": one_more_axis,
}  # fmt: skip
NOTES = {"scaled": "its sform (code 4) and qform (code 1) lie up to", "nowhere": "its sform cannot be used (a singular matrix): its qform is taken"}


def store(path: Path, image: nib.Nifti1Image, *, offset: float | None = None, lost: bool = False) -> None:
    raw = bytearray(image.to_bytes())
    if offset is not None:
        raw[108:112] = struct.pack("<f", offset)
    if lost:
        raw[280:328] = bytes(48)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else bytes(raw))


@pytest.fixture
def mask(one_subject: Path) -> nib.Nifti1Image:
    (path,) = one_subject.rglob("*_T2w_label-SC_seg.nii.gz")
    return nib.load(path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line as a user does; its exit code."""
    monkeypatch.setattr(sys, "argv", ["cohort-engine", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def numbers(text: str) -> np.ndarray:
    return np.array([[float(v or "nan") for v in row] for row in list(csv.reader(io.StringIO(text)))[1:]])


@told
def test_one_cord_measures_alike_behind_every_header(mask, tmp_path, monkeypatch, capsys):
    store(tmp_path / "plain.nii", mask)
    assert run(monkeypatch, "shape", tmp_path / "plain.nii") == 0
    plain = capsys.readouterr()
    right, usual = numbers(plain.out), plain.err.splitlines()  # what is told of the mask itself
    assert len(right) > 20
    for name, change in KINDS.items():
        store(tmp_path / "mask.nii", change(mask), lost=name == "nowhere")
        assert run(monkeypatch, "shape", tmp_path / "mask.nii") == 0
        out = capsys.readouterr()
        np.testing.assert_allclose(numbers(out.out), right, rtol=1e-4, atol=1e-3, err_msg=name)
        more = [line for line in out.err.splitlines() if line not in usual]
        assert (len(more) > 0) == (name in NOTES), name
        assert NOTES.get(name, "") in "\n".join(more)
    for offset in (0, 100):
        store(tmp_path / "mask.nii", mask, offset=offset)
        assert run(monkeypatch, "shape", tmp_path / "mask.nii") == 0
        np.testing.assert_array_equal(numbers(capsys.readouterr().out), right)


@told
def test_a_build_measures_alike_and_keeps_what_was_settled(make_study, mask, monkeypatch, capsys):
    """The note reaches the ledger, the screen of the build, and status; the name of the subject the screen alone."""
    names = [f"X{i:02d}" for i in range(len(KINDS))]
    study = make_study(
        *names, stages="stages:\n  metrics: []\n  shape:\n    source: t2w\n  segment:\n    enabled: false\n  levels:\n    enabled: false\n"
    )
    for name, (kind, change) in zip(names, KINDS.items(), strict=True):
        (path,) = study.rglob(f"sub-{name}_T2w_label-SC_seg.nii.gz")
        store(path, change(mask), lost=kind == "nowhere")
    config = load_config(study.with_suffix(".yaml"))
    assert run(monkeypatch, "index", study.with_suffix(".yaml")) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    for name, text in NOTES.items():
        assert [f"sub-{names[list(KINDS).index(name)]}: cord mask of the T2w image: " in line for line in said if text in line] == [True]
    report = build(config)
    assert report.exit_code == 0, report.failures.to_string()
    areas = np.stack([read_subject(report.url, row, "profiles/area") for row in range(len(names))])
    assert np.isfinite(areas[0]).sum() > 100
    np.testing.assert_allclose(areas, np.broadcast_to(areas[0], areas.shape), atol=0.2)  # mm2: a quaternion has fewer digits
    for notes in (report.notes, status(config).notes, build(config).notes):
        assert notes["name"].tolist() == [f"sub-{names[list(KINDS).index(n)]}" for n in NOTES]
        for said, text in zip(notes["note"], NOTES.values(), strict=True):
            assert text in said
            assert "sub-" not in said
    assert run(monkeypatch, "status", study.with_suffix(".yaml")) == 0
    assert NOTES["nowhere"] in capsys.readouterr().out


def test_a_table_without_a_value_is_no_success(mask, tmp_path):
    """A metric whose every labelled voxel is NaN gave a table of empty cells and exit code 0."""
    from cohort_engine.io.export import write_label_folder
    from cohort_engine.io.volume import Volume
    from cohort_engine.template import load_template

    template, shape, affine = load_template("parametric"), (4, 4, 3), np.diag([1.0, 1.0, 5.0, 1.0])
    weights = np.zeros((len(template.atlas.labels), *shape))
    weights[0, 1, 1] = 1
    tissue = np.ones(shape)
    write_label_folder(
        tmp_path, template=template, weights=list(weights), cord=tissue, wm=tissue, gm=tissue, csf=tissue, levels=tissue * 3,
        image=Volume(tissue, affine),
    )  # fmt: skip
    metric = np.full(shape, 40, np.float32)
    metric[1, 1] = np.nan
    for values, code in ((metric, 1), (np.nan_to_num(metric, nan=30), 0)):
        nib.Nifti1Image(values, affine).to_filename(tmp_path / "mtr.nii.gz")
        files = ["--metric", str(tmp_path / "mtr.nii.gz"), "--labels", str(tmp_path / "label")]
        result = CliRunner().invoke(app, ["extract", "--estimator", "wa", "--regions", template.atlas.labels[0], *files])
        assert result.exit_code == code, result.output
        assert ("not one value in 3 rows" in result.stderr) == bool(code)
        assert "Coverage" in result.stdout
