"""Sampling and matching, whatever the grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from cohort_engine.mapping.ants import OUTSIDE, displacement_field
from cohort_engine.mapping.shape import match_sections
from cohort_engine.mapping.template_map import sample
from cohort_engine.template.packing import Grid

SHAPE = (5, 6, 7)

rotations = st.builds(lambda a, b, c: Rotation.from_euler("xyz", [a, b, c], degrees=True).as_matrix(), *[st.floats(-180, 180)] * 3)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def grids(draw):
    """Draw an oblique grid, mirrored or not."""
    affine = np.eye(4)
    affine[:3, :3] = draw(rotations) @ np.diag(draw(st.tuples(*[st.floats(0.2, 17.0)] * 3)))
    affine[:3, 0] *= draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-100, 100)] * 3))
    return Grid(SHAPE, affine)


def indices():
    return np.moveaxis(np.indices(SHAPE, dtype=float), 0, -1)


@settings(max_examples=80, deadline=None)
@given(grid=grids(), slope=st.tuples(*[st.floats(-3, 3)] * 3), offset=st.floats(-50, 50), seed=seeds)
def test_a_linear_image_is_sampled_exactly(grid, slope, offset, seed):
    image = grid.world(indices()) @ np.array(slope) + offset
    xyz = grid.world(np.random.default_rng(seed).uniform(0, np.array(SHAPE) - 1, (50, 3)))
    scale = np.abs(image).max() + 1
    assert np.abs(sample(image, grid.affine, xyz) - (xyz @ np.array(slope) + offset)).max() < 1e-5 * scale


@settings(max_examples=60, deadline=None)
@given(grid=grids(), order=st.sampled_from([1, 3]), seed=seeds, beyond=st.floats(0.51, 20), axis=st.integers(0, 2), upper=st.booleans())
def test_outside_of_every_voxel_there_is_nothing(grid, order, seed, beyond, axis, upper):
    at = np.random.default_rng(seed).uniform(0, np.array(SHAPE) - 1, (20, 3))
    at[:, axis] = SHAPE[axis] - 1 + beyond if upper else -beyond
    assert np.isnan(sample(np.ones(SHAPE), grid.affine, grid.world(at), order=order)).all()


@settings(max_examples=60, deadline=None)
@given(holes=arrays(bool, SHAPE), order=st.sampled_from([1, 3]), value=st.floats(-100, 100), seed=seeds)
def test_holes_change_no_constant(holes, order, value, seed):
    """A constant with holes is that constant or NaN, never something in between."""
    image = np.where(holes, np.nan, value)
    found = sample(image, np.eye(4), np.random.default_rng(seed).uniform(-0.4, np.array(SHAPE) - 0.6, (60, 3)), order=order)
    assert found[np.isfinite(found)] == pytest.approx(value, abs=1e-3)
    assert np.isnan(found).all() or not holes.all()


@settings(max_examples=40, deadline=None)
@given(grid=grids(), seed=seeds)
def test_voxel_centres_give_their_voxels(grid, seed):
    image = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    assert np.abs(sample(image, grid.affine, grid.world(indices())) - image).max() < 1e-4


@settings(max_examples=40, deadline=None)
@given(grid=grids(), seed=seeds)
def test_displacements_lead_to_the_positions(grid, seed):
    """LPS displacement added to the LPS place of the voxel is the LPS position."""
    positions = np.random.default_rng(seed).uniform(-100, 100, (*SHAPE, 3))
    positions[0, 0, 0, seed % 3] = np.nan
    field = displacement_field(positions, grid.affine)[:, :, :, 0].astype(float)
    assert (field[0, 0, 0] == OUTSIDE).all()
    lps = np.array([-1.0, -1.0, 1.0])
    error = grid.world(indices()) * lps + field - positions * lps
    assert np.abs(error.reshape(-1, 3)[1:]).max() < 1e-3


@st.composite
def covariances(draw):
    """Draw the covariance of a cross-section, mm^2."""
    long, ratio, angle = draw(st.floats(2, 20)), draw(st.floats(1, 4)), draw(st.floats(-np.pi, np.pi))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([long, long / ratio]) @ turn.T


@settings(max_examples=80, deadline=None)
@given(here=covariances(), there=covariances())
def test_matched_sections_have_the_image_s_covariance(here, there):
    """Whatever part of the rotation is believed, M C M' is right and nothing is mirrored."""
    pairs = [(np.zeros((12, 2)), np.tile(c, (12, 1, 1))) for c in (here, there)]
    matrix = match_sections(pairs[0], pairs[1], 1.0).matrix[5]
    assert np.abs(matrix @ here @ matrix.T - there).max() < 1e-6 * there.max()
    assert np.linalg.det(matrix) > 0
