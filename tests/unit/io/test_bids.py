"""Who is in a study, and which file plays which role."""

from __future__ import annotations

import os
from pathlib import Path

import obstore
import pandas as pd
import pytest

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError, StorageError, UnknownNameError
from cohort_engine.io import places
from cohort_engine.io.bids import index_study, kind_column
from cohort_engine.io.choose import Selection

MASK, MARKS = schema.role(schema.T2W, schema.MASK), schema.role(schema.T2W, schema.LANDMARKS)
MT_MASK = schema.role(schema.MT, schema.MASK)


def index(root, **options):
    return index_study(str(root), **options)


def names(study, row=0):
    """Role -> file name of one subject, absent roles left out."""
    return {role: Path(f).name for role in study.roles if (f := study.files.at[row, role]) is not None}


def notes(study):
    return study.notes["note"].tolist()


# --- naming -----------------------------------------------------------------------------------------------------------
NAMINGS = {
    "spine-generic": (
        "sub-01_T2w", "sub-01_flip-1_mt-on_MTS", "sub-01_flip-1_mt-off_MTS", "sub-01_T2w_label-SC_seg", "sub-01_T2w_label-discs_dlabel",
        "sub-01_flip-1_mt-on_MTS_label-SC_seg", "sub-01_flip-1_mt-on_MTS_label-discs_desc-warp_dlabel",
    ),
    "acquisition": (
        "sub-01_T2w", "sub-01_acq-MTon_MTS", "sub-01_acq-MToff_MTS", "sub-01_T2w_seg", "sub-01_T2w_seg_labeled_discs",
        "sub-01_acq-MTon_MTS_seg", "sub-01_acq-MTon_MTS_labels-disc-manual",
    ),
    "MTR": (
        "sub-01_T2w", "sub-01_mt-on_MTR", "sub-01_mt-off_MTR", "sub-01_T2w_desc-manual_label-cord_mask", "sub-01_T2w_labels-disc-manual",
        "sub-01_mt-on_MTR_label-spinalcord_dseg", "sub-01_mt-on_MTR_label-disc",
    ),
    "soft": (
        "sub-01_T2w", "sub-01_acq-mton_MTS", "sub-01_acq-mtoff_MTS", "sub-01_T2w_label-SC_softseg", "sub-01_T2w_label-discs_desc-manual_dlabel",
        "sub-01_acq-mton_MTS_seg-manual", "sub-01_acq-mton_MTS_label-disc_seg",
    ),
}  # fmt: skip


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("labels_beside_images", [False, True])
def test_each_naming_fills_each_role(make_bids, naming, labels_beside_images):
    files = NAMINGS[naming]
    study = index(make_bids(files if labels_beside_images else files[:3], {} if labels_beside_images else {"labels": files[3:]}))
    order = (schema.T2W, schema.MT_ON, schema.MT_OFF, MASK, MARKS, MT_MASK, schema.role(schema.MT, schema.LANDMARKS))
    assert names(study) == {role: f"{file}.nii.gz" for role, file in zip(order, files, strict=True)}
    assert notes(study) == []
    assert (study.files[[kind_column(MARKS)]] == schema.DISC).all(axis=None)


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("label-discs_dlabel", "disc"), ("label-disc", "disc"), ("labels-disc-manual", "disc"), ("seg_labeled_discs", "disc"),
        ("label-vertebrae_dlabel", "body"), ("label-body", "body"), ("labels-bodies", "body"), ("label-vertebral_desc-manual_dseg", "body"),
        ("seg_labeled", "body"),
    ],
)  # fmt: skip
def test_landmark_numbers_mean_what_the_name_says(make_bids, mark, kind):
    study = index(make_bids(["sub-01_T2w"], {"labels": [f"sub-01_T2w_{mark}"]}))
    assert study.files.at[0, kind_column(MARKS)] == kind


@pytest.mark.parametrize(
    "other",
    ["label-GM_seg", "label-canal_seg", "gmseg", "label-spine_dseg", "label-rootlets_dseg", "label-CSF_seg", "seg_labeled_discs_1to9", "centerline"],
)
def test_other_products_are_nobody(make_bids, other):
    assert list(names(index(make_bids(["sub-01_T2w"], {"labels": [f"sub-01_T2w_{other}"]})))) == [schema.T2W]


