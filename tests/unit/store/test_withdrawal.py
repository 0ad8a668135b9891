"""Somebody withdraws: nothing of the person remains, and nothing of the others is lost."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort_engine.errors import StoreError
from cohort_engine.io.places import ledger_url, local_path
from cohort_engine.io.volume import Volume
from cohort_engine.store import layout, withdrawal
from cohort_engine.store.freeze import compact
from cohort_engine.store.lease import lease
from cohort_engine.store.maintenance import finalise, gather
from cohort_engine.store.people import find_rows, subjects
from cohort_engine.store.records import read_entries, write_made
from cohort_engine.store.tables import stored_digests
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw

from .conftest import MTR, TABLE
from .test_maintenance import tabulate


def everything(url, row):
    """Return all values at a row that are not fill."""
    found = {}
    for path, array in layout.subject_arrays(layout.open_root(url)).items():
        value = np.asarray(array[row])
        held = ~np.isnan(value) if value.dtype.kind == "f" else value.astype(object) != ("" if layout.is_text(array) else 0)
        if path != "subject" and np.any(held):
            found[path] = value
    return found


@pytest.mark.parametrize("state", ["records", "gathered", "closed", "freeze"])
def test_nothing_of_the_person_remains(build, tmp_path, state):
    cohort = build(3)
    url = cohort.url
    mask = Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    for row in (0, 1):
        write_made(url, row, "mt_mask", mask)
    if state == "gathered":
        gather(url)
    if state in ("closed", "freeze"):
        finalise(url, tabulate=lambda: tabulate(cohort))
    if state == "freeze":
        compact(url, str(tmp_path / "freeze.zarr"))
        url = str(tmp_path / "freeze.zarr")
    neighbours = {row: everything(url, row) for row in (0, 2)}
    assert len(everything(url, 1)) > (5 if state == "records" else 10)
    remaining = withdraw(url, 1)
    assert everything(url, 1) == {}
    for row, before in neighbours.items():
        after = everything(url, row)
        assert after.keys() == before.keys()
        assert all(np.array_equal(after[p], before[p], equal_nan=before[p].dtype.kind == "f") for p in before)
    assert any("backups" in line for line in remaining)
    assert any("copies made by compact" in line for line in remaining)
    assert {e.subject for e in read_entries(url)} == {0, 2}
    assert json.loads(layout.store_attributes(url).get("science") or "{}").get(MTR, [{"rows": 2}])[0]["rows"] == 2
    if state != "freeze":
        files = [f for f in tmp_path.rglob("*") if f.is_file()]
        assert not any(b"sub-001" in f.read_bytes() for f in files)
        made = list(local_path(ledger_url(url)).rglob("*.nii.gz"))
        assert [f.parent.name for f in made] == ["000000"]
    assert verify(url) == []


def test_tables_of_the_others_stay_good(build):
    cohort = build(70)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    before = stored_digests(layout.open_root(cohort.url), TABLE)
    withdraw(cohort.url, 3)
    after = stored_digests(layout.open_root(cohort.url), TABLE)
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert tabulate(cohort) == []
    assert verify(cohort.url) == []


def test_tables_that_were_old_stay_old(build):
    cohort = build(70)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    cohort.mtr(4, key="other")
    withdraw(cohort.url, 3)
    assert tabulate(cohort) == [0]


def test_a_withdrawn_row_does_not_count_as_missing_and_is_never_reused(build):
    cohort = build(3)
    withdraw(cohort.url, 1)
    finalise(cohort.url)
    stages = xr.open_zarr(cohort.url, group="stages").status.values.tolist()
    assert stages == [[1, 1], [0, 0], [1, 1]]
    cohort.init(4)
    names = xr.open_zarr(cohort.url, group="subjects", consolidated=False).participant_id.values.tolist()
    assert names == ["sub-000", "", "sub-002", "sub-001", "sub-003"]
    assert subjects(cohort.url)["state"].tolist() == ["in the study", "withdrawn", "in the study", "in the study", "in the study"]
    assert find_rows(cohort.url, "sub-001") == [3]


def test_one_of_two_sessions(cohort):
    cohort.init(pd.DataFrame({"participant_id": ["a", "a"], "session_id": ["1", "2"]}))
    withdraw(cohort.url, find_rows(cohort.url, "a", "2")[0])
    assert find_rows(cohort.url, "a") == [0]


def test_remains_of_a_crashed_write_go_too(build):
    url = build(1).url
    remains = local_path(url) / "maps" / "mtr" / "c" / "0" / "0#1"
    remains.write_bytes(b"half a map")
    withdraw(url, 0)
    assert not remains.exists()


@pytest.mark.parametrize("step", ["delete_subject", "erase_tables", "remove_leftovers", "describe"])
@pytest.mark.parametrize("after", [False, True])
def test_an_erasure_cut_short_can_be_done_again(build, monkeypatch, step, after):
    cohort = build(2)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    real = getattr(withdrawal, step)

    def crash(*args):
        if after:
            real(*args)
        raise OSError(5, "io")

    with monkeypatch.context() as patch:
        patch.setattr(withdrawal, step, crash)
        with pytest.raises(Exception, match="run again"):
            withdraw(cohort.url, 0)
    withdraw(cohort.url, 0)
    assert everything(cohort.url, 0) == {}
    assert [p for p in verify(cohort.url) if "other maps" not in p.message] == []


def test_no_erasure_while_a_build_runs(build):
    from concurrent.futures import ThreadPoolExecutor

    url = build(1).url
    with lease(url, "build"), ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match='does "build" since'):
        pool.submit(withdraw, url, 0).result()
    assert len(everything(url, 0)) > 5


def test_withdraw_of_a_row_that_is_not_there(build):
    with pytest.raises(StoreError, match="a row from 0 to 0"):
        withdraw(build(1).url, 1)
