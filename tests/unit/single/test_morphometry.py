"""Morphometry of one image and as a stage: an upright cylinder whose sizes are known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine import schema
from cohort_engine.cli import app
from cohort_engine.config import parse_config
from cohort_engine.errors import ConfigError, CordError, LevelError, MissingInputError, UnknownNameError
from cohort_engine.io.volume import Volume, write_volume
from cohort_engine.query.accessor import open_cohort
from cohort_engine.single.morphometry import REACH, measure_cord, shape, subject_arrays
from cohort_engine.single.reading import read_landmarks
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.choose import stages_of
from cohort_engine.store.records import Entry
from cohort_engine.store.writer import read_subject, write_subject
from cohort_engine.template.base import Template

WORDS = ("cord mask", "vertebral landmarks")


@pytest.fixture
def make_images(small_template: Template):
    """Factory: mask of 10 x 8 mm upright from 20 mm below to 20 mm above the template's levels, discs at the template's own heights."""

    def make(*, below: float = 20.0, above: float = 20.0, numbers: Any = (2, 3, 4)) -> tuple[Volume, Volume]:
        inside = small_template.z[small_template.slice_level > 0]
        bottom = inside.min() - below
        affine = np.eye(4)
        affine[:3, 3] = -8, -8, bottom
        shape_of = (16, 16, round(inside.max() + above - bottom))
        mask = np.zeros(shape_of, np.float32)
        mask[3:13, 4:12] = 1
        labels = np.zeros(shape_of, np.float32)
        for n in numbers:
            labels[8, 8, round(small_template.landmark_z("disc", n) - bottom)] = n
        return Volume(mask, affine), Volume(labels, affine)

    return make


@pytest.fixture
def make_files(make_images, tmp_path: Path):
    """Factory: the same as files; the mask's runs from right to left."""

    def make(**change: Any) -> tuple[Path, Path]:
        paths = tmp_path / "mask.nii.gz", tmp_path / "labels-discs.nii.gz"
        for path, image in zip(paths, make_images(**change), strict=True):
            write_volume(path, image)
        return paths

    return make


def test_a_box_by_slice(make_images) -> None:
    table = shape(make_images()[0]).frame()
    assert (table["MEAN(area)"] == 80).all()
    np.testing.assert_allclose(table["MEAN(diameter_AP)"], 8)
    np.testing.assert_allclose(table["SUM(length)"], 1)
    assert table["STD(area)"].isna().all()
    assert (table["Slices"] == 1).all()
    assert (table["VertLevel"] == "").all()


def test_slices_are_counted_from_the_bottom(make_images) -> None:
    mask, _ = make_images()
    mask.data[:, :, :5] = 0
    mask.data[0, 0, 9] = 1
    table = shape(mask).frame()
    assert table["Slice (I->S)"].tolist()[:2] == ["5", "6"]
    assert table.set_index("Slice (I->S)")["Pieces"].loc[["8", "9"]].tolist() == [1, 2]


def test_a_level_sums_lengths_and_averages_the_rest(make_images, small_template: Template) -> None:
    mask, labels = make_images()
    table = shape(mask, labels, kind=schema.DISC, per="level", template=small_template).frame()
    assert table["VertLevel"].tolist() == ["2", "3"]
    height = [np.sum(small_template.slice_level == n) * 2.0 for n in (2, 3)]
    np.testing.assert_allclose(table["SUM(length)"], height, atol=1)
    np.testing.assert_allclose(table["MEAN(area)"], 80)
    np.testing.assert_allclose(table["STD(area)"], 0, atol=1e-9)
    assert table["Slices"].tolist() == table["SUM(length)"].round().astype(int).tolist()


def test_along_the_template_a_slice_is_that_of_the_template(make_images, small_template: Template) -> None:
    table = shape(*make_images(), kind=schema.DISC, template=small_template, normalise=True).frame()
    inside = np.flatnonzero(small_template.slice_level > 0)
    assert set(map(str, inside)) <= set(table["Slice (I->S)"])
    named = table[table["VertLevel"] != ""]
    assert named["VertLevel"].astype(int).tolist() == small_template.slice_level[named["Slice (I->S)"].astype(int)].tolist()
    np.testing.assert_allclose(table["MEAN(area)"], 80)