@pytest.mark.parametrize(
    "other", ["sub-01_T1w", "sub-01_T2star", "sub-01_acq-T1w_MTS", "sub-01_rec-average_dwi", "sub-01_desc-preproc_T2w.json", "notes_T2w"]
)
def test_other_images_are_nobody(make_bids, other):
    assert names(index(make_bids(["sub-01_flip-1_mt-on_MTS", other], participants="participant_id\nsub-01"))).keys() == {schema.MT_ON}


def test_mt_pair_shares_the_flip_angle(make_bids):
    """flip-2_mt-off is the T1-weighted image of an MTsat protocol; an MTR with it would be wrong and look right."""
    both = ["sub-01_flip-1_mt-on_MTS", "sub-01_flip-1_mt-off_MTS", "sub-01_flip-2_mt-off_MTS"]
    assert names(index(make_bids(both)))[schema.MT_OFF] == "sub-01_flip-1_mt-off_MTS.nii.gz"
    assert schema.MT_OFF not in names(index(make_bids([both[0], both[2]], name="t1_only")))


def test_plain_nifti_counts(make_bids):
    assert names(index(make_bids(["sub-01_T2w.nii"]))) == {schema.T2W: "sub-01_T2w.nii"}


# --- choices ----------------------------------------------------------------------------------------------------------
def test_lowest_run_is_taken_and_said(make_bids):
    study = index(make_bids(["sub-01_run-10_T2w", "sub-01_run-02_T2w"]))
    assert names(study) == {schema.T2W: "sub-01_run-02_T2w.nii.gz"}
    assert notes(study) == ["took run-02_T2w.nii.gz of 2; left out: run-10_T2w.nii.gz"]
    assert study.told() == ["sub-01: T2w image: took run-02_T2w.nii.gz of 2; left out: run-10_T2w.nii.gz"]


@pytest.mark.parametrize(
    ("labels", "taken"),
    [
        (["run-2_T2w_seg"], 2), (["run-2_T2w_seg", "run-1_T2w_seg", "run-1_T2w_label-discs_dlabel"], 1), (["run-3_T2w_seg"], 1),
        (["run-1_T2w_seg", "run-1_T2w_label-discs_dlabel", "run-2_T2w_label-SC_desc-manual_seg"], 2), (["run-2_T2w_gmseg"], 1),
    ],
)  # fmt: skip
def test_what_people_labelled_is_taken(make_bids, labels, taken):
    """The lowest run was taken, and its labels made by a network, while people had drawn those of the rescan."""
    study = index(make_bids(["sub-01_run-1_T2w", "sub-01_run-2_T2w"], {"labels": [f"sub-01_{n}" for n in labels]}))
    assert names(study)[schema.T2W] == f"sub-01_run-{taken}_T2w.nii.gz"
    assert (MASK in names(study)) == any(n.startswith(f"run-{taken}_T2w") and "gmseg" not in n for n in labels)
    other = f"run-{3 - taken}_T2w.nii.gz"
    assert notes(study)[0] == f"took run-{taken}_T2w.nii.gz of 2; left out: {other}" + (
        " (fewer labels)" if labels[0][:5] != "run-3" and MASK in names(study) else ""
    )


@pytest.mark.parametrize("part", ["imag", "phase", "real"])
@pytest.mark.parametrize("where", ["flip-1_mt-{s}_part-{p}_MTS", "rec-{p}_mt-{s}_MTR"])
def test_no_phase_is_taken_for_a_magnitude(make_bids, part, where):
    """Of the alphabet's choice, imag came before mag."""
    files = [f"sub-01_{where.format(s=s, p=p)}" for s in ("on", "off") for p in (part, "mag")]
    study = index(make_bids([*files, f"sub-01_part-{part}_T2w"]))
    assert [names(study).get(r) for r in (schema.MT_ON, schema.MT_OFF, schema.T2W)] == [f"{files[1]}.nii.gz", f"{files[3]}.nii.gz", None]
    assert notes(study)[0] == f"took none; left out: part-{part}_T2w.nii.gz (no magnitude)"


