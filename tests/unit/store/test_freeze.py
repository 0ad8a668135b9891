"""A closed store in few large objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from cohort_engine import schema
from cohort_engine.errors import IncompleteError, StoreError
from cohort_engine.io.places import ledger_url, local_path, object_store
from cohort_engine.store import freeze, layout
from cohort_engine.store.freeze import compact
from cohort_engine.store.maintenance import finalise, gather, states_of
from cohort_engine.store.records import read_entries
from cohort_engine.store.verify import verify
from cohort_engine.store.withdrawal import withdraw
from cohort_engine.store.writer import read_subject

from .conftest import FIT, MTR, Cohort
from .test_maintenance import tabulate

GROUPS = ("subjects", "voxels", "atlas", "maps", "fit", "profiles", "tables/template", "tables/native", "qc", "stages")


def group(url, name):
    return xr.open_zarr(url, group=name, zarr_format=3).load()


@pytest.fixture
def few_in_a_shard(monkeypatch):
    monkeypatch.setattr(freeze, "SHARD", 4)


def test_a_freeze_holds_the_same_in_fewer_files(build, tmp_path, few_in_a_shard):
    cohort, out = build(10, done=[0, 3, 4, 9]), str(tmp_path / "freeze.zarr")
    finalise(cohort.url, tabulate=lambda: tabulate(cohort), allow_missing=True)
    compact(cohort.url, out)
    for name in GROUPS:
        xr.testing.assert_identical(group(cohort.url, name), group(out, name))
    assert xr.open_datatree(out, engine="zarr")["maps/mtr"].sel(subject=9).mean() == 9
    assert len([f for f in (tmp_path / "freeze.zarr" / "maps" / "mtr" / "c").rglob("*") if f.is_file()]) == 3
    assert layout.stored_atlas(out).digest == layout.stored_atlas(cohort.url).digest
    assert verify(out) == []


def test_the_margin_of_a_subject_in_objects(build, tmp_path):
    """Seven records, three made files, a map and its fit would be 12 before; here 2 records, a map, a fit; and next to nothing in a freeze."""

    def objects(url):
        return sum(1 for _ in (f for f in local_path(url).rglob("*") if f.is_file()))

    counts = {}
    for n in (64, 192):
        cohort = build(n, url=str(tmp_path / f"s{n}.zarr"))
        open_ = objects(cohort.url) + objects(ledger_url(cohort.url))
        finalise(cohort.url, tabulate=lambda c=cohort: tabulate(c), allow_mixed=True)
        closed = objects(cohort.url) + objects(ledger_url(cohort.url))
        compact(cohort.url, str(tmp_path / f"f{n}.zarr"), allow_mixed=True)
        assert not local_path(ledger_url(str(tmp_path / f"f{n}.zarr"))).exists() or objects(ledger_url(str(tmp_path / f"f{n}.zarr"))) == 0
        counts[n] = np.array([open_, closed, objects(str(tmp_path / f"f{n}.zarr"))])
    margin = (counts[192] - counts[64]) / 128
    assert margin[0] <= 4
    assert margin[1] <= 2.1
    assert margin[2] <= 0.04


def test_a_freeze_does_not_depend_on_the_blocks_it_was_copied_in(build, tmp_path, few_in_a_shard, monkeypatch):
    cohort, data = build(10, done=[0, 3, 4, 6, 9]), []
    finalise(cohort.url, allow_missing=True)
    for name, size in (("whole", freeze.BLOCK_BYTES), ("rows", 1)):
        monkeypatch.setattr(freeze, "BLOCK_BYTES", size)
        compact(cohort.url, str(tmp_path / name))
        data.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file() and p.name != "zarr.json"})
    assert data[0] == data[1]
    assert len(data[0]) > 20


@pytest.mark.parametrize("size", [1, 2**20, 2**40])
def test_chunks_of_tables_are_joined(build, tmp_path, monkeypatch, size):
    monkeypatch.setattr(freeze, "SHARD_BYTES", size)
    cohort, out = build(130, done=[0, 70, 129]), str(tmp_path / "freeze.zarr")
    finalise(cohort.url, tabulate=lambda: tabulate(cohort), allow_missing=True)
    compact(cohort.url, out)
    array = layout.open_root(out)["tables/template/mtr_wa"]
    rows = {1: None, 2**20: 64 * (2**20 // (64 * 2 * 43 * 4)), 2**40: 4096}[size]
    assert array.shards is None
    assert array.chunks[0] == (rows or 64)
    xr.testing.assert_identical(group(cohort.url, "tables/template"), group(out, "tables/template"))
    assert len(list((tmp_path / "freeze.zarr" / "tables" / "template" / "mtr_wa" / "c").iterdir())) == math.ceil(130 / (rows or 64))
    assert verify(out) == []


def test_a_freeze_is_for_reading(build, tmp_path, small_template):
    cohort, out = build(1), str(tmp_path / "freeze.zarr")
    finalise(cohort.url)
    compact(cohort.url, out)
    frozen = Cohort(out, small_template)
    for change in (lambda: frozen.mtr(0), lambda: frozen.init(1), lambda: finalise(out), lambda: gather(out)):
        with pytest.raises(StoreError, match="a freeze made by compact"):
            change()
    with pytest.raises(StoreError, match="expected an empty place for the freeze"):
        compact(cohort.url, out)


def test_a_freeze_keeps_how_each_stage_ended(build, tmp_path):
    cohort, out = build(3, done=[0, 2]), str(tmp_path / "freeze.zarr")
    cohort.fail(1, FIT)
    finalise(cohort.url, allow_missing=True)
    compact(cohort.url, out)
    kept, entries = read_entries(out), read_entries(cohort.url)
    assert [(e.subject, e.stage, e.status, e.key, e.recipe, e.seconds) for e in kept] == [
        (e.subject, e.stage, e.status, e.key, e.recipe, e.seconds) for e in entries
    ]
    assert states_of(out).of(1, FIT) == schema.FAILED
    assert states_of(out).of(2, MTR) == schema.DONE


def test_an_open_store_is_not_frozen_and_a_mixed_one_only_if_told(build, tmp_path):
    cohort, out = build(2), str(tmp_path / "freeze.zarr")
    with pytest.raises(IncompleteError, match="finalise"):
        compact(cohort.url, out)
    assert not (tmp_path / "freeze.zarr").exists()
    cohort.init(2, low_signal=0.2)
    cohort.mtr(1)
    finalise(cohort.url, allow_mixed=True)
    with pytest.raises(IncompleteError, match="expected subjects made alike, found mtr has 1 and 1 subjects"):
        compact(cohort.url, out)
    compact(cohort.url, out, allow_mixed=True)
    assert layout.store_attributes(out)["mixed"].startswith("mtr has 1 and 1")


def test_a_freeze_cut_short_is_no_store_and_the_next_try_replaces_it(build, tmp_path, monkeypatch):
    cohort, out = build(2), str(tmp_path / "freeze.zarr")
    finalise(cohort.url)
    with monkeypatch.context() as patch:
        patch.setattr(freeze, "_same", lambda a, b: False)
        with pytest.raises(StoreError, match="expected an equal copy"):
            compact(cohort.url, out)
    with pytest.raises(StoreError, match="cut short"):
        layout.open_root(out)
    compact(cohort.url, out)
    assert verify(out) == []


def test_a_damaged_and_a_lost_shard_are_found(build, tmp_path, few_in_a_shard):
    cohort, out = build(5), str(tmp_path / "freeze.zarr")
    finalise(cohort.url)
    compact(cohort.url, out)
    shard = tmp_path / "freeze.zarr" / "maps" / "mtr" / "c" / "1" / "0"
    data = bytearray(shard.read_bytes())
    data[4] ^= 1
    shard.write_bytes(bytes(data))
    assert [(p.path, p.row) for p in verify(out)] == [("maps/mtr", 4)]
    shard.unlink()
    assert [str(p) for p in verify(out)] == ["maps/mtr: the chunk of rows 4 to 4 is lost", "by_region/mtr: is not what the map is"]


def test_the_whole_life_of_a_store_behind_a_url(build, tmp_path):
    cohort = build(2, url=f"memory:///{tmp_path.name}.zarr")
    finalise(cohort.url)
    assert verify(cohort.url) == []
    out = f"memory:///{tmp_path.name}-freeze.zarr"
    compact(cohort.url, out)
    assert verify(out) == []
    withdraw(cohort.url, 0)
    assert np.isnan(read_subject(cohort.url, 0, "maps/mtr")).all()
    assert verify(cohort.url) == []
    assert not any(b"sub-000" in bytes(object_store(cohort.url).get(o["path"]).bytes()) for o in object_store(cohort.url).list().collect())
