import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cohort_engine import schema
from cohort_engine.errors import CordError, GeometryError, InputError
from cohort_engine.qmri.moco import estimate_motion

SPACING = (0.9, 0.9, 5.0)
B0 = (0, 18, 19)


def make(*, volumes=20, slices=8, size=(56, 44), snr=20.0, moves=None, b0=B0, dropped=(), seed=0):
    """A neck-like series, its region, and the displacement (t, z, 2) mm planted: drift, breathing, and what `moves` adds."""
    rng = np.random.default_rng(seed)
    weighted = ~np.isin(np.arange(volumes), b0)
    shift = 0.8 * np.sin(np.arange(volumes) / 6)[:, None, None] * [0.5, 1.0]
    shift = shift + 0.3 * (rng.normal(size=(volumes, 1, 2)) + rng.normal(size=(volumes, 1, 2)) * np.linspace(-0.3, 0.3, slices)[:, None])
    if moves is not None:
        shift = shift + moves(volumes, slices, rng)
    along = rng.uniform(size=volumes)  # squared cosine of the direction with the cord: how dark white matter is
    texture = gaussian_filter(rng.normal(size=(300, 300)), 8)
    texture *= 0.15 / texture.std()
    x, y = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, SPACING, strict=False)), indexing="ij")
    series, weight = np.zeros((*size, slices, volumes), np.float32), np.zeros((*size, slices))
    for z in range(slices):
        middle = 1.5 * np.sin(z / 4), 4 * np.cos(z / 3)
        weight[..., z] = np.clip(1 - (np.hypot((x - middle[0]) / 6.5, (y - middle[1]) / 4.5) - 1) * 0.55, 0, 1)
        for t in range(volumes):
            u, v = x - shift[t, z, 0], y - shift[t, z, 1]
            tissue = 0.5 + texture[((u + 35) * 4).astype(int), ((v + 35) * 4).astype(int)]
            u, v = u - middle[0], v - middle[1]
            cord = 1 / (1 + np.exp((np.hypot(u / 6.5, v / 4.5) - 1) * 7))
            canal = 1 / (1 + np.exp((np.hypot(u / 10, v / 7.5) - 1) * 8))
            grey = np.exp(-((np.abs(u) - 1.8) ** 2 / 2 + v**2 / 6)) * cord
            fibre, other = np.exp(-0.8 * (0.35 + 1.65 * along[t])), np.exp(-0.8 * (0.6 + 0.9 * along[t]))
            parts = ((cord - grey) * fibre + grey * other) / 2, (canal - cord) * np.exp(-2.4), (1 - canal) * tissue * np.exp(-1.2)
            series[:, :, z, t] = sum(parts) if weighted[t] else cord / 2 + canal - cord + (1 - canal) * tissue
    for t, z in dropped:
        series[:, :, z, t] *= 0.2
    noise = rng.normal(0, 0.5 / snr, (2, *series.shape))
    return np.hypot(series + noise[0], noise[1]).astype(np.float32), ~weighted, np.where(weighted, 800.0, 0.0), weight, shift


def error(found, planted):
    """Distance (t, z) mm from the truth, beside a displacement of the whole slice that nobody can know."""
    away = found.shifts - planted
    return np.linalg.norm(away - np.median(away, axis=0), axis=-1)


def jumps(*which):
    def moves(volumes, slices, rng):
        out = np.zeros((volumes, slices, 2))
        for t, move in which:
            out[t] = move
        return out

    return moves


def odd_even(volumes, slices, rng):
    out = np.zeros((volumes, slices, 2))
    out[:, 1::2] = 0.8 * rng.normal(size=(volumes, 1, 2))
    return out


def both(volumes, slices, rng):
    return odd_even(volumes, slices, rng) + jumps((6, (0, 8.0)), (12, (-5.0, 6.0)))(volumes, slices, rng)


def test_drift_and_breathing():
    series, b0, bvals, weight, planted = make()
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    assert error(found, planted).mean() < 0.15
    assert not found.interleaved
    assert not found.flags.any()


