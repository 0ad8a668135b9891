"""MTsat and T1 against the published formula worked by hand, and against signals of the Bloch equations' steady state."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cohort_engine.errors import InputError
from cohort_engine.qmri.mtsat import Protocol, Triplet, check_protocols, check_relaxation, relaxation_signal, saturation, saturation_error

USUAL = Triplet(Protocol(0.035, 9), Protocol(0.035, 9), Protocol(0.015, 15))


def of(on: float, off: float, t1w: float, protocols: Triplet = USUAL, **more: object) -> tuple[float, float]:
    found = saturation(Triplet(*(np.array([v]) for v in (on, off, t1w))), protocols, **more)  # type: ignore[arg-type]
    return float(found.mtsat[0]), float(found.t1[0])


def test_the_published_formula_by_hand() -> None:
    """Helms 2008, equations 5, 7 and 8, written out here a second time with numbers of one voxel and three different excitations."""
    on, off, t1w = 160.0, 250.0, 170.0
    tr_m, tr_p, tr_t = 0.030, 0.035, 0.015
    a_m, a_p, a_t = (math.pi * d / 180 for d in (8, 9, 15))
    r1 = 0.5 * (a_t / tr_t * t1w - a_p / tr_p * off) / (off / a_p - t1w / a_t)
    amplitude = (tr_p * a_t / a_p - tr_t * a_p / a_t) * (off * t1w) / (tr_p * a_t * t1w - tr_t * a_p * off)
    delta = (amplitude * a_m / on - 1) * r1 * tr_m - a_m**2 / 2
    protocols = Triplet(Protocol(tr_m, 8), Protocol(tr_p, 9), Protocol(tr_t, 15))
    assert of(on, off, t1w, protocols) == pytest.approx((100 * delta, 1 / r1), rel=1e-6)
    b1 = np.array([1.2])
    assert of(on, off, t1w, protocols, b1=b1) == pytest.approx((100 * delta * (1 - 0.4) / (1 - 0.4 * 1.2), 1 / (r1 * 1.44)), rel=1e-6)


def steady(amplitude: float, t1: float, protocol: Protocol, b1: float = 1.0, delta: float = 0.0) -> float:
    """Signal of a spoiled gradient echo in steady state, exactly: Mz is cut by 1 - delta once a repetition, then turned by the actual angle."""
    e, a = math.exp(-protocol.tr / t1), b1 * protocol.angle
    return amplitude * math.sin(a) * (1 - e) / (1 - (1 - delta) * math.cos(a) * e)


@pytest.mark.parametrize(("t1", "delta"), [(0.85, 0.035), (1.1, 0.02), (1.6, 0.01)])
def test_tissue_of_the_steady_state_comes_out_within_what_small_angles_cost(t1: float, delta: float) -> None:
    signals = [steady(1000, t1, p, delta=d) for p, d in zip(USUAL, (delta, 0, 0), strict=True)]
    mtsat, found = of(*signals)
    assert found == pytest.approx(t1, rel=0.02)
    assert mtsat == pytest.approx(100 * delta, rel=0.06)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_t1_of_a_shared_voxel_is_the_mean_by_what_it_is_divided_by(share: float) -> None:
    """Fluid and white matter in one voxel, by the exact steady state; the mean by volume is far off, and that of MTsat by MT-on is nearer than it."""
    parts = [np.array([steady(a, t1, p, delta=d) for p, d in zip(USUAL, (delta, 0, 0), strict=True)]) for a, t1, delta in
             ((700, 1.0, 0.033), (1000, 4.3, 0.002))]  # fmt: skip
    volume = np.array([1 - share, share])
    own = np.array([of(*p) for p in parts])
    mixed = of(*(volume @ np.stack(parts)))
    weight = volume * [float(relaxation_signal(p[1], p[2], USUAL)) for p in parts]
    assert mixed[1] == pytest.approx(weight @ own[:, 1] / weight.sum(), rel=1e-5)
    by_on = volume * [p[0] for p in parts]
    assert abs(by_on @ own[:, 0] / by_on.sum() - mixed[0]) < abs(volume @ own[:, 0] - mixed[0])


@pytest.mark.parametrize("b1", [0.8, 1.2])
def test_the_transmit_field_is_taken_out_of_t1_and_mostly_out_of_mtsat(b1: float) -> None:
    """What a pulse takes grows with B1 squared, less the residue of the published correction: 1 - 0.4 b1 of its amplitude."""
    delta = 0.03
    taken = delta * b1**2 * (1 - 0.4 * b1) / (1 - 0.4)
    signals = [steady(1000, 0.9, p, b1=b1, delta=d) for p, d in zip(USUAL, (taken, 0, 0), strict=True)]
    without, t1_without = of(*signals)
    mtsat, t1 = of(*signals, b1=np.array([b1]))
    assert t1 == pytest.approx(0.9, rel=0.02)
    assert abs(t1_without - 0.9) > 0.2
    assert mtsat == pytest.approx(3.0, rel=0.06)
    assert abs(without - 3.0) > 2 * abs(mtsat - 3.0)


@pytest.mark.parametrize(
    ("signals", "more"),
    [
        ((0.0, 250.0, 170.0), {}),
        ((160.0, 0.0, 170.0), {}),
        ((160.0, 250.0, 0.0), {}),
        ((160.0, 250.0, -3.0), {}),
        ((math.nan, 250.0, 170.0), {}),
        ((math.inf, 250.0, 170.0), {}),
        ((160.0, 10.0, 170.0), {"floor": 12.0}),
        ((160.0, 250.0, 60.0), {}),  # so little T1w signal is that of a T1 below 0
        ((160.0, 170.0, 900.0), {}),
        ((160.0, 250.0, 170.0), {"b1": np.array([math.nan])}),
        ((160.0, 250.0, 170.0), {"b1": np.array([0.0])}),
        ((160.0, 250.0, 170.0), {"b1": np.array([2.6])}),
    ],
)
def test_what_cannot_be_known_is_nan_in_both_maps_and_never_0(signals: tuple[float, float, float], more: dict[str, object]) -> None:
    assert np.isnan(of(*signals, **more)).all()


def test_small_negative_saturation_is_noise_and_stays() -> None:
    mtsat, t1 = of(252.0, 250.0, 170.0)
    assert -1 < mtsat < 0
    assert t1 == of(160.0, 250.0, 170.0)[1]


def test_a_saturation_of_everything_is_no_measurement_but_t1_is() -> None:
    mtsat, t1 = of(1.0, 250.0, 170.0)
    assert np.isnan(mtsat)
    assert 0.5 < t1 < 2


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        (Triplet(Protocol(0.035, 0), *USUAL[1:]), "MT-on image: expected a flip angle above 0, below 90 degrees, found 0"),
        (Triplet(*USUAL[:2], Protocol(0.015, 150)), "T1w image of the MT protocol: expected a flip angle .* found 150"),
        (Triplet(USUAL.on, Protocol(-1, 9), USUAL.t1w), "MT-off image: expected a repetition time above 0, at most 1 s, found -1 s"),
        (Triplet(USUAL.on, USUAL.t1w, USUAL.off), "expected more T1 weighting .* found less: 9 degrees, 35 ms against 15 degrees, 15 ms.*swapped"),
        (Triplet(USUAL.on, USUAL.off, USUAL.off), "found the same: 9 degrees, 35 ms against 9 degrees, 35 ms"),
    ],
)
def test_excitations_that_tell_nothing_are_refused(protocols: Triplet, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_protocols(protocols)


def test_swapped_images_have_no_t1() -> None:
    mask = np.ones(20)
    off, t1w = np.full(20, 250.0), np.full(20, 170.0)
    right, swapped = (saturation(Triplet(np.full(20, 160.0), *pair), USUAL).t1 for pair in ((off, t1w), (t1w, off)))
    check_relaxation(right, mask)
    with pytest.raises(InputError, match=r"expected a T1 of 0\.2 to 5 s in most of the cord, found one in 0 of 20 cord voxels.*swapped"):
        check_relaxation(swapped, mask)


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"one shape, found \(2,\), \(2,\), \(3,\)"):
        saturation(Triplet(np.ones(2), np.ones(2), np.ones(3)), USUAL)
    with pytest.raises(InputError, match=r"\(4,\)"):
        saturation(Triplet(np.ones(2), np.ones(2), np.ones(2)), USUAL, b1=np.ones(4))


@pytest.mark.parametrize("b1", [None, 1.15])
def test_standard_errors_are_the_scatter_of_noisy_voxels(b1: float | None) -> None:
    """Twenty thousand noisy copies of one voxel, three different excitations, three different noises: both scatter as is told, within 3 %."""
    rng, protocols = np.random.default_rng(0), Triplet(Protocol(0.030, 8), Protocol(0.035, 9), Protocol(0.015, 15))
    signals, noise = Triplet(160.0, 250.0, 170.0), Triplet(1.0, 2.0, 1.5)
    field = None if b1 is None else np.full(20_000, b1)
    found = saturation(Triplet(*(s + rng.normal(0, n, 20_000) for s, n in zip(signals, noise, strict=True))), protocols, b1=field)
    told = saturation_error(Triplet(*(np.array([s]) for s in signals)), noise, protocols, b1=None if b1 is None else field[:1])
    assert told.mtsat[0] == pytest.approx(found.mtsat.std(), rel=0.03)
    assert told.t1[0] == pytest.approx(found.t1.std(), rel=0.03)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_image_adds_its_own_part(which: int) -> None:
    """Against the formula itself, moved by a little."""
    signals, step = [np.array([160.0]), np.array([250.0]), np.array([170.0])], 0.05
    noise = Triplet(*(step * (k == which) for k in range(3)))
    told = saturation_error(Triplet(*signals), noise, USUAL)
    ends = [saturation(Triplet(*(s + d * step * (k == which) for k, s in enumerate(signals))), USUAL) for d in (-1, 1)]
    for name in ("mtsat", "t1"):
        low, high = (float(getattr(e, name)[0]) for e in ends)
        assert float(getattr(told, name)[0]) == pytest.approx(abs(high - low) / 2, rel=0.02, abs=1e-6), name
