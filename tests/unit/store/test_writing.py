"""Writing whole chunks and records of subjects, and blocks of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import obstore
import pytest

from cohort_engine import schema
from cohort_engine.errors import AlignmentError, StorageError, StoreError, TemplateError, UnknownNameError
from cohort_engine.io.places import ledger_url, local_path, object_store
from cohort_engine.store import layout, writer
from cohort_engine.store.maintenance import gather, states_of
from cohort_engine.store.records import list_ledger, read_entry, read_record
from cohort_engine.store.writer import read_rows, read_subject, write_block, write_subject

from .conftest import FIT, MTR, TABLE, Crash, group

NAN = float("nan")


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def write(build, small_template):
    cohort = build(3, done=[])

    def call(row, stage=MTR, **arrays):
        cohort.write(row, {k.replace("__", "/"): v for k, v in arrays.items()}, stage)

    call.url, call.n, call.cohort = cohort.url, len(small_template.packing), cohort
    return call


def test_a_row_is_written_and_its_neighbours_stay_empty(write):
    fit = np.arange(3.0 * write.n, dtype=np.float32).reshape(-1, 3)
    write(1, FIT, fit__mt=fit, qc__mt_dice=0.9)
    write(1, maps__mtr=np.arange(write.n) % 100)
    for gathered in (False, True):
        np.testing.assert_array_equal(read_subject(write.url, 1, "maps/mtr"), np.arange(write.n, dtype=np.float32) % 100)
        np.testing.assert_array_equal(read_subject(write.url, 1, "fit/mt"), fit)
        np.testing.assert_allclose([read_subject(write.url, r, "qc/mt_dice") for r in range(3)], [NAN, 0.9, NAN])
        assert np.isnan(read_subject(write.url, 0, "maps/mtr")).all()
        assert read_subject(write.url, 1, "maps/mtr").dtype == read_subject(write.url, 1, "qc/mt_dice").dtype == np.float32
        assert np.isnan(read_subject(write.url, 1, "profiles/area")).all()
        if not gathered:
            assert gather(write.url) == 2
    np.testing.assert_allclose(group(write.url, "qc").mt_dice, [NAN, 0.9, NAN])


def test_a_done_row_has_its_chunk_even_if_all_is_nan_and_an_undone_one_has_none(write, tmp_path):
    chunk = tmp_path / "store.zarr" / "maps" / "mtr" / "c" / "1" / "0"
    write(1, maps__mtr=np.full(write.n, NAN))
    assert chunk.exists()
    write.cohort.fail(1, MTR)
    assert not chunk.exists()


def test_what_a_stage_had_before_is_erased_when_it_fails(write):
    for undone in (schema.FAILED, schema.MISSING, schema.NOT_RUN):
        for gathered in (False, True):
            write.cohort.mtr(1)
            if gathered:
                gather(write.url)
            write.cohort.fail(1, MTR, undone)
            for path in ("maps/mtr", "profiles/area", "tables/native/mtr_wa", "qc/mtr_cord_median"):
                assert np.isnan(read_subject(write.url, 1, path)).all()
            gather(write.url)
            assert np.isnan(read_subject(write.url, 1, "profiles/area")).all()
            assert group(write.url, "stages").status.values[1].tolist() == [0, {v: k for k, v in schema.STATUS_CODES.items()}[undone]]


@pytest.mark.parametrize("again", ["done", "failed"])
def test_a_crash_while_a_done_row_is_written_again_leaves_it_to_be_done(write, monkeypatch, again):
    """Planted bug: chunks of the new settings beside the record of the old ones; who goes back to those is told that all is done."""
    write.cohort.run(1)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_record", crash_at(2, writer.write_record))
        with pytest.raises(Crash):
            write.cohort.mtr(1, 50.0) if again == "done" else write.cohort.fail(1, MTR)
    assert read_entry(write.url, 1, MTR).status == schema.NOT_RUN
    assert np.isnan(read_subject(write.url, 1, "profiles/area")).all()
    assert states_of(write.url).of(1, MTR) == schema.TO_DO


def crash_at(call, function):
    count = iter(range(1, 100))

    def wrapped(*args, **kwargs):
        if next(count) == call:
            raise Crash
        return function(*args, **kwargs)

    return wrapped


def test_the_record_comes_after_the_chunks(write, monkeypatch):
    """Planted bug: a record that is written first says that a map is there which a crash has prevented."""
    order = []
    record = writer.write_record
    monkeypatch.setattr(writer, "write_record", lambda *a: (order.append("record"), chunks(), record(*a)))

    def chunks():
        names = [o["path"] for o in obstore.list(object_store(write.url), prefix="maps/mtr/c").collect()]
        order.append(names)

    write(1, maps__mtr=np.zeros(write.n))
    assert order == ["record", ["maps/mtr/c/1/0"]]


def test_nothing_of_a_task_is_an_object_of_its_own_but_record_and_large_arrays(write):
    write.cohort.run(0, 2)
    assert len([f for f in local_path(write.url).glob("maps/mtr/c/**/*") if f.is_file()]) == 2
    assert len([f for f in local_path(write.url).glob("fit/mt/c/**/*") if f.is_file()]) == 2
    assert not list(local_path(write.url).glob("qc/*/c/*"))
    assert len([f for f in local_path(ledger_url(write.url)).rglob("*") if f.is_file()]) == 4


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"maps__mtr": np.zeros(5)}, AlignmentError, r"expected shape \(574,\) for \('voxel',\), found \(5,\)"),
        ({"qc__mtr_cord_median": np.zeros(2)}, AlignmentError, "expected shape"),
        ({"qc__mtr_cord_median": 1j}, StoreError, "expected dtype float32, found complex128"),
        ({"qc__mtr_cord_median": "good"}, StoreError, "expected dtype float32"),
        ({"qc__mtr_cord_median": np.inf}, StoreError, "qc/mtr_cord_median: expected finite values, .* found 1 infinite"),
        ({"maps__mtr": np.full(574, 1e300)}, StoreError, "found 574 infinite"),
        ({"maps__mrt": np.zeros(574)}, UnknownNameError, "Did you mean 'maps/mtr'"),
        ({"subjects__age": 5.0}, UnknownNameError, "expected a known variable"),
        ({"voxels__i": np.zeros(574, "int16")}, StoreError, "expected arrays of stage mtr, found one that no stage writes"),
        ({"qc__mt_dice": 0.5}, StoreError, "expected arrays of stage mtr, found one of stage fit_mt"),
        ({"tables__template__mtr_wa": np.zeros((2, 43))}, StoreError, "found one that no stage writes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(write, arrays, error, message):
    with pytest.raises(error, match=message):
        write(1, **{"maps__mtr": np.zeros(write.n), "profiles__area": np.zeros(16), **arrays})
    assert np.isnan(read_subject(write.url, 1, "maps/mtr")).all()
    assert list_ledger(write.url)[0] == []


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there(write, row):
    with pytest.raises(StoreError, match="expected a row from 0 to 2"):
        write(row, qc__mtr_cord_median=1.0)
    with pytest.raises(StoreError, match="expected a row from 0 to 2"):
        read_subject(write.url, row, "qc/mt_dice")


def test_an_entry_of_another_row_and_arrays_of_a_failure_are_refused(write, small_template):
    for row, status in ((1, schema.DONE), (0, schema.FAILED)):
        with pytest.raises(StoreError, match="stage mtr: expected an entry of row"):
            write_subject(write.url, 0, {"qc/mtr_cord_median": 1.0}, write.cohort.entry(row, MTR, status), template_digest=small_template.digest)


def test_a_stage_that_nobody_asked_for_is_refused(write, small_template):
    entry = dataclasses.replace(write.cohort.entry(0, MTR), stage="mtt")
    with pytest.raises(UnknownNameError, match="Did you mean 'mtr'"):
        write_subject(write.url, 0, {}, entry, template_digest=small_template.digest)


def test_arrays_of_another_template_are_refused(write):
    with pytest.raises(TemplateError, match="hash 0123"):
        write_subject(write.url, 0, {"qc/mt_dice": 1.0}, write.cohort.entry(0, FIT), template_digest="0123")


def test_a_disk_that_cannot_be_written_is_a_storage_error(write, tmp_path):
    chunks = tmp_path / "store.zarr" / "maps" / "mtr" / "c"
    chunks.write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="maps/mtr: expected storage that answers, found Not a directory") as caught:
        write(0, maps__mtr=np.zeros(write.n))
    assert caught.value.retryable
    assert read_record(write.url, 0, MTR) is None


def test_a_damaged_chunk_is_a_storage_error_with_the_name_of_the_array(write):
    write.cohort.run(0)
    gather(write.url)
    for path in ("maps/mtr", "qc/mt_dice", "subjects/age", "stages/key"):
        chunk = next(f for f in (local_path(write.url) / path / "c").rglob("*") if f.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x00")
    with pytest.raises(StorageError, match="maps/mtr: expected chunks that decode, found damage"):
        read_subject(write.url, 0, "maps/mtr")
    with pytest.raises(StorageError, match="qc/mt_dice: expected chunks that decode"):
        read_subject(write.url, 0, "qc/mt_dice")
    with pytest.raises(StorageError, match="stages/key"):
        read_rows(layout.open_root(write.url), "stages/key", slice(0, 3))


# --- blocks -----------------------------------------------------------------------------------------------------------
def block(rows, value=1.0):
    return {TABLE: np.full((rows, 2, 43), value)}


def test_blocks_cover_the_axis_and_the_last_may_be_short(build):
    url = build(70, done=[]).url
    write_block(url, 0, block(64, 1.0))
    write_block(url, 64, block(6, 2.0))
    assert group(url, "tables/template").mtr_wa.isel(level=0, region=0).values.tolist() == [1.0] * 64 + [2.0] * 6


@pytest.mark.parametrize(
    ("first", "rows", "found"), [(1, 64, "rows 1 to 64"), (32, 38, "rows 32 to 69"), (0, 63, r"\(63, 2, 43\)"), (64, 7, r"\(7, 2, 43\)")]
)
def test_a_block_that_is_not_whole_is_refused(build, first, rows, found):
    url = build(70, done=[]).url
    with pytest.raises(AlignmentError, match=found):
        write_block(url, first, block(rows))
    assert group(url, "tables/template").mtr_wa.isnull().all()


def test_a_block_behind_the_end_and_one_with_infinite_values(build):
    url = build(70, done=[]).url
    with pytest.raises(StoreError, match="a row from 0 to 69"):
        write_block(url, 128, block(0))
    with pytest.raises(StoreError, match=f"{TABLE}: expected finite values"):
        write_block(url, 64, block(6, np.inf))
