"""Which series a person's diffusion is, what belongs to it, and which image was taken the other way round."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cohort_engine import schema
from cohort_engine.io.bids import index_study
from cohort_engine.io.choose import Selection


def names(root, **options):
    """Role -> file name of one subject's diffusion, without the person; absent roles left out."""
    study = index_study(str(root), **options)
    roles = [r for r in study.roles if r.startswith(schema.DWI)]
    return {r: Path(f).name.removeprefix("sub-01_") for r in roles if (f := study.files.at[0, r]) is not None}, study.notes["note"].tolist()


@pytest.fixture
def make(make_bids):
    """A dataset of one person."""
    return partial(make_bids, participants="participant_id\nsub-01")


def series(name, volumes=3):
    """Files of a series: images, and as many b-values and directions."""
    folder = f"sub-01/dwi/sub-01_{name}"
    return [f"{folder}.nii.gz", f"{folder}.bval", f"{folder}.bvec"], {f"{folder}.bval": " ".join(["0"] * volumes)}


def write(root, texts):
    for name, text in texts.items():
        (root / name).write_text(text)
    return root


def test_a_series_and_its_gradients(make):
    files, texts = series("dwi")
    found, _ = names(write(make(files, sidecars={"sub-01/dwi/sub-01_dwi": {"RepetitionTime": 1}}), texts))
    assert found == {"dwi": "dwi.nii.gz", "dwi_bval": "dwi.bval", "dwi_bvec": "dwi.bvec", "dwi_json": "dwi.json"}


def test_gradients_of_all_lie_at_the_top(make):
    found, _ = names(write(make(["sub-01/dwi/sub-01_dwi"]), {"dwi.bval": "0 800", "dwi.bvec": "0 1\n0 0\n0 0"}))
    assert found == {"dwi": "dwi.nii.gz", "dwi_bval": "dwi.bval", "dwi_bvec": "dwi.bvec"}


@pytest.mark.parametrize("made", ["average", "ADC", "trace"])
def test_what_the_scanner_made_of_a_series_is_left_alone(make, made):
    files, texts = series("dwi")
    found, told = names(write(make([*files, f"sub-01/dwi/sub-01_rec-{made}_dwi"]), texts))
    assert found["dwi"] == "dwi.nii.gz"
    assert told == [f"took dwi.nii.gz of 2; left out: rec-{made}_dwi.nii.gz (made by the scanner: rec-{made})"]


def test_an_average_alone_is_no_series(make):
    found, told = names(make(["sub-01/dwi/sub-01_rec-average_dwi"]))
    assert found == {}
    assert told == ["took none; left out: rec-average_dwi.nii.gz (made by the scanner: rec-average)"]


def test_the_first_of_equal_runs_is_taken(make):
    runs = [series(f"run-0{i}_dwi", 35) for i in (1, 2, 3)]
    root = write(make([f for files, _ in runs for f in files]), {k: v for _, texts in runs for k, v in texts.items()})
    found, told = names(root)
    assert (found["dwi"], found["dwi_bval"]) == ("run-01_dwi.nii.gz", "run-01_dwi.bval")
    assert told == ["took run-01_dwi.nii.gz of 3; left out: run-02_dwi.nii.gz, run-03_dwi.nii.gz"]
    found, _ = names(root, selection=Selection(filters={"dwi": {"run": ["2"]}}))
    assert (found["dwi"], found["dwi_bvec"]) == ("run-02_dwi.nii.gz", "run-02_dwi.bvec")


def test_a_run_that_was_broken_off_gives_way_to_its_repeat(make):
    (a, short), (b, whole) = series("run-01_dwi", 12), series("run-02_dwi", 35)
    found, told = names(write(make([*a, *b]), short | whole))
    assert found["dwi"] == "run-02_dwi.nii.gz"
    assert told == ["took run-02_dwi.nii.gz of 2; left out: run-01_dwi.nii.gz (12 volumes)"]


