"""Weights of an image that was put together of displaced ones are what its own scans would have shown of each label."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.mapping.displaced import resampling
from cohort_engine.mapping.native import native_atlas
from cohort_engine.qmri.series import resample_series
from cohort_engine.reduce.native import reduce_group
from cohort_engine.template.parametric import parametric_cord

SPACING = 0.9
SHIFTS = np.array([[0.5, -0.25], [-0.375, 0.125], [2.0, 0.0], [0.0625, 1.4375]])
"""Voxels, of four volumes."""


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C4", bottom="C4")


@pytest.fixture(scope="module")
def grid(cord):
    """Two slices of 6 mm around the middle of the cord: affine and shape."""
    affine, shape = np.diag([SPACING, SPACING, 6.0, 1.0]), (36, 34, 2)
    middle = cord.packing.xyz.mean(axis=0)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def test_a_scan_that_was_brought_back_is_its_cells_resampled():
    """Exact: cells are scanned at another place, and the spline of the series' own correction takes them back."""
    cells = np.zeros((24 * 4, 20 * 4))
    cells[30:66, 24:50] = np.random.default_rng(0).uniform(0, 1, (36, 26))
    for u, v in SHIFTS[:2]:
        moved = np.pad(cells, 8)  # the voxel at p shows what lies at p - shift: in quarters of a voxel, or eighths
        fine = moved.repeat(2, 0).repeat(2, 1)
        fine = np.roll(fine, (round(u * 8), round(v * 8)), axis=(0, 1))[16:-16, 16:-16]
        scan = fine.reshape(24, 8, 20, 8).mean(axis=(1, 3))
        back = resample_series(scan[:, :, None, None], (1, 1, 1), shifts=np.array([[[u, v]]]))[:, :, 0, 0]
        found = resampling(24, 4, u) @ cells @ resampling(20, 4, v).T
        assert found[2:-2, 2:-2] == pytest.approx(back[2:-2, 2:-2], abs=1e-5)


def test_whole_voxels_move_nothing(cord, grid):
    positions = cord.packing.xyz
    one, other = (native_atlas(positions, cord, *grid, shifts=np.full((1, 2, 2), n * SPACING)) for n in (0, 3))
    assert np.array_equal(one.voxel, other.voxel)
    assert one.weights == pytest.approx(other.weights, abs=1e-9)


def test_weights_are_those_of_each_scan_brought_back(cord, grid):
    affine, shape = grid
    positions, shifts = cord.packing.xyz, np.repeat(SHIFTS[:, None] * SPACING, 2, axis=1)
    shifts[2, 1] = np.nan  # a lost slice
    scans = np.zeros((len(cord.atlas.labels), len(shifts), *shape))
    for t, (u, v) in enumerate(SHIFTS):
        there = affine.copy()
        there[:2, 3] -= np.array([u, v]) * SPACING
        atlas = native_atlas(positions, cord, there, shape)
        scans[:, t].reshape(len(scans), -1)[:, atlas.voxel] = atlas.weights
    found = native_atlas(positions, cord, *grid, shifts=shifts)
    dense = np.zeros((len(scans), *shape))
    dense.reshape(len(scans), -1)[:, found.voxel] = found.weights
    inner = (slice(None), slice(4, -4), slice(4, -4))
    series = np.stack([resample_series(np.moveaxis(s, 0, -1), (SPACING, SPACING, 6.0), shifts=np.nan_to_num(shifts)) for s in scans])[inner]
    back = np.stack([series[..., 0, :].mean(-1), series[..., 1, [0, 1, 3]].mean(-1)], axis=-1)
    assert np.abs(dense[inner] - back).max() < 0.07  # voxels at rest take a template voxel's part as a whole
    assert np.sqrt(np.mean((dense[inner] - back) ** 2)) < 0.003


def test_a_blurred_image_has_the_values_of_its_labels(cord, grid):
    """Labels of one value each, scanned askew and brought back: the mixture finds the values with weights that went the same way, and not without."""
    affine, shape = grid
    truth = np.linspace(0.5, 1.0, len(cord.atlas.labels))
    shifts = np.repeat(SHIFTS[:2, None] * SPACING, 2, axis=1)
    images = np.zeros((*shape, 2))
    for t, (u, v) in enumerate(SHIFTS[:2]):
        there = affine.copy()
        there[:2, 3] -= np.array([u, v]) * SPACING
        atlas = native_atlas(cord.packing.xyz, cord, there, shape)
        images[..., t].reshape(-1)[atlas.voxel] = truth @ atlas.weights
    image = resample_series(images, (SPACING, SPACING, 6.0), shifts=shifts).mean(axis=-1)
    members, clusters = [(k,) for k in range(len(truth))], tuple(cord.atlas.clusters.values())
    errors = []
    for way in (shifts, None):
        atlas = native_atlas(cord.packing.xyz, cord, *grid, shifts=way)
        cells = reduce_group(image.reshape(-1)[atlas.voxel].astype(float), atlas.weights, members, clusters, estimator="ml")
        large = cells.n > 5
        errors.append(np.sqrt(np.mean((cells.value - truth)[large] ** 2)))
    assert errors[0] < 0.4 * errors[1]


def test_a_slice_of_which_nothing_is_known_is_one_at_rest(cord, grid):
    unknown, still = (native_atlas(cord.packing.xyz, cord, *grid, shifts=np.full((2, 2, 2), value)) for value in (np.nan, 0.0))
    assert unknown.weights == pytest.approx(still.weights)
