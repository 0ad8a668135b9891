"""The main job on real scans: two subjects of two scanners, other orientations and slice thickness, in one cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.query.accessor import open_cohort

ANAT = "dcm_ou/sub-HC003U/ses-spinalcord/anat"
SCANS = {
    "sub-thin/anat/sub-thin_acq-MTon_MTS": f"{ANAT}/MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS",
    "sub-thin/anat/sub-thin_acq-MToff_MTS": f"{ANAT}/MTS/sub-HC003U_ses-spinalcord_acq-MToff_MTS",
    "sub-thick/anat/sub-thick_T2w": "errsm_23/t2/t2",
    "sub-thick/anat/sub-thick_flip-1_mt-on_MTS": "errsm_23/mt/mt1",
    "sub-thick/anat/sub-thick_flip-1_mt-off_MTS": "errsm_23/mt/mt0",
}
LABELS = {
    "sub-thin/anat/sub-thin_acq-MTon_MTS_label-SC_seg": f"{ANAT}/MTS/sub-HC003U_ses-spinalcord_acq-MTon_MTS_seg",
    "sub-thin/anat/sub-thin_T2w_label-SC_seg": f"{ANAT}/T2w/sub-HC003U_ses-spinalcord_T2w_seg",
    "sub-thin/anat/sub-thin_T2w_label-discs_dlabel": f"{ANAT}/T2w/sub-HC003U_ses-spinalcord_T2w_seg_labeled_discs",
    "sub-thick/anat/sub-thick_flip-1_mt-on_MTS_label-SC_seg": "errsm_23/mt/mt_seg",
    "sub-thick/anat/sub-thick_T2w_label-SC_desc-manual_seg": "errsm_23/t2/t2_manual_segmentation",
    "sub-thick/anat/sub-thick_T2w_label-body_dlabel": "errsm_23/t2/t2_landmarks_C2_T2_center",
}


@pytest.fixture(scope="module")
def report(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    folder = tmp_path_factory.mktemp("real")
    for tree, files in (("study", SCANS), ("study/derivatives/labels", LABELS)):
        for name, source in files.items():
            link = folder / tree / f"{name}.nii.gz"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(real_data / f"{source}.nii.gz")
    (folder / "study/participants.tsv").write_text("participant_id\tage\nsub-thick\t30\nsub-thin\tn/a\n")
    for tree in ("study", "study/derivatives/labels"):
        (folder / tree / "dataset_description.json").write_text('{"Name": "real scans", "BIDSVersion": "1.9.0"}')
    config = {
        "data": {"bids": str(folder / "study"), "store": str(folder / "study.zarr")},
        "template": {"name": "PAM50", "path": str(real_data / "PAM50")},
        "compute": {"cluster": "synchronous"},
    }
    return build(parse_config(config))


def test_both_subjects_are_built(report: BuildReport) -> None:
    assert report.failures.empty, report.failures.to_string()
    assert report.exit_code == 0
    quality = open_cohort(report.url)
    assert (quality["mt_dice"] >= 0.97).all()
    assert (quality["mtr_flagged_fraction"] < 0.02).all()


def test_tract_values_are_those_of_a_healthy_cord(report: BuildReport) -> None:
    cells = open_cohort(report.url).cohort.frame("mtr", ["white matter", "gray matter", "CSF contour"], ["C3", "C4", "C5"]).dropna(subset=["value"])
    print(cells[["participant_id", "level", "region", "value", "std", "n", "coverage"]].to_string(index=False))
    mean = cells.groupby(["participant_id", "region"])["value"].mean().unstack()
    assert mean["white matter"].between(25, 60).all()
    assert (mean["CSF contour"] < mean["gray matter"] - 5).all()
    assert (mean["CSF contour"] < mean["white matter"] - 5).all()


def test_levels_outside_the_slab_are_missing(report: BuildReport) -> None:
    cells = open_cohort(report.url).cohort.frame("mtr", "white matter", ["T5", "T8"])
    assert cells["value"].isna().all()
    assert (cells["coverage"] < schema.LEAST_COVERAGE).all()
    assert np.isfinite(cells["n"]).all()