def test_a_pair_is_of_one_run(make_bids):
    """MT-on of run 1 was compared with MT-off of run 2."""
    crossed = [f"sub-01_run-{r}_flip-1_mt-{s}_MTS" for r, s in ((1, "on"), (2, "on"), (2, "off"))]
    study = index(make_bids(crossed))
    assert [names(study)[r] for r in (schema.MT_ON, schema.MT_OFF)] == [f"{n}.nii.gz" for n in crossed[1:]]
    assert notes(study) == ["took run-2_flip-1_mt-on_MTS.nii.gz of 2; left out: run-1_flip-1_mt-on_MTS.nii.gz (without its partner)"]
    alone = index(make_bids([crossed[0], crossed[2]], {"labels": [f"{crossed[0]}_seg"]}, name="alone"))
    assert names(alone).keys() == {schema.MT_ON, MT_MASK}
    assert notes(alone) == ["took none; left out: run-2_flip-1_mt-off_MTS.nii.gz (does not go with run-1_flip-1_mt-on_MTS.nii.gz: run)"]


@pytest.mark.parametrize(
    ("files", "pair"),
    [
        (["acq-a_mt-on", "acq-b_mt-on", "acq-b_mt-off"], (1, 2)),
        (["echo-2_mt-on", "echo-1_mt-on", "echo-2_mt-off", "echo-1_mt-off"], (1, 3)),
        (["acq-MTon_run-2", "acq-MTon_run-1", "acq-MToff_run-2"], (0, 2)),
        (["run-1_mt-on", "mt-off"], (0, 1)),
        (["mt-on", "run-1_mt-on", "run-1_mt-off"], (0, 2)),
        (["rec-x_mt-on", "rec-y_mt-on", "rec-y_mt-off", "rec-x_mt-off"], (0, 3)),
    ],
)  # fmt: skip
def test_pairs_share_what_both_have(make_bids, files, pair):
    found = names(index(make_bids([f"sub-01_{f}_MTS" for f in files])))
    assert (found[schema.MT_ON], found[schema.MT_OFF]) == tuple(f"sub-01_{files[i]}_MTS.nii.gz" for i in pair)


def test_the_complete_pair_goes_before_a_labelled_half(make_bids):
    runs = ["sub-01_run-1_mt-on_MTS", "sub-01_run-2_mt-on_MTS", "sub-01_run-2_mt-off_MTS"]
    study = index(make_bids(runs, {"labels": [f"{runs[0]}_seg"]}))
    assert names(study)[schema.MT_ON] == "sub-01_run-2_mt-on_MTS.nii.gz"
    assert notes(study)[-1] == "none belongs to run-2_mt-on_MTS.nii.gz; left out: run-1_mt-on_MTS_seg.nii.gz"


# --- what a study file asks for ---------------------------------------------------------------------------------------
def test_another_image_in_place_of_the_t2w(make_bids):
    """It could not be said that the T1w image is the anatomical one."""
    labels = ["sub-01_T1w_label-SC_seg", "sub-01_T1w_label-discs_dlabel", "sub-01_T2w_label-SC_seg"]
    root = make_bids(["sub-01_T1w", "sub-01_T2w", "sub-02_T1w"], {"labels": labels})
    study = index(root, selection=Selection({"t2w": ("*_T1w",)}))
    assert names(study) == {schema.T2W: "sub-01_T1w.nii.gz", MASK: f"{labels[0]}.nii.gz", MARKS: f"{labels[1]}.nii.gz"}
    both = index(root, selection=Selection({"t2w": ("T2w", "T1w")})).files[schema.T2W]
    assert [Path(f).name for f in both] == ["sub-01_T2w.nii.gz", "sub-02_T1w.nii.gz"], "the first that a subject has"


def test_names_that_are_not_bids(make_bids):
    files = [f"sub-01/anat/{n}" for n in ("t2", "mt1", "mt0", "t2_seg", "t2_labels-disc", "mt1_seg-manual", "other")]
    named = {"t2w": ("t2",), "mt_on": ("anat/mt1",), "mt_off": ("mt0.nii.gz",)}
    study = index(make_bids(files, participants="participant_id\nsub-01"), selection=Selection(named))
    assert {r: n.removesuffix(".nii.gz") for r, n in names(study).items()} == {
        "t2w": "t2", "mt_on": "mt1", "mt_off": "mt0", "t2w_mask": "t2_seg", "t2w_landmarks": "t2_labels-disc", "mt_mask": "mt1_seg-manual",
    }  # fmt: skip
    assert study.files.at[0, kind_column(MARKS)] == schema.DISC


