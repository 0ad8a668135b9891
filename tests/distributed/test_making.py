"""Files that a stage makes for subjects who have none: who gets one, who reads it, and when it goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import FIT_DICE, FIT_MAP, MTR_MAP, MTR_MEDIAN, arrays, make_study, study_config

from cohort_engine.config import Config
from cohort_engine.engine.build import BuildReport, build, plan
from cohort_engine.errors import CordError
from cohort_engine.io.bids import index_study
from cohort_engine.io.places import exists
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.schema import SEGMENT_QC, qc_specs
from cohort_engine.stages.base import Stage, StageInput
from cohort_engine.stages.choose import ordered, to_make
from cohort_engine.store.records import delete_subject, made_url

GIVEN, MADE = 1.0, 2.0


def segment(inputs: StageInput) -> dict[str, np.ndarray | Volume]:
    image = Path(inputs.files["mt_on"])
    with (image.parents[3] / "made").open("a") as journal:
        journal.write(image.name[:6] + "\n")
    if inputs.text("mt_on") == "no cord":
        raise CordError(expected="a cord", found="none", where="MT-on image", remedy="Add a mask.")
    return {"mt_mask": Volume(np.full((2, 2, 2), MADE, np.float32), np.eye(4))} | {s.path: np.float32(1) for s in QUALITY}


def fit(inputs: StageInput) -> dict[str, np.ndarray]:
    mean = inputs.volume("mt_mask").data.mean()
    return {"fit/mt": np.full((len(inputs.template.packing), 3), mean, np.float32), "qc/mt_dice": np.float32(mean / 2)}


def mtr(inputs: StageInput) -> dict[str, np.ndarray]:
    return {"maps/mtr": inputs.load("fit/mt")[:, 0], "qc/mtr_cord_median": np.float32(40)}


QUALITY = tuple(qc_specs("segment_mt", SEGMENT_QC, "segment_mt").values())
SEGMENT = Stage("segment_mt", "1", segment, ("mt_on",), QUALITY, makes="mt_mask", memory=1)
FIT = Stage("fit_mt", "1", fit, ("mt_mask",), (FIT_MAP, FIT_DICE), memory=1)
MTR = Stage("mtr", "1", mtr, ("mt_on", "mt_off"), (MTR_MAP, MTR_MEDIAN), needs=("fit_mt",), memory=1)
STAGES = ordered({s.name: s for s in (SEGMENT, FIT, MTR)})


def config(root: Path) -> Config:
    return study_config(root)


def image(root: Path, i: int, kind: str = "on") -> Path:
    return root / f"bids/sub-{i:02d}/anat/sub-{i:02d}_flip-1_mt-{kind}_MTS.nii.gz"


def give(root: Path, i: int) -> Path:
    anat = root / f"bids/derivatives/labels/sub-{i:02d}/anat"
    anat.mkdir(parents=True, exist_ok=True)
    path = anat / f"sub-{i:02d}_flip-1_mt-on_MTS_label-SC_seg.nii.gz"
    write_volume(path, Volume(np.full((2, 2, 2), GIVEN, np.float32), np.eye(4)))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four participants: with a mask; without; without, and no cord in the image; without, and no image."""
    make_study(tmp_path, None, None, None, None)
    give(tmp_path, 0)
    image(tmp_path, 2).write_text("no cord")
    image(tmp_path, 3).unlink()
    return tmp_path


def outcomes(report: BuildReport, stage: str) -> dict[str, int]:
    return {k: n for k, n in report.counts[stage].items() if n}


def made(root: Path) -> list[str]:
    path = root / "made"
    return path.read_text().split() if path.exists() else []


def places(root: Path) -> list[bool]:
    return [exists(made_url(str(root / "study.zarr"), row, "mt_mask")) for row in range(4)]


