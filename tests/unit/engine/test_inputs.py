"""Files that are read once, and known again without being read."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import obstore
import pytest

from cohort_engine.engine import inputs
from cohort_engine.engine.inputs import Looked, Shelf, read_content, stamp_of
from cohort_engine.errors import MissingInputError
from cohort_engine.io.places import object_store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Locations that were read; every stamp is trusted."""
    monkeypatch.setattr(inputs, "UNSETTLED_S", 0.0)
    seen: list[str] = []
    plain = inputs.read_raw
    monkeypatch.setattr(inputs, "read_raw", lambda location, *, what: seen.append(str(location)) or plain(location, what=what))
    return seen


def settled(path: Path, text: str, when: float = 1e9) -> str:
    path.write_text(text)
    os.utime(path, (when, when))
    return str(path)


def test_what_is_hashed_is_what_is_decoded(tmp_path: Path, reads: list[str]) -> None:
    found = read_content(settled(tmp_path / "a", "abc"), what="file")
    assert (found.sha256, found.size, found.data) == (hashlib.sha256(b"abc").hexdigest(), 3, b"abc")
    assert found.stamp.startswith(f"{10**18}:")
    assert found.record("disc") == [found.sha256, 3, found.stamp, "disc"]
    with pytest.raises(MissingInputError):
        read_content(str(tmp_path / "b"), what="file")


def test_a_file_that_has_just_changed_has_no_stamp(tmp_path: Path) -> None:
    """A clock of a file system may not tell two changes within one tick: such a file is hashed again next time."""
    (tmp_path / "a").write_text("abc")
    assert read_content(str(tmp_path / "a"), what="file").stamp == ""
    assert stamp_of(str(tmp_path / "a")) == (3, "")
    assert stamp_of(str(tmp_path / "b")) is None


def test_only_what_looks_changed_is_read(tmp_path: Path, reads: list[str]) -> None:
    place = settled(tmp_path / "a", "abc")
    record = read_content(place, what="file").record(None)
    reads.clear()
    assert Looked().same(place, record)
    assert reads == []
    settled(tmp_path / "a", "abc", when=2e9)
    assert Looked().same(place, record)
    assert reads == [place]
    time.sleep(0.05)
    settled(tmp_path / "a", "abd")  # as long, and its time set back: copying tools do that
    assert not Looked().same(place, record)
    reads.clear()
    settled(tmp_path / "a", "abcd", when=4e9)
    assert not Looked().same(place, record)
    assert reads == []  # another size says enough
    (tmp_path / "a").unlink()
    assert not Looked().same(place, record)


def test_a_folder_is_all_that_lies_in_it(tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "label").mkdir()
    settled(tmp_path / "label/a", "abc")
    settled(tmp_path / "label/b", "de")
    place = str(tmp_path / "label")
    found = read_content(place, what="folder")
    assert (found.size, found.data) == (5, None)
    assert found.stamp
    assert Looked().same(place, found.record(None))
    settled(tmp_path / "label/b", "df", when=2e9)
    assert not Looked().same(place, found.record(None))


def test_an_object_of_a_bucket_is_known_by_its_tag() -> None:
    store = object_store("memory:///inputs")
    obstore.put(store, "a.nii", b"abc")
    found = read_content("memory:///inputs/a.nii", what="file")
    assert (found.size, found.data) == (3, b"abc")
    assert stamp_of("memory:///inputs/a.nii") == (3, found.stamp)
    assert Looked().same("memory:///inputs/a.nii", found.record(None))
    obstore.put(store, "a.nii", b"abd")
    assert not Looked().same("memory:///inputs/a.nii", found.record(None))
    with pytest.raises(MissingInputError):
        read_content("memory:///inputs/b.nii", what="file")


def test_a_worker_reads_a_file_once_a_build(tmp_path: Path, reads: list[str]) -> None:
    place, shelf = settled(tmp_path / "a", "abc"), Shelf()
    for _ in range(3):
        assert shelf.get("one", 0, place, what="file").data == b"abc"
    assert len(reads) == 1
    shelf.forget("one", 0, place)
    shelf.get("one", 0, place, what="file")
    shelf.get("two", 0, place, what="file")
    assert len(reads) == 3


def test_files_of_earlier_subjects_go(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    places, shelf = [settled(tmp_path / name, name * 100) for name in "abcde"], Shelf()
    for row, place in enumerate(places):
        shelf.get("one", row, place, what="file")
    reads.clear()
    shelf.get("one", 4, places[4], what="file")
    shelf.get("one", 0, places[0], what="file")
    assert reads == [places[0]]
    monkeypatch.setattr(inputs, "LIMIT_BYTES", 150)
    for place in places:
        shelf.get("one", 9, place, what="file")
    reads.clear()
    shelf.get("one", 9, places[4], what="file")
    shelf.get("one", 9, places[0], what="file")
    assert reads == [places[0]]