def test_masks_by_name_follow_their_image(make_bids):
    root = make_bids(["sub-01_run-1_T2w", "sub-01_run-2_T2w"], {"auto": [f"sub-01_run-{r}_T2w_cordmask" for r in (2, 1)]})
    study = index(root, selection=Selection({"t2w_mask": ("*_cordmask",)}, {"": {"run": ("2",)}}))
    assert names(study)[MASK] == "sub-01_run-2_T2w_cordmask.nii.gz"


@pytest.mark.parametrize(
    ("filters", "taken"),
    [
        ({"": {"run": ("2",)}}, "acq-ax_run-2"), ({"": {"run": ("02",), "acq": ("sag",)}}, "acq-sag_run-02"),
        ({"t2w": {"acq": ("SAG",)}}, "acq-sag_run-1"),
        ({"": {"acq": (None,)}}, "run-1"), ({"mt_on": {"acq": ("sag",)}}, "run-1"), ({"": {"acq": ("ax", "sag")}}, "acq-sag_run-1"),
    ],
)  # fmt: skip
def test_entities_that_are_asked_for(make_bids, filters, taken):
    images = [f"sub-01_{n}_T2w" for n in ("run-1", "acq-ax_run-2", "acq-sag_run-1", "acq-sag_run-02")]
    study = index(make_bids([*images, "sub-01_mt-on_MTS", "sub-01_mt-off_MTS"]), selection=Selection({}, filters))
    assert names(study)[schema.T2W] == f"sub-01_{taken}_T2w.nii.gz"
    assert names(study)[schema.MT_ON] == "sub-01_mt-on_MTS.nii.gz", "an image without the entity stays"


@pytest.mark.parametrize(
    ("selection", "error", "words"),
    [
        (Selection({"t2": ("T1w",)}), UnknownNameError, r"data\.files: expected a known file, found 't2'\. Did you mean 't2w'"),
        (Selection({"t2w": ("*_T3w",)}), InputError, r"data\.files: t2w: expected files called '\*_T3w', found T1w, acq-ax_run-1_T2w"),
        (Selection({}, {"": {"run": ("3",)}}), InputError, r"data\.filters: expected images with run-3, found run: 1"),
        (Selection({}, {"t2w": {"acqu": ("ax",)}}), UnknownNameError, r"data\.filters\.t2w: .*found 'acqu'\. Did you mean 'acq'"),
        (Selection({}, {"t2wi": {"acq": ("ax",)}}), UnknownNameError, r"data\.filters: expected a known image, found 't2wi'"),
    ],
)  # fmt: skip
def test_a_selection_that_nothing_fits_says_what_there_is(make_bids, selection, error, words):
    root = make_bids(["sub-01_acq-ax_run-1_T2w", "sub-01_T1w"])
    with pytest.raises(error, match=words):
        index(root, selection=selection)


# --- what is not read -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("folder", "right"),
    [
        ("sub-HC_02", "sub-HC02"), ("sub_03", "sub-03"), ("Sub-04", "sub-04"), ("sub05", "sub-05"), ("subject-6", "sub-6"), ("HC_07", "sub-HC07"),
        ("sub-08 copy", "sub-08copy"),
    ],
)  # fmt: skip
def test_folders_that_look_like_people_are_named(make_bids, folder, right):
    root = make_bids(["sub-01_T2w", f"{folder}/anat/{folder}_T2w"], participants="participant_id\nsub-01")
    study = index(root)
    assert study.subjects[schema.PARTICIPANT].tolist() == ["sub-01"]
    assert study.told() == [
        f"{folder}: folder {folder} (1 images) is not read: a name is sub- with letters and digits; rename it and its files ({right})"
    ]


@pytest.mark.parametrize(("folder", "right"), [("ses-pre_op", "ses-preop"), ("Ses-2", "ses-2"), ("ses_2", "ses-2"), ("session2", "ses-2")])
def test_session_folders_that_cannot_be_read_are_named(make_bids, folder, right):
    """A session without files was a row."""
    lost = f"sub-01/{folder}/anat/sub-01_{folder}_T2w"
    study = index(make_bids(["sub-01_ses-post_T2w", lost], {"labels": [f"{lost}_seg"]}, "participant_id\nsub-01"))
    assert study.subjects[schema.SESSION].tolist() == ["ses-post"]
    assert [n.partition(" is not read")[0] for n in notes(study)] == [f"folder {p}sub-01/{folder} (1 images)" for p in ("derivatives/labels/", "")]
    assert f"({right})" in notes(study)[0]


