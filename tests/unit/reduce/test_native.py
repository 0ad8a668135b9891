"""Estimators of one image in its own space, as arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.reduce.estimators.median import weighted_median
from cohort_engine.reduce.native import level_tables, reduce_group, signal_weights, slice_levels
from cohort_engine.reduce.neighbours import likeness
from cohort_engine.schema import ESTIMATORS

NAN = np.nan
W = np.array([[1.0, 0.5, 0.25, 0.0]])
Y = np.array([40.0, 20.0, 80.0, 1000.0])


def one(estimator: str, values: np.ndarray = Y, weights: np.ndarray = W) -> dict[str, float]:
    cells = reduce_group(values, weights, [(0,)], [(0,)], estimator=estimator)
    return {name: getattr(cells, name).item() for name in ("value", "std", "spread", "se", "size", "n", "coverage")}


def test_weighted_average() -> None:
    out = one("wa")
    mean = (40 + 10 + 20) / 1.75
    std = np.sqrt(((40 - mean) ** 2 + 0.5 * (20 - mean) ** 2 + 0.25 * (80 - mean) ** 2) / 1.75)
    assert (out["value"], out["std"], out["spread"], out["size"], out["n"]) == pytest.approx((mean, std, std, 1.75, 1.75))
    assert np.isnan(out["se"])


def test_binary_takes_halves_and_keeps_the_std_about_the_weighted_average() -> None:
    out = one("bin")
    assert (out["value"], out["spread"], out["size"]) == (30, 10, 1.75)
    assert out["std"] == one("wa")["std"]


def test_binary_without_a_half_is_missing_and_not_a_message() -> None:
    assert np.isnan(one("bin", weights=W * 0.4)["value"])
    assert np.isnan(one("max", weights=W * 0.4)["value"])


def test_maximum_stays_inside_the_region() -> None:
    assert one("max")["value"] == 40  # neither the 80 of a quarter voxel nor the 1000 outside


def test_median() -> None:
    # sorted 20, 40, 80 with weights 0.5, 1, 0.25: p = 0.25, 1, 1.625 of 1.75; a half is 0.875
    assert one("median")["value"] == pytest.approx(20 + 20 * (0.875 - 0.25) / 0.75)


# Two labels: pure, mixed, half outside, pure, outside, and a voxel without a value. The last two count for nothing, but for the toolbox's max.
HAND_W = np.array([[1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 1.0], [0.0, 0.25, 0.5, 0.25, 1.0, 0.0, 0.0]])
HAND_Y = np.array([44.0, 40.0, 30.0, 12.0, 20.0, 7.0, np.nan])
REGION = {"first": (0,), "second": (1,), "both": (0, 1)}


def toolbox(estimator: str, members: tuple[int, ...]) -> float:
    """The toolbox's recipe: a missing value has weight 0 and is 0; sums over all voxels of the slices."""
    lost = ~np.isfinite(HAND_Y)
    y, w = np.where(lost, 0, HAND_Y), np.where(lost, 0, HAND_W)
    target = w[list(members)].sum(axis=0)
    if estimator == "wa":
        return float((target * y).sum() / target.sum())
    if estimator == "bin":
        return float(y[target >= 0.5].mean())
    if estimator == "median":
        order = np.argsort(y)
        share = np.cumsum(target[order])
        return float(np.interp(0.5, (share - target[order] / 2) / share[-1], y[order]))
    if estimator == "max":  # the toolbox ignores the mask; ours stays inside the region
        return float(y[target >= 0.5].max())
    design = np.stack([target, *(w[k] for k in range(2) if k not in members)], axis=1)
    return float((np.linalg.pinv(design.T @ design) @ design.T @ y)[0])


@pytest.mark.parametrize("region", REGION)
@pytest.mark.parametrize("estimator", ["wa", "bin", "median", "ml", "max"])
def test_equal_to_the_toolbox_by_its_formula(estimator: str, region: str) -> None:
    found = reduce_group(HAND_Y, HAND_W, [REGION[region]], [(0, 1)], estimator=estimator).value.item()
    assert found == pytest.approx(toolbox(estimator, REGION[region]), rel=1e-12)


@pytest.mark.parametrize(("estimator", "expected"), [("bin", 38.0), ("max", 44.0), ("median", 40 + 4 / 7)])
def test_by_hand(estimator: str, expected: float) -> None:
    """First label. bin, max: of 44, 40, 30. median: 12, 30, 40, 44 by 1/4, 1/2, 3/4, 1 have p = .05, .2, .45, .8: halfway lies 1/7 from 40 to 44."""
    assert reduce_group(HAND_Y, HAND_W, [(0,)], [(0, 1)], estimator=estimator).value.item() == pytest.approx(expected)


