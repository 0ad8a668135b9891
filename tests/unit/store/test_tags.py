"""Freezes under a tag: what is frozen stays, what was frozen comes back."""

from __future__ import annotations

import os

import numpy as np
import pytest

from cohort_engine import open_cohort
from cohort_engine.errors import ConfigError, IncompleteError, StoreError, UnknownNameError
from cohort_engine.io.places import join, ledger_url, local_path, object_store
from cohort_engine.store import layout, tags
from cohort_engine.store.compare import compare
from cohort_engine.store.maintenance import finalise, gather
from cohort_engine.store.records import read_entries, write_made
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw
from cohort_engine.store.writer import read_subject

from .conftest import Cohort


@pytest.fixture
def closed(build):
    cohort = build(3)
    finalise(cohort.url)
    return cohort


def contents(url):
    """Every byte of a store and what is kept of its ledger; of the root all but the times at which it was closed."""
    found = {}
    for tree in (url, ledger_url(url)):
        for o in object_store(tree).list().collect():
            found[join(tree, o["path"])] = bytes(object_store(tree).get(o["path"]).bytes())
    return {k: v for k, v in found.items() if "/log/" not in k}


def change(cohort, row=1, value=77.0):
    """Build a subject again, otherwise, and close."""
    cohort.mtr(row, value, key="other")
    cohort.init(4)
    cohort.run(3)
    finalise(cohort.url)


def test_a_freeze_takes_no_room_and_what_is_written_later_does_not_reach_it(closed):
    url, chunk = closed.url, "maps/mtr/c/1/0"
    tags.freeze(url, "v1")
    at = tags.at_tag(f"{url}@v1")
    assert os.path.samefile(local_path(url) / chunk, local_path(at) / chunk)
    change(closed)
    assert (read_subject(url, 1, "maps/mtr") == 77).all()
    assert (read_subject(at, 1, "maps/mtr") == 1).all()
    assert layout.row_count(layout.open_root(at)) == 3
    assert len(read_entries(at)) == 6
    assert verify(at) == []
    assert open_cohort(f"{url}@v1")["mtr"].isel(voxel=0).values.tolist() == [0, 1, 2]
    assert open_cohort(url)["mtr"].isel(voxel=0).values.tolist() == [0, 77, 2, 3]


def test_freezes_are_listed_compared_and_the_same_content_has_the_same_hash(closed):
    one, two = (tags.freeze(closed.url, tag) for tag in ("v1", "again"))
    assert one.digest == two.digest
    change(closed)
    three = tags.freeze(closed.url, "v2")
    assert three.digest != one.digest
    assert {(f.tag, f.subjects) for f in tags.freezes(closed.url)} == {("again", 3), ("v1", 3), ("v2", 4)}
    found = compare(*(tags.at_tag(f"{closed.url}@{tag}") for tag in ("v1", "v2")))
    assert [a.path for a in found.arrays if a.path == "maps/mtr"] == ["maps/mtr"]
    assert found.only_b == (("sub-003", "01"),)
    assert compare(tags.at_tag(f"{closed.url}@v2"), closed.url).equal


def test_a_store_goes_back_byte_by_byte_with_its_ledger(closed, monkeypatch):
    from cohort_engine.io.volume import Volume

    write_made(closed.url, 0, "mt_mask", Volume(np.ones((2, 2, 2), np.float32), np.eye(4)))
    before = contents(closed.url)
    tags.freeze(closed.url, "v1")
    assert contents(closed.url) == before
    change(closed)
    write_made(closed.url, 0, "mt_mask", Volume(np.zeros((2, 2, 2), np.float32), np.eye(4)))
    write_made(closed.url, 3, "mt_mask", Volume(np.zeros((2, 2, 2), np.float32), np.eye(4)))
    assert tags.roll_back(closed.url, "v1") > 5
    after = contents(closed.url)
    root = join(closed.url, "zarr.json")
    assert {k: v for k, v in after.items() if k != root} == {k: v for k, v in before.items() if k != root}
    assert layout.TAG not in layout.store_attributes(closed.url)
    assert verify(closed.url) == []
    assert compare(closed.url, tags.at_tag(f"{closed.url}@v1")).equal
    assert tags.roll_back(closed.url, "v1") == 0
    change(closed)  # it grows on
    assert verify(closed.url) == []


def test_a_return_that_is_cut_short_is_done_again(closed, monkeypatch):
    tags.freeze(closed.url, "v1")
    change(closed)
    with monkeypatch.context() as patch:
        patch.setattr(tags, "_remove", lambda places: 1 / 0 if len(places) > 1 else [local_path(p).unlink() for p in places])
        with pytest.raises(ZeroDivisionError):
            tags.roll_back(closed.url, "v1")
    with pytest.raises(StoreError):
        layout.open_root(closed.url)
    with pytest.raises(StoreError, match="found other files"):  # nothing takes the place for an empty one
        closed.init(3)
    tags.roll_back(closed.url, "v1")
    assert compare(closed.url, tags.at_tag(f"{closed.url}@v1")).equal
    assert verify(closed.url) == []


