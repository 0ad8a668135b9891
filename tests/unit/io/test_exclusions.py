"""Ratings: both formats, several raters, and whom they leave out."""

from __future__ import annotations

import pytest

from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.exclusions import ALL, Rating, agreement, exclusions_among, parse_exclusions, rating_of, read_exclusions, write_exclusions

SPINE_GENERIC = """\
csa_t2:
- siteA  # Site did not respect parameters (TR=2, FA=180)
- sub-b04  # repositioned
dti_fa:
- sub-b03  # wrong FOV placement
mtr: []
mtsat:
"""
NAMES = ["sub-siteA01", "sub-siteA02", "sub-siteAB01", "sub-b03", "sub-b04"]


def test_spine_generic_names_sites_subjects_and_reasons() -> None:
    found = exclusions_among(parse_exclusions(SPINE_GENERIC), NAMES, [""] * 5)
    assert found.of("area") == {
        0: "rated fail: Site did not respect parameters (TR=2, FA=180)", 1: "rated fail: Site did not respect parameters (TR=2, FA=180)",
        4: "rated fail: repositioned",
    }  # fmt: skip
    assert found.of("fa") == {3: "rated fail: wrong FOV placement"}
    assert not found.of("mtr")


def test_a_bare_list_is_about_every_metric_and_a_name_may_have_a_session() -> None:
    found = exclusions_among(parse_exclusions("- sub-b03_ses-M0  # poor\n"), ["sub-b03", "sub-b03"], ["ses-M0", "ses-M12"])
    assert found.everything == {0: "rated fail: poor"}


def test_whoever_is_not_there_is_named() -> None:
    assert exclusions_among([Rating("mtr", "sub-x")], NAMES, [""] * 5).unknown == ("sub-x",)


@pytest.mark.parametrize("word", ["a: b", "# no comment", "'\"", "\u202e\u2028x", "=1+1", "<b>", "- x", "null", "\x7f\x85"])
def test_whatever_is_written_is_read_again(word: str) -> None:
    ratings = [Rating("mtr", word, word, "artifact", " ".join(word.split()), "AB", "2026-01-31")]
    kept = [
        rating_of({k: getattr(r, k) for k in ("metric", "session", "rating", "reason", "rater", "date")} | {"subject": r.subject}) for r in ratings
    ]
    assert parse_exclusions(write_exclusions(kept)) == kept


def test_the_last_word_of_each_rater_counts_and_most_raters_decide() -> None:
    said = [Rating("mtr", "sub-b03", rating=x, rater=r, date=d) for r, x, d in (
        ("A", "fail", "2026-01-01"), ("A", "pass", "2026-01-02"), ("B", "fail", "2026-01-01"), ("C", "pass", "2026-01-01"))]  # fmt: skip
    assert not exclusions_among(said, NAMES, [""] * 5)
    assert exclusions_among(said[:3], NAMES, [""] * 5).of("mtr") == {3: "rated fail"}  # one against one


def test_whoever_is_left_out_altogether_is_not_named_for_a_metric_again() -> None:
    found = exclusions_among([Rating(ALL, "b03", reason="moved"), Rating("mtr", "b03")], NAMES, [""] * 5)
    assert (found.everything, found.of("mtr")) == ({3: "rated fail: moved"}, {})


def test_agreement_is_of_values_that_both_rated() -> None:
    rated = {"A": "ffpp ", "B": "fpppp"}
    said = [Rating("mtr", str(i), rating={"f": "fail", "p": "pass"}[c], rater=r) for r, row in rated.items() for i, c in enumerate(row) if c != " "]
    ((first, second, count, same, kappa),) = agreement(said)
    assert (first, second, count, same) == ("A", "B", 4, 0.75)
    assert kappa == pytest.approx((0.75 - 0.5) / 0.5)  # by chance 2/4 x 1/4 + 2/4 x 3/4 = 0.5


@pytest.mark.parametrize(
    ("text", "found"),
    [("mtr: sub-1", "something else"), ("5", "one word"), ("mtr: [{rating: pass}]", "one of them"), ("mtr: [{subject: a, rating: good}]", "good"),
     ("mtr: [[a]]", "a list"), ("mtr: [a", "expected"), ("mtr: [{subject: a, colour: red}]", "colour"), ("a: !!python/object:os.system []", "")],
)  # fmt: skip
def test_what_is_neither_format_is_one_clear_error(text: str, found: str) -> None:
    if not found:  # a tag of another language is a word like any other: nothing is made of it
        assert parse_exclusions(text) == []
        return
    with pytest.raises(InputError, match=found):
        parse_exclusions(text)


def test_a_file_that_is_named_must_be_there(tmp_path: object) -> None:
    with pytest.raises(MissingInputError, match=r"data\.exclusions|--ratings"):
        read_exclusions([f"{tmp_path}/none.yaml"])
    assert read_exclusions((), optional=[f"{tmp_path}/none.yaml"]) == []
