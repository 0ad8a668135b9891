"""Sessions of real people as studies, and a build of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cohort_engine import schema
from cohort_engine.config import parse_config
from cohort_engine.cord.centreline import centreline_from_mask
from cohort_engine.cord.segment import segment
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.io.gradients import Gradients, read_gradients
from cohort_engine.io.volume import Volume, decode_series, read_raw, write_volume
from cohort_engine.single.moco import mean_of
from cohort_engine.store.records import made_url
from cohort_engine.template.base import Template

SESSION = {
    "anat/sub-1_T2w.nii.gz": "errsm_23/t2/t2.nii.gz", "anat/sub-1_flip-1_mt-on_MTS.nii.gz": "errsm_23/mt/mt1.nii.gz",
    "anat/sub-1_flip-1_mt-off_MTS.nii.gz": "errsm_23/mt/mt0.nii.gz", "dwi/sub-1_dwi.nii.gz": "errsm_23/dmri/dmri.nii.gz",
    "dwi/sub-1_dwi.bval": "errsm_23/dmri/bvals.txt", "dwi/sub-1_dwi.bvec": "errsm_23/dmri/bvecs.txt",
}  # fmt: skip
LABELS = {
    "anat/sub-1_T2w_label-SC_desc-manual_seg.nii.gz": "errsm_23/t2/t2_manual_segmentation.nii.gz",
    "anat/sub-1_T2w_label-body_dlabel.nii.gz": "errsm_23/t2/t2_landmarks_C2_T2_center.nii.gz",
}  # fmt: skip
ALONE = {name: source.replace("errsm_23", "sct_019") for name, source in SESSION.items() if name.startswith("dwi")}


def link(files: dict[str, str], data: Path, folder: Path) -> None:
    for name, source in files.items():
        place = folder / "sub-1" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(data / source)


def make(root: Path, data: Path, stages: dict[str, Any], store: str = "study") -> BuildReport:
    (root / "participants.tsv").write_text("participant_id\nsub-1\n")
    for tree in (root, *(root / "derivatives").glob("*")):
        (tree / "dataset_description.json").write_text('{"Name": "real scans", "BIDSVersion": "1.9.0"}')
    return build(parse_config({
        "data": {"bids": str(root), "store": str(root.parent / f"{store}.zarr")}, "template": {"name": "PAM50", "path": str(data / "PAM50")},
        "compute": {"cluster": "synchronous"}, "stages": stages,
    }))  # fmt: skip


def in_the_middle(root: Path, template: Template) -> None:
    """Landmarks of a slab without T2w image: the levels of which values were published, C2 to C5 (69 mm of 75), lie in its middle."""
    scan, gradients = raw(root)
    found = segment(mean_of(scan.data, ~gradients.b0), scan.affine)
    line = centreline_from_mask(found.mask, scan.affine, what="mean diffusion-weighted image")
    height = template.landmarks[schema.DISC]
    middle = (height[2] + height[6]) / 2
    numbers = np.array([3, 4, 5])
    places = line.position(line.length / 2 + np.array([height[n] - middle for n in numbers]))
    points = np.zeros(found.mask.shape, np.uint8)
    points[tuple(np.rint(scan.grid.voxel(places)).astype(int).T)] = numbers
    folder = root / "derivatives/labels/sub-1/dwi"
    folder.mkdir(parents=True)
    write_volume(folder / "sub-1_dwi_label-discs_dlabel.nii.gz", scan.with_data(points))


def raw(root: Path) -> tuple[Volume, Gradients]:
    """The series of a study as it was scanned."""
    base = root / "sub-1/dwi/sub-1_dwi"
    scan = decode_series(read_raw(f"{base}.nii.gz", what="series"), what="series")
    return scan, read_gradients(f"{base}.bval", f"{base}.bvec", scan)


def made(report: BuildReport, role: str) -> str:
    return made_url(report.url, 0, role)
