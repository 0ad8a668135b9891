"""Every kind of bad input: one clear message with the remedy, the name on the screen only, and the other subjects finished."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.config import load_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.errors import CohortError, ResourceError, StorageError, TemplateError
from cohort_engine.query.accessor import open_cohort


def one(study: Path, name: str, pattern: str) -> Path:
    (path,) = study.rglob(f"sub-{name}_{pattern}.nii.gz")
    return path


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> None:
    image = nib.load(path)
    data = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(data, affine(image.affine)), path)


def truncated(study: Path, name: str) -> None:
    path = one(study, name, "*on_MTS")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def four_d(study: Path, name: str) -> None:
    edit(one(study, name, "*off_MTS"), lambda d: np.stack([d, d], axis=-1))


def all_zero(study: Path, name: str) -> None:
    edit(one(study, name, "*on_MTS"), np.zeros_like)


def nan_affine(study: Path, name: str) -> None:
    path = one(study, name, "*off_MTS")
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[252:254] = np.int16(0).tobytes()  # no qform that would do
    raw[280:284] = np.float32("nan").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def swapped(study: Path, name: str) -> None:
    on, off = one(study, name, "*on_MTS"), one(study, name, "*off_MTS")
    spare = on.with_name("spare")
    on.rename(spare), off.rename(on), spare.rename(off)


def other_geometry(study: Path, name: str) -> None:
    edit(one(study, name, "*off_MTS"), lambda d: d[:-3])


def cord_axis(data: np.ndarray) -> int:
    """Axis of the slab's slices: the shortest."""
    return int(np.argmin(data.shape))


def mask_gap(study: Path, name: str) -> None:
    path = one(study, name, "*on_MTS_label-SC_seg")
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    index: list[slice | int] = [slice(None)] * 3
    index[cord_axis(data)] = data.shape[cord_axis(data)] // 2
    data[tuple(index)] = 0
    nib.save(nib.Nifti1Image(data, image.affine), path)


def empty_mask(study: Path, name: str) -> None:
    edit(one(study, name, "*on_MTS_label-SC_seg"), np.zeros_like)


def one_landmark(study: Path, name: str) -> None:
    """No image shows the other discs."""
    one(study, name, "T2w").unlink()
    edit(one(study, name, "T2w_label-discs_dlabel"), lambda d: np.where(d == 4, d, 0).astype(d.dtype))


def level_outside(study: Path, name: str) -> None:
    def up(affine: np.ndarray) -> np.ndarray:
        moved = affine.copy()
        moved[2, 3] += 400
        return moved

    edit(one(study, name, "T2w_label-discs_dlabel"), lambda d: d, up)


def no_mask(study: Path, name: str) -> None:
    one(study, name, "*on_MTS_label-SC_seg").unlink()


@dataclass(frozen=True)
class Case:
    spoil: Callable[[Path, str], None]
    stage: str
    kind: str
    where: str
    found: str


CASES = {
    "truncated": Case(truncated, "fit_mt", "InputError", "MT-on image", "truncated|cut|short|damaged|end"),
    "four": Case(four_d, "mtr", "InputError", "MT-off image", "shape"),
    "zero": Case(all_zero, "mtr", "InputError", "MT-on image", "zero"),
    "nan": Case(nan_affine, "mtr", "InputError", "MT-off image", "nan|NaN"),
    "swapped": Case(swapped, "mtr", "InputError", "MT-off image", "MTR below 0"),
    "geometry": Case(other_geometry, "mtr", "GeometryError", "MT-off image", "voxels"),
    "empty": Case(empty_mask, "fit_mt", "CordError", "cord mask of the MT-on image", "empty"),
    "single": Case(one_landmark, "fit_mt", "LevelError", "vertebral landmarks", "1"),
    "outside": Case(level_outside, "fit_mt", "LevelError", "vertebral landmarks", "beyond"),
    "nomask": Case(no_mask, "fit_mt", "MissingInputError", "fit_mt", "no cord mask of the MT-on image"),
}


@pytest.fixture(scope="module")
def broken(make_study: Callable[..., Path]) -> tuple[Path, BuildReport]:
    study = make_study("good", "gap", *CASES, stages="stages:\n  fit: {deformable: false}\n  segment: {enabled: false}\n")
    mask_gap(study, "gap")
    for name, case in CASES.items():
        case.spoil(study, name)
    return study, build(load_config(study.with_suffix(".yaml")))


