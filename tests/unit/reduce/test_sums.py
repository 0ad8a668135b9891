"""Cells of several levels from the sums of each, as arithmetic and against the voxels."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.native import level_tables, reduce_group
from cohort_engine.reduce.sums import NEXT, LevelSums, combine, pooled_cells

LEVELS = [2, 3, 4]
CLUSTERS = [(0, 1, 2), (3, 4), (5,)]
REGIONS = [(0,), (1,), (2,), (3,), (4,), (5,), (0, 1), (0, 1, 2), (3, 4), (0, 1, 2, 3, 4)]
NAN = np.nan


@pytest.fixture
def image() -> dict[str, np.ndarray]:
    """Six labels in 360 voxels of three levels, with noise that neighbours share; the third level is half outside the image."""
    rng = np.random.default_rng(5)
    places = np.moveaxis(np.indices((6, 6, 10)), 0, -1).reshape(-1, 3)
    weights = rng.dirichlet([0.3] * 7, len(places)).T[:6]
    weights[weights < 0.05] = 0
    noise = rng.normal(0, 2, (7, 7, 10))
    noise = (noise[1:, 1:] + noise[:-1, 1:] + noise[1:, :-1] + noise[:-1, :-1]) / 2
    values = np.array([45, 47, 43, 38, 36, 10.0]) @ weights + noise.ravel()
    values[::17] = NAN
    reach = np.stack([np.full((3, 6), 30.0) * [[1], [1], [0.5]], np.full((3, 6), 30.0)]) * rng.uniform(0.5, 1.5, 6)
    return {"values": values, "weights": weights, "level": np.array([4, 4, 4, 3, 3, 3, 2, 2, 2, 2])[places[:, 2]], "reach": reach, "places": places}


def sums_of(image: dict[str, np.ndarray], **more: object) -> LevelSums:
    i = image
    return LevelSums.of(i["values"], i["weights"], i["level"], i["reach"], LEVELS, CLUSTERS, places=i["places"], **more)  # type: ignore[arg-type]


# --- by hand ------------------------------------------------------------------------------------------------------------
def test_two_levels_are_their_mean_by_volume() -> None:
    """Of a region that fills 3 parts of C2 at 40 and 1 part of C3 at 20, the mean is 35, however many voxels each has."""
    y, w, level = np.array([40.0, 40.0, 20.0, 20.0, 20.0]), np.ones((1, 5)), np.array([2, 2, 3, 3, 3])
    sums = LevelSums.of(y, w, level, np.array([[[3.0], [1.0]]] * 2), [2, 3], [(0,)])
    for prior in (False, True):
        value, spread, se, _ = combine(sums, [(0,)], [(0,)], prior=prior)
        assert (value.item(), spread.item(), se.item()) == pytest.approx((35, 0, 0), abs=1e-6)


def test_the_error_of_the_mean_of_two_levels() -> None:
    """Noise of its own halves its variance over two equal levels; what neighbours share, levels share in part."""
    y, w, level = np.tile([41.0, 41.0, 39.0, 39.0], 2), np.ones((1, 8)), np.repeat([2, 3], 4)
    row = np.stack([np.tile([0, 1, 5, 6], 2), np.zeros(8, int), np.repeat([0, 9], 4)], axis=-1)
    reach = np.ones((2, 2, 1))
    noise = 4 / 3  # mean square 1, and one value fitted to four voxels
    for places, one, both in ((None, noise / 4, noise / 8), (row, noise / 4 * 2, noise / 8 * (2 + NEXT))):
        sums = LevelSums.of(y, w, level, reach, [2, 3], [(0,)], places=places, prior=False)
        assert combine(sums.at([0]), [(0,)], [(0,)], prior=False)[2].item() ** 2 == pytest.approx(one)
        assert combine(sums, [(0,)], [(0,)], prior=False)[2].item() ** 2 == pytest.approx(both)


def test_a_union_of_tissues_whose_share_changes_knows_its_error() -> None:
    """White 50 and grey 40, half and half in each level's voxels, but three to one in the template: one value for both is 45, the truth 47.5."""
    y, w, level = np.array([50.0, 40.0] * 4), np.tile(np.eye(2), 4), np.repeat([2, 3], 4)
    sums = LevelSums.of(y, w, level, np.array([[[3.0, 1.0]] * 2] * 2), [2, 3], [(0,), (1,)], prior=False)
    value, _, se, _ = combine(sums, [(0, 1)], [(0,), (1,)], prior=False)
    assert (value.item(), se.item()) == pytest.approx((45, 2.5))


# --- against the voxels -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["wa", "ml", "map"])
def test_one_level_is_that_level(image: dict[str, np.ndarray], name: str) -> None:
    i, sums = image, sums_of(image)
    tables = level_tables(
        i["values"], i["weights"], i["level"], i["reach"], LEVELS, REGIONS, CLUSTERS, estimator=name, min_coverage=0, places=i["places"]
    )
    for at, number in enumerate(LEVELS):
        alone = pooled_cells(sums.at([at]), REGIONS, CLUSTERS, estimator(name), min_coverage=0)
        for key, values in tables.items():
            np.testing.assert_array_equal(alone[key], values[at])
        here = i["level"] == number
        group = reduce_group(i["values"][here], i["weights"][:, here], REGIONS, CLUSTERS, estimator=name)
        np.testing.assert_allclose(alone["value"], group.value, rtol=1e-6)
        np.testing.assert_allclose(alone["std"], group.std, rtol=1e-4)


