"""Regions of one image: who draws them, on which voxels, and what maps say of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_engine import schema
from cohort_engine.cli import app
from cohort_engine.errors import CohortError, GeometryError, InputError, MissingInputError, UnknownNameError
from cohort_engine.io.label_folder import NativeAtlas
from cohort_engine.io.volume import Volume, read_volume, write_volume
from cohort_engine.rois import train
from cohort_engine.rois.slices import RoiSlices
from cohort_engine.single.rois import rois_image, shares_of, slices_of
from cohort_engine.template.atlas import Naming

SHAPE = (8, 6, 2)
LAS = np.array([[-1.0, 0, 0, 7], [0, 1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
NUMBERS = np.zeros(SHAPE)
NUMBERS[2:4, 2, :], NUMBERS[4, 2, :] = 1, 5
FA = np.full(SHAPE, 0.5)
FA[2, 2, 0], FA[3, 2, 0], FA[4, 2, 1] = 0.3, 0.7, np.nan
Files = Callable[..., dict[str, Path]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Maps as a scanner stores them, from right to left."""

    def make(**images: Any) -> dict[str, Path]:
        data = {"fa": FA, "md": FA * 2, "mask": np.ones(SHAPE), "drawn": NUMBERS} | images
        for name, array in data.items():
            write_volume(tmp_path / f"{name}.nii.gz", Volume(np.asarray(array, np.float32)[::-1], LAS))
        return {name: tmp_path / f"{name}.nii.gz" for name in data}

    return make


def run(files: dict[str, Path], tmp_path: Path, **more: Any) -> tuple[Volume, dict[str, Any]]:
    maps = {name: files[name] for name in ("fa", "md") if name in files}
    regions, table, _ = rois_image(maps, tmp_path / "out.nii.gz", mask=files["mask"], **{"drawn": [files["drawn"]], **more})
    return regions, {key: np.array(column) for key, column in table.columns.items()}


def test_what_is_drawn_is_averaged_slice_by_slice(files: Files, tmp_path: Path) -> None:
    regions, table = run(files(), tmp_path)
    np.testing.assert_array_equal(regions.data, NUMBERS)
    here = (table["Metric"] == "FA") & (table["Label"] == "ROI left dorsal column")
    np.testing.assert_allclose(table["Mean"][here], [0.5, 0.5])
    np.testing.assert_allclose(table["STD"][here], [0.2, 0], atol=1e-7)
    assert table["N [vox]"][here].tolist() == [2, 2]
    right = (table["Metric"] == "MD") & (table["Label"] == "ROI right dorsal column")
    np.testing.assert_allclose(table["Mean"][right], [1.0, np.nan])
    assert table["Coverage"][right].tolist() == [1, 0]
    absent = table["Label"] == "ROI left grey matter"
    assert np.isnan(table["Mean"][absent]).all()
    assert (table["N [vox]"][absent] == 0).all()


def test_the_image_lies_on_the_voxels_of_the_map_as_it_is_stored(files: Files, tmp_path: Path) -> None:
    given = files()
    run(given, tmp_path)
    written, fa = (read_volume(p, what="x") for p in (tmp_path / "out.nii.gz", given["fa"]))
    np.testing.assert_array_equal(written.data, NUMBERS)
    np.testing.assert_allclose(written.affine, fa.affine)


def test_parts_are_found_by_the_names_of_labels() -> None:
    unions = {"dorsal columns": (0, 1), "lateral funiculi": (2,), "ventral funiculi": (), "gray matter": (3,)}
    names = "WM left fasciculus gracilis", "WM right fasciculus gracilis", "WM right rubrospinal tract", "GM left dorsal horn"
    grid = Volume(np.zeros(SHAPE), np.eye(4)).grid
    shares = shares_of(NativeAtlas(Naming(names, unions, {}), grid, np.array([5]), np.array([[0.1], [0.2], [0.3], [0.4]])))
    assert shares.shape == (8, *SHAPE)
    found = dict(zip(schema.ROIS, shares.reshape(8, -1)[:, 5].astype(float).round(3).tolist(), strict=True))
    assert {k: v for k, v in found.items() if v} == {
        "left dorsal column": 0.1, "right dorsal column": 0.2, "right lateral column": 0.3, "left grey matter": 0.4,
    }  # fmt: skip
    assert shares.sum() == pytest.approx(1.0)


