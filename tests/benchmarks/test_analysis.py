"""What statistics of a cohort cost, and whether they err as promised: ``pytest --benchmark-only -s tests/benchmarks/test_analysis.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from cohort_engine.analysis import classify
from cohort_engine.analysis.classify import cross_validate
from cohort_engine.analysis.correlate import correlate
from cohort_engine.analysis.groups import METHODS, compare, false_discovery
from cohort_engine.analysis.harmonise import apply, learn
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


@pytest.mark.parametrize(("effect", "studies"), [(0.0, 150), (0.8, 60)])
def test_cross_validated_area(benchmark: Any, effect: float, studies: int) -> None:
    """Studies of 30 and 15 people, six markers that go together, of which three differ; what the area errs by, for three ways to pool the folds.

    The true area is that of the models that the folds learnt.
    """
    group = np.repeat([0, 1], [30, 15])
    difference = effect * (np.arange(6) < 3)
    spread = np.eye(6) + 0.49

    def run() -> dict[str, np.ndarray]:
        out: dict[str, list[tuple[float, ...]]] = {"score": [], "probability": [], "ranks in folds": []}
        for seed in range(studies):
            rng = np.random.default_rng(seed)
            values = rng.standard_normal((45, 6)) + 0.7 * rng.standard_normal((45, 1)) + difference * group[:, None]
            found = cross_validate(values, group, seed=seed)
            w = found.coefficients[0] / [values[found.fold[0] != k].std(axis=0) for k in range(5)]
            true = norm.cdf(w @ difference / np.sqrt(2 * ((w @ spread) * w).sum(axis=1))).mean()
            rank = np.empty(45)
            for k in range(5):
                rank[found.fold[0] == k] = rankdata(found.score[found.fold[0] == k])
            for name, column in zip(out, (found.score, found.probability, rank), strict=True):
                area = auc(column[:, None], group)
                out[name].append((area.auc[0], true, area.low[0] < true < area.high[0], area.low[0] > true))
        return {name: np.array(rows) for name, rows in out.items()}

    for name, (area, true, held, above) in {name: rows.T for name, rows in benchmark.pedantic(run, rounds=1).items()}.items():
        off = f"{(area - true).mean():+.3f} (standard error {(area - true).std(ddof=1) / studies**0.5:.3f}) from the true one"
        print(f"\n{name}: area {area.mean():.3f} (SD {area.std(ddof=1):.3f}), {off}; ", end="")
        print(f"{100 * held.mean():.0f} % of intervals hold it, {100 * above.mean():.0f} % lie above", end="")
        if name == "score":
            assert abs((area - true).mean()) < 0.03
            assert held.mean() > 0.75


@pytest.mark.parametrize(("sizes", "effect"), [((10, 10), 0.0), ((10, 10), 0.8), ((15, 30), 0.0), ((30, 15), 0.8)], ids=str)
def test_interval_of_a_cross_validated_area(benchmark: Any, sizes: tuple[int, int], effect: float) -> None:
    """200 studies of six markers that go together, three of which differ: how often the interval holds the area of the folds' models."""
    studies, group = 200, np.repeat([0, 1], sizes)
    difference, spread = effect * (np.arange(6) < 3), np.eye(6) + 0.49

    def run() -> np.ndarray:
        out = []
        for seed in range(studies):
            rng = np.random.default_rng(seed)
            values = rng.standard_normal((len(group), 6)) + 0.7 * rng.standard_normal((len(group), 1)) + difference * group[:, None]
            found = cross_validate(values, group, grid=(0.1,), permutations=39, seed=seed)
            w = found.coefficients[0] / [values[found.fold[0] != k].std(axis=0) for k in range(5)]
            true = norm.cdf(w @ difference / np.sqrt(2 * ((w @ spread) * w).sum(axis=1))).mean()
            out.append((found.low <= true <= found.high, found.high - found.low, found.p <= 0.05, true))
        return np.array(out)

    held, width, sure, true = benchmark.pedantic(run, rounds=1).mean(axis=0)
    print(f"\n{sizes[0]} + {sizes[1]}, area {true:.2f}: {100 * held:.1f} % of intervals hold it, width {width:.2f}; p <= 0.05 in {100 * sure:.1f} %")
    assert held >= 0.95 - 2.5 * (0.95 * 0.05 / studies) ** 0.5


def test_classifier_of_sites_that_scanned_more_patients(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 studies of two sites of 20, one 2 SD higher; 80 and 20 % of patients; six markers: none differs, or three by 0.8 SD."""
    size, studies = 20, 100
    site, group = np.repeat(["A", "B"], size), np.concatenate([np.arange(size) < 0.8 * size, np.arange(size) < 0.2 * size]).astype(float)
    ours = classify._harmonised

    def keeping(people: Any, test: np.ndarray, notes: list[str]) -> np.ndarray:
        """The diagnosis kept in the training part, and its mean used for everybody."""
        model = learn(people.x[~test], people.site[~test], {"diagnosis": people.one[~test] * 1.0}).model
        return apply(model, people.x, people.site, {"diagnosis": np.full(len(test), people.one[~test].mean())})

    def plainly(*given: Any) -> Any:
        return learn(*given, shrink=False)

    variants = {
        "no sites": (ours, learn, None),
        "sites": (ours, learn, site),
        "not shrunk": (ours, plainly, site),
        "diagnosis kept": (keeping, learn, site),
    }

    def run() -> dict[str, list[float]]:
        out: dict[str, list[float]] = {}
        for name, (harmonised, learning, given) in variants.items():
            monkeypatch.setattr(classify, "_harmonised", harmonised)
            monkeypatch.setattr(classify, "learn", learning)
            for effect in (0.0, 0.8):
                for seed in range(studies):
                    values = np.random.default_rng(seed).standard_normal((2 * size, 6)) + 2 * (site == "A")[:, None]
                    values[:, :3] += effect * group[:, None]
                    out.setdefault(f"{name}, effect {effect:g}", []).append(cross_validate(values, group, site=given, grid=(0.1,), seed=seed).auc)
        return out

    found = benchmark.pedantic(run, rounds=1)
    for name, areas in found.items():
        print(f"\n{name}: area {np.mean(areas):.3f}, standard error {np.std(areas, ddof=1) / studies**0.5:.3f}", end="")
    assert abs(np.mean(found["sites, effect 0"]) - 0.5) < 0.04
