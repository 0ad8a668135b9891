"""A simulated diffusion series through correction and fit, against its truth: small versions of `tests/benchmarks/test_diffusion.py`."""

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine import schema
from cohort_engine.io.gradients import gradients_of
from cohort_engine.io.volume import decode_series, encode_volume
from cohort_engine.mapping.native import native_atlas
from cohort_engine.phantom.diffusion import make_dwi
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import B800
from cohort_engine.qmri.tensor import CHANNELS
from cohort_engine.reduce.native import reduce_group
from cohort_engine.single.dti import tensor_image
from cohort_engine.single.moco import correct
from cohort_engine.template.parametric import parametric_cord

SCAN = replace(B800, directions=20, b0_at=(0, 9, 21), slices=6, plane=(54.0, 54.0), axes="RAS")
MOVED = DwiImperfection(drift=0.8, jumps=2, jump=6.0, dropped=4, interleaved=0.5)


@pytest.fixture(scope="module")
def cord():
    return parametric_cord(spacing=1.0, top="C3", bottom="C5")


@pytest.fixture(scope="module")
def moved(cord):
    scan = make_dwi(cord, group="HC", seed=5, site=1, protocol=SCAN, imperfection=MOVED)
    told = gradients_of(scan.bval, scan.bvec, scan.series)
    return scan, told, correct(scan.series, told, cord=scan.truth.mask)


def test_gradients_are_read_as_they_were_meant(moved):
    scan, told, _ = moved
    np.testing.assert_allclose(told.directions, scan.directions, atol=1e-5)
    again = decode_series(encode_volume(scan.series), what="series")
    np.testing.assert_array_equal(again.data, scan.series.data)


def test_motion_is_found_and_flagged(moved):
    scan, _, found = moved
    truth, motion = scan.truth, found.motion
    away = motion.shifts - truth.shifts
    error = np.linalg.norm(away - np.median(away, axis=0), axis=-1)
    seen = ~truth.dropped
    assert error[seen].mean() < 0.2
    assert error[seen & truth.jumped].mean() < 0.3
    assert np.linalg.norm(truth.shifts, axis=-1)[seen].mean() > 0.8
    assert ((motion.flags & schema.DROPPED) > 0)[truth.dropped].all()
    assert not ((motion.flags & schema.DROPPED) > 0)[seen].any()
    assert ((motion.flags & schema.MOVED) > 0)[seen & truth.jumped].all()


def test_white_matter_has_its_fa_only_after_correction(moved, cord):
    scan, told, found = moved
    white = [r.name for r in cord.atlas.regions].index("white matter")
    values = []
    for series in (found.series, scan.series):
        tensor, _ = tensor_image(series, told, scan.truth.mask, reliable=True)
        atlas = native_atlas(scan.truth.template_map, cord, tensor.affine, tensor.data.shape[:3]).filled()
        fa = tensor.data[..., CHANNELS.index("fa")].reshape(-1)[atlas.voxel].astype(float)
        members = [r.members for r in cord.atlas.regions]
        values.append(reduce_group(fa, atlas.weights, members, tuple(cord.atlas.clusters.values()), estimator="map").value[white])
    truth = np.nanmean(scan.truth.fa[:, white])
    assert abs(values[0] - truth) < 0.02
    assert abs(values[1] - truth) > 0.03
