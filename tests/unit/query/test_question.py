"""One-line questions: read, written again, and put to a cohort."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cohort_engine.errors import ConfigError, UnknownNameError
from cohort_engine.query.frame import run_query
from cohort_engine.query.question import Query, parse_query

NAN = np.nan
MakeCohort = Callable[..., str]


@pytest.mark.parametrize(
    "query",
    [
        Query("mtr"),
        Query("mtr", ("Clarke's column", 'the "dorsal" nucleus', "a + b"), ("C2:C3", "C4")),
        Query("mtr", by=("group", "site"), estimator="map", min_coverage=0.1, only=(("site", "St. Mary's, London"), ("age", "40:60"))),
        Query("area", only=(("note", ""), ("path", "[old] $x"))),
    ],
)
def test_a_question_is_read_back_as_it_was_written(query: Query) -> None:
    """A region with an apostrophe came back as unpaired quotes: questions were put together with ``tract='...'``."""
    assert parse_query(query.text()) == query


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> str:
    """Four people with white matter of 10, 20, 30 and 40."""
    columns = {"group": ["HC", "HC", "DCM", "DCM"], "site": ["A", "B", "A", "C, annex"], "age": [35.0, 40.0, 60.0, NAN]}
    return make_cohort([[v] * 8 for v in (10, 20, 30, 40)], **columns)


@pytest.mark.parametrize(
    ("only", "values"),
    [
        ("site=A", [10, 30]),
        ("site=A,B", [10, 20, 30]),
        ("site='C, annex'", [40]),
        ("site=A site=B", [10, 20, 30]),
        ("site=A group=DCM", [30]),
        ("age=40:60", [20, 30]),
        ("age=40:", [20, 30]),
        ("age=:39.5", [10]),
        ("age=35,60", [10, 30]),
        ("age=35,55:65", [10, 30]),
        ("age=90:", []),
        ("participant_id=sub-04", [40]),
    ],
)
def test_who_is_asked_about(cohort: str, only: str, values: list[float]) -> None:
    assert run_query(cohort, f"mtr tract='white matter' level=C2 {only}").value.tolist() == values


def test_a_summary_of_those_who_are_asked_about(cohort: str) -> None:
    out = run_query(cohort, "mtr tract='white matter' level=C2 by=group site=A,B")
    assert out[["group", "mean", "n"]].to_numpy().tolist() == [["HC", 15, 2], ["DCM", 30, 1]]


@pytest.mark.parametrize(
    ("only", "kind", "message"),
    [
        ("site=a", UnknownNameError, "a known value of site, found 'a'. Did you mean 'A'"),
        ("sight=A", UnknownNameError, "found 'sight'. Did you mean 'site'"),
        ("age=old", ConfigError, "numbers or ranges such as 40:60, found 'old'"),
        ("age=40:60:80", ConfigError, "numbers or ranges such as 40:60"),
        ("age=", ConfigError, "numbers or ranges such as 40:60"),
    ],
)
def test_people_that_cannot_be_chosen(cohort: str, only: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run_query(cohort, f"mtr {only}")


def test_only_the_columns_that_are_asked_for(cohort: str) -> None:
    cell = ["level", "region", "value", "std", "n", "coverage"]
    text = "mtr tract='white matter' level=C2"
    assert run_query(cohort, text, columns=["age"]).columns.tolist() == ["participant_id", "session_id", "age", *cell]
    assert run_query(cohort, text, columns=[]).columns.tolist() == ["participant_id", "session_id", *cell]
    with pytest.raises(UnknownNameError, match="Did you mean 'age'"):
        run_query(cohort, text, columns=["aeg"])
    with pytest.raises(ConfigError, match="found both age and by=group"):
        run_query(cohort, f"{text} by=group", columns=["age"])
