"""The tract operator against a naive loop, on atlases that hypothesis draws."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cohort_engine.reduce import operator as kernel
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.linear import Moments, fit
from cohort_engine.reduce.maps import Kept, Maps, weighted_average
from cohort_engine.reduce.native import reduce_group
from cohort_engine.reduce.operator import Operator
from cohort_engine.reduce.precision import Errors
from cohort_engine.template.atlas import Atlas, Region
from cohort_engine.template.levels import LevelRange


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[LevelRange], list[Region]]:
    """Dense weights (label, voxel), level (voxel,), values (subject, voxel) with holes, level ranges, regions."""
    n_labels, n_voxels, n_subjects = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.random((n_labels, n_voxels), dtype=np.float32) * (rng.random((n_labels, n_voxels)) < draw(st.floats(0, 1)))
    level = rng.integers(0, 5, n_voxels)
    if draw(st.booleans()):
        level.sort()
    values = rng.normal(draw(st.sampled_from([0, 30, -5])), 10, (n_subjects, n_voxels)).astype(np.float32)
    values[rng.random(values.shape) < draw(st.sampled_from([0, 0.2, 0.9]))] = np.nan
    values[rng.random(n_subjects) < 0.3] = np.nan if draw(st.booleans()) else 0
    ranges = draw(st.lists(st.sampled_from(["C1", "C2", "C3", "C4", "C1:C2", "C2:C4", "C1:C4"]), min_size=1, unique=True))
    members = draw(st.lists(st.lists(st.integers(0, n_labels - 1), min_size=1, unique=True), min_size=1, max_size=4))
    return weights, level, values, [LevelRange.parse(r) for r in ranges], [Region(f"r{i}", tuple(sorted(m))) for i, m in enumerate(members)]


def build(weights: np.ndarray, level: np.ndarray, ranges: list[LevelRange], regions: list[Region]) -> Operator:
    atlas = Atlas(tuple(f"label {i}" for i in range(len(weights))), {}, {}, sparse.csr_array(weights))
    return Operator.build(atlas, level, ranges, regions)


def naive(
    weights: np.ndarray, level: np.ndarray, y: np.ndarray, numbers: tuple[int, ...], members: tuple[int, ...], limit: float
) -> tuple[float, ...]:
    n = total = mean = square = 0.0
    cells = [(float(weights[m, v]), float(y[v])) for m in members for v in range(len(y)) if level[v] in numbers]
    for w, value in cells:
        total += w
        if not np.isnan(value):
            n += w
            mean += w * value
    coverage = n / total if total else 0.0
    if n == 0 or np.float32(coverage) < np.float32(limit):
        return np.nan, np.nan, n, coverage
    mean /= n
    for w, value in cells:
        if not np.isnan(value):
            square += w * (value - mean) ** 2
    return mean, np.sqrt(square / n), n, coverage


@given(cohorts(), st.sampled_from([0.0, 0.5, 0.75, 1.0]), st.sampled_from([3, 8, 2048]))
@settings(max_examples=150, deadline=None)
def test_equals_a_naive_loop(cohort: tuple, limit: float, tile: int) -> None:
    weights, level, values, ranges, regions = cohort
    before, kernel.TILE_VOXELS = kernel.TILE_VOXELS, tile
    try:
        out = weighted_average(build(weights, level, ranges, regions), values, min_coverage=limit)
    finally:
        kernel.TILE_VOXELS = before
    for s, y in enumerate(values):
        for i, r in enumerate(ranges):
            for j, region in enumerate(regions):
                expected = naive(weights, level, y, r.numbers, region.members, limit)
                found = [out[k][s, i, j] for k in ("value", "std", "n", "coverage")]
                np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5)


@given(cohorts(), st.data())
@settings(max_examples=100, deadline=None)
def test_any_split_over_subjects_gives_the_same_bits(cohort: tuple, data: st.DataObject) -> None:
    weights, level, values, ranges, regions = cohort
    op = build(weights, level, ranges, regions)
    whole = weighted_average(op, values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    order = np.asarray(data.draw(st.permutations(range(len(values)))))
    for key, expected in whole.items():
        pieces = [weighted_average(op, p)[key] for p in np.split(values, cuts)]
        assert np.concatenate(pieces).tobytes() == expected.tobytes()
        assert weighted_average(op, values[order])[key].tobytes() == expected[order].tobytes()


@given(cohorts())
@settings(max_examples=100, deadline=None)
def test_the_cells_of_a_large_operator_are_those_of_a_small_one(cohort: tuple) -> None:
    """Asking for one tract and one range gives the numbers of the table that holds them all (to the last bit but one: sums are grouped otherwise)."""
    weights, level, values, ranges, regions = cohort
    full = weighted_average(build(weights, level, ranges, regions), values)
    for i, r in enumerate(ranges):
        for j, region in enumerate(regions):
            one = weighted_average(build(weights, level, [r], [region]), values)
            for key in ("value", "n", "coverage"):
                np.testing.assert_allclose(one[key][:, 0, 0], full[key][:, i, j], rtol=1e-6, atol=1e-6)


def test_a_real_sized_block_gives_the_same_bits_in_any_split() -> None:
    rng = np.random.default_rng(3)
    weights = sparse.random_array((6, 9000), density=0.4, format="csr", dtype=np.float32, rng=rng)
    atlas = Atlas(tuple("abcdef"), {"ab": (0, 1)}, {}, sparse.csr_array(weights))
    op = Operator.build(atlas, np.repeat([3, 2], 4500), [LevelRange.parse("C2"), LevelRange.parse("C3"), LevelRange.parse("C2:C3")], atlas.regions)
    values = rng.normal(30, 5, (150, 9000)).astype(np.float32)
    values[::7, 4000:4100] = np.nan
    values[::5, 4500:] = np.nan
    whole = weighted_average(op, values)
    for width in (1, 17, 64, 100):
        pieces = [weighted_average(op, values[a : a + width]) for a in range(0, 150, width)]
        for key in whole:
            assert np.concatenate([p[key] for p in pieces]).tobytes() == whole[key].tobytes()


@given(cohorts(), st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_mixture_equals_one_image_at_a_time(cohort: tuple, prior: bool, data: st.DataObject) -> None:
    """The cohort's solution, with shared and with own products, is that of the voxels of each cell alone."""
    weights, level, values, ranges, regions = cohort
    weights = weights / np.maximum(weights.sum(axis=0), 1)
    cut = data.draw(st.integers(0, len(weights)))
    clusters = [c for c in (tuple(range(cut)), tuple(range(cut, len(weights)))) if c]
    atlas = Atlas(tuple(f"label {i}" for i in range(len(weights))), {}, {str(c): c for c in clusters}, sparse.csr_array(weights))
    op = Operator.build(atlas, level, ranges, regions)
    out = estimator("map" if prior else "ml").of_maps(op, Maps(values), min_coverage=0)
    for s, y in enumerate(values):
        for i, r in enumerate(ranges):
            some = np.isin(level, r.numbers) & np.isfinite(y)
            moments = Moments.of(weights[:, some].astype(np.float64), y[some].astype(np.float64))
            alone = fit(moments, [g.members for g in regions], clusters, prior=prior)
            np.testing.assert_array_equal(np.isnan(out["value"][s, i]), np.isnan(alone.value))
            np.testing.assert_allclose(out["value"][s, i], alone.value, rtol=1e-4, atol=1e-3)


