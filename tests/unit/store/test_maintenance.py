"""Closing, checking, freezing and erasing a store."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from cohort_engine import schema
from cohort_engine.errors import IncompleteError, StoreError
from cohort_engine.io.places import ledger_url, local_path, object_store
from cohort_engine.store import layout, maintenance
from cohort_engine.store.ledger import LedgerEntry, read_ledger, write_entry
from cohort_engine.store.maintenance import Problem, compact, finalise, verify, withdraw
from cohort_engine.store.writer import init_store, read_subject, write_block, write_subject

FIT, MTR = "fit_mt", "mtr"
NAN = float("nan")


@pytest.fixture
def build(make_store, small_template):
    """Lay out n subjects with covariates and bring `done` of them to the end, row r having an MTR of r everywhere."""

    def call(n=3, done=None, url=""):
        people = pd.DataFrame({"participant_id": [f"sub-{i:03d}" for i in range(n)], "session_id": "01", "age": 50.0, "site": "x"})
        url = make_store(people, url=url)
        for row in range(n) if done is None else done:
            run(url, row)
        return url

    def run(url, row, value=None):
        voxels = len(small_template.packing)
        arrays = {"fit/mt": np.full((voxels, 3), 1.0), "qc/mt_dice": 0.9, "qc/mt_cord_coverage": 1.0}
        arrays |= {"maps/mtr": np.full(voxels, row if value is None else value), "qc/mtr_cord_median": 0.0}
        write_subject(url, row, arrays, template_digest=small_template.digest)
        for stage in (FIT, MTR):
            write_entry(url, LedgerEntry(row, stage, schema.DONE, f"key{row}", seconds=2.0, peak_memory=300.0))

    call.run = run
    return call


def group(url, name, **options):
    return xr.open_zarr(url, group=name, zarr_format=3, **options).load()


# --- finalise ---------------------------------------------------------------------------------------------------------
def test_the_ledger_goes_into_the_store(build):
    url = build(2)
    write_entry(url, LedgerEntry(1, MTR, schema.DONE, "other", seconds=7.0, peak_memory=100.0))
    finalise(url)
    stages = group(url, "stages")
    assert stages.stage.values.tolist() == [FIT, MTR]
    assert stages.status.values.tolist() == [[1, 1], [1, 1]]
    assert stages.seconds.values.tolist() == [[2, 2], [2, 7]]
    assert stages.key.values.tolist() == [["key0", "key0"], ["key1", "other"]]
    assert stages.status.attrs["flag_meanings"] == "not_run done failed missing_input not_needed"
    assert layout.store_attributes(url)["finalised"].endswith("+00:00")


def test_xarray_opens_a_closed_store_by_its_consolidated_metadata(build):
    url = build()
    with pytest.raises(RuntimeWarning, match="consolidated"):
        group(url, "maps")
    assert group(url, "maps", consolidated=False).sizes["subject"] == 3
    finalise(url)
    assert group(url, "maps").mtr.mean("voxel").values.tolist() == [0, 1, 2]
    assert group(url, "tables/template", consolidated=False).level.values.tolist() == ["C2", "C3"]


def test_a_store_with_gaps_does_not_close_and_says_who_is_missing(build):
    url = build(60, done=range(0, 60, 2))
    write_entry(url, LedgerEntry(1, FIT, schema.FAILED, "k"))
    write_entry(url, LedgerEntry(3, FIT, schema.MISSING, "k"))
    with pytest.raises(IncompleteError) as caught:
        finalise(url, (FIT,))
    rows = ", ".join(map(str, range(1, 40, 2)))
    assert caught.value.found == f"fit_mt: 30 of 60 subjects (28 not_run, 1 failed, 1 missing_input): {rows} ..."
    assert "retry" in caught.value.remedy
    finalise(url, (FIT,), allow_missing=True)
    assert group(url, "stages").status.values[:4, 0].tolist() == [1, 2, 1, 3]


def test_an_append_opens_the_store_again(build):
    url = build(2)
    finalise(url)
    build(3, done=[], url=url)
    assert layout.store_attributes(url)["finalised"] == ""
    assert group(url, "maps", consolidated=False).sizes["subject"] == 3
    with pytest.raises(RuntimeWarning, match="consolidated"):
        group(url, "maps")
    with pytest.raises(IncompleteError, match="1 of 3"):
        finalise(url)
    build.run(url, 2)
    finalise(url)
    assert verify(url) == []


def test_closing_twice_is_harmless(build):
    url = build(2)
    finalise(url)
    finalise(url)
    assert verify(url) == []


# --- verify -----------------------------------------------------------------------------------------------------------
def said(url):
    return [str(p) for p in verify(url)]


def test_a_sound_store_has_no_problem_open_or_closed(build):
    url = build(3, done=[0, 2])
    assert said(url) == []
    finalise(url, allow_missing=True)
    assert said(url) == []


def test_no_store_at_all_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        verify(str(tmp_path / "none.zarr"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "noise"])
@pytest.mark.parametrize("path", ["maps/mtr", "fit/mt"])
def test_a_damaged_chunk_is_found_by_its_checksum(build, damage, path):
    url = build()
    chunk = next(f for f in (local_path(url) / path / "c" / "1").rglob("*") if f.is_file())
    data = bytearray(chunk.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    chunk.write_bytes({"truncate": bytes(data[:middle]), "flip": bytes(data), "empty": b"", "noise": b"noise"}[damage])
    assert [(p.path, p.row) for p in verify(url)] == [(path, 1)]


def test_a_damaged_column_and_a_damaged_table_are_found(build):
    url = build()
    write_block(url, 0, {"tables/template/mtr_wa": np.ones((3, 2, 43))})
    for path in ("tables/template/mtr_wa", "subjects/age"):
        next(f for f in (local_path(url) / path / "c").rglob("*") if f.is_file()).write_bytes(b"noise")
    assert {(p.path, p.row) for p in verify(url)} == {("tables/template/mtr_wa", 0), ("subjects/age", 0)}
    assert any("rows 0 to 2" in text for text in said(url))


def test_unreadable_names_do_not_stop_the_check(build):
    url = build()
    (local_path(url) / "subjects" / "participant_id" / "c" / "0").write_bytes(b"noise")
    assert "subjects/participant_id" in {p.path for p in verify(url)}


def test_values_out_of_range_are_counted(build, small_template):
    url = build()
    mtr = np.full(len(small_template.packing), 40.0)
    mtr[:5] = [101, -101, np.inf, -np.inf, NAN]
    fit = np.ones((len(mtr), 3))
    fit[0, 0] = np.inf
    write_subject(url, 1, {"maps/mtr": mtr, "fit/mt": fit}, template_digest=small_template.digest)
    write_block(url, 0, {"tables/template/mtr_wa_n": np.full((3, 2, 43), -1.0)})
    assert "maps/mtr, subject 1: 4 values outside [-100, 100]" in said(url)
    assert "fit/mt, subject 1: 1 values outside [-inf, inf]" in said(url)
    assert "tables/template/mtr_wa_n, subject 0: 86 values outside [0, inf]" in said(url)


def test_done_without_data_and_data_without_done(build, small_template):
    url = build(4, done=[0, 2])
    empty = np.full(len(small_template.packing), NAN)
    write_subject(url, 0, {"maps/mtr": empty}, template_digest=small_template.digest)
    write_subject(url, 1, {"maps/mtr": empty + 1, "qc/mt_dice": 0.5}, template_digest=small_template.digest)
    write_subject(url, 3, {"maps/mtr": np.ones_like(empty)}, template_digest=small_template.digest)
    write_subject(url, 2, {"maps/mtr": empty, "qc/mt_cord_coverage": 0.0}, template_digest=small_template.digest)
    write_entry(url, LedgerEntry(3, MTR, schema.FAILED, "k"))
    assert said(url) == ["maps/mtr, subject 0: no data although stage mtr is done", "maps/mtr, subject 3: holds data although stage mtr is failed"]


def test_a_broken_or_foreign_ledger_entry(build):
    url = build(2)
    (local_path(ledger_url(url)) / "000001" / "mtr.json").write_text("{")
    write_entry(url, LedgerEntry(7, MTR, schema.DONE, "k"))
    assert said(url) == [
        "ledger, subject 1: the entry of stage mtr is not readable and counts as absent",
        "ledger, subject 7: stage mtr of a row the store does not have",
        "maps/mtr, subject 1: holds data although stage mtr is not_run",
    ]


def test_a_ledger_that_went_on_after_closing(build):
    url = build(2)
    finalise(url)
    write_entry(url, LedgerEntry(1, MTR, schema.DONE, "new"))
    assert said(url) == ["stages, subject 1: mtr is done key1, the ledger says done new: finalise again"]


def test_missing_and_changed_arrays_are_named(build):
    url = build(1)
    root = zarr.open_group(url, mode="r+", use_consolidated=False)
    del root["qc/mtr_flagged_fraction"]
    root["maps/mtr"].update_attributes({"long_name": "something else"})
    root["qc"].create_array("mt_dice", shape=(1,), chunks=(1,), dtype="float64", fill_value=0.0, dimension_names=("subject",), overwrite=True)
    root["qc/mt_jacobian_min"].resize((2,))
    text = "\n".join(said(url))
    assert "qc/mtr_flagged_fraction: missing" in text
    assert "maps/mtr: attributes: expected {}, found {'long_name': 'magnetization transfer ratio'}" in text
    assert "qc/mt_dice: dtype: expected float32, found float64" in text
    assert "qc/mt_dice: fill: expected True, found False" in text
    assert "qc/mt_jacobian_min: shape: expected (1,), found (2,)" in text


def test_a_changed_atlas_or_voxel_axis_is_noticed(build):
    url = build(1)
    root = zarr.open_group(url, mode="r+", use_consolidated=False)
    root["atlas/weight"][0] = 0.123
    root["voxels/i"][0] = 99
    assert [p.path for p in verify(url)] == ["atlas", "voxels"]
    assert "the stored arrays are not those of the template" in said(url)[0]


def test_an_unreadable_configuration_is_a_problem(build):
    url = build(1)
    zarr.open_group(url, mode="r+", use_consolidated=False).update_attributes({"science": json.dumps({"stages": {"metrics": ["mt_new"]}})})
    assert "the stored configuration cannot be read" in said(url)[0]


# --- compact ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def few_in_a_shard(monkeypatch):
    monkeypatch.setattr(maintenance, "SHARD", 4)


def test_a_freeze_holds_the_same_in_fewer_files(build, tmp_path, few_in_a_shard):
    url, out = build(10, done=[0, 3, 4, 9]), str(tmp_path / "freeze.zarr")
    finalise(url, allow_missing=True)
    compact(url, out)
    for name in ("subjects", "voxels", "atlas", "maps", "fit", "tables/template", "qc", "stages"):
        xr.testing.assert_identical(group(url, name), group(out, name))
    assert len([f for f in (tmp_path / "freeze.zarr" / "maps" / "mtr" / "c").rglob("*") if f.is_file()]) == 3
    assert layout.stored_atlas(out).digest == layout.stored_atlas(url).digest
    assert verify(out) == []


def test_a_freeze_does_not_depend_on_the_blocks_it_was_copied_in(build, tmp_path, few_in_a_shard, monkeypatch):
    url, data = build(10, done=[0, 3, 4, 6, 9]), []
    finalise(url, allow_missing=True)
    for name, size in (("whole", maintenance.BLOCK_BYTES), ("rows", 1)):
        monkeypatch.setattr(maintenance, "BLOCK_BYTES", size)
        compact(url, str(tmp_path / name))
        data.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file() and p.name != "zarr.json"})
    assert data[0] == data[1]
    assert len(data[0]) > 20


def test_a_freeze_is_for_reading(build, tmp_path, small_template, make_config):
    url, out = build(1), str(tmp_path / "freeze.zarr")
    finalise(url)
    compact(url, out)
    with pytest.raises(StoreError, match="a freeze made by compact"):
        write_subject(out, 0, {"qc/mt_dice": 1.0}, template_digest=small_template.digest)
    with pytest.raises(StoreError, match="a freeze made by compact"):
        init_store(out, template=small_template, config=make_config(), subjects=pd.DataFrame({"participant_id": ["x"]}))
    with pytest.raises(StoreError, match="a freeze made by compact"):
        finalise(out)
    with pytest.raises(StoreError, match="expected an empty place for the freeze"):
        compact(url, out)


def test_an_open_store_is_not_frozen(build, tmp_path):
    with pytest.raises(IncompleteError, match="finalise"):
        compact(build(1), str(tmp_path / "freeze.zarr"))
    assert not (tmp_path / "freeze.zarr").exists()


def test_a_freeze_cut_short_is_no_store_and_the_next_try_replaces_it(build, tmp_path, monkeypatch):
    url, out = build(2), str(tmp_path / "freeze.zarr")
    finalise(url)
    with monkeypatch.context() as patch:
        patch.setattr(maintenance, "_same", lambda a, b: False)
        with pytest.raises(StoreError, match="expected an equal copy"):
            compact(url, out)
    with pytest.raises(StoreError, match="cut short"):
        layout.open_root(out)
    compact(url, out)
    assert verify(out) == []


def test_a_damaged_chunk_in_a_freeze_is_found(build, tmp_path, few_in_a_shard):
    url, out = build(5), str(tmp_path / "freeze.zarr")
    finalise(url)
    compact(url, out)
    shard = tmp_path / "freeze.zarr" / "maps" / "mtr" / "c" / "1" / "0"
    data = bytearray(shard.read_bytes())
    data[4] ^= 1
    shard.write_bytes(bytes(data))
    assert [(p.path, p.row) for p in verify(out)] == [("maps/mtr", 4)]


# --- withdraw ---------------------------------------------------------------------------------------------------------
def everything(url, row):
    """Return all values at a row that are not fill."""
    found = {}
    for path, array in layout.subject_arrays(layout.open_root(url)).items():
        value = np.asarray(array[row])
        held = ~np.isnan(value) if value.dtype.kind == "f" else value.astype(bool)
        if held.any():
            found[path] = value
    return found


@pytest.mark.parametrize("freeze", [False, True])
def test_nothing_of_the_person_remains(build, tmp_path, freeze):
    url = build(3)
    write_block(url, 0, {"tables/template/mtr_wa": np.ones((3, 2, 43))})
    finalise(url)
    if freeze:
        compact(url, str(tmp_path / "freeze.zarr"))
        url = str(tmp_path / "freeze.zarr")
    neighbours = {row: everything(url, row) for row in (0, 2)}
    assert len(everything(url, 1)) > 10
    remaining = withdraw(url, 1)
    assert everything(url, 1) == {}
    for row, before in neighbours.items():
        after = everything(url, row)
        assert after.keys() == before.keys()
        assert all(np.array_equal(after[p], before[p], equal_nan=before[p].dtype.kind == "f") for p in before)
    assert any("backups" in line for line in remaining)
    assert any("freezes" in line for line in remaining)
    if not freeze:
        assert [e.subject for e in read_ledger(url)] == [0, 0, 2, 2]
        files = [f for f in tmp_path.rglob("*") if f.is_file()]
        assert not any(b"sub-001" in f.read_bytes() for f in files)
    assert verify(url) == []


def test_a_withdrawn_row_does_not_count_as_missing_and_is_never_reused(build):
    url = build(3)
    withdraw(url, 1)
    finalise(url)
    assert group(url, "stages").status.values.tolist() == [[1, 1], [0, 0], [1, 1]]
    build(4, done=[], url=url)
    assert group(url, "subjects", consolidated=False).participant_id.values.tolist() == ["sub-000", "", "sub-002", "sub-001", "sub-003"]


def test_what_comes_back_to_a_withdrawn_row_is_reported(build, small_template):
    url = build(2)
    withdraw(url, 0)
    write_subject(url, 0, {"qc/mt_dice": 0.5}, template_digest=small_template.digest)
    assert Problem("qc/mt_dice", "holds data although the person withdrew", 0) in verify(url)


def test_remains_of_a_crashed_write_go_too(build):
    url = build(1)
    remains = local_path(url) / "maps" / "mtr" / "c" / "0" / "0#1"
    remains.write_bytes(b"half a map")
    withdraw(url, 0)
    assert not remains.exists()


def test_an_erasure_cut_short_can_be_done_again(build, monkeypatch):
    url = build(1)
    with monkeypatch.context() as patch:
        patch.setattr(maintenance, "remove_leftovers", lambda url: (_ for _ in ()).throw(OSError(5, "io")))
        with pytest.raises(Exception, match="run again"):
            withdraw(url, 0)
    withdraw(url, 0)
    assert everything(url, 0) == {}


def test_withdraw_of_a_row_that_is_not_there(build):
    with pytest.raises(StoreError, match="a row from 0 to 0"):
        withdraw(build(1), 1)


# --- URLs -------------------------------------------------------------------------------------------------------------
def test_the_whole_life_of_a_store_behind_a_url(build, tmp_path):
    url = f"memory:///{tmp_path.name}.zarr"
    build(2, url=url)
    finalise(url)
    assert verify(url) == []
    out = f"memory:///{tmp_path.name}-freeze.zarr"
    compact(url, out)
    assert verify(out) == []
    withdraw(url, 0)
    assert np.isnan(read_subject(url, 0, "maps/mtr")).all()
    assert not any(b"sub-000" in bytes(object_store(url).get(o["path"]).bytes()) for o in object_store(url).list().collect())


def test_problems_are_plain_records():
    assert dataclasses.asdict(Problem("store", "m")) == {"path": "store", "message": "m", "row": None}
