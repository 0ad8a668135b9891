import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cohort_engine.errors import CordError, GeometryError
from cohort_engine.qmri.distortion import estimate_distortion
from cohort_engine.qmri.series import resample_series

SPACING = np.array([0.9, 0.9, 5.0])
SHAPE = (50, 44, 8)


def pair(largest, *, seed=0, noise=0.03, aside=0.0):
    """Images with opposite distortion, the region as it lies in the first, displacement (x, y, z) mm and cord at rest: p is found at p + d."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE[:2], SPACING, strict=False)), indexing="ij")
    z = np.arange(SHAPE[2])
    strength = largest * np.sin(z / 2.5 + 1)
    texture = gaussian_filter(rng.normal(size=(400, 400)), 8)
    texture *= 0.15 / texture.std()

    def field(px, py, k):
        return strength[k] * np.cos(px / 30) * np.cos((py - 2) / 26)

    def content(px, py, k):
        tissue = 0.5 + texture[np.clip(((px + 40) * 4).astype(int), 0, 399), np.clip(((py + 40) * 4).astype(int), 0, 399)]
        cord = 1 / (1 + np.exp((np.hypot(px / 6.5, py / 4.5) - 1) * 7))
        canal = 1 / (1 + np.exp((np.hypot(px / 10, py / 7.5) - 1) * 8))
        return cord / 2 + canal - cord + (1 - canal) * tissue

    def scan(sign, aside):
        out = np.zeros(SHAPE)
        for k in z:
            place = y.copy()  # where what is seen at y lies: place + sign d(place) = y
            for _ in range(60):
                place = y - sign * field(x - aside, place, k)
            slope = np.gradient(place, SPACING[1], axis=1)
            out[..., k] = content(x - aside, place, k) * slope
        return out + rng.normal(0, noise, SHAPE)

    truth = np.stack([field(x, y, k) for k in z], -1)
    mask = np.repeat((np.hypot(x / 6.5, y / 4.5) < 1)[..., None], SHAPE[2], -1)
    weight = np.zeros(SHAPE)
    for k in z:
        at = y.copy()
        for _ in range(60):
            at = y - field(x, at, k)
        weight[..., k] = np.clip(1 - (np.hypot(x / 6.5, at / 4.5) - 1) * 0.5, 0, 1)
    return scan(1, 0.0), scan(-1, aside), weight, truth, mask


@pytest.mark.parametrize("largest", [0.0, 4.0, 10.0])
def test_the_displacement_is_found(largest):
    forward, backward, weight, truth, mask = pair(largest)
    found = estimate_distortion(forward, backward, weight, SPACING, axis=1)
    away = np.abs(found - truth)[mask]
    assert np.median(away) < 0.2
    assert np.percentile(away, 95) < 0.7


def test_both_images_become_one():
    forward, backward, weight, _, mask = pair(6.0)
    found = estimate_distortion(forward, backward, weight, SPACING, axis=1)
    one, other = (resample_series(a[..., None], SPACING, displacement=d)[..., 0] for a, d in ((forward, found), (backward, -found)))
    before, after = np.abs(forward - backward)[mask].mean(), np.abs(one - other)[mask].mean()
    assert after < 0.35 * before


def test_motion_across_phase_encoding_is_told_from_distortion():
    forward, backward, weight, truth, mask = pair(5.0, aside=1.6)
    found = estimate_distortion(forward, backward, weight, SPACING, axis=1)
    assert np.median(np.abs(found - truth)[mask]) < 0.3


def test_the_axis_is_only_a_name():
    forward, backward, weight, _, _ = pair(4.0)
    one = estimate_distortion(forward, backward, weight, SPACING, axis=1)
    turned = (a.swapaxes(0, 1) for a in (forward, backward, weight))
    assert np.allclose(estimate_distortion(*turned, SPACING[[1, 0, 2]], axis=0).swapaxes(0, 1), one, atol=1e-6)


def test_one_slice_and_slices_without_region():
    forward, backward, weight, truth, mask = pair(4.0)
    weight[..., 0] = 0
    found = estimate_distortion(forward, backward, weight, SPACING, axis=1)
    assert np.isfinite(found).all()
    assert np.median(np.abs(found - truth)[..., 1:][mask[..., 1:]]) < 0.3
    single = estimate_distortion(forward[..., 3:4], backward[..., 3:4], weight[..., 3:4], SPACING, axis=1)
    assert np.median(np.abs(single - truth[..., 3:4])[mask[..., 3:4]]) < 0.5


@pytest.mark.parametrize(
    ("change", "axis", "kind"),
    [
        (lambda f, b, w: (f, b[1:], w), 1, GeometryError), (lambda f, b, w: (f, b, w[..., 0]), 1, GeometryError),
        (lambda f, b, w: (f, b, w), 2, GeometryError), (lambda f, b, w: (f, b, 0 * w), 1, CordError), (lambda f, b, w: (f, 0 * b, w), 1, CordError),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused(change, axis, kind):
    forward, backward, weight, _, _ = pair(2.0)
    with pytest.raises(kind):
        estimate_distortion(*change(forward, backward, weight), SPACING, axis=axis)
