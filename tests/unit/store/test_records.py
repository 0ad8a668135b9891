"""Records: what they say, what they never say, and what happens when they are damaged."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import StorageError, StoreError
from cohort_engine.io.places import ledger_url, local_path
from cohort_engine.store import records
from cohort_engine.store.records import (
    Entry,
    delete_subject,
    pack,
    read_block,
    read_entries,
    read_entry,
    read_record,
    scan_entries,
    unpack,
    write_block,
    write_record,
)

NAN = float("nan")


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "s.zarr") if request.param == "local" else f"memory:///{tmp_path.name}/s.zarr"


def done(row, stage="mtr", key="k", **more):
    return Entry(row, stage, schema.DONE, key, seconds=1.5, peak_memory=300.0, finished="2026-01-01T00:00:00+00:00", **more)


WHOLE = Entry(
    17, "fit_mt", schema.FAILED, "9c1f", "r1", {"segment_mt": "k0"}, {"mt_mask": "segment_mt"}, {"mt_on": ["0" * 64, 100, 1.5]}, 31.2, 812.0,
    "CordError", "T2w image: ...", "Look.", "infer.py:3 (run)", retryable=True, finished="2026-01-01T00:00:00+00:00",
)  # fmt: skip


def test_an_entry_comes_back_as_it_went_from_its_record_and_from_its_block(url):
    write_record(url, WHOLE)
    assert read_entry(url, 17, "fit_mt") == WHOLE
    assert read_entry(url, 17, "mtr") is None
    assert read_entry(url, 16, "fit_mt") is None
    write_block(url, 256, [done(256), done(300, key="b")])
    assert read_block(url, 256) == [done(256), done(300, key="b")]
    assert read_entry(url, 300, "mtr") == done(300, key="b")
    assert read_entries(url) == [WHOLE, done(256), done(300, key="b")]


@pytest.mark.parametrize(
    "array",
    [
        np.float32(0.9), np.arange(6, dtype=np.int16).reshape(2, 3), np.array([NAN, 1.0, -0.0]), np.zeros((0, 4)), np.array([True, False]),
        np.arange(12.0).reshape(3, 4).T, np.array(["C1", "weiß, größer"], dtype=object), np.arange(3, dtype=">f4"),
    ],
)  # fmt: skip
def test_arrays_come_back_bit_by_bit(array):
    record = unpack(pack(done(0), {"a": array, "b": np.float64(7)}))
    np.testing.assert_array_equal(record.arrays["a"], array)
    assert record.arrays["a"].shape == array.shape
    assert record.arrays["b"] == 7


def test_a_record_goes_before_its_block(url):
    write_block(url, 0, [done(1, key="old"), done(2)])
    write_record(url, done(1, key="new"))
    assert [e.key for e in read_entries(url)] == ["new", "k"]
    assert read_entry(url, 1, "mtr").key == "new"


def test_unknown_numbers_and_the_time_are_filled_in(url):
    write_record(url, Entry(0, "mtr", schema.MISSING, ""))
    entry = read_entry(url, 0, "mtr")
    assert math.isnan(entry.seconds)
    assert entry.finished.endswith("+00:00")
    write_block(url, 0, [entry])
    assert math.isnan(read_block(url, 0)[0].seconds)


def test_the_whole_ledger_is_in_order_of_row_and_stage(url):
    places = [(1000000, "mtr"), (2, "mtr"), (2, "fit_mt"), (10, "mtr")]
    for row, stage in places:
        write_record(url, done(row, stage))
    assert [(e.subject, e.stage) for e in read_entries(url)] == [(2, "fit_mt"), (2, "mtr"), (10, "mtr"), (1000000, "mtr")]


def test_an_empty_ledger_is_a_ledger(url):
    assert read_entries(url) == []


def test_reading_leaves_nothing_behind(tmp_path):
    read_entries(str(tmp_path / "s.zarr"))
    assert list(tmp_path.iterdir()) == []


def test_one_subject_is_deleted_and_its_neighbours_stay(url):
    for row in (1, 10, 11):
        write_record(url, done(row))
    write_block(url, 0, [done(1, "fit_mt"), done(10, "fit_mt")])
    assert delete_subject(url, 1) == 2
    assert [(e.subject, e.stage) for e in read_entries(url)] == [(10, "fit_mt"), (10, "mtr"), (11, "mtr")]
    assert delete_subject(url, 1) == 0


def seal(header: object, body: bytes = b"") -> bytes:
    return records._seal(json.dumps(header).encode(), body)


GOOD = pack(done(0), {"qc/x": np.arange(50.0)})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", GOOD[:-1], GOOD[:9], GOOD[:-3] + b"\x00" + GOOD[-2:], b"X" + GOOD[1:], seal([]), seal(None), seal({"entry": {}, "arrays": []}),
        seal({"entry": {"subject": 0, "stage": "mtr", "status": "perhaps", "key": ""}, "arrays": []}),
        seal({"entry": {"subject": 0, "stage": "mtr", "status": "done", "key": ""}, "arrays": [{"path": "a", "shape": [4], "dtype": "<f8"}]}),
        seal({"entry": {"subject": 0, "stage": "mtr", "status": "done", "key": ""}, "arrays": [{"path": "a", "shape": [1], "dtype": "|O"}]},
             zlib.compress(b"12345678")),
        seal({"entry": {"subject": 0, "stage": "mtr", "status": "done", "key": ""}, "arrays": [{"path": "a", "shape": [1], "dtype": "<f8"}]},
             zlib.compress(bytes(10**6))),
        pack(done(5)), pack(done(0, "fit_mt")),
    ],
)  # fmt: skip
def test_a_broken_record_is_absent_and_reported(tmp_path, data):
    url = str(tmp_path / "s.zarr")
    write_block(url, 0, [done(0, key="before")])
    write_record(url, done(0))
    write_record(url, done(1))
    (local_path(ledger_url(url)) / "records" / "000000-mtr.record").write_bytes(data)
    assert read_record(url, 0, "mtr") is None
    assert [e.subject for e in read_entries(url)] == [1]
    assert scan_entries(url)[1] == [(0, "mtr")]


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d[:20] + b"\xff" + d[21:], lambda d: records._seal(b"{}", b"x")])
def test_a_damaged_block_is_an_error_and_not_256_subjects_to_do_again(tmp_path, damage):
    url = str(tmp_path / "s.zarr")
    write_block(url, 256, [done(300)])
    block = local_path(ledger_url(url)) / "entries" / "000256.block"
    block.write_bytes(damage(block.read_bytes()))
    with pytest.raises(StoreError, match=r"ledger, rows 256 to 511: .* found a damaged object"):
        read_entries(url)
    with pytest.raises(StoreError, match="rows 256 to 511"):
        read_entry(url, 300, "mtr")


def test_the_header_is_plain_json_without_nan():
    header, body = records._unseal(pack(Entry(3, "mtr", schema.FAILED, "k")))
    record = json.loads(header, parse_constant=lambda c: pytest.fail(c))
    assert record["entry"]["seconds"] is None
    assert set(record["entry"]) == set(Entry.__dataclass_fields__)
    assert body == b""


def test_a_status_must_be_known():
    with pytest.raises(StoreError, match="not_run, done, failed, missing_input, not_needed"):
        Entry(0, "mtr", "ok", "")


def test_files_of_the_study_are_known_by_their_content(url):
    files = {"mt_on": ["a" * 64, 10, 1.0], "mt_mask": ["b" * 64, 20, 2.0]}
    write_record(url, done(4, inputs=files, made={"mt_mask": "segment_mt"}))
    write_record(url, done(4, "fit_mt", inputs={"t2w": ["c" * 64, 1, 1.0]}))
    write_record(url, done(5))
    read = {(e.subject, role, value[0]) for e in read_entries(url) for role, value in e.inputs.items() if role not in e.made}
    assert read == {(4, "mt_on", "a" * 64), (4, "t2w", "c" * 64)}


def test_a_ledger_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "s.zarr.ledger").mkdir()
    (tmp_path / "s.zarr.ledger" / "records").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="ledger: expected storage that answers, found Not a directory"):
        write_record(str(tmp_path / "s.zarr"), done(0))
