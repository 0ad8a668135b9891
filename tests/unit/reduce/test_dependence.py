"""What levels say without their doubtful slices is what a fit to the others says."""

import numpy as np
import pytest

from cohort_engine.reduce.dependence import dependence, told
from cohort_engine.reduce.estimators import estimator
from cohort_engine.reduce.sums import LevelSums
from cohort_engine.template.atlas import Naming

NAMING = Naming(("WM left tract", "WM right tract", "GM left horn"), {"white matter": (0, 1)}, {"white": (0, 1), "grey": (2,)})
MEMBERS, CLUSTERS = [r.members for r in NAMING.regions], tuple(NAMING.clusters.values())


def image(wrong: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, weights and slices of mixed voxels: ten a slice, six slices; the third is off by so much."""
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(3) * 0.4, 60).T
    slices = np.repeat(np.arange(6), 10)
    return np.array([45.0, 43.0, 34.0]) @ weights + rng.normal(0, 0.5, 60) + wrong * (slices == 2), weights, slices


def summed(values: np.ndarray, weights: np.ndarray, level: np.ndarray) -> LevelSums:
    return LevelSums.of(values, weights, level, np.ones((2, 2, 3)), [2, 3], CLUSTERS)


@pytest.mark.parametrize("wrong", [0.0, 8.0])
def test_leaving_slices_out_is_a_fit_to_the_others(wrong: float) -> None:
    values, weights, slices = image(wrong)
    level = np.where(slices < 3, 2, 3)
    found = dependence(summed(values, weights, level), summed(values, weights, np.where(slices == 2, level, 0)), NAMING)
    others = summed(values[slices != 2], weights[:, slices != 2], level[slices != 2]).at([0])
    assert found.level.tolist() == [0]
    np.testing.assert_allclose(found.rest[0], estimator("map").of_sums(others, MEMBERS, CLUSTERS).value, rtol=1e-9)
    assert (found.largest > 2) == (wrong > 0)
    said = told(found, {2: ("mt_explained",)}, {0: [2]}, NAMING, ["C2", "C3"])
    assert said.startswith("C2: slices 2 (the tissues explain little), without which ")


def test_nothing_doubtful_changes_nothing_and_all_doubtful_leaves_nothing() -> None:
    values, weights, _ = image(0.0)
    level = np.full(60, 2)
    whole, none = summed(values, weights, level), summed(values, weights, np.zeros(60, int))
    assert dependence(whole, none, NAMING).largest == 0
    found = dependence(whole, whole, NAMING)
    assert np.isnan(found.largest)
    assert told(found, dict.fromkeys(range(6), ("mt_gap",)), {0: list(range(6))}, NAMING, ["C2"]).endswith("without which nothing is left")
