"""Diffusion of real people: the whole chain from the scans of one session, and values that SCT published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.config import parse_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.query.accessor import open_cohort
from cohort_engine.store.verify import verify

pytestmark = pytest.mark.real

SESSION = {
    "anat/sub-1_T2w.nii.gz": "errsm_23/t2/t2.nii.gz", "anat/sub-1_flip-1_mt-on_MTS.nii.gz": "errsm_23/mt/mt1.nii.gz",
    "anat/sub-1_flip-1_mt-off_MTS.nii.gz": "errsm_23/mt/mt0.nii.gz", "dwi/sub-1_dwi.nii.gz": "errsm_23/dmri/dmri.nii.gz",
    "dwi/sub-1_dwi.bval": "errsm_23/dmri/bvals.txt", "dwi/sub-1_dwi.bvec": "errsm_23/dmri/bvecs.txt",
}  # fmt: skip
WORDS = ("moco_dwi", "tensor_dwi", "dwi_", "fa_", "segment_dwi")
LABELS = {
    "anat/sub-1_T2w_label-SC_desc-manual_seg.nii.gz": "errsm_23/t2/t2_manual_segmentation.nii.gz",
    "anat/sub-1_T2w_label-body_dlabel.nii.gz": "errsm_23/t2/t2_landmarks_C2_T2_center.nii.gz",
}  # fmt: skip


def link(files: dict[str, str], data: Path, folder: Path) -> None:
    for name, source in files.items():
        place = folder / "sub-1" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(data / source)


def make(root: Path, data: Path, stages: dict[str, Any]) -> BuildReport:
    (root / "participants.tsv").write_text("participant_id\nsub-1\n")
    for tree in (root, *(root / "derivatives").glob("*")):
        (tree / "dataset_description.json").write_text('{"Name": "real scans", "BIDSVersion": "1.9.0"}')
    return build(parse_config({
        "data": {"bids": str(root), "store": str(root.parent / "study.zarr")}, "template": {"name": "PAM50", "path": str(data / "PAM50")},
        "compute": {"cluster": "synchronous"}, "stages": stages,
    }))  # fmt: skip


@pytest.fixture(scope="module")
def session(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    root = tmp_path_factory.mktemp("session") / "study"
    link(SESSION, real_data, root)
    link(LABELS, real_data, root / "derivatives/labels")
    start = time.process_time()
    report = make(root, real_data, {"metrics": ["mtr", "fa", "md", "ad", "rd"], "shape": {"source": "t2w"}})
    print(f"\nT2w, MT and DWI of one person: {time.process_time() - start:.1f} s of processor time")
    return report


def test_the_whole_chain_in_one_build(session: BuildReport) -> None:
    assert session.exit_code == 0, session.failures.to_string()
    assert [str(p) for p in verify(session.url)] == []
    ds = open_cohort(session.url)
    told = {str(n): round(float(v[0]), 3) for n, v in ds.data_vars.items() if v.dims == ("subject",) and str(n).startswith(WORDS)}
    print(told)
    for metric in ("mtr", "fa", "md", "ad", "rd"):
        cells = ds.cohort.frame(metric, ["white matter", "gray matter"], ["C2", "C3", "C4"])
        print(metric, cells[["level", "region", "value", "std", "coverage"]].to_string(index=False), sep="\n")