def test_a_dataset_of_names_that_cannot_be_read_says_them(make_bids):
    root = make_bids(["sub_01/anat/sub_01_T2w", "sub_02/anat/sub_02_T2w"], participants="participant_id\nsub_01")
    with pytest.raises(MissingInputError, match=r"found none; folder sub_01 \(1 images\) is not read: .*\(sub-01\); folder sub_02"):
        index(root)


def test_a_dataset_inside_is_named(make_bids):
    study = index(make_bids(["sub-01_T2w", "rawdata/sub-02/anat/sub-02_T2w", "sourcedata/sub-03/x"], participants="participant_id\nsub-01"))
    assert notes(study) == ["folder rawdata (1 images) is another dataset: not read; give it as data.bids"]


@pytest.mark.parametrize(
    ("name", "role", "right"),
    [
        ("sub-01_T2W.nii.gz", "T2w image", "sub-01_T2w.nii.gz"), ("sub-01_T2w.nii.gz.part", "T2w image", "sub-01_T2w.nii.gz"),
        ("sub-01_T2w.NII.GZ", "T2w image", "sub-01_T2w.nii.gz"), ("sub-01_T2w.img", "T2w image", "sub-01_T2w.nii.gz"),
        ("sub-01_T2.nii.gz", "T2w image", "sub-01_T2w.nii.gz"), ("T2w.nii.gz", "T2w image", "sub-01_T2w.nii.gz"),
        ("sub01_T2w.nii.gz", "T2w image", "sub-01_T2w.nii.gz"), ("sub-01_T2w (1).nii.gz", "T2w image", "sub-01_T2w.nii.gz"),
        ("sub-01_MT-on_MTS.nii.gz", "MT-on image", "sub-01_mt-on_MTS.nii.gz"),
        ("sub-01_mt-Off_mts.nii.gz", "MT-off image", "sub-01_mt-Off_MTS.nii.gz"),
    ],
)  # fmt: skip
def test_names_that_are_nearly_right_are_named(make_bids, name, role, right):
    root = make_bids(["sub-01_dwi"])
    (root / "sub-01/anat").mkdir(exist_ok=True)
    (root / "sub-01/anat" / name).touch()
    assert notes(index(root)) == [f"{name} is not read; it would be the {role}, were it called {right}"]


@pytest.mark.parametrize(
    ("name", "role", "example"),
    [
        ("sub-01_run1_T2w", "T2w image", "T2w"), ("sub-01_T2w_run-1", "T2w image", "T2w"), ("sub-01_MTS", "MT-on image", "mt-on_MTS"),
        ("sub-01_acq-MT1_MTS", "MT-on image", "mt-on_MTS"), ("sub-01_mton_MTR", "MT-on image", "mt-on_MTS"),
    ],
)  # fmt: skip
def test_names_that_do_not_say_enough_are_named(make_bids, name, role, example):
    note = f"{name}.nii.gz is not read, for its name does not say enough; the {role} is called sub-01_{example}.nii.gz"
    assert notes(index(make_bids(["sub-01_dwi", f"sub-01/anat/{name}"], participants="participant_id\nsub-01"))) == [note]


def test_other_images_are_no_near_misses(make_bids):
    others = ["sub-01_T1w", "sub-01_T2star", "sub-01_dwi", "sub-01_T2map", "sub-01_bold", "sub-01_desc-preproc_T2w"]
    assert notes(index(make_bids(others, {"other": ["sub-01_T2w_label-GM_seg", "sub-01_space-PAM50_T2w"]}))) == []


def test_derivatives_of_nobody_are_named(make_bids):
    """Masks that lack the session of their image were lost without a word."""
    study = index(make_bids(["sub-01_ses-1_T2w"], {"labels": ["sub-01_T2w_seg", "sub-02_T2w_seg"]}))
    assert study.told() == ["sub-01, sub-02: has derivatives (T2w_seg.nii.gz), but no such folder of images: not read"]


def test_images_outside_the_folders_of_people_are_named(make_bids):
    root = make_bids(["sub-01_T2w", "./sub-01_T2w_seg", "labels/sub-01_T2w_seg"], {"labels": ["./sub-01_T2w_seg"]}, "participant_id\nsub-1")
    assert notes(index(root)) == [
        "has files, but no row in the participants table: no covariates (is sub-1 meant?)",
        "has a row in the participants table, but no files: not in the study",
        "folder labels (1 images) is not read: people lie in folders sub-..., what was made of their images below derivatives/",
        "2 images lie outside the folders of people and are not read: sub-01_T2w_seg.nii.gz, sub-01_T2w_seg.nii.gz",
    ]


