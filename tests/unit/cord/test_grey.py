"""Contrast of grey matter: a step over a noise, whatever the coil and the unit."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.cord.grey import grey_contrast

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