def test_only_who_lacks_a_mask_gets_one(root: Path) -> None:
    report = build(config(root), stages=STAGES)
    assert made(root) == ["sub-01", "sub-02"]
    assert places(root) == [False, True, False, False]
    np.testing.assert_array_equal(arrays(root)["maps/mtr"][:, 0], [GIVEN, MADE, np.nan, np.nan])
    np.testing.assert_array_equal(arrays(root)["qc/segment_mt_cord_length"], [np.nan, 1, np.nan, np.nan])
    assert [(e.subject, e.stage, e.kind) for e in report.entries] == [(2, "segment_mt", "CordError"), (3, "fit_mt", "MissingInputError")]
    assert outcomes(report, "segment_mt") == {"done": 1, "failed": 1, "not_needed": 2}
    assert outcomes(report, "fit_mt") == {"done": 2, "blocked": 1, "missing_input": 1}


def test_building_again_makes_nothing_twice_unless_it_is_gone(root: Path) -> None:
    build(config(root), stages=STAGES)
    build(config(root), stages=STAGES)
    assert made(root) == ["sub-01", "sub-02"]
    Path(made_url(str(root / "study.zarr"), 1, "mt_mask")).unlink()
    report = build(config(root), stages=STAGES)
    assert made(root) == ["sub-01", "sub-02", "sub-01"]
    assert outcomes(report, "fit_mt")["cached"] == 2  # the same mask came again


def test_a_mask_of_people_takes_the_place_of_one_made_here(root: Path) -> None:
    build(config(root), stages=STAGES)
    path = give(root, 1)
    build(config(root), stages=STAGES)
    assert places(root) == [False] * 4
    np.testing.assert_array_equal(arrays(root)["maps/mtr"][:2, 0], [GIVEN, GIVEN])
    assert np.isnan(arrays(root)["qc/segment_mt_cord_length"]).all()
    path.unlink()
    build(config(root), stages=STAGES)
    np.testing.assert_array_equal(arrays(root)["maps/mtr"][:2, 0], [GIVEN, MADE])


def test_what_was_made_goes_with_the_subject(root: Path) -> None:
    build(config(root), stages=STAGES)
    delete_subject(str(root / "study.zarr"), 1)
    assert places(root) == [False] * 4


def test_the_plan_counts_what_is_to_be_made(root: Path) -> None:
    planned = plan(config(root), stages=STAGES)
    assert planned.tasks == {"segment_mt": 2, "fit_mt": 4, "mtr": 4}
    assert planned.missing == {"mt_on": 1}  # of which its mask would be made


def test_nothing_is_made_where_given_files_will_do(root: Path) -> None:
    """Levels of the MT image are given: those of the T2w image come first, but only if people made them."""
    either = Stage("fit", "1", fit, ("mt_mask",), (), alternatives=(("t2w_mask",), ("mt_landmarks",)))
    t2w = Stage("segment_t2w", "1", segment, ("t2w",), (), makes="t2w_mask")
    stages = (SEGMENT, t2w, either)
    assert to_make({"mt_mask": "m", "mt_landmarks": "l", "t2w": "i"}, stages) == set()
    assert to_make({"mt_mask": "m", "t2w": "i"}, stages) == {"t2w_mask"}
    assert to_make({"mt_on": "i", "mt_landmarks": "l"}, stages) == {"mt_mask"}
    assert to_make({"mt_landmarks": "l", "t2w": "i"}, stages) == set()  # no mask can be had: nothing helps


def test_the_index_knows_nothing_of_what_is_made_here(root: Path) -> None:
    assert index_study(str(root / "bids")).files["mt_mask"].notna().tolist() == [True, False, False, False]


def test_landmarks_that_were_made_here_are_discs(tmp_path: Path) -> None:
    """They were given the kind of the study's own: vertebrae, where the study has those."""
    from cohort_engine import schema
    from cohort_engine.engine.runner import Subject

    make = Stage("levels", "1", segment, ("t2w",), (), alternatives=(("t2w_landmarks",), ()), makes="t2w_landmarks")
    read = Stage("read", "1", fit, ("t2w_landmarks",), (), needs=("levels",))
    given = Subject(0, {"t2w": "i", "t2w_landmarks": "one point"}, {"t2w_landmarks": schema.BODY})
    lacking = Subject(1, {"t2w": "i"})
    for subject in (given, lacking):
        seen = subject.with_made(read, {make.makes: "made"})
        assert (seen.files["t2w_landmarks"], seen.kinds["t2w_landmarks"]) == ("made", schema.DISC)
    assert given.with_made(read, {}).kinds == {"t2w_landmarks": schema.BODY}
