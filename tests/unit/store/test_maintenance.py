"""Gathering and closing a store."""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.errors import IncompleteError, StorageError, StoreError
from cohort_engine.io.places import ledger_url, local_path
from cohort_engine.store import layout, maintenance, records
from cohort_engine.store.lease import lease
from cohort_engine.store.maintenance import finalise, gather, states_of
from cohort_engine.store.people import find_rows, subjects
from cohort_engine.store.records import list_ledger, read_entries
from cohort_engine.store.tables import current_digests, made_from, mark_tables, old_blocks, stored_digests, wanted_digests
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject, write_block

from .conftest import CELLS, FIT, MTR, TABLE

NAN = float("nan")


class Crash(Exception):
    pass


def group(url, name, **options):
    return xr.open_zarr(url, group=name, zarr_format=3, **options).load()


def science(url):
    return {s: [(u["rows"], u["params"]) for u in used] for s, used in json.loads(layout.store_attributes(url)["science"]).items()}


def mixed(url):
    return layout.store_attributes(url)["mixed"]


# --- gather -----------------------------------------------------------------------------------------------------------
def test_records_go_into_the_store_and_then_they_go(build):
    cohort = build(3, done=[0, 2])
    cohort.fail(1, FIT)
    before = read_entries(cohort.url)
    assert gather(cohort.url) == 5
    assert list_ledger(cohort.url) == ([], [0])
    assert read_entries(cohort.url) == before
    assert group(cohort.url, "qc", consolidated=False).mtr_cord_median.values.tolist() == pytest.approx([0, NAN, 2], nan_ok=True)
    assert group(cohort.url, "profiles", consolidated=False).area.mean("z").values.tolist() == pytest.approx([0, NAN, 2], nan_ok=True)
    stages = group(cohort.url, "stages", consolidated=False)
    assert stages.stage.values.tolist() == [FIT, MTR]
    assert stages.status.values.tolist() == [[1, 1], [2, 0], [1, 1]]
    assert stages.seconds.values.tolist() == [[2, 2], [2, pytest.approx(NAN, nan_ok=True)], [2, 2]]
    assert stages.key.values[2].tolist() == [e.key for e in before if e.subject == 2]
    assert stages.recipe.values[0].tolist() == [s["recipe"] for s in cohort.asked["stages"].values()]
    assert stages.status.attrs["flag_meanings"] == "not_run done failed missing_input not_needed"
    assert verify(cohort.url) == []


def test_gathering_again_changes_nothing_and_a_few_new_ones_change_their_rows(build):
    cohort = build(3, done=[0])
    gather(cohort.url)
    before = {f: f.read_bytes() for f in local_path(cohort.url).rglob("*") if f.is_file()}
    assert gather(cohort.url) == 0
    assert {f: f.read_bytes() for f in before} == before
    cohort.run(2)
    assert gather(cohort.url) == 2
    assert group(cohort.url, "qc", consolidated=False).mtr_cord_median.values.tolist() == pytest.approx([0, NAN, 2], nan_ok=True)


def test_what_is_read_is_the_same_before_and_after(build):
    cohort = build(2)
    paths = ("maps/mtr", "fit/mt", "qc/mt_dice", "profiles/area", "tables/native/mtr_wa")
    before = {p: read_subject(cohort.url, 1, p) for p in paths}
    gather(cohort.url)
    for path, value in before.items():
        np.testing.assert_array_equal(read_subject(cohort.url, 1, path), value)


