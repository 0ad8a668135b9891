"""Whatever the number of subjects, the appends and the order of writes: the same arrays; and no write that shares a chunk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_engine import schema
from cohort_engine.errors import AlignmentError, CohortError
from cohort_engine.schema import VariableSpec
from cohort_engine.store import layout, records
from cohort_engine.store.maintenance import gather
from cohort_engine.store.records import Entry
from cohort_engine.store.verify import verify
from cohort_engine.store.writer import init_store, read_subject, write_block, write_subject

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TABLE = "tables/template/mtr_wa"
SPECS = (
    VariableSpec("maps/mtr", "MTR", "percent", ("subject", "voxel"), chunks={"subject": 1}, stage="mtr"),
    VariableSpec("qc/mtr_cord_median", "median", "percent", ("subject",), stage="mtr"),
    VariableSpec("profiles/area", "area", "mm2", ("subject", "z"), "float64", stage="mtr"),
    VariableSpec(TABLE, "MTR", "percent", ("subject", "level", "region"), chunks={"subject": 64}),
)
RECIPES = {"r": {"stage": "mtr", "version": "1", "params": {}, "template": ""}}
ASKED = {"hash": "", "science": {}, "stages": {"mtr": {"recipe": "r", "needs": [], "makes": "", "section": "mtr", "writes": ["maps/mtr"]}}}


def grow(url, template, count):
    subjects = pd.DataFrame({"participant_id": [f"s{i}" for i in range(count)], "age": np.arange(count, dtype=float)})
    return init_store(url, template=template, subjects=subjects, specs=SPECS, asked=ASKED, recipes=RECIPES)


def write(url, row, template, arrays):
    write_subject(url, row, arrays, Entry(row, "mtr", schema.DONE, f"k{row}", "r"), template_digest=template.digest)


@pytest.fixture(scope="module")
def big_store(small_template, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("alignment") / "store.zarr")
    grow(url, small_template, 150)
    return url


@QUICK
@given(data=st.data(), steps=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_appends_orders_of_writing_and_gatherings_give_the_same_arrays(data, steps, small_template):
    total, voxels, slices = sum(steps), len(small_template.packing), len(small_template.z)
    written = set()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_BYTES", data.draw(st.sampled_from((1, 3 * 8 * slices, 2**20))))
        patch.setattr(records, "ENTRY_BLOCK", 4)
        patch.setattr("cohort_engine.store.maintenance.ENTRY_BLOCK", 4)
        url = str(Path(folder) / "store.zarr")
        for i, count in enumerate(np.cumsum(steps)):
            rows = grow(url, small_template, int(count))
            assert rows.tolist() == list(range(count))
            todo = [r for r in range(int(count)) if r not in written]
            todo = data.draw(st.permutations(todo))
            if i < len(steps) - 1:
                todo = todo[: data.draw(st.integers(0, len(todo)))]
            for row in todo:
                arrays = {"maps/mtr": np.arange(voxels) % 50 + row / 100, "qc/mtr_cord_median": row / 100, "profiles/area": np.arange(slices) + row}
                write(url, row, small_template, arrays)
                written.add(row)
                if data.draw(st.booleans()):
                    gather(url)
        for path, value in (("qc/mtr_cord_median", np.float32), ("profiles/area", float)):
            assert read_subject(url, total - 1, path).dtype == value
        gather(url)
        root = layout.open_root(url)
        expected = np.arange(voxels) % 50 + np.arange(total)[:, None] / 100
        np.testing.assert_array_equal(root["maps/mtr"][:], expected.astype(np.float32))
        np.testing.assert_array_equal(root["qc/mtr_cord_median"][:], (np.arange(total) / 100).astype(np.float32))
        np.testing.assert_array_equal(root["profiles/area"][:], np.arange(slices) + np.arange(total)[:, None])
        np.testing.assert_array_equal(root["subjects/age"][:], np.arange(total))
        assert list(root["subjects/participant_id"][:]) == [f"s{i}" for i in range(total)]
        assert list(root["stages/key"][:, 0]) == [f"k{i}" for i in range(total)]
        assert verify(url) == []


@settings(QUICK, max_examples=60)
@given(first=st.integers(-70, 200), rows=st.integers(0, 160))
def test_a_block_is_written_only_where_it_is_whole(first, rows, big_store):
    total, block = 150, schema.SUBJECT_BLOCK
    whole = first in range(0, total, block) and rows == min(block, total - first)
    before = layout.open_root(big_store)[TABLE][:, 0, 0]
    if whole:
        write_block(big_store, first, {TABLE: np.full((rows, 2, 43), first + rows / 1000)})
        before[first : first + rows] = np.float32(first + rows / 1000)
    else:
        with pytest.raises(CohortError) as caught:
            write_block(big_store, first, {TABLE: np.ones((rows, 2, 43))})
        if 0 <= first < total:
            assert isinstance(caught.value, AlignmentError)
    np.testing.assert_array_equal(layout.open_root(big_store)[TABLE][:, 0, 0], before)


@settings(QUICK, max_examples=40)
@given(shape=st.one_of(st.tuples(), st.tuples(st.integers(0, 700)), st.tuples(st.integers(570, 578), st.integers(1, 4))))
def test_a_map_of_another_shape_is_never_written(shape, big_store, small_template):
    if shape == (len(small_template.packing),):
        return
    with pytest.raises(AlignmentError):
        write(big_store, 7, small_template, {"maps/mtr": np.ones(shape)})
    assert np.isnan(read_subject(big_store, 7, "maps/mtr")).all()


def test_what_is_left_is_sound(big_store):
    assert verify(big_store) == []
