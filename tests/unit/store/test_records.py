"""The ledger: what it says, what it never says, and what happens when it is damaged."""

from __future__ import annotations

import json
import math

import pytest

from cohort_engine import schema
from cohort_engine.errors import StoreError
from cohort_engine.io.places import ledger_url, local_path
from cohort_engine.store.ledger import LedgerEntry, delete_entries, read_entry, read_ledger, scan_ledger, write_entry


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "s.zarr") if request.param == "local" else f"memory:///{tmp_path.name}/s.zarr"


def done(row, stage="mtr", key="k"):
    return LedgerEntry(row, stage, schema.DONE, key, seconds=1.5, peak_memory=300.0, finished="2026-01-01T00:00:00+00:00")


def test_an_entry_comes_back_as_it_went(url):
    failed = LedgerEntry(
        17,
        "fit_mt",
        schema.FAILED,
        "9c1f",
        31.2,
        812.0,
        "CordError",
        "T2w image: ...",
        "Look.",
        retryable=False,
        finished="2026-01-01T00:00:00+00:00",
    )
    write_entry(url, failed)
    assert read_entry(url, 17, "fit_mt") == failed
    assert read_entry(url, 17, "mtr") is None
    assert read_entry(url, 16, "fit_mt") is None


def test_unknown_numbers_and_the_time_are_filled_in(url):
    write_entry(url, LedgerEntry(0, "mtr", schema.MISSING, ""))
    entry = read_entry(url, 0, "mtr")
    assert math.isnan(entry.seconds)
    assert entry.finished.endswith("+00:00")


def test_the_last_entry_counts(url):
    write_entry(url, done(1, key="old"))
    write_entry(url, done(1, key="new"))
    assert [e.key for e in read_ledger(url)] == ["new"]


def test_the_whole_ledger_is_in_order_of_row_and_stage(url):
    places = [(1000000, "mtr"), (2, "mtr"), (2, "fit_mt"), (10, "mtr")]
    for row, stage in places:
        write_entry(url, done(row, stage))
    assert [(e.subject, e.stage) for e in read_ledger(url)] == [(2, "fit_mt"), (2, "mtr"), (10, "mtr"), (1000000, "mtr")]


def test_an_empty_ledger_is_a_ledger(url):
    assert read_ledger(url) == []


def test_one_subject_is_deleted_and_its_neighbours_stay(url):
    for row in (1, 10, 11):
        write_entry(url, done(row))
    assert delete_entries(url, 1) == 1
    assert [e.subject for e in read_ledger(url)] == [10, 11]
    assert delete_entries(url, 1) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"subject": 0}', '{"subject": 0, "stage": "mtr", "status": "perhaps", "key": ""}'])
def test_a_broken_entry_is_absent_and_reported(tmp_path, text):
    url = str(tmp_path / "s.zarr")
    write_entry(url, done(0))
    write_entry(url, done(1))
    (local_path(ledger_url(url)) / "000000" / "mtr.json").write_text(text)
    assert read_entry(url, 0, "mtr") is None
    assert [e.subject for e in read_ledger(url)] == [1]
    assert scan_ledger(url)[1] == [(0, "mtr")]


def test_an_entry_under_another_name_is_broken(tmp_path):
    url = str(tmp_path / "s.zarr")
    write_entry(url, done(0))
    folder = local_path(ledger_url(url))
    (folder / "000000").rename(folder / "000005")
    assert scan_ledger(url)[1] == [(5, "mtr")]


def test_the_file_is_plain_json_without_nan(tmp_path):
    url = str(tmp_path / "s.zarr")
    write_entry(url, LedgerEntry(3, "mtr", schema.FAILED, "k"))
    record = json.loads((local_path(ledger_url(url)) / "000003" / "mtr.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert record["seconds"] is None
    assert set(record) == set(LedgerEntry.__dataclass_fields__)


def test_a_status_must_be_known():
    with pytest.raises(StoreError, match="not_run, done, failed, missing_input, not_needed"):
        LedgerEntry(0, "mtr", "ok", "")