@pytest.mark.parametrize("axis", [0, 1])
def test_brightness_that_rises_across_b0_does_not_move_it(axis):
    """What lies behind the cord is brighter than what lies in front of it, in b0 alone."""
    series, b0, b, weight, planted = make(seed=4)
    y = np.moveaxis((np.arange(series.shape[axis]) - (series.shape[axis] - 1) / 2)[:, None, None, None] * SPACING[axis], 0, axis)
    series[..., b0] += (0.02 * y).astype(np.float32)
    away = estimate_motion(series, b0, b, weight, SPACING).shifts - planted
    assert np.abs(away[b0].mean((0, 1)) - away[~b0].mean((0, 1))).max() < 0.1


def test_jumps_are_found_and_flagged():
    series, b0, bvals, weight, planted = make(moves=jumps((6, (0, 8.0)), (12, (-5.0, 6.0))))
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    assert error(found, planted).mean() < 0.15
    flagged = (found.flags & schema.MOVED) > 0
    assert np.flatnonzero(flagged.all(1)).tolist() == [6, 12]
    assert flagged.sum() == 16


def test_a_step_is_one_jump():
    series, b0, bvals, weight, planted = make(moves=jumps(*((t, (0, 8.0)) for t in range(10, 20))))
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    assert error(found, planted).mean() < 0.2
    assert np.flatnonzero(((found.flags & schema.MOVED) > 0).any(1)).tolist() == [10]


def test_odd_and_even_slices_with_jumps_and_dropped_slices():
    dropped = [(5, 3), (6, 7), (9, 4), (15, 1)]
    series, b0, bvals, weight, planted = make(moves=both, dropped=dropped)
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    assert found.interleaved
    lost = (found.flags & schema.DROPPED) > 0
    assert sorted(map(tuple, np.argwhere(lost).tolist())) == dropped
    assert error(found, planted)[~lost].mean() < 0.2
    assert np.isnan(found.agreement[lost]).all()


def test_slices_without_region_follow_the_others():
    series, b0, bvals, weight, planted = make()
    weight[..., :2] = 0
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    assert error(found, planted)[:, 2:].mean() < 0.15
    assert np.isfinite(found.shifts).all()


def test_an_empty_volume_is_lost_and_disturbs_no_other():
    series, b0, bvals, weight, planted = make()
    series[..., 7], series[..., 3, 11] = 0, np.nan
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    lost = (found.flags & schema.DROPPED) > 0
    assert lost[7].all()
    assert lost[11, 3]
    assert lost.sum() == 9
    assert error(found, planted)[~lost].mean() < 0.15


def test_a_slice_in_noise_follows_its_neighbours_and_says_so():
    series, b0, b, weight, planted = make(seed=1)
    noise = np.random.default_rng(0).normal(size=(2, *series.shape[:2]))
    series[:, :, 3, 6] = np.hypot(series[:, :, 3, 6] + noise[0], noise[1])
    found = estimate_motion(series, b0, b, weight, SPACING)
    assert np.argwhere(found.flags).tolist() == [[6, 3]]
    assert found.flags[6, 3] == schema.UNCERTAIN
    assert error(found, planted)[6, 3] < 0.4


def test_one_slice_is_enough():
    series, b0, bvals, weight, planted = make(slices=1)
    found = estimate_motion(series, b0, bvals, weight, SPACING)
    assert error(found, planted).mean() < 0.2


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda s, b, v, w: (s, b, v, np.zeros_like(w)), CordError), (lambda s, b, v, w: (0 * s, b, v, w), CordError),
        (lambda s, b, v, w: (s, b, v, w[1:]), GeometryError), (lambda s, b, v, w: (s, b[1:], v[1:], w), InputError),
        (lambda s, b, v, w: (s[..., :1], b[:1], v[:1], w), InputError),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(change, kind):
    series, b0, bvals, weight, _ = make(volumes=3, slices=2)
    with pytest.raises(kind):
        estimate_motion(*change(series, b0, bvals, weight), SPACING)
