"""Laying a store out, and growing it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from cohort_engine import schema
from cohort_engine.errors import StoreError, TemplateError, UnknownNameError
from cohort_engine.schema import SUBJECT, VariableSpec
from cohort_engine.store import layout, writer
from cohort_engine.store.maintenance import finalise, states_of
from cohort_engine.store.writer import read_subject
from cohort_engine.template.parametric import parametric_cord

from .conftest import FIT, MTR, SPECS, TABLE, Crash, asking, group

NAN = float("nan")


def people(*names, **columns):
    return pd.DataFrame({"participant_id": list(names), "session_id": "", **columns})


@pytest.fixture
def init(cohort):
    """Lay out (or extend) one store; returns the rows."""

    def call(subjects, **options):
        return cohort.init(subjects, **options)

    call.url, call.cohort = cohort.url, cohort
    return call


# --- layout -----------------------------------------------------------------------------------------------------------
def test_a_new_store_opens_with_plain_xarray(build, small_template):
    url = build(3, done=[]).url
    tables = group(url, "tables/template")
    assert dict(tables.sizes) == {"subject": 3, "level": 2, "region": 43}
    assert tables.level.values.tolist() == ["C2", "C3"]
    assert tables.region.values.tolist() == [r.name for r in small_template.atlas.regions]
    assert set(tables) == {"mtr_wa", "mtr_wa_n"}
    assert group(url, "maps").mtr.isnull().all()
    assert dict(group(url, "fit").mt.sizes) == {"subject": 3, "voxel": len(small_template.packing), "axis": 3}
    assert group(url, "maps").mtr.attrs["units"] == "percent"


def test_a_finished_store_opens_whole_with_its_coordinates(build, small_template):
    url = build(3).url
    finalise(url)
    root = xr.open_zarr(url)
    assert root.subject.values.tolist() == [0, 1, 2]
    assert root.participant_id.values.tolist() == ["sub-000", "sub-001", "sub-002"]
    assert dict(root.sizes) == {"subject": 3, "voxel": len(small_template.packing), "level": 2, "region": 43}
    tree = xr.open_datatree(url, engine="zarr")
    assert set(tree["maps"].to_dataset().coords) >= {"subject", "voxel"}
    for space in ("native", "template"):
        table = tree[f"tables/{space}"].to_dataset()
        assert table.level.values.tolist() == ["C2", "C3"]
        assert table.subject.values.tolist() == [0, 1, 2]
    assert tree["tables/native/mtr_wa"].sel(level="C3", region="spinal cord").values.tolist() == [0, 1, 2]
    assert tree["maps/mtr"].mean("voxel").sel(subject=2) == 2


@pytest.mark.parametrize("column", ["subject", "left", "voxel", "level", "region", "stage", "z", "axis", "participant"])
def test_a_column_with_the_name_of_something_else_does_no_harm(init, column):
    init(people("a", "b", **{column: ["u", "v"]}))
    finalise(init.url, allow_missing=True)
    stored = f"subjects_{column}" if column in ("subject", "left", "voxel", "level", "region") else column
    assert xr.open_datatree(init.url, engine="zarr")["subjects"][stored].values.tolist() == ["u", "v"]
    assert group(init.url, "subjects").left.values.tolist() == ["", ""]


def test_a_task_owns_its_chunks_and_what_is_small_shares_them(build, small_template):
    root = layout.open_root(build(3, done=[]).url)
    assert root["maps/mtr"].chunks == (1, len(small_template.packing))
    assert root["qc/mt_dice"].chunks == (1024,)
    assert root["profiles/area"].chunks == (1024, len(small_template.z))
    assert root["tables/native/mtr_wa"].chunks == (1024, 2, 43)
    assert root[TABLE].chunks == (schema.SUBJECT_BLOCK, 2, 43)
    assert root["subjects/participant_id"].chunks == (layout.COLUMN_BLOCK,)


def test_template_parts_are_rebuilt_from_the_store_alone(build, small_template):
    url = build(1).url
    atlas, packing = layout.stored_atlas(url), layout.stored_packing(url)
    assert atlas.digest == small_template.atlas.digest
    assert atlas.regions == small_template.atlas.regions
    assert (atlas.weights != small_template.atlas.weights).nnz == 0
    np.testing.assert_array_equal(packing.ijk, small_template.packing.ijk)
    np.testing.assert_array_equal(packing.level, small_template.packing.level)
    np.testing.assert_allclose(packing.xyz, small_template.packing.xyz)
    assert packing.grid.shape == small_template.grid.shape


def test_metadata_is_strict_json_without_any_name(tmp_path, init):
    init(people("sub-0815", site=["Neverland"]))
    files = list((tmp_path / "store.zarr").rglob("zarr.json"))
    assert len(files) > 30
    for file in files:
        json.loads(file.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
        assert not {"0815", "Neverland"} & set(file.read_text().split('"'))


def test_root_attributes_say_what_made_it_and_what_is_asked(build, small_template):
    attributes = layout.store_attributes(build(2).url)
    asked, recipes = asking()
    assert attributes["format_version"] == "2"
    assert attributes["template_digest"] == small_template.digest
    assert attributes["atlas_digest"] == small_template.atlas.digest
    assert json.loads(attributes["asked"]) == asked
    assert list(json.loads(attributes["asked"])["stages"]) == [FIT, MTR]
    assert json.loads(attributes["recipes"]) == recipes
    assert json.loads(attributes["versions"])["zarr"] == zarr.__version__
    assert attributes["subjects"] == 2
    assert attributes["finalised"] == ""


def test_the_store_keeps_the_specifications_of_all_that_it_holds(build):
    root = layout.open_root(build(1).url)
    specs = layout.stored_specs(root)
    assert all(specs[s.path] == s for s in SPECS)
    columns = {p for p in layout.arrays(root) if p.startswith("subjects/")} | {"participant_id", "session_id"}
    assert set(specs) == set(layout.arrays(root)) - columns
    assert layout.spec_at(root, "maps/mtr").units == "percent"
    with pytest.raises(UnknownNameError, match="Did you mean 'maps/mtr'"):
        layout.spec_at(root, "maps/mrt")


def test_an_axis_that_nobody_knows_is_refused(init):
    odd = VariableSpec("maps/odd", "odd", "1", (SUBJECT, "direction"), chunks={SUBJECT: 1}, stage=MTR)
    with pytest.raises(StoreError, match="maps/odd: expected dimensions voxel, axis"):
        init(people("a"), specs=(*SPECS, odd))


@pytest.mark.parametrize("change", ["recipes", "specs"])
def test_a_description_of_stages_that_is_not_whole_is_refused(init, change):
    if change == "recipes":
        init.cohort.recipes = {}
        with pytest.raises(StoreError, match="no recipe of fit_mt, no recipe of mtr"):
            init(people("a"))
    else:
        with pytest.raises(StoreError, match="no specification of maps/mtr"):
            init(people("a"), specs=[s for s in SPECS if s.path != "maps/mtr"])


# --- who left ---------------------------------------------------------------------------------------------------------
def test_who_is_not_in_the_table_has_left_with_the_reason_and_can_come_back(init):
    init(people("a", "b", "c"))
    init(people("b"), left={("a", ""): "excluded by the study file"})
    assert group(init.url, "subjects").left.values.tolist() == ["excluded by the study file", "", "no longer in the table of subjects"]
    assert init(people("c", "b")) == [2, 1]
    assert group(init.url, "subjects").left.values.tolist() == ["no longer in the table of subjects", "", ""]


def test_who_left_is_not_waited_for(build):
    """Today: an excluded subject keeps its place in every statistic, and a failed one keeps the store open."""
    cohort = build(2, done=[0])
    assert states_of(cohort.url).open
    cohort.init(pd.DataFrame({"participant_id": ["sub-000"], "session_id": "01"}), left={("sub-001", "01"): "excluded"})
    assert not states_of(cohort.url).open
    finalise(cohort.url)
    assert states_of(cohort.url).rows.left.tolist() == ["", "excluded"]


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


def test_new_subjects_are_appended_and_old_ones_keep_their_rows(init):
    assert init(people("b", "d")) == [0, 1]
    init.cohort.mtr(1, 40.0)
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


def test_a_new_stage_adds_its_arrays_and_an_old_one_keeps_its_own(init):
    init(people("a"))
    first = layout.store_attributes(init.url)
    asked, recipes = asking()
    asked["stages"]["t1"] = {"recipe": "t1-1", "needs": [], "makes": "", "section": "maps", "writes": ["maps/t1"]}
    del asked["stages"][FIT]
    init.cohort.asked, init.cohort.recipes = asked, recipes | {"t1-1": {"stage": "t1", "version": "1", "params": {}, "template": "t"}}
    t1 = VariableSpec("maps/t1", "T1", "s", (SUBJECT, "voxel"), chunks={SUBJECT: 1}, stage="t1")
    init(people("a", "b"), specs=(*(s for s in SPECS if s.stage != FIT), t1))
    assert set(group(init.url, "maps")) == {"mtr", "t1"}
    root = layout.open_root(init.url)
    assert root["fit/mt"].shape[0] == root["maps/t1"].shape[0] == root["qc/mt_dice"].shape[0] == 2
    assert layout.spec_at(root, "fit/mt").stage == FIT
    assert group(init.url, "stages").stage.values.tolist() == [FIT, MTR, "t1"]
    assert group(init.url, "stages").status.shape == (2, 3)
    assert layout.store_attributes(init.url)["created"] == first["created"]


def test_words_of_a_variable_may_change_and_its_form_may_not(init):
    init(people("a"))
    at = [s.path for s in SPECS].index("maps/mtr")
    better = dataclasses.replace(SPECS[at], long_name="magnetization transfer ratio", valid_range=(0.0, 100.0))
    init(people("a"), specs=(*SPECS[:at], better, *SPECS[at + 1 :]))
    assert group(init.url, "maps").mtr.attrs == {"long_name": "magnetization transfer ratio", "units": "percent", "valid_range": [0.0, 100.0]}
    other = dataclasses.replace(SPECS[at], dtype="float64")
    with pytest.raises(StoreError, match=r"maps/mtr: expected float32 .* found float64"):
        init(people("a"), specs=(*SPECS[:at], other, *SPECS[at + 1 :]))


def test_a_new_layout_opens_a_finished_store_again(build):
    """Planted bug: a layout that keeps `finalised` lets a store with new, empty rows pass for whole."""
    cohort = build(2)
    finalise(cohort.url)
    assert layout.store_attributes(cohort.url)["finalised"]
    cohort.init(3)
    assert layout.store_attributes(cohort.url)["finalised"] == ""


def test_a_layout_that_crashes_has_opened_the_store_before_it_changed_anything(build, monkeypatch):
    cohort = build(2)
    finalise(cohort.url)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_lay_out", lambda *a, **k: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            cohort.init(3)
    assert layout.store_attributes(cohort.url)["finalised"] == ""


def test_another_template_is_refused(init):
    init(people("a"))
    with pytest.raises(TemplateError, match="expected template parametric"):
        init(people("a"), template=parametric_cord(spacing=2, top="C3", bottom="C4"))


def test_a_newer_format_says_what_to_install_and_an_older_one_how_to_build_it_again(init):
    init(people("a"))
    root = zarr.open_group(init.url, use_consolidated=False)
    root.update_attributes({"format_version": "3"})
    with pytest.raises(StoreError, match="reads format version 3: the store says it was made with"):
        layout.open_root(init.url)
    root.update_attributes({"format_version": "1"})
    for attempt in (lambda: layout.open_root(init.url), lambda: init(people("a"))):
        with pytest.raises(StoreError, match=r'found format version 1\. Build it again from the images at a new place: .* "cohort-engine build"'):
            attempt()


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


@pytest.mark.parametrize("step", ["_write_groups", "_lay_out", "_write_columns"])
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


# --- two at once ------------------------------------------------------------------------------------------------------
def test_two_first_builds_at_once_lay_out_one_store(cohort, monkeypatch):
    """Planted bug: the second one finds a store that is not laid out yet, takes it for the rest of a crash, and clears what the first one writes."""
    inside, go = threading.Event(), threading.Event()
    real = writer._lay_out

    def slow(*args):
        out = real(*args)
        inside.set()
        assert go.wait(30)
        return out

    monkeypatch.setattr(writer, "_lay_out", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cohort.init, 3)
        assert inside.wait(30)
        with pytest.raises(StoreError, match='does "lay out" since'):
            cohort.init(5)
        go.set()
        assert first.result() == [0, 1, 2]
    assert layout.store_attributes(cohort.url)["subjects"] == 3
    assert cohort.init(5) == [0, 1, 2, 3, 4]


def test_two_builds_with_different_settings_at_once(cohort):
    """Planted bug: the second one changes what is asked while tasks of the first one run, and all of them pass for what it asked."""
    cohort.init(2)
    code = """
import sys, time
from cohort_engine.store.lease import lease
with lease(sys.argv[1], "build"):
    print("building", flush=True)
    sys.stdin.readline()
"""
    process = subprocess.Popen([sys.executable, "-c", code, cohort.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "building\n"
    with pytest.raises(StoreError, match=f'process {process.pid} on .* does "build"'):
        cohort.init(2, low_signal=0.2)
    process.communicate("end\n", timeout=30)
    assert json.loads(layout.store_attributes(cohort.url)["asked"])["science"]["low_signal"] == 0.05
