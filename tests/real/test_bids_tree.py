"""The complete tree of spine-generic (267 subjects, 18,634 files), and results as a lab published them."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import bids2table
import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import MissingInputError
from cohort_engine.io.bids import index_study, kind_column
from cohort_engine.io.tree import Tree, place
from cohort_engine.io.volume import read_volume

pytestmark = pytest.mark.real

MASK, MARKS = schema.role(schema.T2W, schema.MASK), schema.role(schema.T2W, schema.LANDMARKS)
MT_MASK, MT_MARKS = schema.role(schema.MT, schema.MASK), schema.role(schema.MT, schema.LANDMARKS)
SECONDS = 5.0


@pytest.fixture(scope="module")
def tree(real_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spine_generic")
    with tarfile.open(next((real_data / "bids_tree").glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def study(tree):
    start = time.perf_counter()
    study = index_study(str(tree))
    seconds = time.perf_counter() - start
    print(f"\nindex of {len(study)} subjects: {seconds:.2f} s")
    assert seconds < SECONDS
    return study


def test_who_has_what(study):
    assert len(study) == 267
    assert {role: n for role, n in study.present()["present"].items() if n} == {
        "T2w image": 267, "cord mask of the T2w image": 267, "vertebral landmarks of the T2w image": 267,
        "MT-on image": 259, "MT-off image": 259, "cord mask of the MT-on image": 259, "vertebral landmarks of the MT-on image": 243,
        "T1w image of the MT protocol": 254, "sidecar of the MT-on image": 259, "sidecar of the MT-off image": 259,
        "sidecar of the T1w image of the MT protocol": 254,
        "diffusion series": 267, "b-values of the diffusion series": 267, "directions of the diffusion series": 267,
        "sidecar of the diffusion series": 267, "cord mask of the mean diffusion-weighted image": 260,
        "vertebral landmarks of the mean diffusion-weighted image": 243,
    }  # fmt: skip
    assert len(study.missing([schema.T2W, schema.MT_ON, schema.MT_OFF, MASK, MT_MASK])) == 8
    told = study.told()
    assert told[-1] == "column software_versions: numbers and text (first 5.3): taken as text"
    assert all(": diffusion series: took " in line for line in told[:-1])


def test_what_is_taken_of_several_diffusion_images(study):
    """Averages that scanners made are left alone, a b0 without gradients gives way, and of three equal runs the first is taken."""
    notes = study.notes[study.notes["role"] == schema.DWI]["note"]
    print(notes.value_counts().to_string())
    assert notes.str.contains(r"rec-average_dwi.nii.gz \(made by the scanner", regex=True).sum() == 263
    assert notes.str.contains(r"acq-b0_dwi.nii.gz \(without gradients\)", regex=True).sum() == 22
    assert (notes == "took run-01_dwi.nii.gz of 3; left out: run-02_dwi.nii.gz, run-03_dwi.nii.gz").sum() == 3


def test_256_subjects_also_have_one_diffusion_series(study, tree):
    """Eight lack MT, three have their diffusion in runs."""
    complete = study.files[[schema.T2W, schema.MT_ON, schema.MT_OFF]].notna().all(axis=1)
    names = study.subjects.loc[complete, schema.PARTICIPANT]
    assert sum((tree / n / "dwi" / f"{n}_dwi.nii.gz").exists() for n in names) == 256


def test_every_pair_has_one_flip_angle(study):
    """flip-2_mt-off is the T1-weighted image, present in 254 subjects, and never MT-off."""
    pairs = study.files[[schema.MT_ON, schema.MT_OFF]].dropna()
    for on, off in pairs.itertuples(index=False):
        assert off == on.replace("mt-on", "mt-off")
        assert "flip-1_" in off


def test_landmarks_are_discs(study):
    for role in (MARKS, MT_MARKS):
        assert (study.files.loc[study.files[role].notna(), kind_column(role)] == schema.DISC).all()


def test_covariates(study):
    s = study.subjects
    assert s[schema.GROUP].value_counts().to_dict() == {"HC": 203, "MildCompression": 62, "DCM": 2}
    assert s[schema.SEX].value_counts().to_dict() == {"M": 142, "F": 125}
    assert s[schema.SITE].iloc[0] == "amu"
    assert study.units == {"age": "year", "height": "cm", "weight": "kg", "field_strength": "T"}
    assert (s["date_of_scan"] == "").sum() == 32
    assert s["age"].notna().all()
    assert s["height"].isna().sum() == 2
    assert np.isnan(s["field_strength"]).sum() == 11  # of one more the diffusion series says it
    assert set(s["field_strength"].dropna()) == {3.0}


def test_natural_order(study):
    assert study.subjects[schema.PARTICIPANT].iloc[[0, 1, -1]].tolist() == ["sub-amu01", "sub-amu02", "sub-vuiisIngenia06"]


def test_listing_agrees_with_bids2table(tree):
    for folder in ("", "derivatives/labels/"):
        table = bids2table.index_dataset(str(tree / folder)).to_pandas()
        expected = {folder + p for p in table.loc[table["ext"] == ".nii.gz", "path"]}
        found = {p for p in Tree(str(tree)).paths if p.endswith(".nii.gz") and (at := place(p)) and at.prefix == folder}
        assert found == expected


def test_images_that_were_not_fetched(study):
    with pytest.raises(MissingInputError, match="git-annex link without its content"):
        read_volume(study.files.at[0, schema.T2W], what="T2w image")


def test_published_results_of_a_lab(real_data, tmp_path):
    """Session folders, images in subfolders of their own, results beside them, no T2w image."""
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-HC003U\tHC\n")
    (tmp_path / "sub-HC003U").symlink_to(real_data / "dcm_ou" / "sub-HC003U")
    study = index_study(str(tmp_path))
    assert study.subjects.iloc[0].to_dict() == {"participant_id": "sub-HC003U", "session_id": "ses-spinalcord", "diagnosis": "HC", "group": "HC"}
    files = {role: Path(f).name.removeprefix("sub-HC003U_ses-spinalcord_") for role, f in study.files.iloc[0, :7].items() if f is not None}
    assert files == {
        schema.MT_ON: "acq-MTon_MTS.nii.gz", schema.MT_OFF: "acq-MToff_MTS.nii.gz", MT_MASK: "acq-MTon_MTS_seg.nii.gz",
        MASK: "T2w_seg.nii.gz", MARKS: "T2w_seg_labeled_discs.nii.gz",
    }  # fmt: skip
    assert study.files.at[0, kind_column(MARKS)] == schema.DISC
    assert study.missing(list(files)).empty
