import numpy as np
import pytest

from cohort_engine.errors import GeometryError
from cohort_engine.qmri.motion import apply_shifts
from cohort_engine.qmri.series import resample_series

SPACING = (0.9, 0.8, 5.0)


@pytest.fixture
def series():
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 26, 3, 4)).astype(np.float32)


def blob(x, y):
    return np.exp(-(x**2 + 2 * y**2) / 60)


def plane(shape=(41, 37)):
    return np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, SPACING, strict=False)), indexing="ij")


def test_shifts_agree_with_one_volume_at_a_time(series):
    shifts = np.random.default_rng(1).normal(size=(4, 3, 2))
    out = resample_series(series, SPACING, shifts=shifts)
    for t in range(4):
        one = apply_shifts(series[..., t], shifts[t], SPACING, order=3)
        assert np.array_equal(np.isnan(one), np.isnan(out[..., t]))
        middle = np.s_[12:18, 10:16]  # away from borders, where splines are continued in different ways
        assert np.abs(one - out[..., t])[middle].max() < 5e-3


def test_nothing_to_do_gives_the_series_back(series):
    assert np.abs(resample_series(series, SPACING) - series).max() < 1e-5


def test_the_axis_is_only_a_name(series):
    rng = np.random.default_rng(2)
    shifts, scale, d = rng.normal(size=(4, 3, 2)), rng.normal(0, 0.02, size=(4, 3, 2)), rng.normal(size=(30, 26, 3))
    one = resample_series(series, SPACING, shifts=shifts, scale=scale, displacement=d)
    other = resample_series(
        series.swapaxes(0, 1), (0.8, 0.9, 5.0), shifts=shifts[..., ::-1], scale=scale, displacement=d.swapaxes(0, 1), axis=0
    ).swapaxes(0, 1)  # fmt: skip
    assert np.array_equal(np.isnan(one), np.isnan(other))
    assert np.nanmax(np.abs(one - other)) < 1e-5


def test_shift_stretch_shear_and_displacement_are_one_interpolation():
    """All four of one analytic object against its own formula: the order in which they apply is part of the definition."""
    x, y = plane()
    shift, stretch, shear = np.array([0.7, -1.1]), 0.03, -0.02
    d = 1.5 * np.sin(x / 9) * np.cos(y / 11)
    place = y + d
    at_y = place + shift[1] + stretch * place + shear * x
    slope = 1.5 * np.sin(x / 9) * -np.sin(y / 11) / 11
    expected = blob(x + shift[0], at_y) * (1 + slope) * (1 + stretch)
    out = resample_series(
        blob(x, y)[:, :, None, None], SPACING, shifts=shift[None, None], scale=np.array([[[stretch, shear]]]), displacement=d[..., None]
    )[..., 0, 0]  # fmt: skip
    inner = np.isfinite(out)
    assert inner.mean() > 0.8
    assert np.abs(out - expected)[inner].max() < 2e-3


def test_signal_along_phase_encoding_is_kept():
    x, y = plane()
    d = 3 * np.exp(-(x**2 + y**2) / 100)
    out = resample_series(blob(x, y)[:, :, None, None], SPACING, displacement=d[..., None])[..., 0, 0]
    assert np.allclose(np.nan_to_num(out).sum(1)[5:-5], blob(x, y).sum(1)[5:-5], rtol=0.02)


def test_lost_slices_and_holes_are_nan_and_do_not_ring(series):
    series = series + 100
    holed = series.copy()
    holed[14, 12, 1, 2] = np.nan
    lost = np.zeros((4, 3), bool)
    lost[0, 2] = True
    shifts = np.full((4, 3, 2), 0.4)
    out, whole = resample_series(holed, SPACING, shifts=shifts, dropped=lost), resample_series(series, SPACING, shifts=shifts)
    assert np.isnan(out[..., 2, 0]).all()
    assert np.isnan(out[13:15, 11:13, 1, 2]).all()
    apart = np.isnan(out) & ~np.isnan(whole)
    apart[..., 2, 0] = False
    assert apart.sum() == 4
    assert np.nanmax(np.abs(out - whole)) < 5  # a NaN taken as 0 would ring by tens


def test_one_voxel_along_an_axis():
    out = resample_series(np.ones((1, 5, 1, 2)), (1, 1, 1))
    assert np.allclose(out, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"shifts": np.zeros((3, 4, 2))}, {"scale": np.zeros((4, 3))}, {"displacement": np.zeros((30, 26))}, {"dropped": np.zeros((3, 4))}, {"axis": 2}],
)
def test_arrays_that_do_not_fit_are_refused(series, wrong):
    with pytest.raises(GeometryError):
        resample_series(series, SPACING, **wrong)


def test_md_of_an_interpolated_series_is_not_low_for_its_noise_floor() -> None:
    """White matter at SNR 20, moved by half a voxel both ways: MD is half a percent low as interpolated, and not once the floor is off."""
    from cohort_engine.phantom.protocol import B800, gradients
    from cohort_engine.phantom.tensors import diffusivities
    from cohort_engine.qmri.series import noise_left, without_floor
    from cohort_engine.qmri.tensor import fit_tensor

    bvals, directions = gradients(B800)
    axial, radial = diffusivities(np.array(0.8), np.array(0.95))
    still = 1000 * np.exp(-bvals / 1000 * (radial + (axial - radial) * directions[:, 2] ** 2))
    rng, shifts = np.random.default_rng(3), np.full((len(bvals), 1, 2), 0.5)
    noise = rng.normal(0, 50, (2, 110, 110, 1, len(bvals)))
    moved = resample_series(np.hypot(still + noise[0], noise[1]), (1, 1, 1), shifts=shifts)[4:-4, 4:-4]
    less = without_floor(moved, noise_left(shifts, (1, 1, 1)), 50.0**2)
    low, right = (fit_tensor(v.reshape(-1, len(bvals)).astype(float), bvals, directions)["md"].mean() / 0.95 - 1 for v in (moved, less))
    assert low < -0.003
    assert abs(right) < 0.0015
    assert np.var(moved[..., 0]) / 50**2 == pytest.approx(noise_left(shifts, (1, 1, 1))[0, 0], rel=0.08)