def test_a_map_without_a_value_in_the_cord_is_refused() -> None:
    with pytest.raises(InputError, match="FA image: expected numbers in the cord, found none"):
        slices_of({"fa": np.full(SHAPE, np.nan)}, np.ones(SHAPE, bool), np.ones(3))
    with pytest.raises(InputError, match="found no cord"):
        slices_of({"fa": FA}, np.zeros(SHAPE, bool), np.ones(3))


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"source": "somebody", "drawn": ()}, UnknownNameError, "source of regions"),
        ({"source": "atlas", "drawn": ()}, MissingInputError, "expected the atlas in the image"),
    ],
)
def test_who_is_to_draw(files: Files, tmp_path: Path, how: dict[str, Any], error: type[CohortError], text: str) -> None:
    with pytest.raises(error, match=text):
        run(files(), tmp_path, **how)
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        ({"md": FA[:-1]}, GeometryError, "MD map: expected the grid of the FA map"),
        ({"mask": FA[:, :-1]}, GeometryError, "cord mask of the mean diffusion-weighted image: expected the grid of the FA map"),
        ({"drawn": NUMBERS[..., :1]}, GeometryError, "drawn regions: expected the grid of the FA map"),
        ({"drawn": NUMBERS * 2}, InputError, "drawn regions: expected labels 1 to 8.*also 10"),
        ({"fa": FA * np.nan}, InputError, "FA image: expected numbers in the cord, found none"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit(files: Files, tmp_path: Path, images: dict[str, Any], error: type[CohortError], text: str) -> None:
    with pytest.raises(error, match=text):
        run(files(**images), tmp_path)


def test_the_command(files: Files, tmp_path: Path) -> None:
    given = files()
    words = ["rois", "--fa", given["fa"], "--mask", given["mask"], "--drawn", given["drawn"], "--per", "all", "-o", tmp_path / "r.nii.gz"]
    result = CliRunner().invoke(app, list(map(str, [*words, "--picture", tmp_path / "r.png"])))
    assert result.exit_code == 0, result.output
    head, first, *_ = result.output.splitlines()
    assert head == "Metric,Slice (I->S),VertLevel,Label,Size [vox],Mean,STD,SE,Spread,Coverage,N [vox]"
    assert first.startswith("FA,0:1,,ROI left dorsal column,4.0,0.5")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


class Network:
    """Half of the cord is left dorsal column, all of it right grey matter, of less heat there."""

    def predict(self, slices: RoiSlices) -> np.ndarray:
        heat = np.zeros(slices.drawn.shape, np.float32)
        heat[:, 7] = slices.cord * 0.6
        heat[:, 0, :4] = slices.cord[:, :4] * 0.9
        return heat

    def masks(self, slices: RoiSlices, heat: np.ndarray) -> np.ndarray:
        return heat > 0.5


def test_a_network_draws_in_the_slices_with_cord(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(train, "load_rois", lambda *which, **how: asked.append((*which, how)) or Network())
    cord = np.zeros(SHAPE)
    cord[1:7, 1:5, 1] = 1
    regions, _ = run(files(mask=cord), tmp_path, drawn=(), weights="own.safetensors", device="cpu")
    assert asked == [("own.safetensors", {"device": "cpu"})]
    np.testing.assert_array_equal(np.unique(regions.data[1:4, 1:5, 1]), [1])
    np.testing.assert_array_equal(np.unique(regions.data[4:7, 1:5, 1]), [8])
    assert np.count_nonzero(regions.data) == cord.sum()
