"""Places: paths, URLs, and what their failures say."""

from __future__ import annotations

import errno
import pickle
import time

import pytest

from cohort_engine.errors import InputError, StorageError, StoreError
from cohort_engine.io.places import join, ledger_url, local_path, object_store, open_zarr_store, read_bytes, remove_leftovers, storage_errors


def test_local_places_are_absolute_and_urls_are_not_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path("study.zarr") == tmp_path / "study.zarr"
    assert local_path("file:///a/b%20c.zarr").as_posix() == "/a/b c.zarr"
    assert local_path("s3://bucket/study.zarr") is None


def test_the_ledger_is_a_sibling():
    assert ledger_url("s3://bucket/study.zarr/") == "s3://bucket/study.zarr.ledger"
    assert join("/data/", "a", "b") == "/data/a/b"


def test_a_place_is_opened_once():
    assert object_store("memory:///once") is object_store("memory:///once")
    assert object_store("memory:///once") is not object_store("memory:///twice")


def test_a_local_store_travels_by_pickle(tmp_path):
    store = open_zarr_store(str(tmp_path / "new.zarr"), create=True)
    assert pickle.loads(pickle.dumps(store)) == store


def test_asking_for_a_store_leaves_nothing_behind(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        open_zarr_store(str(tmp_path / "typo.zarr"))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_explained():
    with pytest.raises(StoreError, match="found ftb://"):
        object_store("ftb://host/study.zarr")


def test_a_file_reads_as_bytes_from_path_and_url(tmp_path):
    (tmp_path / "a b.json").write_bytes(b"{}")
    assert read_bytes(str(tmp_path / "a b.json")) == b"{}"
    assert read_bytes(f"file://{tmp_path}/a%20b.json") == b"{}"
    object_store("memory:///bids").put("x.json", b"[]")
    assert read_bytes("memory:///bids/x.json") == b"[]"


@pytest.mark.parametrize("base", ["memory:///bids", "file:///nowhere", "/nowhere"])
def test_an_absent_file_is_an_input_error_with_its_role_and_no_path(base):
    with pytest.raises(InputError) as caught:
        read_bytes(f"{base}/sub-01_T2w.nii.gz", what="T2w image")
    assert caught.value.where == "T2w image"
    assert "sub-01" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Free disk space"), (errno.EACCES, "Allow this user"), (errno.EROFS, "Choose a place"), (errno.EIO, "reachable")],
)
def test_a_failing_disk_is_worth_a_retry_and_names_no_file(number, remedy):
    with pytest.raises(StorageError, match=remedy) as caught, storage_errors("maps/mtr"):
        raise OSError(number, "words", "/data/sub-01/file")
    assert caught.value.retryable
    assert "sub-01" not in str(caught.value)


def test_the_reason_is_found_in_the_words_of_obstore(tmp_path):
    (tmp_path / "store.zarr").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="opening a store") as caught:
        object_store(str(tmp_path / "store.zarr" / "below"))
    assert str(tmp_path) not in str(caught.value)


def test_an_unreachable_bucket_names_no_address(monkeypatch):
    for name, value in {
        "ENDPOINT_URL": "http://127.0.0.1:9",
        "ALLOW_HTTP": "true",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    from obstore.store import from_url

    with pytest.raises(StorageError) as caught, storage_errors("maps/mtr"):
        from_url("s3://bucket/study.zarr", retry_config={"max_retries": 0}).put("sub-01", b"")
    assert "127.0.0.1" not in str(caught.value)
    assert "sub-01" not in str(caught.value)


def test_leftovers_of_cut_writes_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "c").mkdir()
    for name in ("c/0#1", "c/0", "c/notes#a"):
        (tmp_path / name).write_text("")
    assert remove_leftovers(str(tmp_path)) == 1
    assert sorted(f.name for f in (tmp_path / "c").iterdir()) == ["0", "notes#a"]


def test_a_reason_of_a_megabyte_takes_no_time():
    started = time.process_time()
    with pytest.raises(StorageError) as caught, storage_errors("maps/mtr"):
        raise OSError("/data/Jane Roe " * 70_000)
    assert time.process_time() - started < 0.1
    assert "Jane" not in str(caught.value)
