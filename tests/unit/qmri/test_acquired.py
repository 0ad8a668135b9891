from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.phantom.diffusion import make_dwi
from cohort_engine.phantom.protocol import B800, DTI_STUDY
from cohort_engine.qmri.acquired import voxel_widths
from cohort_engine.template.parametric import parametric_cord


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C4", bottom="C4")


def mean_of(cord, protocol):
    scan = make_dwi(cord, group="HC", protocol=replace(protocol, slices=2))
    return scan.series.data[..., scan.bvals > 0].mean(axis=-1)


def test_a_matrix_filled_with_zeros_is_seen(cord):
    """1 x 1.25 mm measured, 0.625 mm in the image."""
    assert voxel_widths(mean_of(cord, DTI_STUDY)) == pytest.approx((1.6, 2.0), abs=0.1)


def test_an_image_as_measured_is_left_alone(cord):
    assert voxel_widths(mean_of(cord, replace(B800, plane=(86.4, 64.8)))) == (1.0, 1.0)


def test_smoothing_is_no_interpolation(cord):
    from scipy.ndimage import gaussian_filter

    assert voxel_widths(gaussian_filter(mean_of(cord, replace(B800, plane=(86.4, 64.8))), (1.0, 1.0, 0))) == (1.0, 1.0)


def test_small_and_empty_images_tell_nothing():
    assert voxel_widths(np.ones((12, 9, 2))) == (1.0, 1.0)
    assert voxel_widths(np.zeros((64, 64, 2))) == (1.0, 1.0)
    assert voxel_widths(np.full((64, 64, 2), np.nan)) == (1.0, 1.0)