def test_states_are_read_without_regard_to_case(make_bids):
    assert names(index(make_bids(["sub-01_mt-On_MTS", "sub-01_mt-OFF_MTS"]))).keys() == {schema.MT_ON, schema.MT_OFF}


def test_masks_that_are_nearly_right_are_named(make_bids):
    study = index(make_bids(["sub-01_T2w"], {"labels": ["sub-01_T2W_seg", "sub-01_T2w_label-discs_dlabel.nii.gz.part", "sub-01_T2w_gmseg"]}))
    assert sorted(notes(study)) == [
        "sub-01_T2W_seg.nii.gz is not read; it would be the cord mask of the T2w image, were it called sub-01_T2w_seg.nii.gz",
        "sub-01_T2w_label-discs_dlabel.nii.gz.part is not read; it would be the vertebral landmarks of the T2w image, "
        "were it called sub-01_T2w_label-discs_dlabel.nii.gz",
    ]


def test_files_in_the_wrong_folder_are_named_in_derivatives_too(make_bids):
    labels = ["sub-01/anat/sub-02_T2w_seg", "sub-02/ses-1/anat/sub-02_T2w_seg", "sub-02/ses-1/anat/sub-02_ses-2_T2w_seg"]
    study = index(make_bids(["sub-01_T2w", "sub-02_ses-1_T2w"], {"labels": labels}))
    assert notes(study) == [
        "sub-02_T2w_seg.nii.gz lies in the folder of somebody else: ignored", "sub-02_T2w_seg.nii.gz lacks ses-1 in its name: ignored",
        "sub-02_ses-2_T2w_seg.nii.gz lies in the folder of another session: ignored",
    ]  # fmt: skip


def test_mask_and_pair_follow_the_run(make_bids):
    runs = [f"sub-01_run-{r}_mt-{s}_MTS" for r in (1, 2) for s in ("on", "off")]
    study = index(make_bids(runs, {"labels": ["sub-01_run-2_mt-on_MTS_seg", "sub-01_run-01_mt-on_MTS_seg"]}))
    assert names(study)[schema.MT_OFF] == "sub-01_run-1_mt-off_MTS.nii.gz"
    assert names(study)[MT_MASK] == "sub-01_run-01_mt-on_MTS_seg.nii.gz"


def test_plain_name_before_an_average_or_acquisition(make_bids):
    study = index(make_bids(["sub-01_rec-average_T2w", "sub-01_acq-ax_T2w", "sub-01_T2w"]))
    assert names(study)[schema.T2W] == "sub-01_T2w.nii.gz"
    only = index(make_bids(["sub-01_rec-average_T2w"], name="averages"))
    assert names(only)[schema.T2W] == "sub-01_rec-average_T2w.nii.gz"


def test_manual_wins_then_plain_then_the_rest(make_bids):
    masks = ["sub-01_T2w_label-SC_desc-warp_seg", "sub-01_T2w_label-SC_seg", "sub-01_T2w_label-SC_desc-manual_seg"]
    for n in (3, 2, 1):
        study = index(make_bids(["sub-01_T2w"], {"labels": masks[:n]}, name=f"first{n}"))
        assert names(study)[MASK] == f"{masks[n - 1]}.nii.gz"


def test_manual_of_a_later_folder_beats_automatic_of_an_earlier(make_bids):
    root = make_bids(["sub-01_T2w"], {"auto": ["sub-01_T2w_seg"], "manual": ["sub-01_T2w_seg-manual"]})
    assert "/manual/" in index(root, derivatives=["auto", "manual"]).files.at[0, MASK]


def test_earlier_derivatives_folder_wins_and_only_named_ones_count(make_bids):
    root = make_bids(["sub-01_T2w"], {"a": ["sub-01_T2w_seg"], "b": ["sub-01_T2w_seg"]})
    assert "/a/" in index(root).files.at[0, MASK]
    assert "/b/" in index(root, derivatives=["b", "derivatives/a"]).files.at[0, MASK]
    assert index(root, derivatives=["derivatives/b"]).files.at[0, MASK].endswith("derivatives/b/sub-01/anat/sub-01_T2w_seg.nii.gz")


