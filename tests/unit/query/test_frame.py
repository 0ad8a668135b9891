"""Tidy tables, summaries and the one-line question."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cohort_engine.errors import CohortError, ConfigError, UnknownNameError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.query.frame import run_query, summarise
from cohort_engine.query.question import Query, parse_query

NAN = np.nan
MakeCohort = Callable[..., str]
CELL = ["level", "region", "value", "std", "n", "coverage"]


def subject(c2: float, c3: float) -> list[float]:
    return [c3] * 4 + [c2] * 4


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> str:
    return make_cohort([subject(20, 10), subject(30, 20), subject(40, NAN)], group=["HC", "DCM", "DCM"], age=[50, 60, NAN], site=["a", "b", "a"])


def test_one_row_per_subject_level_and_region(cohort: str) -> None:
    frame = open_cohort(cohort).cohort.frame("mtr")
    assert len(frame) == 3 * 2 * 5
    assert frame.columns.tolist() == ["participant_id", "session_id", "age", "group", "site", *CELL]
    row = frame[(frame.participant_id == "sub-02") & (frame.level == "C3") & (frame.region == "white matter")].iloc[0]
    assert (row.group, row.age, row.value, row.n, row.coverage) == ("DCM", 60, 20, 3, 1)


def test_a_missing_cell_is_a_row_with_nan(cohort: str) -> None:
    frame = open_cohort(cohort).cohort.frame("mtr", "white matter", ["C2", "C3", "C2:C3"])
    assert frame.level.tolist() == ["C2", "C3", "C2:C3"] * 3
    np.testing.assert_array_equal(frame.value, [20, 10, 15, 30, 20, 25, 40, NAN, NAN])
    assert frame.coverage.tolist()[-3:] == [1, 0, 0.5]


def test_a_summary_counts_only_subjects_with_a_value(cohort: str) -> None:
    out = summarise(open_cohort(cohort).cohort.frame("mtr", "white matter"))
    assert out.columns.tolist() == ["group", "level", "region", "mean", "sd", "n"]
    assert out.group.tolist() == ["HC", "HC", "DCM", "DCM"]
    np.testing.assert_allclose(out["mean"], [20, 10, 35, 20])
    np.testing.assert_allclose(out["sd"], [NAN, NAN, np.sqrt(50), NAN])
    assert out.n.tolist() == [1, 1, 2, 1]


def test_summaries_by_several_columns_and_by_level(cohort: str) -> None:
    frame = open_cohort(cohort).cohort.frame("mtr", "white matter", "C2")
    assert summarise(frame, ["group", "site"])[["group", "site", "mean"]].values.tolist() == [["HC", "a", 20], ["DCM", "b", 30], ["DCM", "a", 40]]
    assert summarise(frame, "level")[["level", "mean", "n"]].values.tolist() == [["C2", 30, 3]]


def test_a_group_without_a_name_is_kept(make_cohort: MakeCohort) -> None:
    frame = open_cohort(make_cohort([subject(1, 1), subject(2, 2)], dose=[NAN, 5.0])).cohort.frame("mtr", "white matter", "C2")
    assert len(summarise(frame, "dose")) == 2


# --- the one-line question --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("mtr", Query("mtr")),
        ("mtr tract='white matter' level=C2:C3 by=group", Query("mtr", ("white matter",), ("C2:C3",), ("group",))),
        ('mtr level=C2,C3 by=group,site tract="a + b" tract=c', Query("mtr", ("a + b", "c"), ("C2", "C3"), ("group", "site"))),
        ("mtr estimator=wa coverage=0.5", Query("mtr", estimator="wa", min_coverage=0.5)),
    ],
)
def test_questions(text: str, query: Query) -> None:
    assert parse_query(text) == query


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("mtr C2", ConfigError, "key=value words"),
        ("tract=x", ConfigError, "a metric first"),
        ("", ConfigError, "a metric first"),
        ("mtr tract='x", ConfigError, "quotes in pairs"),
        ("mtr coverage=75", ConfigError, "a number from 0 to 1"),
        ("mtr coverage=nan", ConfigError, "a number from 0 to 1"),
    ],
)
def test_questions_nobody_understands(text: str, kind: type[CohortError], message: str) -> None:
    with pytest.raises(kind, match=message):
        parse_query(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mtr tract='whte matter'", "Did you mean 'white matter'"),
        ("mtrr", "a known metric, found 'mtrr'. Did you mean 'mtr'"),
        ("mtr trakt=x", "a known key, or column of the subject table, found 'trakt'. Did you mean 'tract'"),
        ("mtr level=C9", "a known level, found 'C9'"),
        ("mtr by=grup", "Did you mean 'group'"),
        ("mtr estimator=mapp", "a known estimator, found 'mapp'"),
    ],
)
def test_names_the_cohort_does_not_have(cohort: str, text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        run_query(cohort, text)


def test_answers(cohort: str) -> None:
    out = run_query(cohort, "mtr tract='lateral corticospinal tract' level=C2:C3 by=group coverage=0.4")
    assert out[["group", "level", "mean", "n"]].values.tolist() == [["HC", "C2:C3", 15, 1], ["DCM", "C2:C3", 32.5, 2]]
    rows = run_query(open_cohort(cohort), "mtr tract='white matter' level=C2")
    assert rows.value.tolist() == [20, 30, 40]
