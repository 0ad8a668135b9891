"""Tables of an analysis inside a store: whole or absent, without a name of anybody."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import zarr

from cohort_engine import schema
from cohort_engine.errors import StorageError, StoreError, UnknownNameError
from cohort_engine.store import analysis_tables, layout
from cohort_engine.store.analysis_tables import read_table, read_tables, write_tables
from cohort_engine.store.freeze import compact
from cohort_engine.store.maintenance import finalise
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw

GROUPS = pd.DataFrame({
    "metric": ["mtr", "area"], "n": np.array([3, 4]), "effect": [-1.25, np.nan], "found": [True, False], "note": ["", "weiß, größer"],
})  # fmt: skip
PEOPLE = pd.DataFrame({"subject": [0, 1], "participant_id": ["sub-secret", "sub-other"], "session_id": ["", ""], "cluster": [1, 0]})
EMPTY = pd.DataFrame({"quantity": pd.Series([], dtype=object), "n": pd.Series([], dtype=float)})


@pytest.fixture
def cohort3(build):
    cohort = build(3)
    finalise(cohort.url)
    return cohort


@pytest.fixture
def store(cohort3) -> str:
    return cohort3.url


def test_what_is_written_is_read(store) -> None:
    write_tables(store, {"groups": GROUPS, "quality": EMPTY}, {"about": "x", "problems": {"roc": "why"}})
    found, attributes = read_tables(store)
    assert attributes == {"about": "x", "problems": {"roc": "why"}}
    pd.testing.assert_frame_equal(found["groups"], GROUPS, check_dtype=False)
    assert [found["groups"][c].dtype.kind for c in GROUPS] == ["O", "i", "f", "b", "O"]
    assert (list(found["quality"]), len(found["quality"])) == (["quantity", "n"], 0)
    pd.testing.assert_frame_equal(read_table(store, "groups"), found["groups"])
    with pytest.raises(UnknownNameError, match="groups"):
        read_table(store, "group")


def test_a_new_analysis_replaces_the_old_one(store) -> None:
    write_tables(store, {"groups": GROUPS, "quality": EMPTY}, {"made": 1})
    write_tables(store, {"groups": GROUPS.iloc[:1]}, {})
    found, attributes = read_tables(store)
    assert (list(found), len(found["groups"]), attributes) == (["groups"], 1, {})


def test_no_analysis_is_no_table(store) -> None:
    assert read_tables(store) == ({}, {})
    with pytest.raises(UnknownNameError):
        read_table(store, "groups")


def test_names_of_people_never_enter(store, tmp_path) -> None:
    write_tables(store, {"clusters": PEOPLE}, {})
    assert list(read_table(store, "clusters")) == ["subject", "cluster"]
    inside = b"".join(p.read_bytes() for p in (tmp_path / "store.zarr" / schema.ANALYSIS).rglob("*") if p.is_file())
    assert b"secret" not in inside
    assert schema.PARTICIPANT.encode() not in inside


def test_a_writing_that_was_cut_short_is_no_analysis(store, monkeypatch) -> None:
    write_tables(store, {"groups": GROUPS}, {})
    write = analysis_tables._write

    def fail(group, name, column, dim) -> None:
        if name == "effect":
            raise OSError("disk full")
        write(group, name, column, dim)

    monkeypatch.setattr(analysis_tables, "_write", fail)
    with pytest.raises(StorageError, match="analysis"):
        write_tables(store, {"groups": GROUPS}, {})
    assert read_tables(store) == ({}, {})
    monkeypatch.undo()
    write_tables(store, {"groups": GROUPS}, {})
    assert list(read_tables(store)[0]) == ["groups"]


def test_a_store_with_an_analysis_verifies_and_its_metadata_is_fresh(store) -> None:
    write_tables(store, {"groups": GROUPS, "clusters": PEOPLE}, {})
    assert verify(store) == []
    group = zarr.open_group(store, mode="r", use_consolidated=True)
    assert f"{schema.ANALYSIS}/groups/effect" in dict(group.members(max_depth=None))


def test_who_withdraws_takes_the_analysis_along(store) -> None:
    write_tables(store, {"clusters": PEOPLE}, {})
    withdraw(store, 1)
    assert read_tables(store) == ({}, {})
    assert schema.ANALYSIS not in layout.open_root(store)
    assert verify(store) == []


def test_a_freeze_keeps_the_analysis(store, tmp_path) -> None:
    write_tables(store, {"groups": GROUPS}, {"about": "x"})
    freeze = str(tmp_path / "freeze.zarr")
    compact(store, freeze)
    found, attributes = read_tables(freeze)
    pd.testing.assert_frame_equal(found["groups"], GROUPS, check_dtype=False)
    assert attributes == {"about": "x"}
    assert verify(freeze) == []


def test_there_must_be_a_store(tmp_path) -> None:
    with pytest.raises(StoreError):
        write_tables(str(tmp_path / "nothing.zarr"), {"groups": GROUPS}, {})


@pytest.mark.parametrize("change", ["settings", "result", "column", "left", "gathered result"])
def test_an_analysis_of_a_store_that_moved_on_is_not_read(cohort3, change) -> None:
    """Before: figures and tables of another cohort, with nothing to tell."""
    write_tables(cohort3.url, {"groups": GROUPS}, {"about": "x"})
    table = pd.DataFrame({"participant_id": ["sub-000", "sub-001", "sub-002"], "session_id": "01", "age": 50.0, "site": "x"})
    if change == "settings":
        cohort3.init(table, low_signal=0.2)
    elif change == "column":
        cohort3.init(table.assign(site="y"))
    elif change == "left":
        cohort3.init(table.iloc[:2])
    else:
        cohort3.mtr(1, key="other")
        if change == "gathered result":
            finalise(cohort3.url)
    with pytest.raises(StoreError, match=r'found one from before the store changed\. Run "cohort-engine analyse" again'):
        read_tables(cohort3.url)
    found, attributes = read_tables(cohort3.url, stale=True)
    assert (list(found), attributes) == (["groups"], {"about": "x"})


def test_an_analysis_is_read_as_long_as_nothing_changed(cohort3) -> None:
    write_tables(cohort3.url, {"groups": GROUPS}, {})
    table = pd.DataFrame({"participant_id": ["sub-000", "sub-001", "sub-002"], "session_id": "01", "age": 50.0, "site": "x"})
    cohort3.init(table)
    finalise(cohort3.url)
    assert list(read_tables(cohort3.url)[0]) == ["groups"]


def test_a_damaged_table_is_a_storage_error_with_its_name(store, tmp_path) -> None:
    write_tables(store, {"groups": GROUPS}, {})
    (tmp_path / "store.zarr" / "analysis" / "groups" / "effect" / "c" / "0").write_bytes(b"noise")
    with pytest.raises(StorageError, match="analysis/groups/effect: expected chunks that decode"):
        read_tables(store)
