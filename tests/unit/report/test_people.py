"""Who is analysed, who is not, and what is said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort_engine.errors import InputError, StoreError, UnknownNameError
from cohort_engine.study.people import choose_people, known_values, quality_names, subject_table, text_among_numbers


def cohort(group: list[Any], dice: list[float] | None = None, **columns: Any) -> xr.Dataset:
    """Subjects sub-1, sub-2 ... with a group, a quality number and columns, as an opened cohort has them."""
    n = len(group)
    named = {"participant_id": [f"sub-{i + 1}" for i in range(n)], "session_id": [""] * n, "group": group, **columns}
    coords = {k: ("subject", np.asarray(v, dtype=float if isinstance(v[0], float) else object)) for k, v in named.items()}
    return xr.Dataset({"mt_dice": ("subject", np.array(dice or [0.9] * n))}, {"subject": np.arange(n), **coords})


@pytest.fixture
def settings(make_config):
    return lambda **sections: make_config(analysis=sections).analysis


FOUR = ["HC", "HC", "DCM", "DCM"]


def test_controls_are_0_and_cases_1(settings) -> None:
    people = choose_people(cohort(["DCM", "HC", "HC", "DCM"]), settings())
    assert (people.group.tolist(), people.control, people.case) == ([1, 0, 0, 1], "HC", "DCM")
    assert people.at.tolist() == [0, 1, 2, 3]
    assert people.table["participant_id"].tolist() == ["sub-1", "sub-2", "sub-3", "sub-4"]
    assert people.excluded.empty


@pytest.mark.parametrize("word", ["HC", "control", "Healthy volunteer", "CTRL"])
def test_words_for_healthy_people(settings, word) -> None:
    assert choose_people(cohort([word, "patient", word, "patient"]), settings()).control == word


def test_groups_coded_as_numbers_are_named_by_the_study_file(settings) -> None:
    numbers = cohort([0.0, 1.0, 1.0, 0.0, 2.0])
    people = choose_people(numbers, settings(groups={"control": "0", "case": "1"}))
    assert people.group.tolist() == [0, 1, 1, 0]
    assert people.excluded["reason"].tolist() == ["group is '2'"]
    with pytest.raises(InputError, match=r"'0', '1', '2'.*analysis\.groups\.control and analysis\.groups\.case"):
        choose_people(numbers, settings())


def test_who_is_left_out_and_why(settings) -> None:
    ds = cohort(
        ["HC", "HC", "DCM", "DCM", "ALS", "", "HC", "DCM", "HC"], [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.7, np.nan, 0.9],
        participant_id=["sub-1", "sub-2", "sub-3", "sub-4", "sub-5", "sub-6", "sub-7", "sub-8", "sub-1"],
        session_id=["ses-1"] * 8 + ["ses-2"],
    )  # fmt: skip
    people = choose_people(ds, settings(groups={"case": "DCM"}, exclude=["sub-4"], quality={"mt_dice": [0.85, None]}))
    assert people.table["participant_id"].tolist() == ["sub-1", "sub-2", "sub-3", "sub-8"]  # without the number one stays
    assert dict(zip(people.excluded["subject"], people.excluded["reason"], strict=True)) == {
        3: "excluded by the study file", 4: "group is 'ALS'", 5: "no group", 6: "mt_dice is 0.7, allowed at least 0.85",
        8: "another session of the same person",
    }  # fmt: skip
    assert people.at.tolist() == [0, 1, 2, 7]


def test_a_second_session_counts_where_the_first_is_not_used(settings) -> None:
    ds = cohort([*FOUR, "HC"], [0.5, 0.9, 0.9, 0.9, 0.9], participant_id=["sub-1", "sub-2", "sub-3", "sub-4", "sub-1"])
    people = choose_people(ds, settings(quality={"mt_dice": [0.85, None]}))
    assert people.at.tolist() == [1, 2, 3, 4]


def test_the_first_session_is_the_first_in_time(settings) -> None:
    """It was the first row; the repeats took the other sign with it."""
    names = {"participant_id": ["sub-1", "sub-2", "sub-3", "sub-4", "sub-1"], "session_id": ["ses-10", "", "", "", "ses-2"]}
    people = choose_people(cohort([*FOUR, "HC"], **names), settings())
    assert people.at.tolist() == [1, 2, 3, 4]
    assert people.excluded["session_id"].tolist() == ["ses-10"]


def test_without_more_people(settings) -> None:
    people = choose_people(cohort(["HC"] * 3 + ["DCM"] * 2), settings())
    fewer = people.without({1: "no values"})
    assert fewer.at.tolist() == [0, 2, 3, 4]
    assert fewer.excluded[["subject", "reason"]].to_numpy().tolist() == [[1, "no values"]]
    with pytest.raises(InputError, match=r"at least 2 people in each group, found 1 in 'DCM' \(1 left out: no values\).*add people"):
        people.without({4: "no values"})


@pytest.mark.parametrize(("word", "groups"), [("HC", [(0.0, "HC")]), ("DCM", [(1.0, "DCM")])])
def test_one_group_is_healthy_if_its_word_says_so(settings, word, groups) -> None:
    people = choose_people(cohort([word] * 3), settings())
    assert people.groups == groups
    assert set(people.group.tolist()) == {groups[0][0]}
    assert people.chosen("cases").tolist() == [0, 1, 2]
    assert choose_people(cohort(FOUR), settings()).chosen("cases").tolist() == [i for i, name in enumerate(FOUR) if name == "DCM"]


@pytest.mark.parametrize(
    ("ds", "sections", "error", "match"),
    [
        (cohort(["", ""]), {}, InputError, "nobody with a group"),
        (cohort(["HC", "HC", "DCM"]), {}, InputError, "at least 2 people in each group, found 1 in 'DCM'.*add people"),
        (cohort(FOUR, site=["Bonn", "bonn", "Köln", "Köln"]), {}, InputError, "column site: .*'Bonn' and 'bonn'.*write them alike"),
        (cohort(["HC", "hc", "DCM", "DCM"]), {}, InputError, "column group: .*'HC' and 'hc'"),
        (cohort(FOUR, scanner=["A", "A ", "B", "B"]), {"harmonise": {"site": "scanner"}}, InputError, "column scanner"),
        (cohort(FOUR), {"groups": {"column": "grup"}}, UnknownNameError, "group"),
        (cohort(FOUR), {"groups": {"case": "DCN"}}, UnknownNameError, "DCM"),
        (cohort(FOUR), {"exclude": ["sub-11"]}, UnknownNameError, "sub-1"),
        (cohort(FOUR), {"quality": {"dice": [0, 1]}}, UnknownNameError, "mt_dice"),
        (cohort(["A", "A", "B", "B"]), {}, InputError, r"a word for controls and one for cases, found 'A', 'B'.*analysis\.groups\.control"),
        (cohort(FOUR), {"groups": {"control": "HC", "case": "HC"}}, InputError, "a word for controls and one for cases"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(settings, ds, sections, error, match) -> None:
    with pytest.raises(error, match=match):
        choose_people(ds, settings(**sections))


def test_subjects_that_are_twice_in_the_table_are_no_cohort(make_store) -> None:
    twice = pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-1"], "group": ["HC", "DCM", "HC"]})
    with pytest.raises(StoreError, match="one row for each participant and session"):
        make_store(twice)


def test_columns(settings) -> None:
    ds = cohort(FOUR, age=[50.0, np.nan, 60.0, 61.0], sex=["F", "F", "M", ""], site=["a"] * 4, note=["", "", "", ""])
    people = choose_people(ds, settings())
    assert people.columns == ["group", "age", "sex", "site", "note"]
    assert people.numeric() == ["age"]
    assert list(people.covariates(["age", "sex", "site", "note", "height"])) == ["age", "sex"]  # those there are, and that vary
    assert known_values(people.column("sex")) == ["F", "M"]
    assert known_values(people.column("age")) == [50, 60, 61]
    with pytest.raises(UnknownNameError, match="age"):
        people.column("agee")
    assert quality_names(ds) == ["mt_dice"]
    assert subject_table(ds.drop_vars("session_id"))["session_id"].tolist() == [""] * 4


def test_text_in_a_column_of_numbers(settings) -> None:
    ages = ["51", "62", "about 60", "48", "55", "70", "44", "39"]
    people = choose_people(cohort(FOUR * 2, age=ages), settings())
    with pytest.raises(InputError, match=r"column age: expected numbers, found 'about 60' among them.*n/a is missing"):
        people.covariates(["age"])
    assert text_among_numbers(np.array(["1", "2", "3", "x"] * 3, dtype=object)) == ""  # codes
    assert text_among_numbers(np.array(["left", "right", "1", "2", "3", "4", "5", "6"], dtype=object)) == "left"
    assert text_among_numbers(np.array([1.0, np.nan])) == ""


def test_a_covariate_of_decimal_commas_is_no_category(settings) -> None:
    """Each age was a category of its own: three degrees of freedom fewer, and another p."""
    people = choose_people(cohort(FOUR * 2, age=["25,5", "26,5", "27,5", "28,5", "", "25,5", "26", "27,25"]), settings())
    with pytest.raises(InputError, match=r"column age: expected numbers, found '25,5' among them"):
        people.covariates(["age"])
    assert text_among_numbers(np.array(["1,5", "2,5", "left"], dtype=object)) == "", "words of which few are numbers are words"


def test_who_lacks_what(settings) -> None:
    people = choose_people(cohort(FOUR, age=[50.0, np.nan, 60.0, 61.0], site=["a", "", "b", ""]), settings())
    assert people.lacking(["age", "site", "height"]) == {"sub-2": ["age", "site"], "sub-4": ["site"]}


def test_a_column_of_text_is_no_score(settings) -> None:
    """Clusters of such a column ended in an error of Python."""
    people = choose_people(cohort(FOUR, grip=["12", "14 kg", "", "9"], age=[1.0, 2.0, 3.0, 4.0]), settings())
    assert people.numbers("age").tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match="column grip: expected numbers, found text, first '12'"):
        people.numbers("grip")
