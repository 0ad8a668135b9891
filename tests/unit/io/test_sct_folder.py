"""Folders of the Spinal Cord Toolbox, by their names: which file plays which role."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from cohort_engine.config import parse_config
from cohort_engine.engine.study import inputs_of
from cohort_engine.errors import ConfigError, MissingInputError
from cohort_engine.io.bids import Study
from cohort_engine.io.sct_folder import index_results

LABELS = ("label/atlas/info_label.txt", "label/template/PAM50_levels.nii.gz")
SHORT = {
    "t2/t2.nii.gz": "t2w", "t2/t2_seg.nii.gz": "t2w_mask", "t2/t2_seg_labeled_discs.nii.gz": "t2w_landmarks", "mt/mt1.nii.gz": "mt_on",
    "mt/mt0.nii.gz": "mt_off", "mt/mt1_seg.nii.gz": "mt_mask", "mt/mt0_reg.nii.gz": "mt_off_moved", "mt/mtr.nii.gz": "mtr_image",
    "mt/warp_mt02mt1.nii.gz": "mt_off_warp", "mt/warp_template2mt.nii.gz": "mt_from_template", "mt/warp_mt2template.nii.gz": "mt_to_template",
    "mt/label/atlas/info_label.txt": "mt_label_folder",
}  # fmt: skip
HEAD = "sub-01_ses-a_acq-MT"
LONG = {
    f"ses-a/anat/MTS/{HEAD}on_MTS.nii.gz": "mt_on", f"ses-a/anat/MTS/{HEAD}off_MTS.nii.gz": "mt_off",
    f"ses-a/anat/MTS/{HEAD}on_MTS_seg.nii.gz": "mt_mask",
    f"ses-a/anat/MTS/warp_{HEAD}off_MTS2{HEAD}on_MTS.nii.gz": "mt_off_warp", "ses-a/anat/MTS/warp_template2anat.nii.gz": "mt_from_template",
    "ses-a/anat/MTS/label/atlas/info_label.txt": "mt_label_folder", "ses-a/anat/T2w/sub-01_ses-a_T2w_seg.nii.gz": "t2w_mask",
    "ses-a/anat/T2w/sub-01_ses-a_T2w_seg_labeled.nii.gz": "t2w_landmarks", "ses-a/anat/T2w/label/template/PAM50_levels.nii.gz": "t2w_label_folder",
    "ses-a/anat/T2w/warp_template2anat.nii.gz": "t2w_from_template",
}  # fmt: skip
IGNORED = (
    f"ses-a/anat/MTS/warp_{HEAD}on_MTS2{HEAD}off_MTS.nii.gz", f"ses-a/anat/MTS/warp_{HEAD}on_MTS2sub-01_ses-a_acq-T1w_MTS.nii.gz",
    "ses-a/anat/T2star/warp_template2anat.nii.gz", "ses-a/anat/T2star/label/template/PAM50_levels.nii.gz", "ses-a/dwi/warp_template2dmri.nii.gz",
    "ses-a/anat/MTS/mtr_in_wm_3.csv", "ses-a/anat/MTS/warp_template2mt.json",
)  # fmt: skip


def study(root: Path, names: Iterable[str], *, participants: bool = True) -> Study:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if participants:
        people = sorted({p.name for p in root.glob("sub-*")})
        (root / "participants.tsv").write_text("\n".join(["participant_id\tage", *(f"{p}\t40" for p in people)]) + "\n")
    return index_results(str(root))


def roles(found: Study, root: Path, row: int = 0) -> dict[str, str]:
    """File -> role."""
    return {str(Path(f).relative_to(root / "sub-01")): r for r in found.roles if (f := found.files.at[row, r]) is not None}


@pytest.mark.parametrize("names", [SHORT, LONG], ids=["short", "long"])
def test_each_naming_fills_each_role(tmp_path: Path, names: dict[str, str]) -> None:
    found = study(tmp_path, (f"sub-01/{n}" for n in (*names, *(IGNORED if names is LONG else ()))))
    expected = {n.partition("/label/")[0] + "/label" if "/label/" in n else n: role for n, role in names.items()}
    assert roles(found, tmp_path) == expected
    assert found.files.at[0, "t2w_landmarks_kind"] == ("disc" if names is SHORT else "body")
    assert found.problems == {}
    assert found.subjects.age.tolist() == [40.0]


@pytest.mark.parametrize(
    "warp",
    ["mt/warp_template2anat", "warp_template2mt1", "mt/warp_PAM50_t22mt1", "mt/warp_PAM50_t2s2anat", "warp_template2anat", "x/warp_template2mts"],
)
def test_names_of_a_warp(tmp_path: Path, warp: str) -> None:
    assert roles(study(tmp_path, [f"sub-01/{warp}.nii.gz"]), tmp_path) == {f"{warp}.nii.gz": "mt_from_template"}


@pytest.mark.parametrize("folder", ["label_mt", "labels_MTS", "mt/label", "label"])
def test_names_of_a_label_folder(tmp_path: Path, folder: str) -> None:
    assert roles(study(tmp_path, [f"sub-01/{folder}/atlas/info_label.txt"]), tmp_path) == {folder: "mt_label_folder"}


def test_a_folder_tells_contrasts_apart(tmp_path: Path) -> None:
    names = [f"sub-01/{c}/{n}" for c in ("mt", "t2", "t2s", "dmri") for n in ("warp_template2anat.nii.gz", *LABELS)]
    assert set(roles(study(tmp_path, names), tmp_path).items()) == {
        ("mt/warp_template2anat.nii.gz", "mt_from_template"), ("mt/label", "mt_label_folder"),
        ("t2/warp_template2anat.nii.gz", "t2w_from_template"), ("t2/label", "t2w_label_folder"),
    }  # fmt: skip


def test_two_for_one_role_are_that_subjects_error(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        ["sub-01/mt/warp_template2mt.nii.gz", "sub-01/mt/warp_template2anat.nii.gz", "sub-01/mt/mtr.nii.gz", "sub-02/mt/warp_template2mt.nii.gz"],
    )
    assert list(found.problems) == [(0, "mt_from_template")]
    assert "expected one warp from the template to the MT image, found 2" in str(found.problems[0, "mt_from_template"])
    assert found.files.at[0, "mt_from_template"] is None
    assert found.files.at[0, "mtr_image"] is not None
    assert found.files.at[1, "mt_from_template"] is not None
    assert found.notes.role.tolist() == ["mt_from_template"]


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    files = ["sub-01/t2/sub-02_T2w_seg.nii.gz", "sub-HC_03/mt/mtr.nii.gz", "sub-01/ses-pre_op/mt/mtr.nii.gz", "sub-01/mt/mtr.nii.gz"]
    assert [note.partition(" is not")[0] for note in study(tmp_path, files).notes.note[1:]] == [
        "folder sub-01/ses-pre_op (1 images)", "folder sub-HC_03 (1 images)", "sub-02_T2w_seg.nii.gz lies in the folder of somebody else: ignored",
    ]  # fmt: skip


def test_who_lacks_what(tmp_path: Path) -> None:
    found = study(tmp_path, ["sub-01/mt/warp_template2mt.nii.gz", *(f"sub-01/mt/{n}" for n in LABELS), "sub-02/mt/mtr.nii.gz"])
    config = parse_config({"data": {"bids": "b", "store": "s", "source": "sct"}})
    lacking = inputs_of(config, found).lacking
    assert found.missing(lacking)[["participant_id", "files"]].to_numpy().tolist() == [
        ["sub-01", "MTR image"],
        ["sub-02", "warp from the template to the MT image, label folder of the MT image"],
    ]
    assert found.present().loc["MTR image"].tolist() == [1, 1]


def test_each_session_is_a_row(tmp_path: Path) -> None:
    found = study(tmp_path, ["sub-01/ses-1/mt/mtr.nii.gz", "sub-01/ses-2/mt/mtr.nii.gz"])
    assert found.subjects.session_id.tolist() == ["ses-1", "ses-2"]
    assert found.files.mtr_image.notna().all()


def test_somebody_elses_image_is_not_taken(tmp_path: Path) -> None:
    assert roles(study(tmp_path, ["sub-01/mt/sub-02_acq-MTon_MTS.nii.gz", "sub-01/mt/mtr.nii.gz"]), tmp_path) == {"mt/mtr.nii.gz": "mtr_image"}


def test_what_cannot_be_a_study(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no files"):
        index_results(str(tmp_path / "nowhere"))
    with pytest.raises(MissingInputError, match=r"participants\.tsv"):
        study(tmp_path, ["sub-01/mt/mtr.nii.gz"], participants=False)
    with pytest.raises(ConfigError, match="found a URL"):
        index_results("s3://bucket/study")
    with pytest.raises(ConfigError, match="found derivatives"):
        index_results(str(tmp_path), derivatives=("labels",))