def test_levels_end_where_the_landmarks_are_far(make_images, small_template: Template) -> None:
    mask, labels = make_images(below=60, numbers=(2, 3))
    cord = measure_cord(mask, read_landmarks(labels, schema.DISC), small_template, what=WORDS)
    lowest = small_template.landmark_z("disc", 3)
    known = np.isfinite(cord.profiles()[schema.AREA])
    assert small_template.z[known].min() >= lowest - REACH - 1
    assert (cord.level[cord.arc < cord.axis.knot_arc[0] - REACH] == 0).all()


def test_files_and_volumes_give_the_same_numbers(make_images, make_files, small_template: Template) -> None:
    a, b = (
        shape(*images, kind=kind, per="level", template=small_template).frame()
        for images, kind in ((make_images(), schema.DISC), (make_files(), "auto"))
    )
    np.testing.assert_allclose(a["MEAN(area)"], b["MEAN(area)"])
    assert a["Slice (I->S)"].tolist() == b["Slice (I->S)"].tolist()


@pytest.mark.parametrize("choice", [{"per": "level"}, {"normalise": True}])
def test_levels_need_landmarks(make_images, choice) -> None:
    with pytest.raises(LevelError, match="expected vertebral landmarks, found none"):
        shape(make_images()[0], **choice)


def test_a_grouping_nobody_knows(make_images) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'slice'"):
        shape(make_images()[0], per="slices")


def test_an_empty_mask_is_refused(make_images, tmp_path: Path) -> None:
    mask = make_images()[0]
    write_volume(tmp_path / "mask.nii.gz", Volume(np.zeros_like(mask.data), mask.affine))
    with pytest.raises(CordError, match="an empty mask"):
        shape(tmp_path / "mask.nii.gz")


def test_the_command_writes_the_table(make_files, tmp_path: Path) -> None:
    mask, labels = make_files(numbers=(3, 4))
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(app, ["shape", str(mask), "--levels", str(labels), "--template", "parametric", "--per", "level", "-o", str(out)])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert all(float(r["MEAN(area)"]) == pytest.approx(80) for r in rows)
    assert list(rows[0])[:4] == ["Slice (I->S)", "VertLevel", "MEAN(area)", "STD(area)"]


# --- the stage ---
def config(**stages: Any):
    return parse_config({"data": {"bids": "b", "store": "s"}, "stages": stages})


def test_morphometry_is_asked_for() -> None:
    assert "shape" not in [s.name for s in stages_of(config())]
    assert "shape" in [s.name for s in stages_of(config(shape={"source": "t2w"}))]
    with pytest.raises(ConfigError, match="the mark of imported tables"):
        stages_of(config(shape={"source": "tables"}))


def shape_stage():
    return next(s for s in stages_of(config(shape={"source": "t2w"})) if s.name == "shape")


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(MissingInputError, match="no vertebral landmarks of the T2w image"):
        shape_stage().select({"t2w_mask": "m"})


def test_the_stage_fills_the_store(make_files, small_template: Template, make_store) -> None:
    mask, labels = make_files()
    url = make_store(2, stages={"shape": {"source": "t2w"}})
    stage = shape_stage()
    files = {"t2w_mask": str(mask), "t2w_landmarks": str(labels)}
    found = stage.run(StageInput(files, {"t2w_landmarks": "disc"}, stage.params, small_template, lambda path: np.zeros(0)))
    assert set(found) == {spec.path for spec in stage.writes}
    entry = Entry(1, stage.name, schema.DONE, "k", stage.recipe(small_template.digest).hash)
    write_subject(url, 1, found, entry, template_digest=small_template.digest)
    np.testing.assert_allclose(read_subject(url, 1, "tables/shape/area"), 80)
    with open_cohort(url) as ds:
        assert ds["profile_area"].dims == ("subject", "z")
        assert ds["z"].to_numpy().tolist() == small_template.z.tolist()
        assert ds["z_level"].to_numpy().tolist() == small_template.slice_level.tolist()
        inside = ds["profile_area"].isel(z=np.flatnonzero(small_template.slice_level > 0)).to_numpy()
        assert np.isnan(inside[0]).all()
        np.testing.assert_allclose(inside[1], 80)
        assert ds["area"].sel(level="C3").to_numpy().tolist() == pytest.approx([np.nan, 80], nan_ok=True)
        assert (ds["split_slices"].to_numpy()[1] == 0).all()
        pooled = ds.cohort.profile("area", "C2:C3")
        assert pooled["value"].to_numpy().ravel().tolist() == pytest.approx([np.nan, 80], nan_ok=True)
        assert pooled["coverage"].to_numpy().ravel().tolist() == [0, 1]
        with pytest.raises(UnknownNameError, match="length"):
            ds.cohort.profile("length")


