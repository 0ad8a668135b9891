"""What statistics of a cohort cost, and whether they err as promised: ``pytest --benchmark-only -s tests/benchmarks/test_analysis.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.groups import METHODS, compare, false_discovery
from cohort_engine.analysis.roc import auc, compare_auc

SUBJECTS, REGIONS, LEVELS, METRICS, RESAMPLES = 1000, 43, 7, 4, 1000
STUDIES = 200


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values with one cell in twenty missing, groups of 600 and 400, and as covariates age, sex and three of four sites."""
    rng = np.random.default_rng(0)
    values = 40 + 4 * rng.standard_normal((SUBJECTS, REGIONS * LEVELS * METRICS))
    values[rng.random(values.shape) < 0.05] = np.nan
    site = rng.integers(0, 4, SUBJECTS)
    covariates = np.column_stack([rng.normal(55, 10, SUBJECTS), rng.integers(0, 2, SUBJECTS), *(site == s for s in (1, 2, 3))])
    return values, np.repeat([0, 1], [600, 400]), covariates


@pytest.mark.parametrize("resamples", [0, RESAMPLES])
@pytest.mark.parametrize("method", METHODS)
def test_every_region_level_and_metric(benchmark: Any, cohort: tuple[np.ndarray, np.ndarray, np.ndarray], method: str, resamples: int) -> None:
    values, group, covariates = cohort
    adjust = covariates if METHODS[method][2] else None
    found = benchmark.pedantic(lambda: compare(values, group, method=method, covariates=adjust, resamples=resamples), rounds=1)
    print(f"\n{method}: {benchmark.stats.stats.min:.2f} s for {values.shape[1]} tests of {SUBJECTS} subjects, {resamples} resamples")
    assert np.isfinite([found.low, found.high, found.size_low, found.size_high]).all()
    assert benchmark.stats.stats.min < 60


def test_correlations_with_holes(benchmark: Any, cohort: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Every column misses other subjects: each of the pairs with five scores is ranked on its own."""
    values, _, covariates = cohort
    benchmark.pedantic(lambda: correlate(values, covariates), rounds=1)
    print(f"\nspearman: {benchmark.stats.stats.min:.2f} s for {values.shape[1]} x {covariates.shape[1]} pairs of {SUBJECTS} subjects")
    assert benchmark.stats.stats.min < 60


@pytest.mark.parametrize("method", METHODS)
def test_false_discovery_of_studies_without_effect(benchmark: Any, method: str) -> None:
    """In 200 studies of 30 and 15 subjects each family is the regions of one level of one metric, with correlated regions."""

    def run() -> float:
        found = []
        for seed in range(STUDIES):
            rng = np.random.default_rng(seed)
            values = rng.standard_normal((45, METRICS * LEVELS, REGIONS)) + 0.7 * rng.standard_normal((45, METRICS * LEVELS, 1))
            p = compare(values.reshape(45, -1), np.repeat([0, 1], [15, 30]), method=method).p.reshape(-1, REGIONS)
            found.append((false_discovery(p, np.arange(len(p))[:, None]) <= 0.05).any(axis=1).mean())
        return float(np.mean(found))

    rate = benchmark.pedantic(run, rounds=1)
    print(f"\n{method}: a finding in {100 * rate:.2f} % of {STUDIES * METRICS * LEVELS} families")
    assert 0.03 <= rate <= 0.07


@pytest.mark.parametrize("scale", ["logit", "plain"])
@pytest.mark.parametrize("size", [(15, 30), (60, 60), (100, 200)], ids=str)
def test_delong_covers(benchmark: Any, size: tuple[int, int], scale: Any) -> None:
    """200 studies of 43 markers with the area 0.74."""

    def run() -> tuple[float, float]:
        rng, group = np.random.default_rng(1), np.repeat([0, 1], size)
        shape = (len(group), STUDIES * REGIONS)
        shift = np.sqrt(2) * norm.ppf(0.74) * group[:, None]
        x, y = (rng.standard_normal(shape) + shift for _ in range(2))
        found = auc(x, group, scale=scale)
        return float(np.mean((found.low < 0.74) & (found.high > 0.74))), float(np.mean(compare_auc(x, y, group).p < 0.05))

    covered, level = benchmark.pedantic(run, rounds=1)
    print(f"\n{size}, {scale}: {100 * covered:.1f} % of intervals hold the area; {100 * level:.1f} % of paired tests find a difference of none")
    assert 0.93 <= covered <= 0.97 or (scale == "plain" and min(size) < 20)