@given(cohorts())
@settings(max_examples=60, deadline=None)
def test_binary_median_and_maximum_equal_those_of_one_image(cohort: tuple) -> None:
    weights, level, values, ranges, regions = cohort
    weights = weights / np.maximum(weights.sum(axis=0), 1)
    op = build(weights, level, ranges, regions)
    for name in ("bin", "median", "max"):
        out = estimator(name).of_maps(op, Maps(values), min_coverage=0)["value"]
        for s, y in enumerate(values):
            for i, r in enumerate(ranges):
                some = np.isin(level, r.numbers)
                members = [g.members for g in regions]
                cells = reduce_group(y[some].astype(np.float64), weights[:, some].astype(np.float64), members, [], estimator=name)
                np.testing.assert_allclose(out[s, i], cells.value, rtol=1e-5, atol=1e-5)


@given(cohorts(), st.sampled_from(["wa", "ml", "map"]), st.booleans())
@settings(deadline=None)
def test_sums_that_were_kept_say_what_maps_say(
    cohort: tuple[np.ndarray, np.ndarray, np.ndarray, list[LevelRange], list[Region]], name: str, measured: bool
) -> None:
    """Bit for bit; but for the noise, of which the sums are added in another order."""
    weights, level, values, ranges, regions = cohort
    levels = [LevelRange.parse(n) for n in ("C1", "C2", "C3", "C4")]
    every = build(weights, level, levels, [Region(f"label {i}", (i,)) for i in range(len(weights))])
    errors = Errors(np.where(np.isnan(values), np.nan, 0.5 + np.abs(values) / 20), np.arange(1.0, 1 + len(values))) if measured else None
    kept = Kept.of(every, Maps(values, errors))
    again = Kept.unpack(kept.pack(), every.numbers, len(weights), kept.errors, kept.shared)
    op = build(weights, level, ranges, regions)
    expected, found = (estimator(name).of_maps(op, maps, min_coverage=0.3) for maps in (Maps(values, errors), again))
    assert expected.keys() == found.keys()
    for key, cells in expected.items():
        if key == "noise":
            np.testing.assert_allclose(found[key], cells, rtol=1e-6)
        else:
            assert found[key].tobytes() == cells.tobytes(), key
