"""MTsat and T1 of real triplets: plausible values where the slab is excited evenly, T1w brought onto MT-on as the published registration did.

The scans come without sidecars; repetition times and flip angles are those of the Spine Generic Protocol (35, 35, 15 ms; 9, 9, 15 degrees).
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort_engine.io.volume import Volume, read_mask, read_volume
from cohort_engine.qmri.motion import apply_shifts, estimate_slicewise
from cohort_engine.qmri.mtsat import Protocol, Triplet
from cohort_engine.single.extract import extract
from cohort_engine.single.mtsat import Saturated, mtsat_image, saturate

pytestmark = pytest.mark.real
PROTOCOL = Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15))
FOLDER = "dcm_ou/sub-HC003U/ses-spinalcord/anat/MTS"
NAME = "sub-HC003U_ses-spinalcord_acq-"


@pytest.fixture(scope="module")
def published(real_data: Path) -> tuple[Triplet, Volume, Saturated]:
    images = Triplet(*(read_volume(real_data / FOLDER / f"{NAME}{k}_MTS.nii.gz", what=k) for k in ("MTon", "MToff", "T1w")))
    cord = read_mask(real_data / FOLDER / f"{NAME}MTon_MTS_seg.nii.gz", what="cord mask")
    return images, cord, saturate(images, cord, PROTOCOL)


def test_t1w_is_brought_onto_mt_on_as_the_published_registration_did(real_data: Path, published) -> None:
    images, cord, _ = published
    warp = np.asarray(nib.load(real_data / FOLDER / f"warp_{NAME}T1w_MTS2{NAME}MTon_MTS.nii.gz").dataobj)[:, :, :, 0] * [-1, -1, 1]  # LPS to RAS
    affine, spacing, mask = images.on.affine, images.on.grid.spacing, cord.data > 0.5
    in_plane = (affine[:3, :3] / spacing)[:, :2]
    stored = np.array([warp[:, :, z][mask[:, :, z]].mean(0) @ in_plane for z in range(mask.shape[2])])
    found = estimate_slicewise(images.on.data, images.t1w.data, mask, spacing, either=True)
    apart = np.linalg.norm(found - stored, axis=1)
    print(f"T1w onto MT-on: {apart.mean():.3f} mm (largest {apart.max():.3f}) from the published registration")
    assert apart.mean() < 0.2  # mm; 0.143 measured, voxels are 0.9
    assert apart.max() < 0.3


def test_white_and_grey_matter_have_plausible_values(real_data: Path, published, tmp_path: Path) -> None:
    """C3 to C5. In C2, at the end of the slab, excitation falls off: T1 comes out at half and MTsat at three times as much."""
    from cohort_engine.io.volume import write_volume

    images, _, found = published
    values = {}
    for name, data in (("mtsat", found.mtsat), ("t1", found.t1)):
        write_volume(tmp_path / f"{name}.nii.gz", images.on.with_data(data))
        for level in ("C2", "C3", "C4", "C5"):
            cells = extract(
                tmp_path / f"{name}.nii.gz", real_data / FOLDER / "label", estimator="map", levels=level, regions=["white matter", "gray matter"]
            ).columns["MAP()"]  # fmt: skip
            values[name, level] = tuple(map(float, cells))
    print({k: tuple(round(v, 2) for v in cells) for k, cells in values.items()})
    for level in ("C3", "C4", "C5"):
        white, grey = values["mtsat", level]
        assert 2.5 < grey < white < 4.5, level
        white, grey = values["t1", level]
        assert 0.9 < white < grey < 1.6, level


def test_registration_leaves_less_about_the_tissues(real_data: Path, published, tmp_path: Path) -> None:
    """Of MTsat, level by level. Not of T1, whose spread in white matter is that of voxels shared with fluid (0.68 s with, 0.57 s without, C4)."""
    from cohort_engine.io.volume import write_volume

    images, cord, found = published
    spread = {}
    for name, data in (("slicewise", found.mtsat), ("none", saturate(images, cord, PROTOCOL, coregister="none").mtsat)):
        write_volume(tmp_path / "mtsat.nii.gz", images.on.with_data(data))
        more = {"estimator": "map", "levels": "C3:C5", "per": "level", "regions": ["white matter"]}
        spread[name] = np.array(extract(tmp_path / "mtsat.nii.gz", real_data / FOLDER / "label", **more).columns["Spread()"], float)
    print("MTsat about the mixture of tissues, C5 to C3:", {k: v.round(3).tolist() for k, v in spread.items()})
    assert (spread["slicewise"] < spread["none"]).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_shift_is_found_whichever_way_the_contrast_goes(real_data: Path, sign: float) -> None:
    from cohort_engine.cord.segment import segment

    folder = real_data / "sct_019/mt"
    on, t1w = (read_volume(folder / f"{n}.nii.gz", what=n) for n in ("mt1", "t1w"))
    mask = segment(on.data, on.affine, what="MT-on image").mask
    spacing, nz = on.grid.spacing, on.data.shape[2]
    planted = np.stack([np.linspace(-0.6, 0.8, nz), np.linspace(0.5, -0.4, nz)], 1)
    before = estimate_slicewise(on.data, t1w.data, mask, spacing, either=True)
    moved = sign * apply_shifts(t1w.data, -planted, spacing)
    after = estimate_slicewise(on.data, moved - np.nanmin(moved), mask, spacing, either=True)
    error = np.abs(after - before - planted)[mask.any((0, 1))]
    print(f"contrast {sign:+.0f}: median error {np.median(error):.3f} mm")
    assert np.median(error) < 0.1


def test_a_triplet_from_the_command(real_data: Path, tmp_path: Path) -> None:
    """`sct_019`, whose protocol is not told: the sequence runs, the cord is uniform, and grey values are those of tissue."""
    folder = real_data / "sct_019/mt"
    facts = mtsat_image(
        folder / "mt1.nii.gz", folder / "mt0.nii.gz", folder / "t1w.nii.gz", tmp_path / "mtsat.nii.gz", t1=tmp_path / "t1.nii.gz",
        tr=(0.035, 0.035, 0.015), flip=(9, 9, 15),
    )  # fmt: skip
    print(facts["Cord"], facts["T1"], facts["Coregistration"])
    assert facts["Cord"]["Missing"] < 0.02
    assert 2 < facts["Cord"]["Median"] < 8
    assert 0.5 < facts["T1"]["Median"] < 1.5


def test_a_study_from_the_names_of_its_files(real_data: Path, tmp_path: Path) -> None:
    """Images, masks and discs of one person as BIDS has them; repetition times and flip angles are said once, at the top, one of them in ms."""
    from shutil import copy

    from cohort_engine.config import parse_config
    from cohort_engine.engine.build import build
    from cohort_engine.query.cells import table
    from cohort_engine.query.reader import CohortReader

    source, name = real_data / "dcm_ou/sub-HC003U/ses-spinalcord/anat", "sub-HC003U_ses-spinalcord"
    anat, derived = tmp_path / "bids/sub-01/anat", tmp_path / "bids/derivatives/labels/sub-01/anat"
    anat.mkdir(parents=True)
    derived.mkdir(parents=True)
    (tmp_path / "bids/participants.tsv").write_text("participant_id\nsub-01\n")
    for old, new in (("MTon", "flip-1_mt-on"), ("MToff", "flip-1_mt-off"), ("T1w", "flip-2_mt-off")):
        copy(source / f"MTS/{name}_acq-{old}_MTS.nii.gz", anat / f"sub-01_{new}_MTS.nii.gz")
    copy(source / f"MTS/{name}_acq-MTon_MTS_seg.nii.gz", derived / "sub-01_flip-1_mt-on_MTS_label-SC_seg.nii.gz")
    copy(source / f"T2w/{name}_T2w_seg.nii.gz", derived / "sub-01_T2w_label-SC_seg.nii.gz")
    copy(source / f"T2w/{name}_T2w_seg_labeled_discs.nii.gz", derived / "sub-01_T2w_label-discs_dlabel.nii.gz")
    for words, said in (
        ("mt-on", '{"RepetitionTime": 0.035, "FlipAngle": 9}'), ("mt-off", '{"RepetitionTime": 0.035, "FlipAngle": 9}'),
        ("flip-2_mt-off", '{"RepetitionTime": 15, "FlipAngle": 15}'),
    ):  # fmt: skip
        (tmp_path / f"bids/{words}_MTS.json").write_text(said)
    (anat / "sub-01_flip-1_mt-on_MTS.json").write_text('{"EchoTime": 0.0035}')
    config = parse_config({
        "data": {"bids": str(tmp_path / "bids"), "store": str(tmp_path / "study.zarr")},
        "template": {"name": "PAM50", "path": str(real_data / "PAM50")}, "compute": {"cluster": "synchronous"},
        "stages": {"metrics": ["mtsat", "t1"], "fit": {"deformable": False}},
    })  # fmt: skip
    report = build(config)
    assert report.exit_code == 0, report.failures.to_string()
    assert "taken as 15 ms" in " ".join(report.notes["note"])
    reader = CohortReader(str(tmp_path / "study.zarr"))
    levels = ["C3", "C4", "C5"]
    found = {
        m: table(reader, m, ["white matter", "gray matter"], levels, estimator="map", space="native").values["value"][0] for m in ("mtsat", "t1")
    }
    print({m: v.round(2).tolist() for m, v in found.items()})
    white, grey = found["mtsat"].T
    assert ((white > 3.0) & (white < 4.2) & (grey < white)).all()
    white, grey = found["t1"].T
    assert np.abs(white - [1.36, 1.27, 1.17]).max() < 0.1  # over the published labels
    assert ((grey > 1.0) & (grey < 1.6)).all()
