"""Contrast of grey matter: a step over a noise, whatever the coil and the unit."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.cord.grey import by_signal, grey_contrast, grey_matter
from cohort_engine.errors import GeometryError

SHAPE = (16, 12, 4)
RNG = np.random.default_rng(2)
GREY = RNG.uniform(size=SHAPE)
NOISE = RNG.normal(size=SHAPE)
WHOLE = np.ones(SHAPE)


@pytest.mark.parametrize("step", [-3.0, 0.0, 2.0])
def test_the_step_in_units_of_the_noise(step: float) -> None:
    assert grey_contrast(100 + step * GREY + NOISE, WHOLE, GREY) == pytest.approx(step, abs=0.5)


def test_unit_and_coil_do_not_matter() -> None:
    image = 100 + 3 * GREY + NOISE
    slope = np.indices(SHAPE)[0] * 5.0 - np.indices(SHAPE)[1] * 2.0
    assert grey_contrast(7 * (image + slope), WHOLE, GREY) == pytest.approx(grey_contrast(image, WHOLE, GREY))


def test_only_voxels_inside_the_cord_count() -> None:
    image, soft = 100 + 3 * GREY + NOISE, WHOLE.copy()
    soft[8:] = 0.5
    image[8:] = 1e6
    assert grey_contrast(image, soft, GREY) == pytest.approx(grey_contrast(image[:8], soft[:8], GREY[:8]))


def test_nothing_to_compare_is_missing_not_zero() -> None:
    assert np.isnan(grey_contrast(WHOLE, 0 * WHOLE, GREY))  # no cord
    assert np.isnan(grey_contrast(NOISE, WHOLE, 0 * GREY))  # no grey matter
    assert np.isnan(grey_contrast(NOISE[:4, :4], WHOLE[:4, :4], GREY[:4, :4]))  # 16 voxels a slice


def test_an_empty_mask_has_no_grey_matter() -> None:
    pytest.importorskip("torch")
    found = grey_matter(NOISE, np.eye(4), 0 * WHOLE)
    assert not found.soft.any()
    assert np.isnan(found.contrast)
    assert not found.shown


def test_grey_matter_needs_the_mask_of_its_image() -> None:
    with pytest.raises(GeometryError, match=r"expected a mask of shape \(16, 12, 4\)"):
        grey_matter(NOISE, np.eye(4), WHOLE[:-1])


def test_grey_values_decide_what_shape_leaves_open() -> None:
    """Prior 0.5 in two columns, one as bright as grey matter, one as white: each goes to its side, whichever of both is brighter."""
    prior = np.zeros(SHAPE)
    prior[4:7], prior[7:9] = 1.0, 0.5
    truth = prior > 0.5
    truth[7] = True
    for sign in (1.0, -1.0):
        found = by_signal(100 + 10 * sign * truth + NOISE, WHOLE, prior, sign)
        assert ((found >= 0.5) == truth).all()


def test_grey_values_that_speak_against_the_sign_change_nothing() -> None:
    image = 100 + 5 * (GREY >= 0.5) + NOISE
    assert np.array_equal(by_signal(image, WHOLE, GREY, -1.0), GREY.astype(np.float32))
    assert not np.array_equal(by_signal(image, WHOLE, GREY, 1.0), GREY.astype(np.float32))


def test_a_drawn_butterfly_is_found() -> None:
    """An elliptic cord with an H inside, brighter or darker than the rest: the contrast has its sign, and where it is drawn it is the H."""
    pytest.importorskip("torch")
    x, y = (np.indices((64, 64)) - 31.5) * 0.5
    cord = (np.hypot(x / 6.5, y / 4) < 1).astype(np.float32)
    h = (((np.abs(np.abs(x) - 2.0) < 0.8) & (np.abs(y) < 2.4)) | ((np.abs(x) < 2) & (np.abs(y) < 0.5))).astype(np.float32)
    cords, hs = (np.repeat(a[:, :, None], 4, axis=2) for a in (cord, h))
    rng = np.random.default_rng(1)
    for sign in (1, -1):
        image = np.where(cords > 0, 0.5 + 0.1 * sign * hs, 1.0) + 0.01 * rng.normal(size=cords.shape)
        found = grey_matter(image, np.diag([0.5, 0.5, 5.0, 1.0]), cords)
        assert np.sign(found.contrast) == sign
        assert found.shown
        assert (found.soft <= cords).all()
        assert 2 * ((found.soft >= 0.5) & (hs > 0)).sum() / ((found.soft >= 0.5).sum() + hs.sum()) > 0.9
