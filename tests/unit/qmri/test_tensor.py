"""The tensor fit: equal to dipy, honest about its errors, and silent about no voxel that it cannot judge."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cohort_engine.errors import InputError, UnknownNameError
from cohort_engine.qmri.tensor import CHANNELS, DARK, FEW, IMPOSSIBLE, NOISY, UNFIT, fit, fit_tensor

SPREAD = 30
GOLDEN = np.pi * (3 - np.sqrt(5))


def scheme(volumes: int = SPREAD, b0: int = 5, b: float = 800.0) -> tuple[np.ndarray, np.ndarray]:
    """Directions spread evenly on a half sphere (Fibonacci), behind b0."""
    z = 1 - (np.arange(volumes) + 0.5) / volumes
    turn = GOLDEN * np.arange(volumes)
    weighted = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    return np.r_[np.zeros(b0), np.full(volumes, b)], np.concatenate([np.zeros((b0, 3)), weighted])


B, G = scheme()
WHITE, GREY = (1.9, 0.4, 0.3), (1.3, 0.7, 0.5)


def clean(values: tuple[float, ...], turns: np.ndarray, s0: float = 500.0) -> np.ndarray:
    tensors = np.einsum("nij,j,nkj->nik", turns, np.array(values), turns)
    return s0 * np.exp(-B / 1000 * np.einsum("ti,nij,tj->nt", G, tensors, G))


def noisy(values: tuple[float, ...], n: int, snr: float, *, seed: int = 0, turned: bool = True) -> np.ndarray:
    """Rician signals of n voxels; the tensors lie in all directions, or along z."""
    rng = np.random.default_rng(seed)
    turns = Rotation.random(n, random_state=seed).as_matrix() if turned else np.broadcast_to(np.eye(3)[[1, 2, 0]].T[:, [0, 1, 2]], (n, 3, 3))
    signal = clean(values, turns)
    return np.hypot(signal + rng.normal(0, 500 / snr, signal.shape), rng.normal(0, 500 / snr, signal.shape))


def anisotropy(values: tuple[float, ...]) -> float:
    a = np.array(values)
    return float(np.sqrt(1.5 * ((a - a.mean()) ** 2).sum() / (a**2).sum()))


def dipy(signals: np.ndarray, method: str, volumes: slice | np.ndarray = slice(None)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dti = pytest.importorskip("dipy.reconst.dti")
        from dipy.core.gradients import gradient_table

        table = gradient_table(B[volumes], bvecs=G[volumes])
        how = "WLS" if method == "wls" else dti.robust_fit_tensor_wls
        return dti.TensorModel(table, fit_method=how, return_S0_hat=True).fit(signals[:, volumes])


@pytest.mark.parametrize("method", ["wls", "irls"])
@pytest.mark.parametrize("snr", [5, 20])
def test_equal_to_dipy(method, snr):
    signals = np.concatenate([noisy(values, 300, snr, seed=3) for values in (WHITE, GREY)])
    rng = np.random.default_rng(1)
    signals[np.arange(600), rng.integers(0, 35, 600)] *= np.where(rng.random(600) < 0.5, 0.3, 1)  # what a robust fit is for
    found, theirs = fit_tensor(signals, B, G, method=method), dipy(signals, method)
    for name, value in (("fa", theirs.fa), ("md", theirs.md * 1e3), ("ad", theirs.ad * 1e3), ("rd", theirs.rd * 1e3)):
        np.testing.assert_allclose(found[name], value, atol=1e-6)
    np.testing.assert_allclose(found["s0"], theirs.S0_hat, rtol=1e-6)
    e1 = np.stack([found[f"e1_{a}"] for a in "xyz"], axis=1)
    np.testing.assert_allclose(np.abs((e1 * theirs.evecs[:, :, 0]).sum(axis=1)), 1, atol=1e-6)
    assert (found["e1_z"] >= 0).all()


def test_missing_volumes_are_left_out_voxel_by_voxel():
    """As dipy fits the volumes that are there: three patterns of missing slices, mixed, and signals that are zero or negative."""
    signals = noisy(WHITE, 90, 20)
    lost = np.array([[7, 8], [0, 34], [20, 21]])[np.arange(90) % 3]
    for k, what in enumerate((np.nan, 0.0)):
        signals[np.arange(90), lost[:, k]] = what
    signals[1, 0] = -3.0
    found = fit_tensor(signals, B, G)
    for kind in range(3):
        rest = np.setdiff1d(np.arange(35), lost[kind])
        theirs = dipy(signals[kind::3], "wls", rest)
        np.testing.assert_allclose(found["fa"][kind::3], theirs.fa, atol=1e-6)
        np.testing.assert_allclose(found["md"][kind::3], theirs.md * 1e3, atol=1e-6)


def test_a_voxel_without_a_fit_is_nan_and_never_zero():
    signals = np.repeat(noisy(WHITE, 1, 20), 6, axis=0)
    signals[0], signals[1], signals[2] = 0, np.nan, -5
    signals[3, 6:] = np.nan  # one direction
    signals[4, :5] = np.nan  # no b0: S0 and the trace cannot be told apart
    found = fit(signals, B, G)
    for name in CHANNELS[:-1]:
        np.testing.assert_array_equal(np.isnan(found.channels[name]), [True] * 5 + [False], err_msg=name)
    np.testing.assert_array_equal(found.reasons[UNFIT], [True] * 5 + [False])
    np.testing.assert_array_equal(found.channels["reliable"], [0, 0, 0, 0, 0, 1])


def test_a_saturated_voxel_has_no_tensor():
    signals = noisy(WHITE, 40, 20)
    signals[3] = np.minimum(signals[3] * 4095 / np.sort(signals[3])[-3], 4095)
    assert np.isnan(fit_tensor(signals, B, G)["fa"]).tolist() == [k == 3 for k in range(40)]
    signals[3, np.argmax(signals[3])] = 4096  # not a number at which anything is cut off
    assert np.isfinite(fit_tensor(signals, B, G)["fa"]).all()


@pytest.mark.parametrize(("values", "snr"), [(WHITE, 20), (GREY, 20), (WHITE, 10)])
@pytest.mark.parametrize("given", [False, True])
def test_standard_errors_are_those_of_repeated_scans(values, snr, given):
    """Claimed over empirical standard deviation, by Monte Carlo."""
    found = fit_tensor(noisy(values, 4000, snr, turned=False), B, G, sigma=500 / snr if given else None)
    for name in ("fa", "md", "ad", "rd"):
        claimed = np.sqrt(np.mean(found[f"{name}_se"] ** 2))
        assert 0.9 < claimed / found[name].std() < 1.1, name
    assert found["residual"].mean() == pytest.approx(500 / snr, rel=0.03)


def test_rician_noise_leaves_hardly_a_bias():
    """The logarithm of a Rician signal is unbiased where its power is not: white matter at SNR 20 and 10 in b0."""
    for snr, of_fa, of_md in ((20, 0.003, 0.005), (10, 0.008, 0.012)):
        found = fit_tensor(noisy(WHITE, 4000, snr, turned=False), B, G)
        assert abs(found["fa"].mean() - anisotropy(WHITE)) < of_fa
        assert abs(found["md"].mean() / np.mean(WHITE) - 1) < of_md


def test_what_cannot_be_relied_on_is_named():
    signals = noisy(WHITE, 400, 20)
    rng = np.random.default_rng(5)
    plain = fit(signals, B, G)
    assert plain.channels["reliable"].mean() > 0.99
    spoilt = signals.copy()
    spoilt[0, rng.permutation(35)[:11]] = np.nan
    spoilt[1] = np.abs(spoilt[1] + rng.normal(0, 200, 35))
    spoilt[2] = np.hypot(*rng.normal(0, 25, (2, 35)))
    spoilt[3] = 500 * np.exp(-B / 1000 * 4.5) + rng.uniform(0, 2, 35)
    spoilt[4, 5:] = clean((0.8, 0.7, -0.5), np.eye(3)[None])[0, 5:]
    found = fit(spoilt, B, G)
    for voxel, reason in enumerate((FEW, NOISY, DARK, IMPOSSIBLE, IMPOSSIBLE)):
        assert found.reasons[reason][voxel], reason
        assert found.channels["reliable"][voxel] == 0
    np.testing.assert_array_equal(found.channels["reliable"][5:], plain.channels["reliable"][5:])


def test_reliability_does_not_choose_by_anisotropy():
    """At low signal about half of the voxels are left out; the FA of the others is not changed by that."""
    found = fit_tensor(noisy(WHITE, 6000, 4.6, turned=False), B, G, sigma=500 / 4.6)
    kept = found["reliable"] > 0
    assert 0.2 < kept.mean() < 0.8
    error = found["fa"].std() * np.sqrt(1 / kept.sum() - 1 / len(kept))
    assert abs(found["fa"][kept].mean() - found["fa"].mean()) < 0.004 + 3 * error


def test_a_robust_fit_forgets_a_spoilt_volume():
    signals = noisy(WHITE, 500, 20, turned=False)
    truth = anisotropy(WHITE)
    signals[:, 9] *= 0.2
    robust, plain = (fit_tensor(signals, B, G, method=method)["fa"] for method in ("irls", "wls"))
    assert abs(np.median(robust) - truth) < 0.25 * abs(np.median(plain) - truth)


def test_a_robust_fit_falls_back_where_too_little_is_left():
    """Seven volumes: nothing can be an outlier of a fit that passes through all."""
    few = np.r_[0, 5:35:5]
    signals = noisy(WHITE, 50, 20)[:, few]
    robust, plain = (fit_tensor(signals, B[few], G[few], method=method) for method in ("irls", "wls"))
    np.testing.assert_allclose(robust["fa"], plain["fa"], atol=1e-6)
    assert np.isnan(plain["fa_se"]).all()
    assert np.isfinite(fit_tensor(signals, B[few], G[few], sigma=25.0)["fa_se"]).all()


@pytest.mark.parametrize(
    ("volumes", "change", "kind", "words"),
    [
        (slice(None), {"method": "nlls"}, UnknownNameError, "tensor fit: expected a known way to fit a tensor"),
        (slice(None), {"bvals": B[:-1]}, InputError, "expected signals"),
        (slice(None), {"directions": G * [1, 1, 0]}, InputError, "expected a b0 and six directions that do not lie on a cone, found 30"),
        (slice(5, None), {}, InputError, "expected a b0 and six directions"),
        (slice(0, 10), {}, InputError, "expected a b0 and six directions that do not lie on a cone, found 5"),
    ],
)
def test_designs_that_leave_the_tensor_open_are_refused(volumes, change, kind, words):
    arguments = {"signals": noisy(WHITE, 3, 20)[:, volumes], "bvals": B[volumes], "directions": G[volumes]} | change
    with pytest.raises(kind, match=words):
        fit_tensor(**arguments)


def test_no_voxel_at_all_gives_no_values():
    assert {name: len(values) for name, values in fit_tensor(np.empty((0, 35)), B, G).items()} == dict.fromkeys(CHANNELS, 0)