def test_derivatives_elsewhere(make_bids):
    labels = make_bids(["sub-01_T2w_seg"], name="labels")
    root = make_bids(["sub-01_T2w"])
    assert index(root, derivatives=[str(labels)]).files.at[0, MASK] == str(labels / "sub-01/anat/sub-01_T2w_seg.nii.gz")
    assert MASK in names(index(root, derivatives=["../labels"]))
    with pytest.raises(MissingInputError, match=r"data\.derivatives: .*nothing in 'lables'"):
        index(root, derivatives=["lables"])


def test_products_without_their_image_still_have_roles(make_bids):
    """Published results often come without the scans."""
    study = index(make_bids(["sub-01_acq-MToff_MTS"], {"labels": ["sub-01_T2w_seg", "sub-01_acq-MTon_MTS_seg", "sub-01_acq-T1w_MTS_seg"]}))
    assert names(study).keys() == {schema.MT_OFF, MASK, MT_MASK}


def test_sourcedata_and_hidden_folders_are_not_the_study(make_bids):
    root = make_bids(["sub-01_T2w", "sourcedata/sub-02/anat/sub-02_T2w", ".git/sub-03/anat/sub-03_T2w"], participants="participant_id\nsub-01")
    assert index(root).subjects[schema.PARTICIPANT].tolist() == ["sub-01"]


def test_file_in_the_wrong_folder_is_reported(make_bids):
    study = index(make_bids(["sub-01_T2w", "sub-01/anat/sub-02_mt-on_MTS"], participants="participant_id\nsub-01"))
    assert names(study).keys() == {schema.T2W}
    assert notes(study) == ["sub-02_mt-on_MTS.nii.gz lies in the folder of somebody else: ignored"]


# --- people -----------------------------------------------------------------------------------------------------------
def test_rows_in_natural_order(make_bids):
    study = index(make_bids(["sub-10_T2w", "sub-2_ses-b_T2w", "sub-2_ses-a10_T2w", "sub-2_ses-a9_T2w", "sub-1_T2w"]))
    assert study.subjects.to_numpy().tolist() == [["sub-1", ""], ["sub-2", "ses-a9"], ["sub-2", "ses-a10"], ["sub-2", "ses-b"], ["sub-10", ""]]
    assert study.subjects.index.equals(pd.RangeIndex(5))
    assert study.files.index.equals(pd.RangeIndex(5))


def test_uneven_sessions(make_bids):
    """One with two sessions, one with one, one without, one whose second session is empty but for a table."""
    root = make_bids(["sub-1_ses-1_T2w", "sub-1_ses-2_T2w", "sub-2_ses-2_T2w", "sub-3_T2w", "sub-4_ses-1_T2w", "sub-4/ses-2/sub-4_ses-2_scans.tsv"])
    study = index(root)
    assert [f"{p}{s}" for p, s in study.subjects[["participant_id", "session_id"]].to_numpy()] == [
        "sub-1ses-1", "sub-1ses-2", "sub-2ses-2", "sub-3", "sub-4ses-1", "sub-4ses-2",
    ]  # fmt: skip
    assert study.missing([schema.T2W]).index.tolist() == [5]


def test_loose_image_beside_sessions_is_a_row_of_its_own(make_bids):
    study = index(make_bids(["sub-1_ses-1_T2w", "sub-1_mt-on_MTS", "sub-2_ses-1_T2w", "sub-2/sub-2_scans.tsv"]))
    assert study.subjects[schema.SESSION].tolist() == ["", "ses-1", "ses-1"]


def test_include_and_exclude(make_bids):
    root = make_bids([f"sub-{i:02d}_T2w" for i in range(1, 6)])
    assert index(root, include=["sub-02", "03"], exclude=["sub-03"]).subjects[schema.PARTICIPANT].tolist() == ["sub-02"]
    assert len(index(root, exclude=["01"])) == 4
    with pytest.raises(UnknownNameError, match=r"data\.exclude: .*'sub-1'\. Did you mean 'sub-01'"):
        index(root, exclude=["sub-1"])
    with pytest.raises(MissingInputError, match="none of those selected"):
        index(root, include=["01"], exclude=["01"])


