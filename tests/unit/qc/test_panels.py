"""Pictures of a subject: what is outlined is what the mask says, the right of the body is at the left, and what is lost is marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cohort_engine import schema
from cohort_engine.errors import InputError, MissingInputError
from cohort_engine.io.volume import Volume
from cohort_engine.pictures.cuts import Window, cord_middles, row_of, sagittal
from cohort_engine.qc.panels import LOST, MASK, SAGITTAL, draw_levels, draw_masks, draw_motion
from cohort_engine.qc.scene import Places, Scene

AFFINE = np.diag([0.5, 0.5, 2.0, 1.0])


class Given(Scene):
    """A scene of volumes and arrays that are at hand."""

    def __init__(self, volumes: dict[str, NDArray[Any]], arrays: dict[str, NDArray[Any]] | None = None) -> None:
        super().__init__("nowhere", Places(0, dict.fromkeys(volumes, "given"), {}, "no images"), None)
        self.volumes, self.arrays = volumes, arrays or {}

    def array(self, path: str) -> NDArray[Any] | None:
        return self.arrays.get(path)

    def image(self, role: str) -> Volume:
        self._place(role)
        return Volume(self.volumes[role], AFFINE)

    def mask(self, role: str, on: str) -> Volume:
        return self.image(role)


def cord() -> dict[str, NDArray[Any]]:
    """A grey image of 6 slices with a bright corner at the right of the body, and a mask of 20 x 16 voxels in slices 1 to 4."""
    image, mask = np.full((100, 100, 6), 50.0, np.float32), np.zeros((100, 100, 6), np.float32)
    image[68:76, 45:55] = 200.0  # larger x: the right of the body
    mask[40:60, 42:58, 1:5] = 1
    return {schema.MT_ON: image, "mt_mask": mask}


def painted(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((picture == colour).all(axis=-1))


def test_the_outline_is_that_of_the_mask_and_slices_around_it_are_shown() -> None:
    ((name, _, picture),) = draw_masks(Given(cord()))
    assert name == schema.MT
    tiles = [picture[:112, i * 114 : i * 114 + 112] for i in range(6)]
    counts = [int(painted(t, MASK).sum()) for t in tiles]
    assert [c > 0 for c in counts] == [False, True, True, True, True, False]
    rows, columns = np.nonzero(painted(tiles[2], MASK))
    assert np.ptp(rows) * 0.25 == pytest.approx(8, abs=0.6)  # 16 voxels of 0.5 mm from front to back
    assert np.ptp(columns) * 0.25 == pytest.approx(10, abs=0.6)


def test_the_right_of_the_body_is_at_the_left() -> None:
    ((_, _, picture),) = draw_masks(Given(cord()))
    columns = np.nonzero(painted(picture[20:112, 114 : 114 + 112], (255, 255, 255)))[1]
    assert columns.size
    assert columns.max() < 40


def test_an_empty_mask_is_an_error_that_says_so() -> None:
    volumes = cord()
    volumes["mt_mask"][:] = 0
    with pytest.raises(InputError, match="an empty one"):
        list(draw_masks(Given(volumes)))


def test_without_the_image_the_panel_says_what_is_lacking() -> None:
    scene = Given({}, {schema.fit_spec(schema.MT).path: np.zeros((4, 3), np.float32)})
    with pytest.raises(MissingInputError, match="MT-on image"):
        list(draw_masks(scene))


def test_nothing_is_drawn_of_a_contrast_that_is_not_there() -> None:
    assert list(draw_masks(Given({}))) == []
    assert list(draw_motion(Given({}))) == []


def test_discs_lie_at_their_height() -> None:
    volumes = cord()
    volumes["mt_landmarks"] = np.zeros((100, 100, 6), np.float32)
    volumes["mt_landmarks"][50, 50, 4] = 3
    ((_, _, picture),) = draw_levels(Given(volumes))
    rows = np.nonzero((picture[:, 0] == (254, 97, 0)).all(axis=-1))[0]
    assert rows.mean() == pytest.approx(float(row_of(4.0, 6, np.array([0.5, 0.5, 2.0]), SAGITTAL)), abs=1.5)


def test_a_sagittal_cut_follows_the_cord() -> None:
    image, mask = np.zeros((40, 9, 20), np.float32), np.zeros((40, 9, 20), np.float32)
    for k in range(20):
        image[10 + k, 4, k] = mask[10 + k, 4, k] = 1
    cut = sagittal(image, np.ones(3), cord_middles(mask), Window(4.5, 1.0))
    np.testing.assert_array_equal(cut[:, 4], np.ones(20, np.float32))


def test_lost_slices_are_marked_and_padding_is_not_drawn() -> None:
    shift, flags = np.full((5, 4, 2), np.nan, np.float32), np.full((5, 4), -1, np.int8)
    shift[:3, :3], flags[:3, :3] = 0.5, 0
    flags[1, 2] = schema.LOST
    specs = schema.MOTION_SPECS
    scene = Given({}, {specs[schema.MOTION_SHIFT].path: shift, specs[schema.MOTION_FLAG].path: flags})
    ((_, _, picture),) = draw_motion(scene)
    small = picture[::10, ::10]
    assert small.shape == (3, 3, 3)
    assert np.argwhere(painted(small, LOST)).tolist() == [[0, 1]]  # the highest slice is at the top
