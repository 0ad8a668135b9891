import hashlib
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohort_engine.config import load_config
from cohort_engine.errors import InputError
from cohort_engine.io.bids import index_study
from cohort_engine.phantom.dwi_files import DwiPlan
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import B800
from cohort_engine.phantom.study import simulate
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C4", bottom="C6")


@pytest.fixture(scope="module")
def study(cord, tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("simulated") / "study", template=cord, patients=2, controls=1, sites=2, seed=4)


def hashes(root):
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(study, cord, tmp_path):
    again = simulate(tmp_path / "study", template=cord, patients=2, controls=1, sites=2, seed=4, workers=2)
    assert hashes(again.bids) == hashes(study.bids)


def test_a_subject_does_not_depend_on_the_others(study, cord, tmp_path):
    alone = simulate(tmp_path / "study", template=cord, patients=1, controls=0, sites=2, seed=4)
    mine = {k: v for k, v in hashes(alone.bids).items() if "sub-DCM001" in str(k)}
    assert len(mine) == 13
    assert mine.items() <= hashes(study.bids).items()


def test_it_is_indexed_whole(study):
    index = index_study(str(study.bids))
    assert list(index.subjects["group"]) == ["DCM", "DCM", "HC"]
    missing = index.missing(["t2w", "mt_on", "mt_off", "t2w_mask", "mt_mask", "t2w_landmarks"])
    assert missing.empty
    assert index.units["dexterity"] == "s"
    assert index.units["age"] == "year"
    assert load_config(study.study_file).data.bids == str(study.bids)


def test_axis_orders_on_disk(study):
    def codes(name):
        return "".join(nib.aff2axcodes(nib.load(study.bids / name).affine))

    assert codes("sub-DCM001/anat/sub-DCM001_T2w.nii.gz") == "PSR"
    assert codes("sub-DCM002/anat/sub-DCM002_T2w.nii.gz") == "LAS"
    assert codes("sub-DCM002/anat/sub-DCM002_acq-MTon_MTS.nii.gz") == "LAS"
    assert codes("sub-DCM001/anat/sub-DCM001_flip-1_mt-on_MTS.nii.gz") == "RAS"


def test_truth_tables(study):
    table = pd.read_csv(study.bids / "derivatives/truth/truth.tsv", sep="\t", na_values="n/a")
    assert len(table) == 3 * 3 * 43
    assert list(table) == ["participant_id", "level", "region", "raw", "wa", "coverage", "native_voxels"]
    np.testing.assert_allclose(table["raw"], study.truth["raw"], rtol=1e-5)
    assert table["raw"].between(2, 60).all()


def test_only_patients_are_ill(study):
    people = study.participants.set_index("participant_id")
    assert (people.loc[people.group == "HC", "severity"] == 0).all()
    assert people.loc[people.group == "DCM", "severity"].between(0.25, 1).all()


def test_nothing_is_overwritten(study, cord):
    with pytest.raises(InputError, match="empty folder"):
        simulate(study.bids, template=cord, patients=1, controls=0)


def test_somebody_is_simulated(cord, tmp_path):
    with pytest.raises(InputError, match="at least one subject"):
        simulate(tmp_path / "study", template=cord, patients=0, controls=0)


def test_the_study_file_says_where_the_template_lies(cord, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = simulate("deep/study", template=cord, patients=0, controls=1, seed=4, template_path="PAM50")
    assert load_config(study.study_file).template.path == str(tmp_path / "PAM50")
    assert load_config(study.study_file).template.name == cord.name


def test_without_a_folder_the_study_file_names_none(study):
    assert study.study_file.read_text() == "data:\n  bids: study\n  store: study.zarr\ntemplate:\n  name: parametric\n"


def test_patients_take_turns_at_the_grades(cord, tmp_path):
    study = simulate(tmp_path / "study", template=cord, patients=2, controls=0, sites=1, seed=4, grades=("none", "severe"))
    assert list(study.participants["grade"]) == ["none", "severe"]
    assert list(study.participants["severity"]) == [0.0, 1.0]
    for name, spoilt in (("sub-DCM001", False), ("sub-DCM002", True)):
        given = nib.load(next((study.bids / "derivatives/labels" / name).rglob("*T2w_label-SC_seg.nii.gz"))).get_fdata()
        good = nib.load(next((study.bids / "derivatives/truth" / name).rglob("*desc-truth_T2wmask.nii.gz"))).get_fdata()
        assert (given != good).any() == spoilt
    assert index_study(str(study.bids)).missing(["t2w", "mt_on", "mt_off", "t2w_mask", "mt_mask", "t2w_landmarks"]).empty


def test_diffusion_is_written_beside_the_other_scans(study, cord, tmp_path):
    plan = DwiPlan(replace(B800, directions=6, b0_at=(0,), slices=3), DwiImperfection(distortion=3.0), reverse=True)
    with_dwi = simulate(tmp_path / "study", template=cord, patients=1, controls=0, sites=2, seed=4, dwi=plan)
    mine = {k: v for k, v in hashes(with_dwi.bids).items() if "sub-DCM001" in str(k)}
    alone = {k: v for k, v in hashes(study.bids).items() if "sub-DCM001" in str(k)}
    assert alone.items() <= mine.items()
    names = {str(k.relative_to("sub-DCM001")) for k in mine if k.parts[0] == "sub-DCM001" and k.parts[1] != "anat"}
    assert names == {
        *(f"dwi/sub-DCM001_dwi.{ending}" for ending in ("nii.gz", "bval", "bvec", "json")),
        *(f"fmap/sub-DCM001_dir-PA_epi.{ending}" for ending in ("nii.gz", "json")),
    }
    index = index_study(str(with_dwi.bids))
    assert index.missing(["dwi", "dwi_bval", "dwi_bvec", "dwi_json", "dwi_reverse", "dwi_mask"]).empty
    assert {"fa", "md"} <= set(with_dwi.truth)
    white = with_dwi.truth[with_dwi.truth.region == "white matter"]
    assert white["fa"].between(0.4, 0.85).all()
    assert white["md"].between(0.7, 1.2).all()
    truth = with_dwi.bids / "derivatives/truth/sub-DCM001/dwi"
    motion = pd.read_csv(truth / "sub-DCM001_desc-truth_motion.tsv", sep="\t")
    assert len(motion) == 3 * 7
    assert motion["jumped"].sum() == 3
    displacement = nib.load(truth / "sub-DCM001_desc-truth_displacement.nii.gz")
    series = nib.load(with_dwi.bids / "sub-DCM001/dwi/sub-DCM001_dwi.nii.gz")
    np.testing.assert_allclose(displacement.affine, series.affine, atol=1e-5)
    assert np.abs(displacement.get_fdata()).max() > 2.5