def test_a_freeze_is_for_reading(closed, small_template):
    tags.freeze(closed.url, "v1")
    frozen = Cohort(tags.at_tag(f"{closed.url}@v1"), small_template)
    for attempt in (lambda: frozen.mtr(0), lambda: frozen.init(1), lambda: finalise(frozen.url), lambda: gather(frozen.url)):
        with pytest.raises(StoreError, match="found the freeze v1"):
            attempt()
    with pytest.raises(StoreError, match="found the freeze v1"):
        tags.freeze(frozen.url, "v2")
    assert verify(frozen.url) == []


@pytest.mark.parametrize("damage", ["changed", "lost", "added"])
def test_what_is_not_as_it_was_frozen_is_found_and_nobody_goes_back_to_a_part(closed, damage):
    tags.freeze(closed.url, "v1")
    at = tags.at_tag(f"{closed.url}@v1")
    chunk = local_path(at) / "qc" / "mt_dice" / "c" / "0"
    data = chunk.read_bytes()
    chunk.unlink()
    if damage == "changed":
        chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "added":
        chunk.write_bytes(data)
        (chunk.parent / "stray").write_bytes(b"x")
    words = {"changed": "other bytes than were frozen", "lost": "lost from the freeze", "added": "not of the freeze"}[damage]
    assert any(p.path == "freeze" and words in p.message for p in verify(at))
    if damage == "lost":
        with pytest.raises(StoreError, match="1 of them lost or cut short"):
            tags.roll_back(closed.url, "v1")
        assert verify(closed.url) == []


def test_who_withdraws_is_erased_in_every_freeze(closed):
    url = closed.url
    tags.freeze(url, "v1")
    change(closed)
    tags.freeze(url, "v2")
    withdraw(url, 1)
    withdraw(url, 3)
    for place in (url, tags.at_tag(f"{url}@v1"), tags.at_tag(f"{url}@v2")):
        assert np.isnan(read_subject(place, 1, "maps/mtr")).all()
        assert verify(place) == []
    for path in (p for p in local_path(f"{url}.freezes").rglob("*") if p.is_file()):
        assert b"sub-001" not in path.read_bytes(), path
    tags.roll_back(url, "v1")
    assert np.isnan(read_subject(url, 1, "maps/mtr")).all()


def test_a_freeze_that_is_deleted_leaves_the_others(closed):
    tags.freeze(closed.url, "v1")
    tags.freeze(closed.url, "v2")
    tags.delete_freeze(closed.url, "v1")
    assert [f.tag for f in tags.freezes(closed.url)] == ["v2"]
    assert verify(tags.at_tag(f"{closed.url}@v2")) == []
    assert verify(closed.url) == []
    tags.freeze(closed.url, "v1")


def test_what_cannot_be_frozen_is_told(build):
    cohort = build(2)
    with pytest.raises(IncompleteError, match="finalise"):
        tags.freeze(cohort.url, "v1")
    finalise(cohort.url)
    for word in ("", "../x", "a/b", "a b", ".x"):
        with pytest.raises(ConfigError, match="a tag of letters"):
            tags.freeze(cohort.url, word)
    tags.freeze(cohort.url, "v1")
    with pytest.raises(StoreError, match="found a freeze of that tag"):
        tags.freeze(cohort.url, "v1")
    for ask in (lambda: open_cohort(f"{cohort.url}@v3"), lambda: tags.roll_back(cohort.url, "v3"), lambda: tags.delete_freeze(cohort.url, "v3")):
        with pytest.raises(UnknownNameError, match=r"expected a known freeze, found 'v3'\. Did you mean 'v1'"):
            ask()


def test_a_freeze_that_was_cut_short_is_none_and_the_next_try_replaces_it(closed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tags, "_write_manifest", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tags.freeze(closed.url, "v1")
    assert tags.freezes(closed.url) == []
    tags.freeze(closed.url, "v1")
    assert verify(tags.at_tag(f"{closed.url}@v1")) == []


def test_a_folder_with_an_at_sign_is_that_folder(build, tmp_path):
    cohort = build(1, url=str(tmp_path / "a@b"))
    assert tags.at_tag(cohort.url) == cohort.url


def test_where_a_disk_has_no_links_bytes_are_copied(closed, monkeypatch):
    def refuse(*paths):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    tags.freeze(closed.url, "v1")
    change(closed)
    assert (read_subject(tags.at_tag(f"{closed.url}@v1"), 1, "maps/mtr") == 1).all()
