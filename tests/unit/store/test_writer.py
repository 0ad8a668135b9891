"""Laying a store out, growing it, and writing whole chunks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from cohort_engine import schema
from cohort_engine.errors import AlignmentError, StorageError, StoreError, TemplateError, UnknownNameError
from cohort_engine.store import layout, writer
from cohort_engine.store.writer import init_store, read_subject, write_block, write_subject
from cohort_engine.template.parametric import parametric_cord

NAN = float("nan")


def group(url, name):
    return xr.open_zarr(url, group=name, consolidated=False, zarr_format=3).load()


def people(*names, **columns):
    return pd.DataFrame({"participant_id": list(names), "session_id": "", **columns})


@pytest.fixture
def init(small_template, make_config, tmp_path):
    """Lay out (or extend) one store; returns the rows."""

    def call(subjects, *, template=small_template, units=None, **sections):
        return init_store(str(tmp_path / "store.zarr"), template=template, config=make_config(**sections), subjects=subjects, units=units).tolist()

    call.url = str(tmp_path / "store.zarr")
    return call


# --- layout -----------------------------------------------------------------------------------------------------------
def test_a_new_store_opens_with_plain_xarray(make_store, small_template):
    url = make_store(3)
    tables = group(url, "tables/template")
    assert dict(tables.sizes) == {"subject": 3, "level": 2, "region": 43}
    assert tables.level.values.tolist() == ["C2", "C3"]
    assert tables.region.values.tolist() == [r.name for r in small_template.atlas.regions]
    assert set(tables) == {"mtr_wa", "mtr_wa_std", "mtr_wa_n", "mtr_wa_coverage"}
    assert group(url, "maps").mtr.isnull().all()
    assert dict(group(url, "fit").mt.sizes) == {"subject": 3, "voxel": len(small_template.packing), "axis": 3}
    assert group(url, "maps").mtr.attrs["units"] == "percent"


def test_a_task_owns_its_chunks_and_a_reduction_its_blocks(make_store, small_template):
    root = layout.open_root(make_store(3))
    assert root["maps/mtr"].chunks == (1, len(small_template.packing))
    assert root["qc/mt_dice"].chunks == (1,)
    assert root["tables/template/mtr_wa"].chunks == (schema.SUBJECT_BLOCK, 2, 43)
    assert root["subjects/participant_id"].chunks == (layout.COLUMN_BLOCK,)


def test_template_parts_are_rebuilt_from_the_store_alone(make_store, small_template):
    url = make_store(1)
    atlas, packing = layout.stored_atlas(url), layout.stored_packing(url)
    assert atlas.digest == small_template.atlas.digest
    assert atlas.regions == small_template.atlas.regions
    assert (atlas.weights != small_template.atlas.weights).nnz == 0
    np.testing.assert_array_equal(packing.ijk, small_template.packing.ijk)
    np.testing.assert_array_equal(packing.level, small_template.packing.level)
    np.testing.assert_allclose(packing.xyz, small_template.packing.xyz)
    assert packing.grid.shape == small_template.grid.shape


def test_metadata_is_strict_json_without_any_name(tmp_path, make_store):
    make_store(people("sub-0815", site=["Neverland"]))
    files = list((tmp_path / "store.zarr").rglob("zarr.json"))
    assert len(files) > 30
    for file in files:
        json.loads(file.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
        assert not {"0815", "Neverland"} & set(file.read_text().split('"'))


def test_root_attributes_say_what_made_it(make_store, make_config, small_template):
    attributes = layout.store_attributes(make_store(2))
    assert attributes["format_version"] == "1"
    assert attributes["template_digest"] == small_template.digest
    assert attributes["atlas_digest"] == small_template.atlas.digest
    assert attributes["science_hash"] == make_config().science_hash
    assert json.loads(attributes["science"]) == make_config().science()
    assert json.loads(attributes["versions"])["zarr"] == zarr.__version__
    assert attributes["subjects"] == 2


# --- subjects ---------------------------------------------------------------------------------------------------------
def test_columns_are_numbers_with_nan_or_text(init):
    init(people("a", "b", age=[61, None], sex=["F", None], left_handed=[True, False]), units={"age": "year"})
    subjects = group(init.url, "subjects")
    np.testing.assert_array_equal(subjects.age, [61, NAN])
    assert subjects.sex.values.tolist() == ["F", ""]
    assert subjects.left_handed.values.tolist() == [1.0, 0.0]
    assert subjects.age.attrs["units"] == "year"
    assert subjects.participant_id.values.tolist() == ["a", "b"]


def test_a_number_like_name_stays_text(init):
    init(people(7))
    assert group(init.url, "subjects").participant_id.values.tolist() == ["7"]


def test_new_subjects_are_appended_and_old_ones_keep_their_rows(init, small_template):
    assert init(people("b", "d")) == [0, 1]
    write_subject(init.url, 1, {"maps/mtr": np.full(len(small_template.packing), 40.0)}, template_digest=small_template.digest)
    assert init(people("a", "b", "c", "d")) == [2, 0, 3, 1]
    assert group(init.url, "subjects").participant_id.values.tolist() == ["b", "d", "a", "c"]
    assert group(init.url, "maps").mtr.mean("voxel").values.tolist()[1] == 40
    assert group(init.url, "maps").sizes["subject"] == group(init.url, "tables/template").sizes["subject"] == 4


def test_sessions_are_different_subjects(init):
    frame = pd.DataFrame({"participant_id": ["a", "a"], "session_id": ["01", "02"]})
    assert init(frame) == [0, 1]
    assert init(frame.iloc[::-1]) == [1, 0]


def test_covariates_are_those_of_the_table_and_absent_people_keep_theirs(init):
    init(people("a", "b", age=[50.0, 60.0], site=["x", "y"]))
    init(people("b", age=[61.0], group=["DCM"]))
    subjects = group(init.url, "subjects")
    assert subjects.age.values.tolist() == [50, 61]
    assert subjects.site.values.tolist() == ["x", ""]
    assert subjects.group.values.tolist() == ["", "DCM"]


def test_a_column_may_change_its_kind(init):
    init(people("a", "b", dose=[1.5, NAN]))
    init(people("b", dose=["high"]))
    assert group(init.url, "subjects").dose.values.tolist() == ["1.5", "high"]
    init(people("b", dose=[2.0]))
    assert group(init.url, "subjects").dose.values.tolist() == [1.5, 2.0]


def test_growing_over_many_chunks_keeps_every_name(init):
    names = [f"s{i}" for i in range(2 * layout.COLUMN_BLOCK + 5)]
    init(people(*names[:10]))
    assert init(people(*names)) == list(range(len(names)))
    assert group(init.url, "subjects").participant_id.values.tolist() == names


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (people("a", "a"), "an empty or repeated one in rows 1"),
        (people("a", None), "an empty or repeated one in rows 1"),
        (pd.DataFrame({"name": ["a"]}), "expected a column participant_id"),
        (people("a", **{"x/y": [1]}), "column names without '/'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_before_anything_is_made(init, tmp_path, frame, message):
    with pytest.raises(StoreError, match=message):
        init(frame)
    assert list(tmp_path.iterdir()) == []


# --- again ------------------------------------------------------------------------------------------------------------
def test_the_same_again_changes_no_array(init, tmp_path):
    init(people("a", "b", age=[1.0, 2.0]))
    before = {f: f.read_bytes() for f in (tmp_path / "store.zarr").rglob("*") if f.is_file() and f.parent.name != "store.zarr"}
    init(people("a", "b", age=[1.0, 2.0]))
    assert {f: f.read_bytes() for f in before} == before


def test_a_new_contrast_adds_its_arrays(init):
    init(people("a"))
    first = layout.store_attributes(init.url)
    init(people("a", "b"), stages={"fit": {"contrasts": ["mt", "t2w"]}})
    assert set(group(init.url, "fit")) == {"mt", "t2w"}
    assert layout.open_root(init.url)["fit/t2w"].shape[0] == 2
    second = layout.store_attributes(init.url)
    assert second["science_hash"] != first["science_hash"]
    assert second["created"] == first["created"]


def test_another_template_is_refused(init):
    init(people("a"))
    with pytest.raises(TemplateError, match="expected template parametric"):
        init(people("a"), template=parametric_cord(spacing=2, top="C3", bottom="C4"))


def test_a_newer_format_says_what_to_install(init):
    init(people("a"))
    zarr.open_group(init.url, use_consolidated=False).update_attributes({"format_version": "2"})
    with pytest.raises(StoreError, match="reads format version 2: the store says it was made with"):
        layout.open_root(init.url)
    with pytest.raises(StoreError, match="found format version 2"):
        init(people("a"))


def test_a_place_with_other_files_is_not_touched(init, tmp_path):
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "store.zarr" / "README").write_text("mine")
    with pytest.raises(StoreError, match="found other files"):
        init(people("a"))
    assert [f.name for f in (tmp_path / "store.zarr").iterdir()] == ["README"]


def test_another_zarr_group_is_not_touched(init):
    zarr.create_group(init.url, attributes={"title": "mine"})
    with pytest.raises(StoreError, match="found another Zarr group"):
        init(people("a"))
    with pytest.raises(StoreError, match="found another Zarr group"):
        layout.open_root(init.url)


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="no Zarr v3 group"):
        layout.open_root(str(tmp_path))


class Crash(Exception):
    pass


@pytest.mark.parametrize("step", ["_write_template", "_lay_out", "_write_columns"])
def test_a_first_try_that_crashed_is_no_store_and_the_next_one_is(init, small_template, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(writer, step, lambda *a, **k: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            init(people("x", "y", "z"), template=parametric_cord(spacing=2, top="C3", bottom="C4"))
    with pytest.raises(StoreError, match="cut short"):
        layout.open_root(init.url)
    assert init(people("a")) == [0]
    assert group(init.url, "subjects").participant_id.values.tolist() == ["a"]
    assert group(init.url, "maps").sizes == {"subject": 1, "voxel": len(small_template.packing)}


@pytest.mark.parametrize("step", ["_lay_out", "_write_columns", "versions"])
def test_an_append_that_crashed_counts_for_nothing(init, monkeypatch, step):
    init(people("a", age=[1.0]))
    real = getattr(writer, step)

    def crash(*args, **kwargs):
        real(*args, **kwargs)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(writer, step, crash)
        with pytest.raises(Crash):
            init(people("b", "c", "d", age=[2.0, 3.0, 4.0]))
    assert layout.store_attributes(init.url)["subjects"] == 1
    with pytest.raises(StoreError, match="a row from 0 to 0"):
        read_subject(init.url, 1, "maps/mtr")
    assert init(people("d", age=[4.5])) == [1]
    assert init(people("e")) == [2]
    subjects = group(init.url, "subjects")
    assert subjects.participant_id.values.tolist() == ["a", "d", "e"]
    np.testing.assert_array_equal(subjects.age, [1.0, 4.5, NAN])


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def write(make_store, small_template):
    url = make_store(3)

    def call(row, **arrays):
        write_subject(url, row, {k.replace("__", "/"): v for k, v in arrays.items()}, template_digest=small_template.digest)

    call.url, call.n = url, len(small_template.packing)
    return call


def test_a_row_is_written_and_its_neighbours_stay_empty(write):
    fit = np.arange(3.0 * write.n, dtype=np.float32).reshape(-1, 3)
    write(1, maps__mtr=np.arange(write.n), fit__mt=fit, qc__mt_dice=0.9)
    np.testing.assert_array_equal(read_subject(write.url, 1, "maps/mtr"), np.arange(write.n, dtype=np.float32))
    np.testing.assert_array_equal(read_subject(write.url, 1, "fit/mt"), fit)
    np.testing.assert_allclose(group(write.url, "qc").mt_dice, [NAN, 0.9, NAN])
    assert np.isnan(read_subject(write.url, 0, "maps/mtr")).all()
    assert read_subject(write.url, 1, "maps/mtr").dtype == np.float32


def test_nothing_but_nan_takes_no_room(write, tmp_path):
    chunk = tmp_path / "store.zarr" / "maps" / "mtr" / "c" / "1" / "0"
    write(1, maps__mtr=np.zeros(write.n))
    assert chunk.exists()
    write(1, maps__mtr=np.full(write.n, NAN))
    assert not chunk.exists()


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"maps__mtr": np.zeros(5)}, AlignmentError, r"expected shape \(1, 574\) for \('subject', 'voxel'\), found \(1, 5\)"),
        ({"qc__mt_dice": np.zeros(2)}, AlignmentError, "expected shape"),
        ({"qc__mt_dice": 1j}, StoreError, "expected dtype float32, found complex128"),
        ({"qc__mt_dice": "good"}, StoreError, "expected dtype float32"),
        ({"maps__mrt": np.zeros(574)}, UnknownNameError, "Did you mean 'maps/mtr'"),
        ({"subjects__age": 5.0}, UnknownNameError, "expected a known variable"),
        ({"voxels__i": np.zeros(574, "int16")}, StoreError, "expected a variable with a subject axis"),
        ({"subjects__participant_id": np.array("x")}, AlignmentError, "whole chunks of 4096 subjects"),
        ({"tables__template__mtr_wa": np.zeros((2, 43))}, AlignmentError, "two workers that share a chunk lose data in silence"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(write, arrays, error, message):
    with pytest.raises(error, match=message):
        write(1, maps__mtr=np.zeros(write.n), **arrays) if "maps__mtr" not in arrays else write(1, qc__mtr_cord_median=1.0, **arrays)
    assert np.isnan(read_subject(write.url, 1, "maps/mtr")).all()
    assert np.isnan(read_subject(write.url, 1, "qc/mtr_cord_median"))


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there(write, row):
    with pytest.raises(StoreError, match="expected a row from 0 to 2"):
        write(row, qc__mt_dice=1.0)
    with pytest.raises(StoreError, match="expected a row from 0 to 2"):
        read_subject(write.url, row, "qc/mt_dice")


def test_arrays_of_another_template_are_refused(write):
    with pytest.raises(TemplateError, match="hash 0123"):
        write_subject(write.url, 0, {"qc/mt_dice": 1.0}, template_digest="0123")


def test_a_disk_that_cannot_be_written_is_a_storage_error(write, tmp_path):
    chunks = tmp_path / "store.zarr" / "maps" / "mtr" / "c"
    chunks.write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="maps/mtr: expected storage that answers, found Not a directory") as caught:
        write(0, maps__mtr=np.zeros(write.n))
    assert caught.value.retryable


# --- blocks -----------------------------------------------------------------------------------------------------------
TABLE = "tables/template/mtr_wa"


def block(rows, value=1.0):
    return {TABLE: np.full((rows, 2, 43), value)}


def test_blocks_cover_the_axis_and_the_last_may_be_short(make_store):
    url = make_store(70)
    write_block(url, 0, block(64, 1.0))
    write_block(url, 64, block(6, 2.0))
    assert group(url, "tables/template").mtr_wa.isel(level=0, region=0).values.tolist() == [1.0] * 64 + [2.0] * 6


@pytest.mark.parametrize(
    ("first", "rows", "found"), [(1, 64, "rows 1 to 64"), (32, 38, "rows 32 to 69"), (0, 63, r"\(63, 2, 43\)"), (64, 7, r"\(7, 2, 43\)")]
)
def test_a_block_that_is_not_whole_is_refused(make_store, first, rows, found):
    url = make_store(70)
    with pytest.raises(AlignmentError, match=found):
        write_block(url, first, block(rows))
    assert group(url, "tables/template").mtr_wa.isnull().all()


def test_a_block_behind_the_end(make_store):
    with pytest.raises(StoreError, match="a row from 0 to 69"):
        write_block(make_store(70), 128, block(0))