# --- what is missing --------------------------------------------------------------------------------------------------
def test_missing_is_one_readable_line_a_subject(make_bids):
    files = ["sub-1_T2w", "sub-1_mt-on_MTS", "sub-1_mt-off_MTS", "sub-2_T2w", "sub-3_T2w", "sub-3_mt-on_MTS", "sub-3_mt-off_MTS"]
    study = index(make_bids(files, {}, "participant_id group age\nsub-1 HC 30\nsub-2 DCM n/a\nsub-3 n/a 40"))
    lines = study.missing([schema.T2W, schema.MT_ON, schema.MT_OFF])
    assert lines.to_numpy().tolist() == [["sub-2", "", "MT-on image, MT-off image", "age"], ["sub-3", "", "", "group"]]
    assert lines.index.tolist() == [1, 2]
    assert study.missing([schema.T2W], covariates=()).empty
    assert study.present([schema.MT_ON]).to_dict("index") == {"MT-on image": {"present": 2, "absent": 1}}
    with pytest.raises(UnknownNameError, match="Did you mean 'mt_on'"):
        study.missing(["mt-on"])


# --- refusals ---------------------------------------------------------------------------------------------------------
def test_no_such_dataset(tmp_path):
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(MissingInputError, match=r"data\.bids: expected a BIDS dataset, found no files"):
            index(place)


def test_no_participants(make_bids):
    with pytest.raises(MissingInputError, match=r"participants \(folders sub-\.\.\.\), found none"):
        index(make_bids([], {}, "participant_id\nsub-1"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission(make_bids):
    root = make_bids(["sub-1_T2w", "sub-2_T2w"])
    (root / "sub-2").chmod(0)
    try:
        with pytest.raises(InputError, match="folders that can be listed"):
            index(root)
    finally:
        (root / "sub-2").chmod(0o755)


# --- places -----------------------------------------------------------------------------------------------------------
def test_same_index_from_folder_file_url_and_bucket(make_bids, monkeypatch):
    root = make_bids(NAMINGS["spine-generic"][:3], {"labels": NAMINGS["spine-generic"][3:]}, sidecars={"sub-01_T2w": {"Manufacturer": "GE"}})
    bucket = obstore.store.MemoryStore()
    for path in root.rglob("*"):
        if path.is_file():
            obstore.put(bucket, path.relative_to(root).as_posix(), path.read_bytes())
    here = index(root)
    assert index(root.as_uri()).files.equals(here.files)

    monkeypatch.setattr(places, "object_store", lambda url: {"s3://bucket/study": bucket}[url])
    there = index("s3://bucket/study")
    pd.testing.assert_frame_equal(there.subjects, here.subjects)
    assert there.files.at[0, MASK] == "s3://bucket/study/derivatives/labels/sub-01/anat/sub-01_T2w_label-SC_seg.nii.gz"
    assert [f.replace(str(root), "s3://bucket/study") for f in here.files.iloc[0, :7]] == there.files.iloc[0, :7].tolist()


def test_bucket_that_does_not_answer(monkeypatch):
    def refuse(url):
        raise OSError("unreachable")

    monkeypatch.setattr(places, "object_store", refuse)
    with pytest.raises(StorageError, match="listing the dataset"):
        index("s3://bucket/study")


def test_links_are_followed_and_dead_links_are_files(make_bids, tmp_path):
    """git-annex keeps a link where the content was not fetched."""
    root = make_bids(["sub-1_T2w"])
    (root / "sub-1/anat/sub-1_mt-on_MTS.nii.gz").symlink_to("../../.git/annex/objects/x")
    (tmp_path / "link").symlink_to(root)
    assert names(index(tmp_path / "link")).keys() == {schema.T2W, schema.MT_ON}


def test_a_sidecar_is_a_role_of_its_own(make_bids, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage used to see images alone: no flip angle, no b-values."""
    role = schema.Role("mt_on_sidecar", "sidecar of the MT-on image", endings=(".json",), sidecar_of="mt_on")
    monkeypatch.setitem(schema.ROLES._items, role.name, role)
    root = make_bids(["sub-01_flip-1_mt-on_MTS", "sub-02_flip-1_mt-on_MTS"], sidecars={"sub-01_flip-1_mt-on_MTS": {"FlipAngle": 9}})
    first, second = index_study(str(root)).files["mt_on_sidecar"]
    assert first.endswith("/sub-01_flip-1_mt-on_MTS.json")
    assert second is None
