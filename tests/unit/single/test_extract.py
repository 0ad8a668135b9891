"""One image, one label folder: what is chosen, what is written, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine.cli import app
from cohort_engine.errors import GeometryError, InputError, LevelError, MissingInputError, UnknownNameError
from cohort_engine.io.label_folder import read_atlas
from cohort_engine.io.volume import Volume, read_nonzero, read_volume, write_volume
from cohort_engine.single.extract import extract

INFO = """# Keyword=IndivLabels
0, WM left tract, a.nii.gz
1, WM right tract, b.nii.gz
2, GM left horn, c.nii.gz

# Keyword=CombinedLabels
50, white matter, 0:1

# Keyword=MAPLabels
white matter, 0:1
gray matter, 2
"""
AFFINE = np.array([[-1.0, 0, 0, 4], [0, 1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
SHAPE = (5, 4, 6)
Study = Callable[..., tuple[Path, Path]]


def stored(data: np.ndarray) -> Volume:
    """A volume whose file runs from right to left."""
    return Volume(data.astype(np.float32), AFFINE)


@pytest.fixture
def make_study(tmp_path: Path) -> Study:
    """Metric and label folder: left tract 40 (its last voxel half horn), right tract 30, horn 10; slices 0-1 C4, 2-3 C3, 4 C2, 5 without a level."""

    def make(metric: np.ndarray | None = None, *, skip: str = "") -> tuple[Path, Path]:
        folder = tmp_path / "label"
        (folder / "atlas").mkdir(parents=True)
        (folder / "template").mkdir()
        labels = np.zeros((3, *SHAPE))
        labels[0, 0], labels[1, 3], labels[2, 2] = 1, 1, 1
        labels[0, 1, :, :], labels[2, 1, :, :] = 0.5, 0.5
        for name, data in zip("abc", labels, strict=True):
            if name != skip:
                write_volume(folder / "atlas" / f"{name}.nii.gz", stored(data))
        (folder / "atlas" / "info_label.txt").write_text(INFO)
        levels = np.zeros(SHAPE, np.int16)
        levels[:4] = [4, 4, 3, 3, 2, 0]
        if skip != "levels":
            write_volume(folder / "template" / "PAM50_levels.nii.gz", Volume(levels, AFFINE))
        write_volume(tmp_path / "metric.nii.gz", stored(np.einsum("k,kxyz->xyz", [40, 30, 10], labels) if metric is None else metric))
        return tmp_path / "metric.nii.gz", folder

    return make


def test_rows_in_the_order_of_the_toolbox(make_study: Study) -> None:
    table = extract(*make_study(), estimator="ml", per="level", levels="C2:C4", regions=["left tract", "white matter"])
    frame = table.frame()
    assert frame["Label"].tolist() == ["WM left tract"] * 3 + ["white matter"] * 3
    assert frame["Slice (I->S)"].tolist() == ["0:1", "2:3", "4"] * 2
    assert frame["VertLevel"].tolist() == ["4", "3", "2"] * 2
    np.testing.assert_allclose(frame["ML()"][:3], 40, atol=1e-5)
    np.testing.assert_allclose(frame["Size [vox]"][:3], [4 * 1.5 * 2, 4 * 1.5 * 2, 4 * 1.5])


@pytest.mark.parametrize(
    ("choice", "slices", "levels"),
    [
        ({}, ["0", "1", "2", "3", "4", "5"], ["4", "4", "3", "3", "2", ""]),
        ({"slices": "1:3"}, ["1:3"], ["3:4"]),
        ({"slices": "1,3,4"}, ["1;3:4"], ["2:4"]),
        ({"levels": "c2,4"}, ["0:1;4"], ["2;4"]),
        ({"levels": "C3:C4", "slices": "1:5"}, ["1:3"], ["3:4"]),
        ({"levels": "C3", "per": "slice"}, ["2", "3"], ["3", "3"]),
        ({"per": "level"}, ["0:1", "2:3", "4"], ["4", "3", "2"]),
        ({"per": "all"}, ["0:5"], ["2:4"]),
        ({"per": "level", "levels": "C2:C6"}, ["0:1", "2:3", "4", "", ""], ["4", "3", "2", "5", "6"]),
    ],
)
def test_what_is_chosen(make_study: Study, choice: dict[str, str], slices: list[str], levels: list[str]) -> None:
    table = extract(*make_study(), estimator="wa", regions=["white matter"], **choice)
    assert (table.columns["Slice (I->S)"], table.columns["VertLevel"]) == (slices, levels)
    empty = [s == "" for s in slices]
    assert np.isnan(table.columns["WA()"]).tolist() == empty
    assert [c == 0 for c in table.columns["Coverage"]] == empty


def test_all_regions_and_a_sum(make_study: Study) -> None:
    study = make_study()
    assert extract(*study, per="all").columns["Label"] == ["WM left tract", "WM right tract", "GM left horn", "white matter"]
    total = extract(*study, estimator="wa", per="all", regions=["left tract + left horn"])
    assert total.columns["WA()"][0] == pytest.approx((40 + 25 + 10) / 3, rel=1e-6)


def test_the_command_writes_what_the_function_returns(make_study: Study, tmp_path: Path) -> None:
    metric, labels = make_study()
    arguments = ["extract", "--metric", str(metric), "--labels", str(labels), "--estimator", "map", "--levels", "C2:C6", "--per", "level"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "t.csv")]).exit_code == 0
    assert (tmp_path / "t.csv").read_text() == printed.stdout == extract(metric, labels, levels="C2:C6", per="level").csv()
    rows = list(csv.DictReader(printed.stdout.splitlines()))
    assert list(rows[0]) == ["Slice (I->S)", "VertLevel", "Label", "Size [vox]", "MAP()", "STD()", "SE()", "Spread()", "Coverage", "N [vox]"]
    assert (rows[-1]["MAP()"], rows[-1]["Coverage"]) == ("", "0.0")


def test_levels_are_only_needed_when_they_are_asked_for(make_study: Study) -> None:
    study = make_study(skip="levels")
    assert extract(*study, slices="1:2").columns["VertLevel"] == [""] * 4
    for choice in ({"levels": "C3"}, {"per": "level"}):
        with pytest.raises(MissingInputError, match="vertebral levels of the label folder"):
            extract(*study, **choice)


def test_infinity_is_missing_and_zero_is_not(make_study: Study) -> None:
    metric = np.full(SHAPE, 40.0)
    metric[0, 0], metric[0, 1, :], metric[3] = np.inf, 0, np.nan
    table = extract(*make_study(metric), estimator="wa", per="all", regions=["left tract", "right tract"])
    assert table.columns["Coverage"][0] == pytest.approx((24 * 1.5 - 6) / (24 * 1.5))
    assert table.columns["WA()"][0] == pytest.approx(40 * (24 * 1.5 - 12) / (24 * 1.5 - 6))
    assert np.isnan(table.columns["WA()"][1])
    assert table.columns["Coverage"][1] == 0


# --- refusals ---------------------------------------------------------------------------------------------------------
def test_names_nobody_knows(make_study: Study) -> None:
    study = make_study()
    for choice, message in (
        ({"estimator": "mpa"}, r"'mpa'\. Did you mean .*'map'"),
        ({"regions": ["left trac"]}, r"Did you mean 'left tract'"),
        ({"levels": "C9"}, r"'C9'\. Did you mean 'T9'"),
        ({"levels": "C4:C2"}, "the smaller number first"),
        ({"slices": "two"}, "numbers such as 3:8"),
        ({"per": "levels"}, r"'levels'\. Did you mean 'level'"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            extract(*study, **choice)


def test_other_grids_slices_and_levels(make_study: Study, tmp_path: Path) -> None:
    metric, labels = make_study()
    image = read_volume(metric, what="metric image")
    moved = image.affine.copy()
    moved[2, 3] += 2.5
    with pytest.raises(GeometryError, match=r"atlas labels: .*the same shape, up to 2\.50 mm away"):
        extract(Volume(image.data, moved), labels)
    with pytest.raises(GeometryError, match=r"grid of the metric image \(5x4x5 voxels\), found 5x4x6 voxels"):
        extract(Volume(image.data[..., :5], image.affine), labels)
    with pytest.raises(GeometryError, match="slices from 0 to 5, found 6"):
        extract(metric, labels, slices="3:6")
    with pytest.raises(LevelError, match=r"levels of the image \(2:4\), found 9"):
        extract(metric, labels, levels="T2")
    write_volume(labels / "template/PAM50_levels.nii.gz", Volume(np.ones((5, 4, 5), np.int16), AFFINE))
    with pytest.raises(GeometryError, match="vertebral levels"):
        extract(metric, labels, levels="C3")


def test_a_label_that_is_absent_elsewhere_or_no_weight(make_study: Study) -> None:
    metric, labels = make_study(skip="c")
    with pytest.raises(MissingInputError, match=r"expected 3 atlas labels, found 1 absent: c\.nii\.gz"):
        extract(metric, labels)
    write_volume(labels / "atlas/c.nii.gz", stored(np.full(SHAPE, 7)))
    with pytest.raises(InputError, match="atlas label 'GM left horn': expected weights from 0 to 1, found 7 to 7"):
        extract(metric, labels)
    write_volume(labels / "atlas/c.nii.gz", Volume(np.ones((5, 4, 7), np.float32), AFFINE))
    with pytest.raises(GeometryError, match=r"atlas label 'GM left horn': .*first label"):
        extract(metric, labels)
    (labels / "atlas/c.nii.gz").write_bytes((labels / "atlas/b.nii.gz").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"atlas label 'GM left horn'.*cut short"):
        extract(metric, labels)
    (labels / "atlas/info_label.txt").write_text("nothing")
    with pytest.raises(InputError, match="sections IndivLabels"):
        extract(metric, labels)
    (labels / "atlas/info_label.txt").unlink()
    with pytest.raises(MissingInputError, match="sct_warp_template"):
        extract(metric, labels)


def test_a_region_of_the_users_own_is_the_union_of_its_labels(make_study: Study) -> None:
    metric, labels = make_study()
    info = labels / "atlas/info_label.txt"
    info.write_text(INFO.replace("50, white matter, 0:1\n", "50, white matter, 0:1\n56, left side, with horn, 0,2\n"), newline="\r\n")
    own, sum_of_both = (extract(metric, labels, estimator="wa", regions=[r]).frame() for r in ("left side, with horn", "left tract + left horn"))
    assert own["Label"].unique().tolist() == ["left side, with horn"]
    assert own["WA()"].tolist() == sum_of_both["WA()"].tolist()
    assert own["WA()"].tolist() != extract(metric, labels, estimator="wa", regions=["left horn"]).frame()["WA()"].tolist()


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_metric_without_a_value(make_study: Study, value: float) -> None:
    with pytest.raises(InputError, match="metric image: expected signal"):
        extract(*make_study(np.full(SHAPE, value)))


def test_labels_beside_the_image_are_refused(make_study: Study) -> None:
    metric, labels = make_study()
    for name in "abc":
        write_volume(labels / f"atlas/{name}.nii.gz", stored(np.zeros(SHAPE)))
    with pytest.raises(InputError, match="no voxel in any of them"):
        extract(metric, labels)


# --- reading ----------------------------------------------------------------------------------------------------------
SAGITTAL = np.array([[0, 0, -2.0, 1], [-1, 0, 0, 2], [0, 3, 0, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [np.eye(4), AFFINE, SAGITTAL], ids=["RAS", "LAS", "PSL"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_nonzero_voxels_are_those_of_the_volume(tmp_path: Path, affine: np.ndarray, dtype: type) -> None:
    import nibabel as nib

    rng = np.random.default_rng(3)
    data = (rng.integers(1, 9, (3, 4, 5)) * (rng.random((3, 4, 5)) < 0.3)).astype(dtype)
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "a.nii.gz")
    whole = read_volume(tmp_path / "a.nii.gz", what="label")
    grid, index, values = read_nonzero(tmp_path / "a.nii.gz", what="label")
    assert grid.shape == whole.data.shape
    np.testing.assert_allclose(grid.affine, whole.affine)
    out = np.zeros(grid.shape)
    out.ravel()[index] = values
    np.testing.assert_array_equal(out, whole.data)


def test_atlas_is_sorted_and_sparse(make_study: Study) -> None:
    atlas = read_atlas(make_study()[1])
    assert (np.diff(atlas.voxel) > 0).all()
    assert atlas.weights.shape == (3, 4 * 4 * 6)
    np.testing.assert_allclose(atlas.weights.sum(axis=0), 1)
    assert sorted(set(atlas.slices.tolist())) == [0, 1, 2, 3, 4, 5]
