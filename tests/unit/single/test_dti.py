"""Tensors of a series on the voxels of its cord."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohort_engine.errors import CohortWarning, CordError, GeometryError
from cohort_engine.io.gradients import Gradients, gradients_of
from cohort_engine.io.volume import Volume
from cohort_engine.phantom.diffusion import make_dwi
from cohort_engine.phantom.epi import DwiImperfection
from cohort_engine.phantom.protocol import DTI_STUDY
from cohort_engine.phantom.subject import PATIENT
from cohort_engine.qmri.coherence import CONTRADICTED, ways
from cohort_engine.qmri.tensor import CHANNELS, fit_tensor
from cohort_engine.single.dti import METRICS, fit_series, tensor_image
from cohort_engine.single.moco import correct
from cohort_engine.template.parametric import parametric_cord

SHAPE, AFFINE = (24, 22, 10), np.diag([1.0, 1.0, 5.0, 1.0])
VALUES = np.array([1.8, 0.4, 0.4])


def directions(volumes: int = 30) -> np.ndarray:
    z = 1 - (np.arange(volumes) + 0.5) / volumes
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(volumes)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)


def scan(tilt: float = 0.3, snr: float = 25.0, b: tuple[float, ...] = (800.0,)) -> tuple[Volume, Gradients, Volume]:
    """A cord that bows in y and leans to the right, its fibres along it, in water; one shell for each b."""
    rng = np.random.default_rng(2)
    g = np.concatenate([np.zeros((4, 3)), *(directions() for _ in b)])
    bvals = np.r_[np.zeros(4), np.repeat(b, 30)]
    x, y, z = np.indices(SHAPE)
    middle = 10 + 20 * tilt * np.sin(z * 5 / 20)
    cord = np.hypot(x - 8 - 0.15 * z * 5, y - middle) <= 4
    slope = np.stack([np.full(SHAPE, 0.15), tilt * np.cos(z * 5 / 20), np.ones(SHAPE)], axis=-1)
    e1 = slope / np.linalg.norm(slope, axis=-1, keepdims=True)
    along = np.einsum("xyzi,ti->xyzt", e1, g) ** 2
    tissue = VALUES[1] + (VALUES[0] - VALUES[1]) * along
    signal = 300 * np.exp(-bvals / 1000 * np.where(cord[..., None], tissue, 2.8))
    noise = rng.normal(0, 300 / snr, (2, *signal.shape))
    return Volume(np.hypot(signal + noise[0], noise[1]).astype(np.float32), AFFINE), Gradients(bvals, g), Volume(cord.astype(np.float32), AFFINE)


def test_tensors_lie_on_the_cord_and_its_margin():
    series, gradients, cord = scan()
    image, quality = tensor_image(series, gradients, cord, margin_mm=1.0)
    inside = cord.data > 0.5
    fa = image.data[..., CHANNELS.index("fa")]
    assert image.data.shape == (*SHAPE, len(CHANNELS))
    assert np.isfinite(fa[inside]).all()
    reached = np.isfinite(fa).sum()
    assert inside.sum() < reached < 2 * inside.sum()
    assert np.isnan(image.data[0, 0]).all()
    expected = fit_tensor(series.data[inside], gradients.bvals, gradients.directions)
    for k, name in enumerate(CHANNELS[:-1]):
        np.testing.assert_allclose(image.data[inside][:, k], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert quality["snr"] == pytest.approx(25, rel=0.05)
    assert quality["reliable"] > 0.97
    assert quality["e1_cosine"] > 0.98
    assert quality["direction_margin"] > 3
    assert quality["axis_margin"] > 3
    assert quality["lost"] == quality["directions_contradicted"] == 0
    assert np.median(fa[inside]) == pytest.approx(np.sqrt(1.5 * ((VALUES - VALUES.mean()) ** 2).sum() / (VALUES**2).sum()), abs=0.01)


def test_lost_slices_count_and_unreliable_voxels_are_nan_where_that_is_asked():
    series, gradients, cord = scan()
    series.data[:, :, 4, 6:20] = np.nan
    kept, quality = tensor_image(series, gradients, cord)
    masked, _ = tensor_image(series, gradients, cord, reliable=True)
    assert quality["lost"] == pytest.approx(14 / 34 / SHAPE[2], rel=0.15)
    slice_ = cord.data[:, :, 4] > 0.5
    for name in ("fa", "md_se"):
        assert name in METRICS
        k = CHANNELS.index(name)
        assert np.isfinite(kept.data[:, :, 4, k][slice_]).all()
        assert np.isnan(masked.data[:, :, 4, k][slice_]).all()
    np.testing.assert_array_equal(masked.data[..., -1], kept.data[..., -1])
    assert (kept.data[:, :, 4, -1][slice_] == 0).all()


def test_slices_that_lost_their_signal_are_left_out():
    """A third of the signal is left in six volumes of one slice: the fit forgets them, and without looking for them it does not."""
    series, gradients, cord = scan()
    at = cord.data[:, :, 4] > 0.5
    truth = np.median(tensor_image(series, gradients, cord)[0].data[:, :, 4, 0][at])
    series.data[:, :, 4, [5, 9, 14, 20, 26, 31]] *= 0.33
    found = fit_series(series, gradients, cord)
    np.testing.assert_array_equal(np.argwhere(found.lost), [[t, 4] for t in (5, 9, 14, 20, 26, 31)])
    assert found.quality["lost_slices"] == pytest.approx(6 / 340)
    kept, _ = tensor_image(series, gradients, cord, lost=False)
    errors = [abs(np.median(image.data[:, :, 4, 0][at]) - truth) for image in (found.image, kept)]
    assert errors[0] < 0.02 < errors[1]
    assert (found.image.data[:, :, 4, -1][at] == 1).mean() > 0.9


def test_signals_that_were_cut_off_stay_out_of_the_tensor_after_correction_of_motion():
    """Half of the cord is brighter than 12 bits hold in every volume without weighting: no interpolation makes numbers of that."""
    series, gradients, cord = scan()
    data = series.data * 8
    bright = (cord.data > 0.5) & (np.arange(SHAPE[0])[:, None, None] > 14)
    data[bright] *= 3
    data = np.minimum(data, 4095)
    corrected = correct(series.with_data(data), gradients, cord=cord).series
    fa = tensor_image(corrected, gradients, cord)[0].data[..., 0]
    assert (data[bright][:, :4] == 4095).mean() > 0.9
    assert np.isnan(fa[bright]).mean() > 0.9
    assert np.isfinite(fa[(cord.data > 0.5) & (np.arange(SHAPE[0])[:, None, None] < 13)]).all()


def test_directions_of_another_frame_are_told_and_not_corrected():
    series, gradients, cord = scan()
    flipped = Gradients(gradients.bvals, gradients.directions @ ways()["+x-y+z"].T)
    with pytest.warns(CohortWarning, match=r"follows the cord better: \+x-y\+z of the image's axes, by"):
        found = fit_series(series, flipped, cord)
    assert found.coherence.verdict == CONTRADICTED
    assert found.quality["directions_contradicted"] == 1
    np.testing.assert_allclose(found.image.data[..., 0], fit_series(series, gradients, cord).image.data[..., 0], atol=1e-5)


def test_a_high_shell_is_left_out_and_told():
    series, gradients, cord = scan(b=(800.0, 2500.0))
    with pytest.warns(CohortWarning, match="30 volumes of b > 1500 s/mm2 are left out"):
        image, _ = tensor_image(series, gradients, cord)
    low = gradients.bvals < 1000
    expected, _ = tensor_image(series.with_data(series.data[..., low]), gradients.take(low), cord)
    np.testing.assert_array_equal(image.data, expected.data)


def test_a_series_of_high_b_alone_is_fitted():
    series, gradients, cord = scan(b=(2000.0,))
    assert np.isfinite(tensor_image(series, gradients, cord)[0].data[cord.data > 0.5][:, 0]).mean() > 0.99


def test_one_slice_is_enough():
    series, gradients, cord = scan()
    one = slice(4, 5)
    image, quality = tensor_image(
        Volume(series.data[:, :, one], AFFINE), Gradients(gradients.bvals, gradients.directions), Volume(cord.data[:, :, one], AFFINE)
    )
    assert np.isfinite(image.data[cord.data[:, :, one] > 0.5][:, 0]).all()
    assert quality["e1_cosine"] > 0.8
    assert np.isnan(quality["direction_margin"])


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ("empty", CordError, "cord mask of the mean diffusion-weighted image: expected a cord, found an empty mask"),
        ("grid", GeometryError, "cord mask of the mean diffusion-weighted image: expected the grid of the diffusion series"),
        ("count", GeometryError, "expected 34 b-values, one a volume, found 33"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, kind, words):
    series, gradients, cord = scan()
    if change == "empty":
        cord = cord.with_data(0 * cord.data)
    elif change == "grid":
        cord = Volume(cord.data, AFFINE + np.diag([0, 0, 1.0, 0]))
    else:
        gradients = gradients.take(np.arange(33))
    with pytest.raises(kind, match=words):
        tensor_image(series, gradients, cord)


@pytest.mark.parametrize("number", range(2))
def test_lost_slices_of_simulated_patients_are_found_and_none_besides(number):
    """Sixteen volumes of a compressed cord, three slices of which lost their signal."""
    protocol = replace(DTI_STUDY, matrix=None)
    still = DwiImperfection(dropped=3, jumps=0, drift=0.0, jitter=0.0)
    cord = parametric_cord(spacing=1.0, top="C3", bottom="C6")
    made = make_dwi(cord, group=PATIENT, number=number, seed=7, severity=0.9, protocol=protocol, imperfection=still)
    gradients = gradients_of(made.bval, made.bvec, made.series)
    series = made.series.with_data(made.series.data.astype(np.float32))
    found = fit_series(series, gradients, made.truth.mask.with_data(made.truth.mask.data > 0.5))
    np.testing.assert_array_equal(found.lost, made.truth.dropped)