def test_mixture_leaves_partial_volume_out() -> None:
    w = np.array([[1, 0.5, 0.0, 1.0], [0, 0.5, 1.0, 0.0]])
    y = np.array([40, 10]) @ w
    cells = reduce_group(y, w, [(0,), (1,)], [(0, 1)], estimator="ml")
    np.testing.assert_allclose(cells.value, [40, 10])
    np.testing.assert_allclose(cells.spread, 0, atol=1e-6)
    assert cells.std[0] > 5  # the half voxel counts there


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_voxels_without_a_value_have_no_weight(estimator: str) -> None:
    rng = np.random.default_rng(2)
    w = rng.dirichlet([0.5] * 4, 60).T[:3]
    y = rng.normal(40, 3, 60)
    holed = y.copy()
    holed[[3, 9, 30]] = NAN, np.inf, -np.inf
    kept = np.isfinite(holed)
    regions, clusters = [(0,), (1,), (0, 1, 2)], [(0, 1), (2,)]
    a, b = (reduce_group(v, x, regions, clusters, estimator=estimator) for v, x in ((holed, w), (y[kept], w[:, kept])))
    for name in ("value", "std", "spread", "se", "n"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(a.size, [w[0].sum(), w[1].sum(), w.sum()])
    assert (a.coverage < 1).all()
    np.testing.assert_array_equal(b.coverage, 1)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("values", [np.full(4, NAN), np.empty(0)], ids=["all missing", "no voxel"])
def test_nothing_in_is_nan_with_coverage_zero(estimator: str, values: np.ndarray) -> None:
    out = one(estimator, values, W[:, : len(values)])
    assert np.isnan([out["value"], out["std"], out["spread"], out["se"]]).all()
    assert (out["n"], out["coverage"]) == (0, 0)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_a_region_outside_the_slices_is_nan(estimator: str) -> None:
    """The tissue has a value, and even so a label without a voxel gets none."""
    w = np.array([[1.0, 0.5, 0.9], [0, 0, 0]])
    cells = reduce_group(np.array([40.0, 41.0, 42.0]), w, [(0,), (1,)], [(0, 1)], estimator=estimator)
    assert np.isfinite(cells.value).tolist() == [True, False]


def median_by_interpolation(y: np.ndarray, w: np.ndarray) -> float:
    order = np.argsort(y)
    share = np.cumsum(w[order])
    return float(np.interp(0.5, (share - w[order] / 2) / share[-1], y[order]))


def test_voxels_without_weight_have_no_say_in_the_median() -> None:
    """30 and 50 by equal weights have the median 40. Among them the toolbox keeps a voxel of 49 of which nothing is in the region: there half of the
    weight lies below, and the interpolation takes its value."""
    y, w = np.array([30.0, 49.0, 50.0]), np.array([1.0, 0.0, 1.0])
    assert median_by_interpolation(y[w > 0], w[w > 0]) == 40
    assert median_by_interpolation(y, w) == 49
    assert one("median", values=y, weights=w[None])["value"] == 40


def test_medians_of_many_are_the_median_of_each() -> None:
    rng = np.random.default_rng(4)
    for n in (1, 2, 3, 10, 51):
        values, weights = rng.normal(40, 5, (20, n)), rng.random(n) + 0.01
        values[rng.random(values.shape) < 0.3] = NAN
        values[:, 0] = 40.0
        expected = [median_by_interpolation(v[np.isfinite(v)], weights[np.isfinite(v)]) for v in values]
        np.testing.assert_allclose(weighted_median(values, weights), expected)


def test_level_of_an_oblique_border_is_that_under_the_centre() -> None:
    levels = np.zeros((9, 9, 6), int)
    levels[:, :, :3], levels[:, :, 3:] = 4, 3
    levels[:3, :, 3] = 4  # a third of the slice
    assert slice_levels(levels, np.diag([1.0, 1.0, 3.0, 1.0])).tolist() == [4, 4, 4, 3, 3, 3]


def test_levels_with_a_gap_and_a_single_slice() -> None:
    levels = np.zeros((3, 3, 7), int)
    levels[:, :, 1], levels[:, :, 5] = 5, 2
    assert slice_levels(levels, np.eye(4)).tolist() == [0, 5, 0, 0, 0, 2, 0]
    assert slice_levels(levels[:, :, :3], np.eye(4)).tolist() == [0, 5, 0]
    assert slice_levels(levels * 0, np.eye(4)).tolist() == [0] * 7


# --- a ratio mixes signals --------------------------------------------------------------------------------------------
TISSUE = np.array([1200.0, 1300.0, 1700.0])
RATIO = np.array([50.0, 40.0, 3.0])


def test_signal_weights_take_a_ratio_apart_exactly() -> None:
    """Signals mix by volume, so that 100 (off - on) / off does not; shares of the signal give every tissue its own ratio back."""
    rng = np.random.default_rng(5)
    w = rng.dirichlet([0.4] * 3, 300).T
    slices = np.arange(300) % 5
    coil = np.array([1.0, 0.7, 1.4, 1.1, 0.9])[slices]  # what is common to a slice cancels
    off, on = (coil * (signal @ w) for signal in (TISSUE, TISSUE * (1 - RATIO / 100)))
    y, clusters = 100 * (off - on) / off, [(0,), (1,), (2,)]
    by_signal = signal_weights(w, off, slices, clusters)
    np.testing.assert_allclose(by_signal.sum(axis=0), 1)
    np.testing.assert_allclose(reduce_group(y, by_signal, clusters, clusters, estimator="ml").value, RATIO)
    assert reduce_group(y, w, clusters, clusters, estimator="ml").value[0] < 49


@pytest.mark.parametrize("signal", [np.full(4, NAN), np.array([1.0, -2.0, 1.0, -2.0])], ids=["unknown", "negative"])
def test_signals_that_say_nothing_change_nothing(signal: np.ndarray) -> None:
    w = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    assert signal_weights(w, signal, np.zeros(4, int), [(0,), (1,)]) is w


# --- voxels that resemble their neighbours ------------------------------------------------------------------------------
def test_intervals_know_that_noise_is_shared_between_neighbours() -> None:
    """White noise averaged over 2 x 2 x 2 voxels: 95 % intervals hold about that with places, and far fewer without."""
    rng = np.random.default_rng(8)
    places = np.moveaxis(np.indices((12, 12, 4)), 0, -1).reshape(-1, 3)
    w = np.stack([(places[:, 0] < 6), (places[:, 0] >= 6)]).astype(float)
    truth, inside = np.array([50.0, 40.0]), {True: [], False: []}
    for _ in range(200):
        white = rng.normal(0, 8, (13, 13, 5))
        noise = sum(white[i : i + 12, j : j + 12, k : k + 4] for i in (0, 1) for j in (0, 1) for k in (0, 1)) / 8
        for known, hits in inside.items():
            cells = reduce_group(truth @ w + noise.ravel(), w, [(0,), (1,)], [(0, 1)], estimator="ml", places=places if known else None)
            hits.append(np.abs(cells.value - truth) <= 1.96 * cells.se)
    assert np.mean(inside[True]) > 0.87
    assert np.mean(inside[False]) < 0.6


def test_independent_voxels_are_not_called_better_than_that() -> None:
    rng = np.random.default_rng(9)
    places = np.moveaxis(np.indices((20, 20, 4)), 0, -1).reshape(-1, 3)
    w, y = np.ones((1, len(places))), rng.normal(size=len(places))
    known, unknown = (reduce_group(y, w, [(0,)], [(0,)], estimator="ml", places=p).se[0] for p in (places, None))
    assert 1 <= (known / unknown) ** 2 < 1.3
    assert list(likeness(np.zeros(2), places[:2])) == []


def test_a_union_of_two_tissues_knows_what_one_value_for_both_costs() -> None:
    """White 50, grey 40, and voxels of both. One value for both is the mean of the voxels, and its error what the volumes make of it."""
    w = np.array([[1.0, 1.0, 1.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0, 0.5, 0.5]])
    y, clusters = np.array([50.0, 40.0]) @ w, [(0,), (1,)]
    for volumes, truth in ((None, 140 / 3), (np.array([3.0, 1.0]), 47.5), (np.array([1.0, 0.0]), 50.0)):
        cells = reduce_group(y, w, [(0, 1), (0,)], clusters, estimator="ml", volumes=volumes)
        assert cells.value.tolist() == pytest.approx([140 / 3, 50])  # of white matter alone: nothing is lost
        assert cells.se.tolist() == pytest.approx([abs(truth - 140 / 3), 0], abs=1e-6)


@pytest.mark.parametrize("loud", [1.0, 30.0])
def test_loud_voxels_do_not_decide_what_quiet_ones_are_like(loud: float) -> None:
    """Twenty voxels in a row that alternate, and as many elsewhere in runs of ten: the likeness is that of both, however loud the runs are."""
    places = np.stack([np.arange(40), np.repeat([0, 5], 20), np.zeros(40, int)], axis=-1)
    w = np.repeat(np.eye(2), 20, axis=1)
    y = 50 + np.r_[np.tile([1.0, -1.0], 10), loud * np.repeat([1.0, -1.0], 10)]
    known, unknown = (reduce_group(y, w, [(0,), (1,)], [(0, 1)], estimator="ml", places=p).se for p in (places, None))
    likeness = (-19 + 17) / 38  # 38 pairs side by side
    assert likeness < 0  # and the error is not called smaller than that of independent voxels
    np.testing.assert_allclose(known, unknown)


@pytest.mark.parametrize("estimator", ["wa", "bin", "map"])
def test_a_weight_below_zero_that_is_missing_leaves_the_coverage_a_share(estimator):
    """Weights of an interpolated image ring: where the voxel below 0 has no value, the others hold more than all of the region."""
    weights, values = np.array([[1.0, 0.9, -0.05], [0.0, 0.1, 1.0]]), np.array([40.0, 41.0, np.nan])
    rest = weights, np.full(3, 2), np.ones((2, 1, 2)), [2], [(0,), (1,)], [(0,), (1,)]
    cells = level_tables(values, *rest, estimator=estimator, min_coverage=0.5)
    assert cells["coverage"][0].tolist() == pytest.approx([1.0, 0.1 / 1.1], abs=1e-6)
    assert 39 < cells["value"][0, 0] < 41
