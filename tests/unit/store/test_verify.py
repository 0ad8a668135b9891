"""A whole store read again: what is damaged, lost, out of range or not as recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zarr

from cohort_engine.errors import StoreError
from cohort_engine.io.places import ledger_url, local_path
from cohort_engine.store import layout
from cohort_engine.store.maintenance import finalise, gather
from cohort_engine.store.records import pack, write_block, write_record
from cohort_engine.store.records import read_block as read_entry_block
from cohort_engine.store.verify import Problem, verify
from cohort_engine.store.withdrawal import withdraw
from cohort_engine.store.writer import write_block as write_table

from .conftest import FIT, MTR, TABLE
from .test_maintenance import tabulate

NAN = float("nan")


def said(cohort, **options):
    return sorted(str(p) for p in verify(cohort.url, **options))


def files(cohort, path):
    return sorted(f for f in (local_path(cohort.url) / path / "c").rglob("*") if f.is_file())


@pytest.fixture
def whole(build):
    """Three subjects, gathered and tabulated, closed."""
    cohort = build(3)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))
    return cohort


def test_a_sound_store_has_no_problem_open_gathered_or_closed(build):
    cohort = build(3, done=[0, 2])
    assert said(cohort) == []
    gather(cohort.url)
    assert said(cohort) == []
    finalise(cohort.url, tabulate=lambda: tabulate(cohort), allow_missing=True)
    assert said(cohort) == []


def test_no_store_at_all_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        verify(str(tmp_path / "none.zarr"))


# --- bytes ------------------------------------------------------------------------------------------------------------
def every_chunk():
    """Return (array, part) of everything that a closed store has chunks of."""
    return [
        "maps/mtr", "fit/mt", "qc/mt_dice", "qc/mtr_cord_median", "profiles/area", "profiles/z", "profiles/z_level", "tables/native/mtr_wa",
        "tables/native/level", "tables/native/region", TABLE, f"{TABLE}_n", "tables/template/level", "tables/template/region",
        *(f"subjects/{c}" for c in ("participant_id", "session_id", "age", "site", "left")),
        *(f"stages/{c}" for c in ("stage", "status", "key", "recipe", "seconds", "peak_memory")),
        *(f"voxels/{c}" for c in ("i", "j", "k", "x_mm", "y_mm", "z_mm", "voxel_level")),
        *(f"atlas/{c}" for c in ("indptr", "indices", "weight", "label_name")),
        "subject", "voxel", "level", "region", "participant_id", "session_id",
    ]  # fmt: skip


def test_nothing_is_left_out_of_the_list_of_what_can_be_damaged(whole):
    assert set(every_chunk()) == set(layout.arrays(layout.open_root(whole.url)))


@pytest.mark.parametrize("change", ["flip", "lose"])
def test_a_flipped_bit_and_a_lost_chunk_are_found_in_every_array(whole, change):
    """Before: a deleted chunk of subjects/group was "everybody is in group ''", and names of levels were never read."""
    for path in every_chunk():
        chunk = files(whole, path)[0]
        data = chunk.read_bytes()
        if change == "flip":
            chunk.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        else:
            chunk.unlink()
    words = {"flip": "cannot be read", "lose": " lost"}[change]
    assert {p.path for p in verify(whole.url) if words in p.message} >= set(every_chunk())


def test_a_lost_column_is_said_to_be_lost(whole):
    files(whole, "subjects/site")[0].unlink()
    assert said(whole) == ["subjects/site: the chunk of rows 0 to 2 is lost"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "noise"])
@pytest.mark.parametrize("path", ["maps/mtr", "fit/mt"])
def test_a_damaged_chunk_is_found_by_its_checksum(whole, damage, path):
    chunk = files(whole, path)[1]
    data = bytearray(chunk.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    chunk.write_bytes({"truncate": bytes(data[:middle]), "flip": bytes(data), "empty": b"", "noise": b"noise"}[damage])
    assert [(p.path, p.row) for p in verify(whole.url)] == [(path, 1)]


def test_a_damaged_record_and_a_damaged_block_of_entries(build):
    cohort = build(2)
    record = local_path(ledger_url(cohort.url)) / "records" / "000001-mtr.record"
    record.write_bytes(record.read_bytes()[:-1])
    assert said(cohort) == [
        "ledger, subject 1: the record of stage mtr is not readable and counts as absent",
        "maps/mtr, subject 1: holds data although stage mtr is not_run",
    ]
    cohort.mtr(1)
    gather(cohort.url)
    block = local_path(ledger_url(cohort.url)) / "entries" / "000000.block"
    block.write_bytes(block.read_bytes()[:-1])
    assert said(cohort) == [
        "ledger: ledger, rows 0 to 255: expected the entries of a block of subjects, found a damaged object. "
        'Bring "entries/000000.block" back from a backup of the ledger, or delete it: the stages of these subjects then run again.'
    ]


# --- values -----------------------------------------------------------------------------------------------------------
def raw(cohort, path, row, values):
    """Write past the checks."""
    zarr.open_group(cohort.url, mode="r+", use_consolidated=False)[path][row] = values


def test_values_out_of_range_are_counted(whole):
    voxels = len(whole.template.packing)
    mtr = np.full(voxels, 40.0)
    mtr[:5] = [101, -101, np.inf, -np.inf, NAN]
    fit = np.ones((voxels, 3))
    fit[0, 0] = np.inf
    raw(whole, "maps/mtr", 1, mtr)
    raw(whole, "fit/mt", 1, fit)
    raw(whole, f"{TABLE}_n", 0, -1.0)
    raw(whole, "qc/mt_dice", 2, 1.5)
    assert said(whole) == [
        "fit/mt, subject 1: 1 values outside [-inf, inf]",
        "maps/mtr, subject 1: 4 values outside [-100, 100]",
        "qc/mt_dice, subject 2: 1 values outside [0, 1]",
        f"{TABLE}_n, subject 0: 86 values outside [0, inf]",
    ]


def test_a_record_that_is_not_gathered_is_checked_too(build):
    cohort = build(1)
    write_record(cohort.url, cohort.entry(0, FIT), {"qc/mt_dice": np.float32(2.0), "qc/mtr_cord_median": np.float32(1)})
    write_record(cohort.url, cohort.entry(0, MTR), {"profiles/area": np.array([1.0])})
    assert said(cohort) == [
        "profiles/area, subject 0: the record of stage mtr does not fit the store",
        "qc/mt_dice, subject 0: 1 values outside [0, 1]",
        "qc/mtr_cord_median, subject 0: the record of stage fit_mt does not fit the store",
    ]


def test_done_without_a_chunk_and_data_without_done(build):
    cohort = build(4, done=[0, 2])
    gather(cohort.url)
    files(cohort, "maps/mtr")[0].unlink()
    raw(cohort, "maps/mtr", 3, 1.0)
    raw(cohort, "qc/mtr_cord_median", 1, 5.0)
    assert said(cohort) == [
        "maps/mtr, subject 0: the chunk is lost",
        "maps/mtr, subject 3: holds data although stage mtr is not_run",
        "qc/mtr_cord_median, subject 1: holds data although stage mtr is not_run",
    ]


def test_an_image_that_shows_nothing_of_the_cord_is_no_problem(build):
    cohort = build(2)
    cohort.mtr(1, NAN)
    finalise(cohort.url)
    assert said(cohort) == []


# --- ledger -----------------------------------------------------------------------------------------------------------
def test_entries_of_rows_that_are_not_there(whole):
    write_record(whole.url, dataclasses.replace(whole.entry(0, MTR), subject=7))
    assert said(whole) == [
        "ledger, subject 7: stage mtr of a row the store does not have",
        "ledger: 1 records are not gathered although the store is closed: finalise again",
    ]


def test_a_ledger_that_went_on_after_closing(whole):
    entries = read_entry_block(whole.url, 0)
    write_block(whole.url, 0, [dataclasses.replace(e, key="new") if (e.subject, e.stage) == (1, FIT) else e for e in entries])
    old = whole.entry(1, FIT).key
    assert said(whole) == [f"stages, subject 1: fit_mt is done {old}, the ledger says done new: finalise again"]


def test_a_record_of_another_subject_under_a_name_is_broken(build):
    cohort = build(2)
    (local_path(ledger_url(cohort.url)) / "records" / "000001-mtr.record").write_bytes(pack(cohort.entry(0, MTR)))
    assert "ledger, subject 1: the record of stage mtr is not readable and counts as absent" in said(cohort)


# --- layout -----------------------------------------------------------------------------------------------------------
def test_missing_and_changed_arrays_are_named(build):
    cohort = build(1)
    root = zarr.open_group(cohort.url, mode="r+", use_consolidated=False)
    del root["qc/mtr_cord_median"]
    root["maps/mtr"].update_attributes({"long_name": "something else"})
    root["qc"].create_array("mt_dice", shape=(1,), chunks=(1,), dtype="float64", fill_value=0.0, dimension_names=("subject",), overwrite=True)
    root["profiles/area"].resize((2, 16))
    text = "\n".join(said(cohort))
    assert "qc/mtr_cord_median: missing" in text
    assert "maps/mtr: attribute long_name: expected MTR, found something else" in text
    assert "qc/mt_dice: dtype: expected float32, found float64" in text
    assert "qc/mt_dice: fill: expected True, found False" in text
    assert "qc/mt_dice: chunks: expected (1024,), found (1,)" in text
    assert "profiles/area: shape: expected (1, 16), found (2, 16)" in text


def test_a_changed_atlas_or_voxel_axis_is_noticed(build):
    cohort = build(1)
    root = zarr.open_group(cohort.url, mode="r+", use_consolidated=False)
    root["atlas/weight"][0] = 0.123
    root["voxels/i"][0] = 99
    assert [p.path for p in verify(cohort.url)] == ["atlas", "voxels"]
    assert "the stored arrays are not those of the template" in said(cohort)[0]


def test_rows_and_names_that_are_not_those_of_the_columns(build):
    cohort = build(2)
    root = zarr.open_group(cohort.url, mode="r+", use_consolidated=False)
    root["subject"][1] = 0
    root["participant_id"][0] = "sub-009"
    assert said(cohort) == ["participant_id, subject 0: is not that of subjects/participant_id", "subject, subject 1: is not its row"]


def test_unreadable_specifications_are_a_problem(build):
    cohort = build(1)
    zarr.open_group(cohort.url, mode="r+", use_consolidated=False).update_attributes({"specs": "[{]"})
    assert "store: the stored specifications cannot be read" in said(cohort)


# --- tables, people ---------------------------------------------------------------------------------------------------
def test_deep_makes_the_tables_again_and_compares(build):
    cohort = build(70)
    finalise(cohort.url, tabulate=lambda: tabulate(cohort))

    def again(first):
        rows = min(64, 70 - first)
        return {p: np.stack([v] * rows).astype(np.float32) for p, v in cohort.table().items()}

    assert said(cohort, deep=again) == []
    write_table(cohort.url, 64, {TABLE: np.stack([cohort.table(1.01)[TABLE]] + [cohort.table(1.0)[TABLE]] * 5)})
    assert said(cohort, deep=again) == [f"{TABLE}, subject 64: is not what its map gives"]
    assert said(cohort) == []


def test_what_comes_back_to_a_withdrawn_row_is_reported(whole):
    withdraw(whole.url, 0)
    raw(whole, "qc/mt_dice", 0, 0.5)
    raw(whole, "subjects/site", 0, "x")
    assert said(whole) == [
        "qc/mt_dice, subject 0: holds data although the person withdrew",
        "subjects/site, subject 0: holds data although the person withdrew",
    ]


def test_what_a_withdrawal_leaves_is_empty_whatever_empty_is(whole):
    flags = zarr.open_group(whole.url).create_array("qc/flag", shape=(3,), chunks=(1,), dtype="int8", fill_value=-1, dimension_names=("subject",))
    flags[:] = 2
    withdraw(whole.url, 0)
    assert np.asarray(flags[:]).tolist() == [-1, 2, 2]
    tables = {TABLE: np.nan_to_num(np.asarray(zarr.open_group(whole.url)[TABLE][:3]))}
    assert [p for p in said(whole, deep=lambda first: tables) if "subject 0" in p] == []


def test_problems_are_plain_records():
    assert dataclasses.asdict(Problem("store", "m")) == {"path": "store", "message": "m", "row": None}
