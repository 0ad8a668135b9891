"""Numbers stay numbers, words become columns of 0 and 1, and what is not known stays NaN."""

import numpy as np
import pytest

from cohort_engine.analysis.covariates import Coding, as_table, by_pattern
from cohort_engine.errors import InputError, UnknownNameError


def test_words_yes_or_no_and_numbers() -> None:
    people = {"age": [30, 50, 40], "sex": np.array(["M", None, "F"], object), "patient": [True, False, True]}
    coding = Coding.of(people)
    assert coding.levels == {"age": (), "sex": ("F", "M"), "patient": ("False", "True")}
    assert coding.columns == 3
    np.testing.assert_array_equal(coding.matrix(people, 3), [[30, 1, 1], [50, np.nan, 0], [40, 0, 1]])


def test_a_single_category_says_nothing() -> None:
    people = {"sex": ["F", "F"]}
    assert Coding.of(people).columns == 0
    assert Coding.of(people).matrix(people, 2).shape == (2, 0)
    assert Coding.of(None).matrix(None, 2).shape == (2, 0)


def test_a_missing_word_in_the_only_category_is_still_missing_nowhere_else() -> None:
    people = {"group": ["b", "a", "c", "a"]}
    assert Coding.of(people).matrix({"group": ["c", "", "a", "b"]}, 4).tolist()[::2] == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("learnt", "given", "kind", "match"),
    [
        ({"age": [1, 2]}, {}, UnknownNameError, "expected a known covariate, found 'age'"),
        ({"age": [1, 2]}, {"age": [1, 2, 3]}, InputError, r"covariates: age: expected 2 values, found shape \(3,\)"),
        ({"age": [1, 2]}, {"age": ["old", "young"]}, InputError, "found words"),
        ({"age": [1, 2]}, {"age": [1, np.inf]}, InputError, "found infinite values"),
        ({"sex": ["F", "M"]}, {"sex": ["F", "X"]}, UnknownNameError, "known category of sex, found 'X'"),
    ],
)
def test_what_was_not_learnt(learnt, given, kind, match) -> None:
    with pytest.raises(kind, match=match):
        Coding.of(learnt).matrix(given, 2)


@pytest.mark.parametrize(("values", "match"), [([1, 2], "a table"), (np.empty((0, 3)), "a table"), ([[np.inf]], "1 infinite")])
def test_what_is_no_table(values, match) -> None:
    with pytest.raises(InputError, match=match):
        as_table(values, where="here")


def test_patterns_cover_every_column_once() -> None:
    known = np.random.default_rng(0).random((5, 60)) > 0.3
    seen = np.concatenate([columns for _, columns in by_pattern(known)])
    assert sorted(seen) == list(range(60))
    for rows, columns in by_pattern(known):
        assert (known[:, columns] == rows[:, None]).all()
