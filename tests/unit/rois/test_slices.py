"""Slices with drawn regions: shapes are held to one another, files give back what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.errors import GeometryError, StorageError
from cohort_engine.rois.slices import RoiSlices


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def some(rng: np.random.Generator, **more: object) -> RoiSlices:
    drawn = rng.random((3, 8, 5, 4)) < 0.5
    image = rng.random((3, 5, 4)).astype(np.float32)
    return RoiSlices({schema.FA: image}, drawn, drawn[:, 0], np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.625, 0.625]), **more)  # type: ignore[arg-type]


def test_the_other_side_of_a_region_is_the_same_part() -> None:
    for i, other in enumerate(schema.OTHER_SIDE):
        assert schema.ROIS[i].split(" ", 1)[1] == schema.ROIS[other].split(" ", 1)[1]
        assert schema.ROIS[i] != schema.ROIS[other]


def test_a_file_gives_back_what_was_written(tmp_path: Path, rng: np.random.Generator) -> None:
    slices = some(rng, prior=rng.random((3, 8, 5, 4)).astype(np.float32))
    slices.save(tmp_path / "slices.npz")
    back = RoiSlices.load(tmp_path / "slices.npz")
    assert np.array_equal(back.images[schema.FA], slices.images[schema.FA])
    assert np.array_equal(back.drawn, slices.drawn)
    assert back.prior is not None
    assert back.again is None
    assert [p.name for p in tmp_path.iterdir()] == ["slices.npz"]


def test_seven_regions_are_not_eight(rng: np.random.Generator) -> None:
    slices = some(rng)
    with pytest.raises(GeometryError, match="8 regions a slice"):
        RoiSlices(slices.images, slices.drawn[:, :7], slices.cord, slices.patient, slices.position, slices.spacing)


def test_masks_of_another_grid_are_refused(rng: np.random.Generator) -> None:
    slices = some(rng)
    with pytest.raises(GeometryError, match="image fa"):
        RoiSlices({schema.FA: slices.images[schema.FA][:, :4]}, slices.drawn, slices.cord, slices.patient, slices.position, slices.spacing)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "slices.npz").write_bytes(b"no zip")
    with pytest.raises(StorageError, match=r"slices\.npz"):
        RoiSlices.load(tmp_path / "slices.npz")
