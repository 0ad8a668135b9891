"""The atlas in the image, where the map is the identity: each native voxel is the mean of the template voxels in it."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.errors import GeometryError
from cohort_engine.mapping.native import dense_positions, native_atlas
from cohort_engine.reduce.native import level_tables
from cohort_engine.template import load_template
from cohort_engine.template.base import Template


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template("parametric")


@pytest.fixture(scope="module")
def positions(template: Template):
    return template.block_grid.world(template.packing.ijk.astype(float) - np.asarray(template.corner))


@pytest.fixture(scope="module")
def thick(template: Template):
    """Grid whose voxels are 2 x 2 x 10 template voxels."""
    factor = np.array([2, 2, 10])
    affine = template.block_grid.affine @ np.diag([*factor, 1.0])
    affine[:3, 3] = template.block_grid.world((factor - 1) / 2)
    return affine, tuple(int(n) for n in np.asarray(template.cord.shape) // factor)


def test_the_integral_is_that_of_the_lines_between_voxels(template: Template, positions, thick) -> None:
    affine, shape = thick
    atlas = native_atlas(positions, template, affine, shape, rim=0)
    label = np.zeros(template.cord.shape)
    label[tuple((template.packing.ijk - np.asarray(template.corner)).T)] = template.atlas.weights[[3]].toarray().ravel()
    inner = label[:, :, : 10 * shape[2]].reshape(*label.shape[:2], shape[2], 10).mean(axis=3)
    for axis in (0, 1):  # two template voxels lie in a voxel; of the line between two values an eighth lies beyond the border
        ends = np.pad(inner, [(1, 2) if k == axis else (0, 0) for k in range(3)])
        inner = sum(share * ends.take(range(k, k + 2 * shape[axis], 2), axis=axis) for k, share in enumerate(np.array([1, 7, 7, 1]) / 16))
    found = np.zeros(shape)
    found.ravel()[atlas.voxel] = atlas.weights[3]
    whole = (template.packing.ijk[:, 2].min() - template.corner[2]) // 10 + 1, (template.packing.ijk[:, 2].max() - template.corner[2]) // 10
    assert np.abs(found - inner)[:, :, whole[0] : whole[1]].max() < 1e-5


def test_weights_are_shares(template: Template, positions, thick) -> None:
    for how in ("integral", "interpolate"):
        atlas = native_atlas(positions, template, *thick, how=how)
        assert atlas.weights.min() >= 0
        assert atlas.weights.sum(axis=0).max() <= 1 + 1e-5
        assert set(np.unique(atlas.level)) - {0} == set(np.unique(template.packing.level)) - {0}


def test_a_constant_image_gives_the_constant_everywhere(template: Template, positions, thick) -> None:
    atlas = native_atlas(positions, template, *thick)
    regions, clusters = [r.members for r in template.atlas.regions], tuple(template.atlas.clusters.values())
    values = np.full(len(atlas.voxel), 40.0)
    numbers = sorted(set(np.unique(template.packing.level)) - {0})
    cells = level_tables(values, atlas.weights, atlas.level, atlas.reach, numbers, regions, clusters, estimator="wa", min_coverage=0.75)
    assert cells["value"] == pytest.approx(np.full(cells["value"].shape, 40.0))
    assert cells["coverage"][1:] == pytest.approx(np.ones(cells["value"][1:].shape))
    assert cells["coverage"][0] == pytest.approx(np.full(len(regions), 0.91), abs=0.01)  # the image ends 2 mm below the template


def test_a_level_that_is_half_outside_has_half_the_coverage(template: Template, positions, thick) -> None:
    regions, clusters = [r.members for r in template.atlas.regions], tuple(template.atlas.clusters.values())
    numbers = sorted(set(np.unique(template.packing.level)) - {0})
    number = numbers[len(numbers) // 2]
    slices = np.unique(template.packing.ijk[template.packing.level == number, 2])
    cut = np.where((template.packing.ijk[:, 2] < np.median(slices))[:, None], positions, np.nan)
    atlas = native_atlas(cut, template, *thick)
    values = np.full(len(atlas.voxel), 40.0)
    cells = level_tables(
        values, atlas.weights, atlas.level, atlas.reach[:, [numbers.index(number)]], [number], regions, clusters, estimator="wa", min_coverage=0.75
    )
    assert cells["coverage"] == pytest.approx(np.full(cells["value"].shape, 0.5), abs=0.05)
    assert np.isnan(cells["value"]).all()


def test_the_packed_map_is_continued_over_the_block(template: Template, positions) -> None:
    block = dense_positions(positions, template)
    seen = np.isfinite(block[..., 0])
    assert (seen.any(axis=(0, 1)) == seen.all(axis=(0, 1))).all()
    expected = template.block_grid.world(np.stack(np.indices(template.cord.shape), axis=-1).astype(float))
    assert block[seen] == pytest.approx(expected[seen], abs=1e-3)


def test_a_map_of_another_place_is_refused(template: Template, positions, thick) -> None:
    with pytest.raises(GeometryError, match="template map"):
        native_atlas(positions + 1e4, template, *thick)