@pytest.mark.parametrize("name", CASES)
def test_a_bad_subject_gets_one_message_that_says_what_to_do(broken: tuple[Path, BuildReport], name: str) -> None:
    case, failures = CASES[name], broken[1].failures
    (row,) = failures[failures["name"] == f"sub-{name}"].itertuples()
    assert (row.stage, row.kind) == (case.stage, case.kind)
    assert case.where in row.message
    assert re.search(case.found, row.message), row.message
    assert row.remedy
    assert "sub-" not in row.message
    assert str(broken[0].parent) not in row.message


def test_the_other_subjects_are_finished(broken: tuple[Path, BuildReport]) -> None:
    cohort = open_cohort(broken[1].url)
    good = cohort.cohort.tract("mtr", "white matter", "C4").to_series()
    names = cohort["participant_id"].to_numpy()
    assert np.isfinite(good[names == "sub-good"]).all()
    assert good[~np.isin(names, ["sub-good", "sub-gap"])].isna().all()
    assert broken[1].exit_code == 1


def test_a_mask_with_an_empty_slice_gives_values_everywhere_else(broken: tuple[Path, BuildReport]) -> None:
    assert "sub-gap" not in set(broken[1].failures["name"])
    cohort = open_cohort(broken[1].url)
    gap = cohort.isel(subject=int(np.flatnonzero(cohort["participant_id"].to_numpy() == "sub-gap")[0]))
    assert float(gap["mt_cord_gaps"]) == 1
    assert float(gap["mt_centreline_error"]) > 0
    white = gap["mtr_wa"].sel(region="white matter").to_numpy()
    good = cohort.isel(subject=int(np.flatnonzero(cohort["participant_id"].to_numpy() == "sub-good")[0]))
    whole = good["mtr_wa"].sel(region="white matter").to_numpy()
    assert np.isfinite(white).sum() >= np.isfinite(whole).sum() - 2
    assert np.isfinite(white).any()


def test_no_name_is_in_a_path_or_an_attribute_or_the_ledger(broken: tuple[Path, BuildReport]) -> None:
    folder = broken[0].parent
    for path in (*folder.glob("study.zarr/**/*"), *folder.glob("study.zarr.ledger/**/*")):
        assert "sub-" not in str(path.relative_to(folder))
        if path.suffix == ".json" and path.is_file():
            assert "sub-" not in path.read_text()


# --- the study, not a subject -----------------------------------------------------------------------------------------
def run(*args: str | Path) -> tuple[int, str]:
    """Exit code and message of a command that cannot run."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert isinstance(result.exception, CohortError), result.output
    return 2, str(result.exception)


def test_duplicate_participants(make_study: Callable[..., Path]) -> None:
    study = make_study("a")
    table = study / "participants.tsv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    result = CliRunner().invoke(app, ["plan", str(study.with_suffix(".yaml"))])
    assert result.exit_code == 0, result.output
    assert "participants.tsv: lines 2, 3 are of one person, which agree" in " ".join(result.output.split())


def test_missing_participants(make_study: Callable[..., Path]) -> None:
    study = make_study("a")
    (study / "participants.tsv").unlink()
    assert "participants.tsv" in run("build", study.with_suffix(".yaml"), "--quiet")[1]


def test_unknown_key_names_the_near_one(make_study: Callable[..., Path]) -> None:
    study = make_study("a", stages="stages:\n  fitt: {}\n")
    assert "Did you mean 'fit'" in run("build", study.with_suffix(".yaml"), "--quiet")[1]


def test_unknown_tract_names_the_near_one(broken: tuple[Path, BuildReport]) -> None:
    message = run("query", broken[1].url, "mtr tract='lateral corticospinal tracts' level=C4")[1]
    assert "Did you mean" in message
    assert "lateral corticospinal tract" in message


def test_wrong_template(make_study: Callable[..., Path]) -> None:
    study = make_study("a")
    file = study.with_suffix(".yaml")
    file.write_text(file.read_text().replace("name: parametric", "name: parametric\n  digest: '0123456789abcdef'"))
    with pytest.raises(TemplateError, match="0123456789abcdef"):
        build(load_config(file))


def test_a_full_disk(make_study: Callable[..., Path]) -> None:
    file = make_study("a").with_suffix(".yaml")
    file.write_text(file.read_text().replace("store: study.zarr", "store: /proc/study.zarr"))
    with pytest.raises(ResourceError, match=r"free disk, found 0 B\. Free space"):
        build(load_config(file))


def test_a_place_that_cannot_be_written(make_study: Callable[..., Path]) -> None:
    file = make_study("a").with_suffix(".yaml")
    file.write_text(file.read_text().replace("store: study.zarr", f"store: {file.name}/study.zarr"))
    with pytest.raises(StorageError, match="store"):
        build(load_config(file))
