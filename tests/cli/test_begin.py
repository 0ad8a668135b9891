"""The first commands of a new user: the study file that is written can be planned as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cohort_engine.config import load_config
from cohort_engine.engine.doctor import GOOD, WRONG, examine
from cohort_engine.engine.draft import draft_study, write_draft
from cohort_engine.io.volume import Volume, write_volume


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three people: T2w of all, an MT pair of two."""
    import numpy as np

    root = tmp_path / "my study"
    image = Volume(np.ones((4, 4, 3), np.float32), np.eye(4))
    for name, mt in (("01", True), ("02", True), ("03", False)):
        anat = root / f"sub-{name}" / "anat"
        anat.mkdir(parents=True)
        write_volume(anat / f"sub-{name}_T2w.nii.gz", image)
        for kind in ("on", "off") if mt else ():
            write_volume(anat / f"sub-{name}_flip-1_mt-{kind}_MTS.nii.gz", image)
    (root / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tHC\nsub-02\tDCM\nsub-03\tno\n")
    (root / "dataset_description.json").write_text('{"Name": "n", "BIDSVersion": "1.9.0"}')
    return root


def test_the_file_says_what_the_folder_allows_and_can_be_read(study: Path, tmp_path: Path) -> None:
    draft = draft_study(str(study), str(tmp_path / "study.zarr"), folder=tmp_path)
    assert (draft.subjects, draft.complete["mtr"], draft.complete["shape"], draft.complete["fa"]) == (3, 2, 3, 0)
    write_draft(draft, tmp_path / "study.yaml")
    config = load_config(tmp_path / "study.yaml")
    assert config.stages.metrics == ("mtr",)
    assert config.stages.shape.source == "t2w"
    assert Path(config.data.bids) == study
    assert '  bids: "my study"\n' in draft.text
    assert 'choose among DCM, HC, "no"' in draft.text


def test_a_folder_that_moves_with_its_study_file_still_works(study: Path, tmp_path: Path) -> None:
    write_draft(draft_study(str(study), str(tmp_path / "study.zarr"), folder=tmp_path), tmp_path / "study.yaml")
    shutil.copytree(study, tmp_path / "there" / "my study")
    shutil.copy(tmp_path / "study.yaml", tmp_path / "there")
    assert Path(load_config(tmp_path / "there" / "study.yaml").data.bids) == tmp_path / "there" / "my study"


def test_t2w_alone_is_a_study(study: Path, tmp_path: Path) -> None:
    for path in study.rglob("*_MTS.nii.gz"):
        path.unlink()
    draft = draft_study(str(study), str(tmp_path / "s.zarr"))
    assert "metrics: []" in draft.text
    assert "  shape: { source: t2w }" in draft.text


def test_an_existing_file_is_kept(study: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("mine")
    with pytest.raises(FileExistsError):
        write_draft(draft_study(str(study), "s.zarr"), tmp_path / "study.yaml")
    assert (tmp_path / "study.yaml").read_text() == "mine"


def test_the_doctor_measures_and_leaves_nothing(tmp_path: Path) -> None:
    found = {f.what: f for f in examine(tmp_path)}
    assert found["cohort_engine"].state == GOOD
    assert "MB/s" in found["writing here"].found
    assert list(tmp_path.iterdir()) == []
    assert {f.what: f for f in examine(tmp_path / "absent")}["writing here"].state == WRONG