@pytest.mark.parametrize("step", ["_fold", "write_block", "delete_records", "describe"])
@pytest.mark.parametrize("after", [False, True])
def test_gathering_that_is_cut_short_anywhere_loses_nothing(build, monkeypatch, step, after):
    cohort = build(3)
    cohort.fail(1, MTR)
    entries, real = read_entries(cohort.url), getattr(maintenance, step)

    def crash(*args):
        if after:
            real(*args)
        raise Crash

    def read():
        return [[read_subject(cohort.url, r, p) for r in range(3)] for p in ("qc/mtr_cord_median", "profiles/area", "qc/mt_dice")]

    before = read()
    with monkeypatch.context() as patch:
        patch.setattr(maintenance, step, crash)
        with pytest.raises(Crash):
            gather(cohort.url)
    for _ in range(2):
        assert read_entries(cohort.url) == entries
        for a, b in zip(read(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        gather(cohort.url)
    assert verify(cohort.url) == []


def test_blocks_of_subjects_meet_where_they_should(build, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4 * 8 * 16)
    for module in (maintenance, records):
        monkeypatch.setattr(module, "ENTRY_BLOCK", 8)
    cohort = build(30, done=range(0, 30, 3))
    assert layout.open_root(cohort.url)["profiles/area"].chunks[0] == 4
    gather(cohort.url)
    cohort.run(*range(1, 30, 3))
    gather(cohort.url)
    area = group(cohort.url, "profiles", consolidated=False).area.mean("z").values
    np.testing.assert_array_equal(area, [r if r % 3 < 2 else NAN for r in range(30)])
    assert list_ledger(cohort.url)[1] == [0, 8, 16, 24]
    assert len(read_entries(cohort.url)) == 40
    assert verify(cohort.url) == []


def test_gathering_is_for_the_one_writer(build):
    cohort = build(1)
    with lease(cohort.url, "build"):
        assert gather(cohort.url) == 2
        with ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match='does "build" since'):
            pool.submit(gather, cohort.url).result()


def test_a_damaged_chunk_stops_gathering_and_the_records_stay(build):
    cohort = build(2, done=[0])
    gather(cohort.url)
    next((local_path(cohort.url) / "qc" / "mt_dice" / "c").iterdir()).write_bytes(b"noise")
    cohort.run(1)
    with pytest.raises(StorageError, match="qc/mt_dice: expected chunks that decode"):
        gather(cohort.url)
    assert list_ledger(cohort.url)[0] == [(1, FIT), (1, MTR)]


# --- what was made with what ------------------------------------------------------------------------------------------
def test_science_describes_the_rows_that_are_there(build):
    cohort = build(3, done=[0, 1])
    gather(cohort.url)
    assert science(cohort.url) == {FIT: [(2, {"seed": 1})], MTR: [(2, {"low_signal": 0.05})]}
    cohort.init(3, low_signal=0.2)
    gather(cohort.url)
    assert science(cohort.url)[MTR] == [(2, {"low_signal": 0.05})]
    assert mixed(cohort.url) == ""


def test_settings_changed_and_the_build_killed_half_way(build):
    """Before: `status`, `finalise` and `verify` called the mixture complete, and `science` named the new setting for all."""
    cohort = build(4)
    finalise(cohort.url)
    cohort.init(4, low_signal=0.2)
    cohort.mtr(0)
    cohort.mtr(1)
    states = states_of(cohort.url)
    assert [states.of(r, MTR) for r in range(4)] == [schema.DONE, schema.DONE, schema.STALE, schema.STALE]
    assert states.reasons() == ["stages.mtr.low_signal changed: mtr of 2 subjects"]
    with pytest.raises(IncompleteError, match=r"stages\.mtr\.low_signal changed: mtr of 2 subjects; mtr has 2 and 2 subjects made with different"):
        finalise(cohort.url, allow_missing=True)
    assert layout.store_attributes(cohort.url)["finalised"] == ""
    assert mixed(cohort.url) == "mtr has 2 and 2 subjects made with different stages.mtr.low_signal"
    assert sorted(science(cohort.url)[MTR], key=str) == [(2, {"low_signal": 0.05}), (2, {"low_signal": 0.2})]
    assert verify(cohort.url) == []
    finalise(cohort.url, allow_mixed=True)
    assert mixed(cohort.url).startswith("mtr has 2 and 2")
    cohort.mtr(2)
    cohort.mtr(3)
    finalise(cohort.url)
    assert mixed(cohort.url) == ""
    assert [r["params"] for r in json.loads(layout.store_attributes(cohort.url)["recipes"]).values() if r["stage"] == MTR] == [{"low_signal": 0.2}]


def test_an_upstream_that_was_made_again_is_a_mixture(build):
    cohort = build(2)
    cohort.init(2, seed=2)
    cohort.fit(0)
    cohort.fit(1)
    gather(cohort.url)
    assert mixed(cohort.url) == "mtr of 2 subjects was made from an earlier fit_mt"
    with pytest.raises(IncompleteError, match="found result of fit_mt changed: mtr of 2 subjects"):
        finalise(cohort.url)


def test_settings_that_go_back_find_what_was_made_with_them(build):
    cohort = build(1)
    cohort.init(1, low_signal=0.2)
    assert states_of(cohort.url).of(0, MTR) == schema.STALE
    cohort.init(1, low_signal=0.05)
    assert states_of(cohort.url).of(0, MTR) == schema.DONE


# --- finalise ---------------------------------------------------------------------------------------------------------
def test_xarray_opens_a_closed_store_by_its_consolidated_metadata(build):
    url = build().url
    with pytest.raises(RuntimeWarning, match="consolidated"):
        group(url, "maps")
    assert group(url, "maps", consolidated=False).sizes["subject"] == 3
    finalise(url)
    assert group(url, "maps").mtr.mean("voxel").values.tolist() == [0, 1, 2]
    assert group(url, "tables/template", consolidated=False).level.values.tolist() == ["C2", "C3"]


def test_a_store_with_gaps_does_not_close_and_says_who_is_missing(build):
    cohort = build(60, done=range(0, 60, 2))
    for row in range(1, 60, 2):
        if row > 3:
            cohort.mtr(row)
    cohort.fail(1, FIT)
    cohort.fail(3, FIT, schema.MISSING)
    cohort.mtr(1)
    cohort.mtr(3)
    with pytest.raises(IncompleteError) as caught:
        finalise(cohort.url)
    rows = ", ".join(map(str, range(1, 40, 2)))
    assert caught.value.found == f"fit_mt: 30 of 60 subjects (28 to_do, 1 failed, 1 missing_input): {rows} ..."
    assert "retry" in caught.value.remedy
    with pytest.raises(IncompleteError, match="result of fit_mt changed: mtr of 30 subjects"):
        finalise(cohort.url, allow_missing=True)
    finalise(cohort.url, allow_missing=True, allow_mixed=True)
    assert group(cohort.url, "stages").status.values[:4, 0].tolist() == [1, 2, 1, 3]


def test_an_append_opens_the_store_again(build):
    cohort = build(2)
    finalise(cohort.url)
    cohort.init(3)
    assert layout.store_attributes(cohort.url)["finalised"] == ""
    assert group(cohort.url, "maps", consolidated=False).sizes["subject"] == 3
    with pytest.raises(RuntimeWarning, match="consolidated"):
        group(cohort.url, "maps")
    with pytest.raises(IncompleteError, match="1 of 3"):
        finalise(cohort.url)
    cohort.run(2)
    finalise(cohort.url)
    assert verify(cohort.url) == []


def test_closing_twice_is_harmless(build):
    url = build(2).url
    finalise(url)
    finalise(url)
    assert verify(url) == []


# --- tables -----------------------------------------------------------------------------------------------------------
def tabulate(cohort, min_coverage=0.75):
    """Do what the reduction does: blocks that are not as wanted, marked as open, written, marked as made."""
    root = layout.open_root(cohort.url, "r+")
    wanted = wanted_digests(dict(root.attrs), read_entries(cohort.url), MTR, "wa", min_coverage)
    stored = stored_digests(root, TABLE)
    made = old_blocks(stored, wanted)
    blocks = {first // 64 for first in made}
    settings = {"stage": MTR, "estimator": "wa", "min_coverage": min_coverage}
    mark_tables(root, CELLS, digests=["" if i in blocks else d for i, d in enumerate(wanted)], **settings)
    for first in made:
        write_block(cohort.url, first, {p: np.stack([v] * min(64, layout.row_count(root) - first)) for p, v in cohort.table().items()})
    mark_tables(root, CELLS, digests=wanted, **settings)
    return made


def test_killed_before_the_tables_then_finalise(build):
    """Before: `finalise` closed the store, and `query` read empty tables as missing values."""
    cohort = build(70)
    gather(cohort.url)
    assert stored_digests(layout.open_root(cohort.url), TABLE) == []
    made = []
    finalise(cohort.url, tabulate=lambda: made.extend(tabulate(cohort)))
    assert made == [0, 64]
    assert group(cohort.url, "tables/template").mtr_wa.mean().item() == 1
    assert verify(cohort.url) == []
    assert tabulate(cohort) == []


def test_only_the_block_of_a_subject_that_was_made_again_is_made_again(build):
    cohort = build(70)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    cohort.mtr(69, key="other")
    root = layout.open_root(cohort.url)
    made = made_from(root[TABLE])
    assert old_blocks(made["blocks"], current_digests(dict(root.attrs), read_entries(cohort.url), made)) == [64]
    assert tabulate(cohort) == [64]
    assert tabulate(cohort, min_coverage=0.5) == [0, 64]


def test_an_append_makes_the_last_block_old(build):
    cohort = build(65)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    cohort.init(66)
    assert tabulate(cohort) == [64]


def test_a_table_of_other_maps_in_a_closed_store_is_reported(build):
    cohort = build(2)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    cohort.mtr(1, key="other")
    finalise(cohort.url)
    problems = {str(p) for p in verify(cohort.url)}
    assert problems == {f"{p}: rows 0 to 1 were made from other maps than are there: finalise again" for p in CELLS}


# --- people -----------------------------------------------------------------------------------------------------------
def test_the_list_of_subjects(build):
    cohort = build(4, done=[0, 2])
    cohort.fail(1, FIT)
    table = people_of(["sub-000", "sub-001", "sub-002"], group=["DCM", "HC", "HC"])
    cohort.init(table, left={("sub-003", "01"): "excluded"})
    listed = subjects(cohort.url)
    assert listed.to_dict("list") == {
        "row": [0, 1, 2, 3],
        "participant_id": ["sub-000", "sub-001", "sub-002", "sub-003"],
        "session_id": ["01"] * 4,
        "group": ["DCM", "HC", "HC", ""],
        "site": ["", "", "", "x"],
        "state": ["in the study"] * 3 + ["left: excluded"],
        "done": [2, 0, 2, 0],
        "open": [0, 2, 0, 2],
    }


def people_of(names, **columns):
    return pd.DataFrame({"participant_id": names, "session_id": "01", **columns})


def test_rows_are_found_as_people_write_names(cohort):
    cohort.init(pd.DataFrame({"participant_id": ["sub-01", "sub-01", "sub-02"], "session_id": ["ses-a", "ses-b", ""]}))
    assert find_rows(cohort.url, "sub-01") == find_rows(cohort.url, "01") == [0, 1]
    assert find_rows(cohort.url, "01", "b") == find_rows(cohort.url, "sub-01", "ses-b") == [1]
    with pytest.raises(Exception, match="Did you mean 'sub-02'"):
        find_rows(cohort.url, "sub-2")
    with pytest.raises(Exception, match="expected a known session, found 'c'"):
        find_rows(cohort.url, "01", "c")


def test_a_subject_is_excluded_and_another_deleted_and_both_come_back(build):
    """Before: both stayed in every answer."""
    cohort = build(3)
    names = ["sub-000", "sub-001", "sub-002"]
    cohort.init(people_of(names[:1]), left={("sub-001", "01"): "excluded"})
    assert states_of(cohort.url).counts()[MTR] == {schema.DONE: 1}
    gather(cohort.url)
    assert science(cohort.url)[MTR][0][0] == 1
    cohort.init(people_of(names))
    assert states_of(cohort.url).counts()[MTR] == {schema.DONE: 3}
    assert subjects(cohort.url)["state"].tolist() == ["in the study"] * 3


def test_the_ledger_knows_nobody_by_name(build):
    cohort = build(2)
    gather(cohort.url)
    cohort.run(1)
    files = [f for f in local_path(ledger_url(cohort.url)).rglob("*") if f.is_file()]
    assert len(files) == 3
    for file in files:
        data = file.read_bytes()
        text = data + (zlib.decompress(data[17:]) if file.suffix == ".block" else b"")
        assert b"sub-" not in text


def test_those_who_have_ended_are_gathered_while_others_go_on(cohort) -> None:
    """Until the end of a build every record lay by itself: a killed one left thousands to be read one by one."""
    cohort.init(4)
    cohort.run(0, 2)
    cohort.fit(3)
    assert gather(cohort.url, {(row, stage) for row in (0, 2) for stage in (FIT, MTR)}) == 4
    assert list_ledger(cohort.url)[0] == [(3, FIT)]
    assert {(e.subject, e.stage) for e in read_entries(cohort.url)} == {(0, FIT), (0, MTR), (2, FIT), (2, MTR), (3, FIT)}
    assert read_subject(cohort.url, 2, "qc/mtr_cord_median") == 2
    cohort.mtr(3)
    assert gather(cohort.url) == 2
    assert verify(cohort.url) == []