def test_an_image_without_gradients_gives_way_and_does_not_borrow_them(make):
    files, texts = series("acq-zoom_dwi")
    found, told = names(write(make([*files, "sub-01/dwi/sub-01_acq-b0_dwi"]), texts))
    assert found["dwi"] == "acq-zoom_dwi.nii.gz"
    plain, texts = series("dwi")
    found, told = names(
        write(make([*plain, "sub-01/dwi/sub-01_acq-b0_dwi"], name="other"), texts), selection=Selection(filters={"dwi": {"acq": ["b0"]}})
    )
    assert found == {"dwi": "acq-b0_dwi.nii.gz"}
    assert "acq-b0_dwi" in told[0]


# --- what was made of it --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("moco", "mean", "mask"),
    [
        ("desc-moco_dwi", "desc-mean_dwi", "desc-mean_dwi_label-SC_seg"),
        ("desc-preproc_dwi", "desc-mocomean_dwi", "desc-moco_dwi_seg"),
        ("dwi_moco", "dwi_moco_dwi_mean", "dwi_moco_dwi_mean_seg-manual"),
        ("dwi_crop_moco", "dwi_crop_moco_dwi_mean", "dwi_crop_moco_dwi_mean_seg"),
        ("dwi_moco", "dwi_dwi_mean", "dwi_label-SC_seg"),
    ],
)  # fmt: skip
def test_a_corrected_series_its_mean_and_masks(make, moco, mean, mask):
    files, texts = series("dwi")
    made = {"pipeline": [f"sub-01/dwi/sub-01_{name}" for name in (moco, mean, mask)]}
    found, _ = names(write(make(files, made), texts))
    assert {r: found[r] for r in ("dwi", "dwi_moco", "dwi_mean", "dwi_mask")} == {
        "dwi": "dwi.nii.gz", "dwi_moco": f"{moco}.nii.gz", "dwi_mean": f"{mean}.nii.gz", "dwi_mask": f"{mask}.nii.gz",
    }  # fmt: skip


def test_the_corrected_series_brings_its_own_gradients(make):
    files, texts = series("dwi")
    made = {"pipeline": ["sub-01/dwi/sub-01_desc-moco_dwi", "sub-01/dwi/sub-01_desc-moco_dwi.bval", "sub-01/dwi/sub-01_desc-moco_dwi.bvec"]}
    found, _ = names(write(make(files, made), texts))
    assert (found["dwi_bvec"], found["dwi_moco_bvec"], found["dwi_moco_bval"]) == ("dwi.bvec", "desc-moco_dwi.bvec", "desc-moco_dwi.bval")


def test_a_mask_of_the_average_serves_the_series_and_one_of_the_series_goes_first(make):
    files, texts = series("dwi")
    labels = ["sub-01/dwi/sub-01_rec-average_dwi_label-SC_seg"]
    assert names(write(make(files, {"labels": labels}), texts))[0]["dwi_mask"] == "rec-average_dwi_label-SC_seg.nii.gz"
    labels.append("sub-01/dwi/sub-01_dwi_label-SC_seg")
    assert names(write(make(files, {"labels": labels}, name="other"), texts))[0]["dwi_mask"] == "dwi_label-SC_seg.nii.gz"


def test_a_corrected_t2w_image_owns_its_masks(make):
    """Only what is made of a series may be called after what was made of it in between."""
    study = index_study(str(make(["sub-01_T2w"], {"labels": ["sub-01_desc-preproc_T2w_label-SC_seg"]})))
    assert study.files.at[0, "t2w_mask"] is None


# --- the other way round --------------------------------------------------------------------------------------------------
PA = "sub-01/fmap/sub-01_dir-PA_epi"
AP = "sub-01/fmap/sub-01_dir-AP_epi"
J, J_ = {"PhaseEncodingDirection": "j"}, {"PhaseEncodingDirection": "j-"}


