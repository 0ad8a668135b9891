"""Entries against what is asked now: done, stale, open, and why."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.store.records import Entry
from cohort_engine.store.state import Rows, differing, judge, mixture, science_of

NAMES = ("segment_mt", "fit_mt", "mtr", "mtr_native")
NEEDS = {"segment_mt": (), "fit_mt": ("segment_mt",), "mtr": (), "mtr_native": ("fit_mt", "mtr")}
SECTION = {"segment_mt": "segment", "fit_mt": "fit", "mtr": "mtr", "mtr_native": "reduce"}


def recipe_of(stage, **params):
    return {"stage": stage, "version": "1", "params": params, "template": "t"}


RECIPES = {
    **{f"{n}-1": recipe_of(n, low_signal=0.05, seed=1) for n in NAMES},
    "mtr-2": recipe_of("mtr", low_signal=0.1, seed=1),
    "fit_mt-2": {**recipe_of("fit_mt", low_signal=0.05, seed=1), "version": "2"},
}
ASKED = {"stages": {n: {"recipe": f"{n}-1", "needs": NEEDS[n], "section": SECTION[n], "writes": []} for n in NAMES}}


def asked(**other):
    return {"stages": {n: {**s, "recipe": other.get(n, s["recipe"])} for n, s in ASKED["stages"].items()}}


def entry(row, stage, status=schema.DONE, recipe="", key="k", **more):
    return Entry(row, stage, status, key, recipe or f"{stage}-1", **more)


def chain(row, **keys):
    """All four stages of a subject, done; each took its upstreams by their keys."""
    key = {n: keys.get(n, "k") for n in NAMES}
    return [
        entry(row, "segment_mt"),
        entry(row, "fit_mt", made={"mt_mask": "segment_mt"}),
        entry(row, "mtr", key=key["mtr"]),
        entry(row, "mtr_native", upstream={"fit_mt": "k", "mtr": "k"}),
    ]


def codes(states, row=0):
    return {s: states.of(row, s) for s in states.stages}


ALL_DONE = dict.fromkeys(NAMES, schema.DONE)


def test_what_is_as_asked_is_done_and_what_never_began_is_to_do():
    states = judge(chain(0), ASKED, RECIPES, Rows.of(2))
    assert codes(states) == ALL_DONE
    assert codes(states, 1) == dict.fromkeys(NAMES, schema.TO_DO)
    assert states.counts()["mtr"] == {schema.TO_DO: 1, schema.DONE: 1}
    assert states.open
    assert not judge(chain(0), ASKED, RECIPES, Rows.of(1)).open


@pytest.mark.parametrize("status", [schema.FAILED, schema.MISSING, schema.NOT_NEEDED])
def test_how_it_ended_is_how_it_stands(status):
    states = judge([entry(0, "mtr", status)], ASKED, RECIPES, Rows.of(1))
    assert states.of(0, "mtr") == status


def test_not_run_is_to_do():
    assert judge([entry(0, "mtr", schema.NOT_RUN)], ASKED, RECIPES, Rows.of(1)).of(0, "mtr") == schema.TO_DO


def test_another_setting_makes_stale_what_hangs_on_it_and_nothing_else():
    """Today: every stage of such a subject is called complete."""
    entries = [e for row in range(45) for e in chain(row)]
    states = judge(entries, asked(mtr="mtr-2"), RECIPES, Rows.of(45))
    assert codes(states) == ALL_DONE | {"mtr": schema.STALE, "mtr_native": schema.STALE}
    assert states.reasons() == ["stages.mtr.low_signal changed: mtr, mtr_native of 45 subjects"]


def test_a_failure_with_another_recipe_is_tried_again_and_a_lacking_input_is_not_stale():
    entries = [entry(0, "mtr", schema.FAILED), entry(1, "mtr", schema.MISSING), entry(2, "mtr", schema.NOT_NEEDED)]
    states = judge(entries, asked(mtr="mtr-2"), RECIPES, Rows.of(3))
    assert [states.of(r, "mtr") for r in range(3)] == [schema.STALE, schema.MISSING, schema.NOT_NEEDED]


def test_what_took_a_result_that_was_made_again_is_stale():
    states = judge(chain(0, mtr="newer"), ASKED, RECIPES, Rows.of(1))
    assert codes(states) == ALL_DONE | {"mtr_native": schema.STALE}
    assert states.reasons() == ["result of mtr changed: mtr_native of 1 subject"]


@pytest.mark.parametrize("status", [schema.FAILED, schema.NOT_RUN, schema.MISSING])
def test_what_took_a_result_that_is_no_longer_there_is_stale(status):
    entries = [*(e for e in chain(0) if e.stage != "mtr"), entry(0, "mtr", status)]
    assert judge(entries, ASKED, RECIPES, Rows.of(1)).of(0, "mtr_native") == schema.STALE
    assert judge(entries[:-1], ASKED, RECIPES, Rows.of(1)).of(0, "mtr_native") == schema.STALE


def test_a_file_that_was_made_by_a_stale_stage_makes_stale():
    """The chain goes on: the mask is stale, so is the map, so are the native tables."""
    recipes = {**RECIPES, "new": recipe_of("segment_mt", network="b", low_signal=0.05, seed=1)}
    states = judge(chain(0), asked(segment_mt="new"), recipes, Rows.of(1))
    assert codes(states) == {"segment_mt": schema.STALE, "fit_mt": schema.STALE, "mtr": schema.DONE, "mtr_native": schema.STALE}
    assert states.reasons() == ["stages.segment.network changed: segment_mt, fit_mt, mtr_native of 1 subject"]


def test_a_mask_that_the_study_has_now_makes_stale_what_took_the_made_one():
    entries = [entry(0, "segment_mt", schema.NOT_NEEDED), *chain(0)[1:]]
    assert judge(entries, ASKED, RECIPES, Rows.of(1)).of(0, "fit_mt") == schema.STALE


def test_changed_files_are_told_by_the_caller():
    states = judge(chain(0), ASKED, RECIPES, Rows.of(1), changed={(0, "mtr")})
    assert codes(states) == ALL_DONE | {"mtr": schema.STALE, "mtr_native": schema.STALE}
    assert states.reasons() == ["files of the study changed: mtr, mtr_native of 1 subject"]


def test_entries_of_stages_that_are_not_asked_for_and_of_foreign_rows_are_passed_over():
    states = judge([*chain(0), entry(0, "t1"), entry(9, "mtr")], ASKED, RECIPES, Rows.of(1))
    assert codes(states) == ALL_DONE


def test_who_left_or_withdrew_is_judged_and_not_counted():
    rows = Rows(np.array(["", "excluded", ""], dtype=object), np.array([False, False, True]))
    states = judge(chain(0), ASKED, RECIPES, rows)
    assert states.counts()["mtr"] == {schema.DONE: 1}
    assert not states.open
    assert states.rows_in("mtr", schema.TO_DO) == []
    assert states.of(1, "mtr") == schema.TO_DO


def test_every_difference_of_two_recipes_is_named():
    new = {"version": "2", "params": {"low_signal": 0.1, "seed": 1, "more": [1]}, "template": "u"}
    assert differing(RECIPES["mtr-1"], new, "mtr", "mtr") == ("version of mtr", "template", "stages.mtr.low_signal", "stages.mtr.more")
    assert differing(RECIPES["mtr-1"], {**RECIPES["mtr-1"], "params": {"low_signal": 0.05, "seed": 1.5}}, "mtr", "") == ("mtr: seed",)


def test_science_counts_the_rows_that_are_there_and_not_the_last_wish():
    entries = [entry(0, "mtr"), entry(1, "mtr"), entry(2, "mtr", recipe="mtr-2"), entry(3, "mtr", schema.FAILED), entry(4, "mtr", recipe="mtr-2")]
    rows = Rows(np.array(["", "", "", "", "excluded"], dtype=object), np.zeros(5, bool))
    assert [(u["recipe"], u["rows"], u["params"]["low_signal"]) for u in science_of(entries, RECIPES, rows)["mtr"]] == [
        ("mtr-1", 2, 0.05), ("mtr-2", 1, 0.1),
    ]  # fmt: skip
    assert mixture(entries, ASKED, RECIPES, rows) == "mtr has 2 and 1 subjects made with different stages.mtr.low_signal"
    assert mixture(entries[:2], ASKED, RECIPES, rows) == ""


def test_rows_that_took_an_earlier_result_are_a_mixture_too():
    assert mixture([*chain(0, mtr="newer"), *chain(1)], ASKED, RECIPES, Rows.of(2)) == "mtr_native of 1 subject was made from an earlier mtr"


def test_ten_thousand_subjects_and_eight_stages_are_judged_in_two_seconds():
    names = [f"s{i}" for i in range(8)]
    wanted = {"stages": {n: {"recipe": "r2" if n == "s3" else "r", "section": n} for n in names}}
    recipes = {"r": recipe_of("s"), "r2": recipe_of("s", x=1)}
    entries = [
        Entry(row, n, schema.DONE, "k", "r", {names[i - 1]: "k"} if i else {}, {"mask": names[0]} if i > 1 else {})
        for row in range(10_000)
        for i, n in enumerate(names)
    ]  # fmt: skip
    started = time.process_time()
    states = judge(entries, wanted, recipes, Rows.of(10_000))
    reasons = states.reasons()
    assert time.process_time() - started < 2
    assert reasons == ["stages.s3.x changed: s3, s4, s5, s6, s7 of 10000 subjects"]
