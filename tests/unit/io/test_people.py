"""What a study's tables and sidecars say of its people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.bids import index_study

MASK, MARKS = schema.role(schema.T2W, schema.MASK), schema.role(schema.T2W, schema.LANDMARKS)
MT_MASK = schema.role(schema.MT, schema.MASK)


def index(root, **options):
    return index_study(str(root), **options)


def names(study, row=0):
    """Role -> file name of one subject, absent roles left out."""
    return {role: Path(f).name for role in study.roles if (f := study.files.at[row, role]) is not None}


def notes(study):
    return study.notes["note"].tolist()


def test_columns_get_types(make_bids):
    study = index(
        make_bids(["sub-1_T2w", "sub-2_T2w", "sub-3_T2w"], {}, "participant_id age mJOA note\nsub-2 n/a 14 n/a\n3 61.5 n/a stiff\nsub-1 40 17 n/a")
    )
    assert study.subjects["age"].dtype == np.float64
    np.testing.assert_array_equal(study.subjects["age"], [40, np.nan, 61.5])
    np.testing.assert_array_equal(study.subjects["mjoa"], [17, 14, np.nan])
    assert study.subjects["note"].tolist() == ["", "", "stiff"]


@pytest.mark.parametrize("absent", ["n/a", "N/A", "", "NaN", "NA"])
def test_ways_to_write_nothing(make_bids, absent):
    study = index(make_bids(["sub-1_T2w", "sub-2_T2w"], {}, f"participant_id\tage\tnote\nsub-1\t{absent}\t{absent}\nsub-2\t5\tx"))
    assert np.isnan(study.subjects.at[0, "age"])
    assert study.subjects.at[0, "note"] == ""


@pytest.mark.parametrize("value", ["89+", ">89", "\u226589", "3T", "about 50", "1,234.5", "12 13", "1_000", "inf", "0x10"])
def test_one_value_that_cannot_be_read_is_missing_and_said(make_bids, value):
    """It stopped index, plan and build for everybody, or made a column of numbers one of categories."""
    table = f"participant_id\tage\nsub-0\t31\nsub-1\t{value}\nsub-2\t40\nsub-3\tn/a"
    study = index(make_bids([f"sub-{i}_T2w" for i in range(4)], {}, table))
    np.testing.assert_array_equal(study.subjects["age"], [31, np.nan, 40, np.nan])
    assert study.notes.to_numpy().tolist() == [["sub-1", "", "", f"age is {value!r}, not a number: missing"]]


@pytest.mark.parametrize("dash", ["-", "--", "\u2013", ".", "#N/A", "None"])
def test_a_dash_is_no_value(make_bids, dash):
    """Where dashes were in the majority the column became text."""
    study = index(make_bids([f"sub-{i}_T2w" for i in range(3)], {}, f"participant_id grip note\nsub-0 {dash} {dash}\nsub-1 {dash} x\nsub-2 40 y"))
    np.testing.assert_array_equal(study.subjects["grip"], [np.nan, np.nan, 40])
    assert study.subjects["note"].tolist() == ["", "x", "y"]
    assert notes(study) == []


def test_minus_is_a_value_where_there_is_plus(make_bids):
    table = "participant_id hoffmann\nsub-0 +\nsub-1 -\nsub-2 n/a"
    assert index(make_bids([f"sub-{i}_T2w" for i in range(3)], {}, table)).subjects["hoffmann"].tolist() == ["+", "-", ""]


def test_decimal_commas_are_numbers(make_bids):
    table = "participant_id age grip mixed\nsub-0 25,5 31 1,5\nsub-1 26,25 28,5 2.5\nsub-2 n/a 40 3.5"
    study = index(make_bids([f"sub-{i}_T2w" for i in range(3)], {}, table))
    np.testing.assert_array_equal(study.subjects["age"], [25.5, 26.25, np.nan])
    np.testing.assert_array_equal(study.subjects["grip"], [31, 28.5, 40])
    np.testing.assert_array_equal(study.subjects["mixed"], [np.nan, 2.5, 3.5])
    assert notes(study) == [
        "column age: decimal comma read as a point in 2 values", "column grip: decimal comma read as a point in 1 values",
        "mixed is '1,5', not a number: missing",
    ]  # fmt: skip


def test_what_may_be_thousands_is_not_guessed(make_bids):
    study = index(make_bids(["sub-0_T2w", "sub-1_T2w", "sub-2_T2w"], {}, "participant_id age steps\nsub-0 40 1,234\nsub-1 41 9\nsub-2 42 12"))
    np.testing.assert_array_equal(study.subjects["steps"], [np.nan, 9, 12])


def test_a_unit_that_all_values_carry(make_bids):
    study = index(make_bids(["sub-0_T2w", "sub-1_T2w"], {}, "participant_id\tscanner\theight\nsub-0\t3T\t170 cm\nsub-1\t1.5 T\t68 in"))
    assert study.subjects["scanner"].tolist() == [3, 1.5]
    assert study.subjects["height"].tolist() == ["170 cm", "68 in"]
    assert study.units == {"scanner": "T"}


def test_numbers_among_text_are_said(make_bids):
    study = index(make_bids([f"sub-{i}_T2w" for i in range(3)], {}, "participant_id severity\nsub-0 mild\nsub-1 2\nsub-2 severe"))
    assert study.subjects["severity"].tolist() == ["mild", "2", "severe"]
    assert notes(study) == ["column severity: numbers and text (first 2): taken as text"]


RAGGED = "participant_id\tage\theight\tmjoa\nsub-1\t61\t170\t15\nsub-2\t168\t13\nsub-3\t58\t181\t16\nsub-4\t70\t175\t12\t\n"


def test_a_row_that_does_not_fit_is_refused_by_its_line(make_bids):
    """The height was the age."""
    root = make_bids([f"sub-{i}_T2w" for i in range(1, 5)])
    (root / "participants.tsv").write_text(RAGGED)
    study = index(root)
    assert study.subjects.loc[1, ["age", "height", "mjoa"]].isna().all()
    assert study.subjects["age"].tolist()[::2] == [61, 58]
    assert study.subjects.at[3, "mjoa"] == 12, "an empty field too many loses nothing"
    assert study.notes.to_numpy().tolist() == [["sub-2", "", "", "participants.tsv: line 3 has 3 fields in place of 4: its values are missing"]]


def test_a_row_with_a_field_too_many_is_refused(make_bids):
    root = make_bids([f"sub-{i}_T2w" for i in (1, 2)])
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-1\t30\tM\nsub-2\t4\t0\tF\n")
    study = index(root)
    assert study.subjects.loc[1, ["age", "sex"]].tolist() == [pytest.approx(np.nan, nan_ok=True), ""]
    assert notes(study) == ["participants.tsv: line 3 has 4 fields in place of 3: its values are missing"]
    (root / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\tM\nsub-2\t40\tF\n")
    with pytest.raises(InputError, match=r"expected rows of 2 fields, as the header has, found 3 in line 2, and none that fits"):
        index(root)


@pytest.mark.parametrize(
    "content",
    [
        "participant_id,age,note\nsub-1,4,\"a, b\"\n", "participant_id;age;note\r\nsub-1;4,0;\"a, b\"\r\n",
        "\ufeffparticipant_id\tage\tnote\rsub-1\t4\ta, b\r", "\n\nparticipant_id\tage\tnote\n\t\t\nsub-1 \t 4\t a, b \n",
    ],
)  # fmt: skip
def test_tables_as_programs_write_them(make_bids, content):
    root = make_bids(["sub-1_T2w"])
    (root / "participants.tsv").write_bytes(content.encode())
    study = index(root)
    assert study.subjects[["age", "note"]].to_numpy().tolist() == [[4.0, "a, b"]]


def test_a_stray_quote_swallows_nobody(make_bids):
    """Everybody up to the next quote was lost."""
    root = make_bids([f"sub-{i}_T2w" for i in range(1, 5)])
    (root / "participants.tsv").write_text('participant_id\tage\tnote\nsub-1\t4\t"tall\nsub-2\t5\t5\'11"\nsub-3\t6\t"two\nlines"\nsub-4\t7\tx\n')
    study = index(root)
    assert study.subjects["age"].tolist() == [4, 5, 6, 7]
    assert study.subjects["note"].tolist() == ['"tall', "5'11\"", "two\nlines", "x"]


def test_levels_in_the_dictionary_make_a_column_text(make_bids):
    table = "participant_id severity\nsub-0 1\nsub-1 2\nsub-2 2b"
    study = index(make_bids([f"sub-{i}_T2w" for i in range(3)], {}, table, dictionary={"severity": {"Levels": {"1": "mild"}}}))
    assert study.subjects["severity"].tolist() == ["1", "2", "2b"]


def test_sex_is_one_letter(make_bids):
    study = index(make_bids([f"sub-{i}_T2w" for i in range(5)], {}, "participant_id Gender\nsub-0 male\nsub-1 F\nsub-2 n/a\nsub-3 f\nsub-4 Other"))
    assert study.subjects[schema.SEX].tolist() == ["M", "F", "", "F", "O"]
    assert study.subjects["gender"].tolist() == ["male", "F", "", "f", "Other"]
    coded = "participant_id sex\nsub-0 1\nsub-1 2"
    study = index(make_bids(["sub-0_T2w", "sub-1_T2w"], {}, coded, name="coded"))
    assert study.subjects[schema.SEX].tolist() == ["", ""]
    assert notes(study) == [f"sex is '{n}', not a sex (M, F, O): missing" for n in (1, 2)]
    study = index(make_bids(["sub-0_T2w", "sub-1_T2w"], {}, coded, dictionary={"sex": {"Levels": {"1": "male", "2": "Female"}}}, name="levels"))
    assert study.subjects[schema.SEX].tolist() == ["M", "F"]


def test_aliases_only_where_the_column_is_absent(make_bids):
    study = index(make_bids(["sub-0_T2w"], {}, "participant_id pathology institution_id institution group\nsub-0 HC 7 Oxford control"))
    assert study.subjects[schema.GROUP].tolist() == ["control"]
    assert study.subjects[schema.SITE].tolist() == ["7"], "a coded site is a name, not a number"
    assert index(make_bids(["sub-0_T2w"], {}, "participant_id diagnosis\nsub-0 DCM", name="b")).subjects[schema.GROUP].tolist() == ["DCM"]


def test_column_names_become_array_names(make_bids):
    table = "participant_id\tField Strength [T]\tlevel\t\nsub-0\t3\t2\tx"
    assert index(make_bids(["sub-0_T2w"], {}, table)).subjects.columns[2:].tolist() == ["field_strength_t", "level_"]
    with pytest.raises(InputError, match="different column names, found age more than once"):
        index(make_bids(["sub-0_T2w"], {}, "participant_id age Age\nsub-0 3 4", name="twice"))


@pytest.mark.parametrize(
    ("entry", "unit"),
    [
        ({"Units": "kg"}, "kg"), ({"Units": "years"}, "year"), ({"Description": "cm"}, "cm"), ({"Description": "Age in years"}, "year"),
        ({"Description": "Grip strength (kg)."}, "kg"), ({"Description": "time [s]"}, "s"), ({"Description": "Mass in general"}, None), ({}, None),
    ],
)  # fmt: skip
def test_units(make_bids, entry, unit):
    study = index(make_bids(["sub-0_T2w"], {}, "participant_id Value note\nsub-0 3 x", dictionary={"Value": entry, "note": {"Units": "kg"}}))
    assert study.units.get("value") == unit
    assert "note" not in study.units


def test_values_of_sessions(make_bids):
    root = make_bids(["sub-1_ses-pre_T2w", "sub-1_ses-post_T2w", "sub-2_ses-pre_T2w"], {}, "participant_id age mjoa\nsub-1 60 n/a\nsub-2 50 16")
    (root / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tmjoa\nses-pre\t11\npost\t15\n")
    study = index(root)
    assert study.subjects[schema.SESSION].tolist() == ["ses-post", "ses-pre", "ses-pre"]
    assert study.subjects["mjoa"].tolist() == [15, 11, 16]
    assert study.subjects["age"].tolist() == [60, 60, 50]


def test_session_column_in_the_participants_table(make_bids):
    table = "participant_id session_id mjoa\nsub-1 ses-1 11\nsub-1 ses-2 15"
    assert index(make_bids(["sub-1_ses-1_T2w", "sub-1_ses-2_T2w"], {}, table)).subjects["mjoa"].tolist() == [11, 15]


def test_scanner_from_the_sidecar(make_bids):
    sidecars = {"sub-1_T2w": {"Manufacturer": "Siemens", "MagneticFieldStrength": 3}, "sub-2_T2w": {"MagneticFieldStrength": 1.5}}
    root = make_bids(["sub-1_T2w", "sub-2_T2w", "sub-3_T2w"], sidecars=sidecars)
    study = index(root)
    assert study.subjects["manufacturer"].tolist() == ["Siemens", "", ""]
    np.testing.assert_array_equal(study.subjects["field_strength"], [3, 1.5, np.nan])
    assert study.units == {"field_strength": "T"}
    (root / "sub-3/anat/sub-3_T2w.json").write_text("{broken")
    study = index(root)
    assert study.subjects["manufacturer"].tolist() == ["Siemens", "", ""]
    assert notes(study)[0].startswith("sub-3_T2w.json is no JSON")


def test_sidecars_are_inherited_and_the_nearest_wins(make_bids):
    """A sidecar of the whole dataset said the scanner of everybody, and nobody had one."""
    root = make_bids(["sub-1_ses-a_T2w", "sub-1_ses-b_T2w", "sub-2_ses-a_acq-ax_T2w", "sub-3_ses-a_T2w"])
    above = {
        "T2w.json": {"Manufacturer": "Siemens", "MagneticFieldStrength": 3}, "T1w.json": {"Manufacturer": "nobody"},
        "acq-ax_T2w.json": {"Manufacturer": "GE"}, "acq-sag_T2w.json": {"Manufacturer": "nobody"},
        "sub-1/sub-1_T2w.json": {"Manufacturer": "Philips"}, "sub-1/ses-b/sub-1_ses-b_T2w.json": {"MagneticFieldStrength": 1.5},
        "sub-3/ses-a/anat/sub-3_ses-a_T2w.json": {"Manufacturer": "Canon"},
    }  # fmt: skip
    for path, content in above.items():
        (root / path).write_text(json.dumps(content))
    table = index(root).subjects
    assert table["manufacturer"].tolist() == ["Philips", "Philips", "GE", "Canon"]
    assert table["field_strength"].tolist() == [3, 1.5, 3, 3]


def test_a_sidecar_with_a_unit_or_text(make_bids):
    root = make_bids(
        [f"sub-{i}_T2w" for i in (1, 2, 3)], sidecars={f"sub-{i}_T2w": {"MagneticFieldStrength": v} for i, v in ((1, 3), (2, "3T"), (3, 3.0))}
    )
    study = index(root)
    np.testing.assert_array_equal(study.subjects["field_strength"], [3, np.nan, 3])
    assert notes(study) == ["field_strength is '3T', not a number: missing"]


def test_table_wins_over_the_sidecar(make_bids):
    root = make_bids(["sub-1_T2w"], {}, "participant_id manufacturer\nsub-1 GE", sidecars={"sub-1_T2w": {"Manufacturer": "General Electric"}})
    assert index(root).subjects["manufacturer"].tolist() == ["GE"]


def test_byte_order_mark_and_blank_lines(make_bids):
    root = make_bids(["sub-1_T2w"])
    (root / "participants.tsv").write_bytes("\ufeffparticipant_id\tage\r\n\r\nsub-1\t4\r\n".encode())
    assert index(root).subjects["age"].tolist() == [4]


def test_table_and_folders_that_disagree_are_reported(make_bids):
    study = index(make_bids(["sub-1_T2w", "sub-2_T2w"], {}, "participant_id age note\nsub-1 30 x\nsub-9 40 y"))
    assert study.subjects[schema.PARTICIPANT].tolist() == ["sub-1", "sub-2"]
    np.testing.assert_array_equal(study.subjects["age"], [30, np.nan])
    assert study.subjects["note"].tolist() == ["x", ""]
    assert study.notes[[schema.PARTICIPANT, "note"]].to_numpy().tolist() == [
        ["sub-2", "has files, but no row in the participants table: no covariates"],
        ["sub-9", "has a row in the participants table, but no files: not in the study"],
    ]


# --- refusals ---------------------------------------------------------------------------------------------------------
def test_no_participants_table(make_bids):
    root = make_bids(["sub-1_T2w"])
    (root / "participants.tsv").rename(root / "participants.csv")
    with pytest.raises(MissingInputError, match=r"expected participants\.tsv, found participants\.csv"):
        index(root)
    (root / "participants.csv").unlink()
    with pytest.raises(MissingInputError, match=r"expected participants\.tsv, found none in the dataset\. Add one with a column participant_id"):
        index(root)


def test_two_rows_for_one_participant_count_where_they_agree(make_bids):
    study = index(make_bids(["sub-1_T2w", "sub-2_T2w"], {}, "participant_id age height\nsub-1 3 100\nsub-2 5 110\n1 4 100"))
    np.testing.assert_array_equal(study.subjects["age"], [np.nan, 5])
    assert study.subjects["height"].tolist() == [100, 110]
    assert notes(study) == ["participants.tsv: lines 2, 4 are of one person, missing where they contradict: age"]


def test_a_broken_sessions_table_is_one_persons(make_bids):
    root = make_bids(["sub-1_ses-1_T2w", "sub-2_ses-1_T2w"], {}, "participant_id age\nsub-1 60\nsub-2 50")
    (root / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tage\nses-1\t61\textra\n")
    (root / "sub-2" / "sub-2_sessions.tsv").write_text("visit\tage\nses-1\t51\n")
    study = index(root)
    assert study.subjects["age"].tolist() == [60, 50]
    assert [n.partition(":")[0] for n in notes(study)] == ["sessions table"] * 2


@pytest.mark.parametrize("content", [b"participant_id age\nsub-1 4\n", b"", b"age\n4\n", "participant_id\tn\u00f6te\nsub-1\tx\n".encode("utf-16")])
def test_table_that_is_not_one(make_bids, content):
    root = make_bids(["sub-1_T2w"])
    (root / "participants.tsv").write_bytes(content)
    with pytest.raises(InputError, match=r"participants\.tsv: expected a (column participant_id|table with a header, in UTF-8)"):
        index(root)


def test_dictionary_that_is_not_json(make_bids):
    root = make_bids(["sub-1_T2w"])
    (root / "participants.json").write_text("{,}")
    with pytest.raises(InputError, match=r"participants\.json: expected JSON"):
        index(root)
