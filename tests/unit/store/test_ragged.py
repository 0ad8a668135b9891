"""Arrays whose rows have lengths of their own: series of another number of volumes and slices in one store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import AlignmentError
from cohort_engine.query.accessor import open_cohort
from cohort_engine.store import layout
from cohort_engine.store.compare import compare
from cohort_engine.store.freeze import compact
from cohort_engine.store.maintenance import finalise, gather
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import read_subject

MTR = "mtr"
SHIFT, FLAG = (replace(schema.MOTION_SPECS[n], stage=MTR) for n in (schema.MOTION_SHIFT, schema.MOTION_FLAG))
RAGGED = SHIFT, FLAG


def row(volumes, slices, value=0.5):
    flags = np.zeros((volumes, slices), np.int8)
    flags[0, 0] = schema.DROPPED
    return {SHIFT.path: np.full((volumes, slices, 2), value, np.float32), FLAG.path: flags}


def filled(cohort, *rows):
    """Three subjects, the first ones with series of these volumes and slices."""
    for stage in cohort.asked["stages"].values():
        stage["writes"] = []
    cohort.asked["stages"][MTR]["writes"] = [s.path for s in RAGGED]
    cohort.init(3, specs=RAGGED)
    for i, (volumes, slices) in enumerate(rows):
        cohort.write(i, row(volumes, slices, i + 1), MTR)
    return cohort


@pytest.fixture
def ragged(cohort):
    return filled(cohort, (4, 2), (3, 5))


def lengths(cohort):
    root = layout.open_root(cohort.url)
    return {p: layout.array_at(root, p).shape for p in (SHIFT.path, FLAG.path)}


def test_a_row_is_read_as_long_as_it_is_until_it_is_gathered(ragged):
    assert read_subject(ragged.url, 0, FLAG.path).shape == (4, 2)
    gather(ragged.url)
    assert lengths(ragged) == {SHIFT.path: (3, 4, 5, 2), FLAG.path: (3, 4, 5)}
    flags = read_subject(ragged.url, 0, FLAG.path)
    assert flags.tolist() == [[2, 0, -1, -1, -1], *[[0, 0, -1, -1, -1]] * 3]
    shift = read_subject(ragged.url, 1, SHIFT.path)
    assert np.isnan(shift[3]).all()
    assert (shift[:3] == 2).all()
    assert np.isnan(read_subject(ragged.url, 2, SHIFT.path)).all()


def test_axes_grow_with_a_longer_row_and_never_shrink(ragged):
    gather(ragged.url)
    ragged.write(2, row(70, 40), MTR)  # longer than a chunk both ways
    gather(ragged.url)
    assert lengths(ragged)[FLAG.path] == (3, 70, 40)
    assert read_subject(ragged.url, 0, FLAG.path)[:4, :2].tolist() == [[2, 0], *[[0, 0]] * 3]
    ragged.write(2, row(5, 5), MTR)
    gather(ragged.url)
    assert lengths(ragged)[FLAG.path] == (3, 70, 40)
    assert (read_subject(ragged.url, 2, FLAG.path) >= 0).sum() == 25
    ragged.init(3, specs=RAGGED)  # laying out again, and with more people
    ragged.init(4, specs=RAGGED)
    assert lengths(ragged)[SHIFT.path] == (4, 70, 40, 2)
    assert (read_subject(ragged.url, 1, SHIFT.path)[:3, :5] == 2).all()


def test_verify_finds_every_chunk(ragged):
    assert [str(p) for p in verify(ragged.url)] == []
    gather(ragged.url)
    ragged.write(2, row(70, 40), MTR)
    gather(ragged.url)
    assert [str(p) for p in verify(ragged.url)] == []
    chunks = layout.array_at(layout.open_root(ragged.url), FLAG.path).chunks
    assert chunks[1:] == tuple(schema.GROWN[d] for d in FLAG.dims[1:])


def test_an_opened_cohort_shows_rows_that_wait_and_rows_that_were_gathered(ragged):
    before = open_cohort(ragged.url)
    gather(ragged.url)
    after = open_cohort(ragged.url)
    for ds in (before, after):
        assert ds["motion_dwi_flag"].dims == ("subject", "volume", "slice")
        np.testing.assert_array_equal((ds["motion_dwi_flag"] >= 0).sum(["volume", "slice"]), [8, 15, 0])
    np.testing.assert_array_equal(before["motion_dwi_shift"], after["motion_dwi_shift"])


def test_a_row_of_another_rank_is_refused(ragged):
    with pytest.raises(AlignmentError, match="motion/dwi_flag"):
        ragged.write(2, {FLAG.path: np.zeros(4, np.int8)}, MTR)
    with pytest.raises(AlignmentError, match="motion/dwi_shift"):
        ragged.write(2, {SHIFT.path: np.zeros((4, 2, 3), np.float32)}, MTR)


def test_stores_of_other_lengths_are_compared_row_by_row(ragged, tmp_path):
    gather(ragged.url)
    other = filled(type(ragged)(str(tmp_path / "other.zarr"), ragged.template), (4, 2), (3, 5), (9, 9))
    gather(other.url)
    found = compare(ragged.url, other.url)
    assert {d.path: d.differing for d in found.arrays} == {SHIFT.path: 1, FLAG.path: 1}
    ragged.write(2, row(9, 9, 3), MTR)
    gather(ragged.url)
    assert compare(ragged.url, other.url).equal


def test_a_freeze_holds_the_same(ragged, tmp_path):
    finalise(ragged.url, allow_missing=True)
    frozen = str(tmp_path / "frozen.zarr")
    compact(ragged.url, frozen)
    for path in (SHIFT.path, FLAG.path):
        np.testing.assert_array_equal(read_subject(frozen, 1, path), read_subject(ragged.url, 1, path))
    assert [str(p) for p in verify(frozen)] == []