@pytest.mark.parametrize("intended", ["dwi/sub-01_dwi.nii.gz", ["bids::sub-01/dwi/sub-01_dwi.nii.gz"], "./dwi/sub-01_dwi.nii.gz", None])
def test_a_fieldmap_of_opposite_phase_encoding(make, intended):
    files, texts = series("dwi")
    said = {"sub-01/dwi/sub-01_dwi": J_, PA: J | ({"IntendedFor": intended} if intended else {}), AP: J_ | {"IntendedFor": intended}}
    found, told = names(write(make([*files, PA, AP], sidecars=said), texts))
    assert found["dwi_reverse"] == "dir-PA_epi.nii.gz"
    assert told == ["took dir-PA_epi.nii.gz of 2; left out: dir-AP_epi.nii.gz (not of opposite phase encoding)"]


def test_a_fieldmap_for_something_else(make):
    files, texts = series("dwi")
    said = {"sub-01/dwi/sub-01_dwi": J_, PA: J | {"IntendedFor": ["func/sub-01_task-rest_bold.nii.gz"]}}
    found, told = names(write(make([*files, PA], sidecars=said), texts))
    assert "dwi_reverse" not in found
    assert told == ["took none; left out: dir-PA_epi.nii.gz (its sidecar says it is for other images)"]


@pytest.mark.parametrize(("identifier", "taken"), [("pepolar", True), ("other", False)])
def test_a_fieldmap_by_its_identifier(make, identifier, taken):
    files, texts = series("dwi")
    said = {"sub-01/dwi/sub-01_dwi": J_ | {"B0FieldSource": "pepolar"}, PA: J | {"B0FieldIdentifier": [identifier]}}
    assert ("dwi_reverse" in names(write(make([*files, PA], sidecars=said), texts))[0]) is taken


def test_without_sidecars_the_name_tells_the_direction(make):
    files, texts = series("dir-AP_dwi", 35)
    found, _ = names(write(make([*files, PA, AP]), texts))
    assert found["dwi_reverse"] == "dir-PA_epi.nii.gz"
    files, texts = series("dwi", 35)
    assert "dwi_reverse" not in names(write(make([*files, PA, AP], name="other"), texts))[0]  # nobody says which way the series is


def test_the_other_series_of_a_pair(make):
    """The one with more volumes is the series, whichever way it was taken."""
    (a, few), (b, many) = series("dir-AP_dwi", 3), series("dir-PA_dwi", 35)
    found, _ = names(write(make([*a, *b]), few | many))
    assert (found["dwi"], found["dwi_reverse"], found["dwi_reverse_bval"]) == ("dir-PA_dwi.nii.gz", "dir-AP_dwi.nii.gz", "dir-AP_dwi.bval")


def test_runs_are_no_pair(make):
    (a, one), (b, two) = series("run-01_dwi"), series("run-02_dwi")
    said = {"sub-01/dwi/sub-01_run-01_dwi": J, "sub-01/dwi/sub-01_run-02_dwi": J}
    assert "dwi_reverse" not in names(write(make([*a, *b], sidecars=said), one | two))[0]


def test_regions_that_people_drew(make):
    files, texts = series("dwi")
    labels = "derivatives/labels/sub-01/dwi/sub-01_dwi"
    manual = [f"{labels}_label-ROI_dseg", f"{labels}_label-ROI_desc-manual_dseg", f"{labels}_label-SC_seg"]
    found, told = names(write(make([*files, *manual]), texts))
    assert (found["dwi_rois"], found["dwi_mask"]) == ("dwi_label-ROI_desc-manual_dseg.nii.gz", "dwi_label-SC_seg.nii.gz")
    assert told == ["took dwi_label-ROI_desc-manual_dseg.nii.gz of 2; left out: dwi_label-ROI_dseg.nii.gz"]


def test_regions_drawn_one_by_one_on_the_corrected_series(make):
    files, texts = series("dwi")
    labels = "derivatives/labels/sub-01/dwi/sub-01"
    found, _ = names(write(make([*files, f"{labels}_desc-moco_dwi_label-LDC_mask", f"{labels}_dwi_label-RGM_mask"]), texts))
    assert {r: f for r, f in found.items() if "roi" in r or "mask" in r} == {
        "dwi_roildc": "desc-moco_dwi_label-LDC_mask.nii.gz", "dwi_roirgm": "dwi_label-RGM_mask.nii.gz",
    }  # fmt: skip
