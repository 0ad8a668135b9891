import hashlib
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from scipy import ndimage

from cohort_engine.mapping.ants import CORRELATION, MEAN_SQUARES, OUTSIDE, deform, displacement_field

SHAPE, SPACING = (36, 32, 24), np.array([0.5, 0.5, 1.0])


def blob(rx, ry, dx=0.0):
    i, j, _ = np.indices(SHAPE)
    return np.clip(0.5 + 4 * (1 - np.hypot((i - 17.5 - dx) / rx, (j - 15.5) / ry)), 0, 1)


def move(image, displacement):
    return ndimage.map_coordinates(image, np.indices(SHAPE) + np.moveaxis(displacement / SPACING, -1, 0), order=1)


def test_the_moving_image_is_pulled_onto_the_fixed_one():
    fixed, moving = blob(9, 7), blob(10, 6, dx=1.5)
    found = deform(fixed, moving, SPACING, seed=1, iterations=(20, 10), flow_sigma=1.5)
    assert np.abs(move(moving, found) - fixed).mean() < 0.25 * np.abs(moving - fixed).mean()
    assert found[26, 15, 12, 0] == pytest.approx(2.5 * 0.5, abs=0.5)  # mm: right edges at 26.5 and 29 voxels
    assert (found[..., 2] == 0).all()


def test_contrast_does_not_matter_to_correlation():
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), (2, 2, 1))
    shift = np.zeros((*SHAPE, 3))
    shift[..., 0] = 0.4
    moving = move(texture, -shift)
    found = deform(5 - 2 * texture, moving, SPACING, seed=1, iterations=(20,), flow_sigma=2.0, metric=CORRELATION)
    assert 0.2 < found[8:-8, 8:-8, 4:-4, 0].mean() < 0.5  # most of it: the update field is smooth, and zero at the border


@pytest.mark.parametrize("metric", [MEAN_SQUARES, CORRELATION])
def test_nothing_is_left_behind(tmp_path, monkeypatch, metric):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deform(blob(9, 7), blob(10, 6), SPACING, seed=1, iterations=(2,), flow_sigma=1.5, metric=metric)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_by_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Exception, match=r".+"):
        deform(blob(9, 7), np.full(SHAPE, np.nan), SPACING, seed=1, iterations=(2,), flow_sigma=1.5)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import hashlib, numpy as np
from cohort_engine.mapping.ants import deform
i, j, _ = np.indices((36, 32, 24))
a, b = (np.clip(0.5 + 4 * (1 - np.hypot((i - 17.5) / rx, (j - 15.5) / ry)), 0, 1) for rx, ry in ((9, 7), (10, 6)))
print(hashlib.sha256(deform(a, b, np.array([0.5, 0.5, 1.0]), seed=1, iterations=(8, 4), flow_sigma=1.5).tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_process_seed_or_threads():
    here = hashlib.sha256(deform(blob(9, 7), blob(10, 6), SPACING, seed=1, iterations=(8, 4), flow_sigma=1.5).tobytes()).hexdigest()

    def elsewhere(**environment):
        kept = {k: v for k, v in os.environ.items() if k not in ("ANTS_RANDOM_SEED", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
        return subprocess.run([sys.executable, "-c", SCRIPT], env=kept | environment, capture_output=True, text=True, check=True).stdout.split()[-1]

    assert elsewhere(ANTS_RANDOM_SEED="7", ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="2") == here
    assert elsewhere() == here


# --- displacement fields ----------------------------------------------------------------------------------------------
def test_displacements_are_lps_and_relative():
    affine = np.array([[2.0, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    home = np.moveaxis(np.indices((2, 2, 2), dtype=float), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    field = displacement_field(home + np.array([1, 2, 3]), affine)
    assert field.shape == (2, 2, 2, 1, 3)
    assert field.dtype == np.float32
    assert field.reshape(-1, 3) == pytest.approx(np.tile([-1, -2, 3], (8, 1)))


def test_nowhere_is_far_away_and_finite():
    positions = np.zeros((1, 1, 2, 3))
    positions[0, 0, 1, 1] = np.nan
    field = displacement_field(positions, np.eye(4))
    assert field[0, 0, 1, 0].tolist() == [OUTSIDE] * 3
    assert np.isfinite(field).all()
