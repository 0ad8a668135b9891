"""A direction in the scanner comes back from its text, however the image is stored."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cohort_engine.io.gradients import gradients_of
from cohort_engine.io.volume import decode_series

ORIENTATIONS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
SPACING = np.array([0.9, 0.8, 5.0])


def planted(seed: int) -> np.ndarray:
    w = np.random.default_rng(seed).normal(size=(7, 3))
    return w / np.linalg.norm(w, axis=1, keepdims=True)


def written(world: np.ndarray, axes: np.ndarray) -> str:
    """FSL's text of world directions for an image whose file's axes point along the columns of `axes`: dot products, and its rule of signs."""
    rows = [[float(np.dot(w, axes[:, k])) for w in world] for k in range(3)]
    if np.dot(np.cross(axes[:, 0], axes[:, 1]), axes[:, 2]) > 0:
        rows[0] = [-v for v in rows[0]]
    return "\n".join(" ".join(f"{v:.8f}" for v in [0.0, *row]) for row in rows)


def read(axes: np.ndarray, order: tuple[int, ...], text: str) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = axes * SPACING[list(order)]
    image = nib.Nifti1Image(np.ones((3, 4, 5, 8), np.int16), affine)
    return gradients_of("0" + 7 * " 800", text, decode_series(image.to_bytes(), what="diffusion series")).directions[1:]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -20, 7), (44, 3, -46)])
def test_a_planted_direction_comes_back_in_all_48_orientations(order, signs, angles):
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    axes = turn @ (np.eye(3)[:, list(order)] * signs)
    world = planted(sum(order) + 3)
    np.testing.assert_allclose(read(axes, order, written(world, axes)), world, atol=1e-6)


def test_one_text_serves_an_image_stored_from_either_side():
    """What FSL's rule is for: LAS and RAS files of one scan have the same bvec text; those stored from back to front do not."""
    left = np.diag([-1.0, 1.0, 1.0])
    text = written(planted(1), left)
    same = (0, 1, 2)
    np.testing.assert_allclose(read(np.eye(3), same, text), read(left, same, text), atol=1e-6)
    assert np.abs(read(np.diag([-1.0, -1.0, 1.0]), same, text) - read(left, same, text)).max() > 0.5
