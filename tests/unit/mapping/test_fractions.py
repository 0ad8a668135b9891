"""Quick forms of the map's uses against the plain formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from cohort_engine.mapping import inverse
from cohort_engine.mapping.ants import OUTSIDE, TO_LPS, displacement_field
from cohort_engine.mapping.fractions import atlas_columns, native_fractions, scatter, tissue_columns
from cohort_engine.mapping.inverse import interpolate, invert, locate, refine
from cohort_engine.mapping.straighten import block_depth
from cohort_engine.mapping.template_map import TemplateMap, template_depth
from cohort_engine.template.packing import Grid
from cohort_engine.template.parametric import parametric_cord

TILTED = np.array([[2.0, 0.2, 0, 0], [-0.2, 1.8, 0.5, 0], [0, -0.4, 5.0, 0], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=2.0, top="C4", bottom="C4")


@pytest.fixture(scope="module")
def fitted(cord):
    """A cord that is bent and narrows downwards; the lower slices are not covered."""
    at = cord.block_grid.world(np.moveaxis(np.indices(cord.cord.shape), 0, -1).astype(float))
    z = at[..., 2] - at[..., 2].mean()
    block = np.stack([at[..., 0] * (1 + 0.01 * z) + 0.02 * z**2, at[..., 1] * 0.9 + 0.1 * z, 1.1 * z + 0.05 * at[..., 0]], axis=-1).astype(np.float32)
    block[:, :, :1] = np.nan
    return TemplateMap(block, {})


def affine_about(fitted, shape, step):
    """An image of `shape` with these axes about the middle of the map."""
    affine = step.copy()
    affine[:3, 3] = np.nanmean(fitted.block, axis=(0, 1, 2)) - step[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


IMAGES = {
    "2 mm, whole": ((22, 22, 14), np.diag([2.0, 2.0, 2.0, 1.0])), "5 mm": ((22, 22, 5), np.diag([2.0, 2.0, 5.0, 1.0])),
    "tilted, cut": ((8, 9, 4), TILTED), "fine, cut": ((14, 10, 3), np.diag([1.4, 1.4, 5.0, 1.0])),
}  # fmt: skip


def plain_fractions(fitted, affine, shape):
    """The definition: every part of every block voxel, in one matrix."""
    slab, first = fitted.slab()
    block = Grid(shape, affine).voxel(slab)
    step = np.array([np.percentile(np.abs(np.diff(block, axis=i)).max(axis=-1), 95) for i in range(3)])
    parts = np.maximum(1, np.ceil(2 * step / 0.33)).astype(int)
    volume = np.abs(np.linalg.det(np.stack(np.gradient(block, axis=(0, 1, 2)), axis=-1))).ravel()
    index = np.moveaxis(np.indices(block.shape[:3]), 0, -1).reshape(-1, 3)
    column = np.ravel_multi_index(tuple((index + np.array([0, 0, first])).T), fitted.block.shape[:3])
    total = sparse.csr_array((int(np.prod(shape)), int(np.prod(fitted.block.shape[:3]))))
    for part in np.ndindex(*parts):
        offset, at = (2 * np.asarray(part) + 1) / parts - 1, block
        for axis, o in enumerate(offset):
            near = np.clip(np.arange(at.shape[axis]) + int(np.sign(o)), 0, at.shape[axis] - 1)
            at = (1 - abs(o)) * at + abs(o) * np.take(at, near, axis=axis)
        voxel = np.floor(at + 0.5).astype(int).reshape(-1, 3)
        inside = ((voxel >= 0) & (voxel < shape)).all(axis=1)
        row, amount = np.ravel_multi_index(tuple(voxel[inside].T), shape), np.prod(1 - np.abs(offset)) * volume[inside]
        total = total + sparse.coo_array((amount, (row, column[inside])), shape=total.shape).tocsr()
    sums = total.sum(axis=1)
    return sparse.diags_array(np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)) @ total


@pytest.mark.parametrize("image", IMAGES)
def test_fractions_are_those_of_the_definition(cord, fitted, image, monkeypatch):
    monkeypatch.setattr("cohort_engine.mapping.fractions.PARTS", 20_000)  # many pieces
    shape, step = IMAGES[image]
    affine = affine_about(fitted, shape, step)
    plain = plain_fractions(fitted, affine, shape)
    assert plain.nnz > 500
    assert abs(native_fractions(fitted, cord, affine, shape) - plain).max() < 1e-6
    for columns in (tissue_columns(cord), atlas_columns(cord)):
        some = native_fractions(fitted, cord, affine, shape, columns=columns)
        assert abs(some - plain @ sparse.diags_array(columns.ravel().astype(float))).max() < 1e-6
    for tissue in (cord.cord, cord.wm, cord.gm, cord.csf):
        assert native_fractions(fitted, cord, affine, shape, columns=tissue_columns(cord)) @ tissue.ravel() == pytest.approx(
            plain @ tissue.ravel(), abs=1e-6
        )
    assert abs(scatter(some, cord, cord.atlas.weights) - scatter(plain.tocsr(), cord, cord.atlas.weights)).max() < 1e-6


def test_columns_leave_out_what_is_empty(cord):
    assert cord.cord.size > 2 * tissue_columns(cord).sum() >= 2 * atlas_columns(cord).sum() > 0
    held = np.stack([cord.cord, cord.wm, cord.gm, cord.csf])[:, ~tissue_columns(cord)]
    assert not held.any()


def test_an_image_beside_the_cord_has_no_fractions(cord, fitted):
    affine = np.eye(4)
    affine[:3, 3] = 1e4
    for columns in (None, tissue_columns(cord)):
        assert native_fractions(fitted, cord, affine, (5, 5, 5), columns=columns).nnz == 0


@pytest.mark.parametrize("image", IMAGES)
def test_every_voxel_that_the_block_reaches_is_found(cord, fitted, image):
    """Against a search from the nearest of all block voxels, for all voxels of the image."""
    shape, step = IMAGES[image]
    affine = affine_about(fitted, shape, step)
    found = invert(fitted, cord, affine, shape)
    slab, first = fitted.slab()
    voxels = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)
    at, miss = locate(slab, Grid(shape, affine).world(voxels.astype(float)), steps=20)
    inner = ((at > 0.01) & (at < np.array(slab.shape[:3]) - 1.01)).all(axis=1)  # at the rim one place has several indices
    reached = (miss < inverse.MISS) & inner
    assert reached.sum() > 50
    expected = cord.block_grid.world(at[reached] + np.array([0, 0, first]))
    assert np.abs(found.reshape(-1, 3)[reached] - expected).max() < 2e-4
    assert not np.isfinite(found.reshape(-1, 3)[miss > 1]).any()


def test_a_far_first_guess_is_refined(fitted):
    slab, _ = fitted.slab()
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, np.array(slab.shape[:3]) - 2, (200, 3))
    start = np.rint(truth).astype(int) + rng.integers(-1, 2, (200, 3))
    at, miss = refine(slab, interpolate(slab, truth), start, steps=8)
    assert miss.max() < 1e-4
    assert np.abs(at - truth).max() < 1e-3


def test_systems_are_solved():
    rng = np.random.default_rng(1)
    matrix, values = rng.normal(size=(50, 3, 3)) + 3 * np.eye(3), rng.normal(size=(50, 3))
    found = inverse._solve([matrix[:, :, k] for k in range(3)], values)
    assert found == pytest.approx(np.linalg.solve(matrix, values[..., None])[..., 0], abs=1e-12)
    assert not inverse._solve([np.zeros((1, 3))] * 3, np.ones((1, 3))).any()


def test_a_displacement_is_the_way_from_home_in_lps(fitted):
    affine = np.array([[0.9, 0, 0, 5], [0, 1.1, 0.2, -3], [0, -0.2, 2.0, 7], [0, 0, 0, 1]])
    home = Grid(fitted.block.shape[:3], affine).world(np.moveaxis(np.indices(fitted.block.shape[:3]), 0, -1).astype(float))
    expected = np.where(np.isfinite(fitted.block), (fitted.block - home) * TO_LPS, OUTSIDE)
    assert displacement_field(fitted.block, affine)[:, :, :, 0] == pytest.approx(expected, abs=1e-5)


def test_the_depth_of_a_template_is_computed_once(cord, monkeypatch):
    template = replace(cord)
    whole = block_depth(template.cord, template.block_grid.spacing[:2])
    near = whole > -2.5  # beyond -3 mm it is only known to be outside
    for first, last in ((1, 5), (3, 8)):
        found = template_depth(template, first, last)
        assert (np.abs(found - whole[:, :, first:last])[near[:, :, first:last]] == 0).all()
    monkeypatch.setattr("cohort_engine.mapping.template_map.block_depth", None)
    assert template_depth(template, 1, 8).shape == (*template.cord.shape[:2], 7)