@pytest.mark.parametrize("name", ["ml", "map"])
def test_levels_together_are_the_mean_of_the_levels_by_volume(image: dict[str, np.ndarray], name: str) -> None:
    sums, kernel = sums_of(image), estimator(name)
    each = [kernel.of_sums(sums.at([at]), REGIONS, CLUSTERS).value for at in range(3)]
    volume = np.stack([image["reach"][1][:, list(r)].sum(axis=1) for r in REGIONS], axis=1)
    np.testing.assert_allclose(kernel.of_sums(sums, REGIONS, CLUSTERS).value, (volume * each).sum(axis=0) / volume.sum(axis=0), rtol=1e-10)
    np.testing.assert_allclose(kernel.of_sums(sums.at([2, 0, 1]), REGIONS, CLUSTERS).se, kernel.of_sums(sums, REGIONS, CLUSTERS).se, rtol=1e-10)


def test_the_weighted_average_of_levels_is_that_of_their_voxels(image: dict[str, np.ndarray]) -> None:
    i = image
    here = i["level"] < 4
    group = reduce_group(i["values"][here], i["weights"][:, here], REGIONS, CLUSTERS, estimator="wa")
    found = pooled_cells(sums_of(image).at([0, 1]), REGIONS, CLUSTERS, estimator("wa"), min_coverage=0)
    for key, expected in (("value", group.value), ("std", group.std), ("n", group.n), ("coverage", group.coverage)):
        np.testing.assert_allclose(found[key], expected, rtol=1e-4)


def test_the_sums_of_levels_are_those_of_one_fit_to_their_voxels(image: dict[str, np.ndarray]) -> None:
    """So that the other way to pool, one fit to all levels, could be had from them too."""
    one = LevelSums.of(image["values"], image["weights"], np.zeros(360, int), image["reach"].sum(axis=1)[:, None], [0], CLUSTERS)
    sums = sums_of(image)
    for name in ("w", "wy", "wyy", "size", "gram", "yy", "count"):
        np.testing.assert_allclose(getattr(sums, name).sum(axis=0), getattr(one, name)[0], rtol=1e-12)


def test_many_images_at_once_are_each_by_itself(image: dict[str, np.ndarray]) -> None:
    other = image | {"values": image["values"][::-1].copy()}
    packed = np.stack([sums_of(image).pack(), sums_of(other).pack()])
    both = combine(LevelSums.unpack(packed, 6), REGIONS, CLUSTERS, prior=True)
    for at, one in enumerate((image, other)):
        for found, expected in zip(both[:3], combine(sums_of(one), REGIONS, CLUSTERS, prior=True)[:3], strict=True):
            np.testing.assert_allclose(found[at], expected, rtol=1e-12)


# --- what is missing ----------------------------------------------------------------------------------------------------
def test_coverage_counts_what_lies_outside_the_image_and_what_has_no_value(image: dict[str, np.ndarray]) -> None:
    sums = sums_of(image)
    found = pooled_cells(sums, REGIONS, CLUSTERS, estimator("map"), min_coverage=0)
    inside = image["reach"][0].sum(axis=0) / image["reach"][1].sum(axis=0)
    valued = np.isfinite(image["values"])
    share = np.where(valued, image["weights"], 0).sum(axis=1) / image["weights"].sum(axis=1)
    np.testing.assert_allclose(found["coverage"][:6], inside * share, rtol=1e-6)
    limit = float(found["coverage"][:6].mean())
    low = pooled_cells(sums, REGIONS, CLUSTERS, estimator("map"), min_coverage=limit)
    np.testing.assert_array_equal(np.isnan(low["value"]), found["coverage"] < limit)
    assert 0 < np.isnan(low["value"]).sum() < len(REGIONS)
    np.testing.assert_array_equal(np.isnan(low["se"]), np.isnan(low["value"]))


def test_a_level_without_a_voxel_does_not_count_but_for_the_coverage() -> None:
    y, w, level = np.array([40.0, 42.0]), np.ones((1, 2)), np.array([2, 2])
    sums = LevelSums.of(y, w, level, np.array([[[1.0], [0.0]], [[1.0], [1.0]]]), [2, 3], [(0,)])
    found = pooled_cells(sums, [(0,)], [(0,)], estimator("ml"), min_coverage=0.5)
    assert (found["value"].item(), found["coverage"].item()) == (41, 0.5)
    assert found["se"].item() == pooled_cells(sums.at([0]), [(0,)], [(0,)], estimator("ml"), min_coverage=0.5)["se"].item()
    assert np.isnan(pooled_cells(sums.at([1]), [(0,)], [(0,)], estimator("ml"), min_coverage=0)["value"]).all()


def test_an_estimator_that_needs_the_voxels_says_so(image: dict[str, np.ndarray]) -> None:
    assert [n for n in ("wa", "bin", "median", "max", "ml", "map") if estimator(n).summed] == ["wa", "ml", "map"]
    with pytest.raises(NotImplementedError, match="median needs the voxels"):
        estimator("median").of_sums(sums_of(image), REGIONS, CLUSTERS)