def test_morphometry_joins_a_store_that_was_made_without(make_store, small_template: Template) -> None:
    url = make_store(1)
    assert make_store(1, url=url, stages={"shape": {"source": "t2w"}}) == url
    assert open_cohort(url)["z"].to_numpy().tolist() == small_template.z.tolist()


def test_a_level_without_a_slice_is_nan_with_no_slices(make_images, small_template: Template) -> None:
    mask, labels = make_images()
    cut = small_template.landmark_z("disc", 3) - mask.affine[2, 3] + 2
    mask.data[:, :, : int(cut)] = 0
    found = subject_arrays(measure_cord(mask, read_landmarks(labels, schema.DISC), small_template, what=WORDS), small_template)
    assert small_template.levels == ("C2", "C3")
    assert np.isnan(found["tables/shape/area"]).tolist() == [False, True]
    assert found["tables/shape/slices"][1] == 0


def test_slices_without_cord_have_rows_without_values_and_are_named(make_images, small_template: Template) -> None:
    mask, labels = make_images()
    whole = shape(mask, labels, kind=schema.DISC, template=small_template).frame().set_index("Slice (I->S)")
    mask.data[:, :, 30:33] = 0
    mask.data[2, 2, 31] = 1  # a speck
    found = shape(mask, labels, kind=schema.DISC, template=small_template)
    assert any("not measured: 30-32" in text for text in found.notes)
    assert any("standard error there is up to" in text for text in found.notes)
    table = found.frame().set_index("Slice (I->S)")
    assert table.index.tolist() == whole.index.tolist()
    gone = ["30", "31", "32"]
    assert table.loc[gone, "MEAN(area)"].isna().all()
    assert table.loc[gone, ["Slices", "Pieces"]].to_numpy().tolist() == [[0, 0], [0, 1], [0, 0]]
    numbers = [c for c in table.columns if c.startswith(("MEAN", "SUM"))]
    np.testing.assert_allclose(table.drop(gone)[numbers], whole.drop(gone)[numbers], atol=1e-6)
    assert table["VertLevel"].tolist() == whole["VertLevel"].tolist()
    level = shape(mask, labels, kind=schema.DISC, per="level", template=small_template).frame()
    assert level["Slices"].sum() == (whole["VertLevel"] != "").sum() - 3


def test_landmarks_that_are_left_out_are_named(make_images, small_template: Template) -> None:
    mask, labels = make_images()
    labels.data[8, 8, 3] = 49
    assert "left out: disc 49 unknown to template parametric" in shape(mask, labels, kind=schema.DISC, template=small_template).notes


def test_slices_that_are_hardly_there_are_named_and_counted(make_images, small_template: Template) -> None:
    mask, labels = make_images()
    mask.data[5:, :, 35:37] = 0  # two of ten voxels across
    mask.data[7, :, 40] = 0  # in two pieces
    mask.data[:, :, 44] = 0
    landmarks = read_landmarks(labels, schema.DISC)
    cord = measure_cord(mask, landmarks, small_template, what=WORDS)
    assert {flag: k.tolist() for flag, k in cord.flagged.items()} == {
        schema.SPLIT_SLICES: [40], schema.MISSING_SLICES: [44], schema.THIN_SLICES: [35, 36]
    }  # fmt: skip
    assert any("0.4 of the area of the slices around them: 35-36" in text for text in cord.notes())
    arrays = subject_arrays(cord, small_template)
    assert [int(arrays[f"tables/shape/{flag}"].sum()) for flag in schema.SLICE_FLAGS] == [1, 1, 2]
